"""Data sets turned into continual-learning episodes. Knows nothing of learners: see `load_benchmark` for the way in."""

from episodes.catalog import BENCHMARKS, Benchmark, DataConfig, load_benchmark
from episodes.data.pool import ClassPool
from episodes.errors import UserError
from episodes.generator import EpisodeGenerator
from episodes.stream import EpisodeSource, SeededStream, Stream, side_by_side
from episodes.stream_catalog import STREAMS, StreamConfig, load_stream
from episodes.types import Episode, EpisodeShape, EpisodeSpec, Examples, Part, Source, Task

__all__ = [
    "BENCHMARKS",
    "STREAMS",
    "Benchmark",
    "ClassPool",
    "DataConfig",
    "Episode",
    "EpisodeGenerator",
    "EpisodeShape",
    "EpisodeSource",
    "EpisodeSpec",
    "Examples",
    "Part",
    "SeededStream",
    "Source",
    "Stream",
    "StreamConfig",
    "Task",
    "UserError",
    "load_benchmark",
    "load_stream",
    "side_by_side",
]
