"""Data sets turned into continual-learning episodes and streams. Knows nothing of learners.

The ways in: `load_benchmark` for episodes, `STREAMS[name].config.load()` for a stream.
"""

from episodes.catalog import BENCHMARKS, Benchmark, benchmark_of, load_benchmark
from episodes.check import check_stream
from episodes.data.config import DataConfig, completed
from episodes.data.images import decode
from episodes.data.pool import ClassPool, grouped
from episodes.data.sources import pool_of_dataset
from episodes.errors import UserError
from episodes.generator import EpisodeGenerator
from episodes.schedule import Schedule, ScheduleConfig, StreamSchedule
from episodes.scheduled import scheduled
from episodes.source import Part, Source, Task
from episodes.stream import EpisodeSource, SeededStream, Stream, shared_images, side_by_side
from episodes.stream_catalog import STREAMS, NamedStream, StreamConfig, completed_stream
from episodes.synthetic import usual_shape
from episodes.types import Episode, EpisodeShape, EpisodeSpec, Examples

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
    "NamedStream",
    "Part",
    "Schedule",
    "ScheduleConfig",
    "SeededStream",
    "Source",
    "Stream",
    "StreamConfig",
    "StreamSchedule",
    "Task",
    "UserError",
    "benchmark_of",
    "check_stream",
    "completed",
    "completed_stream",
    "decode",
    "grouped",
    "load_benchmark",
    "pool_of_dataset",
    "scheduled",
    "shared_images",
    "side_by_side",
    "usual_shape",
]
