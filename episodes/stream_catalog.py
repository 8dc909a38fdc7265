"""Named streams: from a name to the options of a stream over its own data set, or over any other."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

from episodes.data.config import DataConfig, completed
from episodes.data.features import remembering
from episodes.data.halves import CIFAR100, GLYPHS, MNIST, TINY_IMAGENET, TINY_IMAGENET_64, HubImages
from episodes.schedule import Schedule
from episodes.stream import Stream
from episodes.tasks.datasets import ANY, Datasets, DatasetsConfig, EachData
from episodes.tasks.parts import ImageStreamConfig
from episodes.tasks.permuted import Permuted, PermutedConfig
from episodes.tasks.regression import RegressionConfig
from episodes.tasks.splits import IncrementalConfig, Splits, SplitsConfig


class StreamConfig(Protocol):
    """The options of a kind of stream: a frozen dataclass, which also becomes a command line."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """The name of the stream, a part of the address of its random numbers."""
        ...

    def load(self) -> Stream:
        """The stream, its images read now or found in the cache.

        Raises:
            UserError: the data cannot be read or do not suffice.
        """
        ...


def completed_stream(config: StreamConfig, stream: Stream) -> StreamConfig:
    """The options of a stream with the size and channels of its images, where these were found from the data, or with
    the weights of its features.

    Arguments:
        stream: what `config.load()` gave.
    """
    if not isinstance(config, ImageStreamConfig) or not isinstance(stream, Permuted | Splits | Datasets):
        return config
    pool = stream.pools[0]
    return replace(config, data=completed(config.data, pool.x_shape) if pool.x_kind == "image" else remembering(config.data))


@dataclass(frozen=True)
class NamedStream:
    """A stream that has a name, with its published options."""

    config: StreamConfig
    """Options of the stream, as published; `dataclasses.replace(config, ...).load()` is the stream with others."""
    schedule: Schedule
    """What of the stream arrives together, as published."""
    family: Literal["regression", "mnist", "tiny-imagenet", "images", "class-incremental"]
    """Which published settings of learners, and questions, apply: those for regression, MNIST, Tiny ImageNet, other images, or
    images whose classes arrive a few at a time."""


def _class_incremental(name: str, own: HubImages) -> NamedStream:
    """Ten new classes in each task, without images of the old ones, to the last class."""
    config = IncrementalConfig(name, DataConfig(own.hub), own, classes=10, cumulative=False)
    return NamedStream(config, Schedule(10), "class-incremental")


_STREAMS = (
    NamedStream(RegressionConfig(), Schedule(1), "regression"),
    NamedStream(PermutedConfig("permuted-mnist", DataConfig(MNIST.hub), MNIST), Schedule(400), "mnist"),
    NamedStream(PermutedConfig("label-permuted-mnist", DataConfig(MNIST.hub), MNIST, False, True), Schedule(400), "mnist"),
    NamedStream(
        PermutedConfig("label-permuted-cifar100", DataConfig(CIFAR100.hub), CIFAR100, False, True, flat=False),
        Schedule(10),
        "images",
    ),
    NamedStream(
        SplitsConfig("split-tiny-imagenet", DataConfig(TINY_IMAGENET.hub), TINY_IMAGENET), Schedule(10), "tiny-imagenet"
    ),
    NamedStream(SplitsConfig("online-cifar100", DataConfig(CIFAR100.hub), CIFAR100, classes=5), Schedule(10), "images"),
    NamedStream(IncrementalConfig("incremental-cifar100", DataConfig(CIFAR100.hub), CIFAR100), Schedule(10), "images"),
    _class_incremental("split-cifar100", CIFAR100),
    _class_incremental("incremental-tiny-imagenet", TINY_IMAGENET_64),
    _class_incremental("class-incremental", GLYPHS),
    NamedStream(DatasetsConfig("datasets", EachData(), ANY), Schedule(10), "class-incremental"),
)

STREAMS: dict[str, NamedStream] = {stream.config.name: stream for stream in _STREAMS}
"""Every stream that has a name: name -> stream. A new one is a line in the list above."""
