"""What query-only attention is compared with: for each stream the published settings of each method, and the controls.

Networks, rates and supports are those of Bekal et al. (2025) and its code; its one learning rate for all, 1e-4, is the default
that --rates should replace. The remedies, of which it says nothing, have the settings of their own papers as far as they fit.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from episodes.stream_catalog import BLOCKS
from metacl.learners.similarity.full_attention import FullAttentionConfig
from metacl.learners.similarity.kernels import KernelConfig
from metacl.learners.trained.backprop import BackpropConfig
from metacl.learners.trained.ewc import EWCConfig
from metacl.learners.trained.online_maml import OnlineMAMLConfig
from metacl.learners.trained.replay import ReplayConfig, SameBufferConfig
from metacl.learners.trained.units import ContinualConfig, RedoConfig
from metacl.nets.side_by_side import NetworkConfig

REGRESSION = "slowly-changing-regression"


def of_stream(stream: str, regression: Any, mnist: Any, images: Any) -> Any:
    """The setting for the kind of the stream."""
    return regression if stream == REGRESSION else mnist if stream.endswith("mnist") else images


def network(stream: str) -> NetworkConfig:
    """Of BP and its kin."""
    hidden = of_stream(stream, (40,), (200, 200, 200, 200), (128, 128))
    return NetworkConfig(hidden, initial=of_stream(stream, "kaiming", "kaiming", "xavier"))


def support(stream: str) -> int:
    """Of query-only attention. BP-type networks may use as many when they are asked about an old task again."""
    return of_stream(stream, 100, 200, 180 if stream == "split-tiny-imagenet" else 100)


def buffer(stream: str) -> int:
    """Of query-only attention."""
    return of_stream(stream, 100, 200, 200 if stream == "split-tiny-imagenet" else 100)


def shared(stream: str) -> dict[str, Any]:
    return {"block": BLOCKS[stream], "network": network(stream), "support": support(stream)}


def backprop(stream: str, **options: Any) -> BackpropConfig:
    return BackpropConfig(**shared(stream), **options)


def l2_init(stream: str) -> BackpropConfig:
    return backprop(stream, l2_init=of_stream(stream, 1e-2, 1e-2, 1e-5))


def varied(stream: str, **options: Any) -> BackpropConfig:
    """Another network of the same size."""
    config = backprop(stream)
    return replace(config, network=replace(config.network, **options))


def replay(stream: str, **options: Any) -> ReplayConfig:
    """As many old examples as new ones; ten where examples come one by one."""
    return ReplayConfig(**shared(stream), replayed=max(10, BLOCKS[stream]), **options)


def same_buffer(stream: str) -> SameBufferConfig:
    """Query-only attention's buffer, and as many examples in an update as it has in its support."""
    return SameBufferConfig(**shared(stream), buffer=buffer(stream), replayed=support(stream))


def continual(stream: str) -> ContinualConfig:
    return ContinualConfig(**shared(stream), replacement_rate=of_stream(stream, 1e-3, 1e-4, 3e-4))


def ewc(stream: str) -> EWCConfig:
    return EWCConfig(**shared(stream))


def redo(stream: str) -> RedoConfig:
    return RedoConfig(**shared(stream))


def full_attention(stream: str) -> FullAttentionConfig:
    """Two layers on regression, as the paper's code; 5e-4 on MNIST, as both say."""
    layers, rate = of_stream(stream, 2, 10, 3), of_stream(stream, 1e-4, 5e-4, 1e-4)
    newest = of_stream(stream, 100, 99, 199 if stream == "split-tiny-imagenet" else 100)
    return FullAttentionConfig(rate=rate, block=BLOCKS[stream], layers=layers, support=newest)


def maml(stream: str) -> OnlineMAMLConfig:
    """Sizes of the paper's code. It stores one example in ten, and makes one update a stored one (one in a hundred on
    regression); images are all stored, with one update a block."""
    sizes = of_stream(stream, (100, 15, 20), (10, 10, 5), (10, 10, 5))
    hidden = of_stream(stream, (40,), (100, 100, 100, 100), (128, 128))
    return OnlineMAMLConfig(
        block=BLOCKS[stream],
        network=replace(network(stream), hidden=hidden),
        support=sizes[0],
        queries=sizes[1],
        regions=sizes[2],
        buffer=of_stream(stream, 20_000, 60_000, 20_000),
        keep_every=of_stream(stream, 10, 10, 1),
        updates=of_stream(stream, 1e-3, 40.0, 1.0),
    )


def kernel(stream: str, nearest: int = 0) -> KernelConfig:
    """The support of query-only attention; the widths are for bits, 7 x 7 and 32 x 32 pixels."""
    rate = of_stream(stream, 2.0, 10.0, 0.1)
    return KernelConfig(rate=rate, block=BLOCKS[stream], support=support(stream), nearest=nearest)


BASELINES: dict[str, Callable[[str], Any]] = {
    "bp": backprop,
    "l2": lambda stream: backprop(stream, l2=1e-4),
    "l2-init": l2_init,
    "shrink-perturb": lambda stream: backprop(stream, shrink=1e-4, perturb=1e-4),
    "crelu": lambda stream: varied(stream, activation="crelu"),
    "layernorm": lambda stream: varied(stream, normalise=True),
    "reinit": lambda stream: backprop(stream, reinit=True),
    "er": replay,
    "der": lambda stream: replay(stream, answers=0.5),
    "ewc": ewc,
    "cbp": continual,
    "redo": redo,
    "full-attention": full_attention,
    "online-maml": maml,
    "nadaraya-watson": kernel,
    "knn": lambda stream: kernel(stream, nearest=5),
    "bp-one": lambda stream: backprop(stream, one=True),
    "bp-same-buffer": same_buffer,
}
"""From the name of a stream to the configuration of each method. BP-type networks with the support of an old task are the same
methods, asked with it: `backward_with_support`."""
