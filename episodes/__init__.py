"""Data sets turned into continual-learning episodes. Knows nothing of learners: see `load_benchmark` for the way in."""

from episodes.catalog import BENCHMARKS, Benchmark, DataConfig, load_benchmark
from episodes.episode import Episode, EpisodeShape, EpisodeSpec, Examples
from episodes.errors import UserError
from episodes.generator import EpisodeGenerator
from episodes.online import STREAMS, StreamConfig, load_stream
from episodes.pool import ClassPool
from episodes.streams import Stream, StreamTask, side_by_side

__all__ = [
    "BENCHMARKS",
    "STREAMS",
    "Benchmark",
    "ClassPool",
    "DataConfig",
    "Episode",
    "EpisodeGenerator",
    "EpisodeShape",
    "EpisodeSpec",
    "Examples",
    "Stream",
    "StreamConfig",
    "StreamTask",
    "UserError",
    "load_benchmark",
    "load_stream",
    "side_by_side",
]
