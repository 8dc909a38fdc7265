"""Data sets turned into continual-learning episodes. Knows nothing of learners: see `load_benchmark` for the way in."""

from episodes.catalog import BENCHMARKS, Benchmark, DataConfig, load_benchmark
from episodes.episode import Episode, EpisodeShape, EpisodeSpec, Examples
from episodes.errors import UserError
from episodes.generator import EpisodeGenerator
from episodes.pool import ClassPool

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "ClassPool",
    "DataConfig",
    "Episode",
    "EpisodeGenerator",
    "EpisodeShape",
    "EpisodeSpec",
    "Examples",
    "UserError",
    "load_benchmark",
]
