"""The subject `episodes`: drawing them."""

import itertools
from dataclasses import dataclass, field
from typing import Annotated

import torch
import tyro

from episodes import DataConfig, Episode, EpisodeGenerator, EpisodeShape, UserError, load_benchmark
from metacl.benchmarking.measure import Case, Result, calls, measure, progress
from metacl.benchmarking.options import Options, provenance

DataSet = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
DataPath = Annotated[str | None, tyro.conf.arg(name="data.path")]
DataSize = Annotated[int | None, tyro.conf.arg(name="data.size")]


@dataclass(frozen=True, kw_only=True)
class EpisodesOptions(Options):
    """How fast episodes are drawn, in this process, as it is done in meta-training.

    Example: python benchmark.py episodes omniglot --episodes.tasks 20 --batch-sizes 1 16
    """

    dataset: DataSet = "glyphs"
    """The data set: a named benchmark, a folder or a hub name, as in train.py."""
    data_path: DataPath = None
    """A local copy of a named benchmark. None: where its own files usually are."""
    data_size: DataSize = None
    """Side of the images in pixels. None: that of the data set."""
    episodes: EpisodeShape = field(default_factory=EpisodeShape)
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64)
    """Episodes that are drawn at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UserError("--batch-sizes needs at least one value, each at least 1.")


def episodes(options: EpisodesOptions) -> Result:
    """Measures the generator of meta-training at each batch size."""
    data = DataConfig(options.dataset, options.data_path, options.data_size)
    benchmark = load_benchmark(data, options.episodes.symbols)
    generator = benchmark.generator("train", options.episodes, seed=0)
    cases = [drawing_case({"batch size": size}, generator, size) for size in options.batch_sizes]
    with progress("episodes", sum(options.batch_sizes) * calls(options.repeats)) as tick:
        rows = measure(cases, options.repeats, torch.device("cpu"), tick)
    about = {"options": provenance(options), "data_fingerprint": benchmark.fingerprint}
    return Result("episodes", "episodes", rows, about=about, axis="batch size")


def drawing_case(labels: dict[str, str | int], generator: EpisodeGenerator, batch_size: int) -> Case:
    """The next batch of episodes, fresh ones at each call."""
    first = itertools.count(step=batch_size)

    def draw() -> Episode:
        start = next(first)
        return generator.batch(range(start, start + batch_size))

    return Case(labels, draw, batch_size, beside=True)
