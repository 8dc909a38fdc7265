"""Tiny learners, pools, configurations and runs for tests: each trains or is checked in milliseconds."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from making import small_pool

from episodes import Benchmark, DataConfig, EpisodeShape, EpisodeSpec, load_benchmark
from episodes.data.pool import ClassPool
from episodes.tasks.classification import Classification
from metacl.commands import along_stream
from metacl.learners import PrototypesConfig, SequenceConfig
from metacl.learners.sequence import SequenceLearner
from metacl.learners.statistics.prototypes import PrototypicalNetwork
from metacl.nets.encoders import EncoderConfig
from metacl.recipes.config import OptimiserConfig, TrainConfig, ValidationConfig
from metacl.runs.folder import Run
from metacl.training.meta_training import meta_train

IMAGES = EpisodeSpec("image", (1, 8, 8), "cross_entropy", symbols=8)
VECTORS = EpisodeSpec("vector", (5,), "mse", y_shape=(3,))
SINE = EpisodeSpec("vector", (50,), "mse", y_shape=(50,))
ENCODER = EncoderConfig(channels=(4, 6), strides=(2, 2))
SHAPE = EpisodeShape(tasks=3, shots=2, queries=2, vocabulary=8)


def sequence_config(**options) -> SequenceConfig:
    return replace(SequenceConfig(width=16, layers=2, heads=2, hidden=16, encoder=ENCODER), **options)


def sequence(spec: EpisodeSpec = IMAGES, seed: int = 0, **options) -> SequenceLearner:
    """A tiny sequence learner in eval mode."""
    torch.manual_seed(seed)
    return sequence_config(**options).build(spec).eval()


def prototypes(spec: EpisodeSpec = IMAGES, seed: int = 0, **options) -> PrototypicalNetwork:
    """A tiny prototypical network in eval mode."""
    torch.manual_seed(seed)
    return replace(PrototypesConfig(width=12, encoder=ENCODER), **options).build(spec).eval()


def pool(classes: int = 12, each: int = 5, side: int = 8) -> ClassPool:
    return small_pool((each,) * classes, (1, side, side))


def image_benchmark() -> Benchmark:
    """Noise images: 12 classes to meta-train, 4 to validate, 8 to test."""
    whole = pool(24)
    parts = (range(12), range(12, 16), range(16, 24))
    families = [Classification(whole.select(list(part)), SHAPE.vocabulary) for part in parts]
    return Benchmark("noise", families[0], families[1], families[2], fingerprint="noise")


def sine() -> Benchmark:
    return load_benchmark(DataConfig("sine"), vocabulary=8)


def train_config(learner=None, **options) -> TrainConfig:
    """30 steps on sine: checkpoints at 10, 20 and 30."""
    config = TrainConfig(
        DataConfig("sine"),
        "transformer",
        learner or sequence_config(),
        episodes=SHAPE,
        optimiser=OptimiserConfig(rate=3e-3, warmup=5),
        validation=ValidationConfig(every=10, episodes=4),
        steps=30,
        batch_size=4,
        precision="fp32",
    )
    return replace(config, **options)


def accelerator(precision: str = "no") -> Accelerator:
    """One on the CPU, whatever was made before in this process."""
    AcceleratorState._reset_state(True)
    return Accelerator(cpu=True, mixed_precision=precision)


def train(folder: Path, config: TrainConfig, benchmark: Benchmark | None = None, resume: bool = False) -> Run:
    """A new run in `folder`, or a resumed one, meta-trained to its end or to an interrupt."""
    run = Run.open(folder) if resume else Run.create(folder, config, {})
    meta_train(run, benchmark or sine(), accelerator(), resume)
    return run


def without_learn2learn(learner: str) -> None:
    """Skips the test of a named learner that needs it, where it is not installed."""
    if learner in ("maml", "meta-sgd", "anil") and importlib.util.find_spec("learn2learn") is None:
        pytest.skip("learn2learn is not installed")


@contextmanager
def stopped_in_task(monkeypatch: pytest.MonkeyPatch, index: int) -> Iterator[None]:
    """Meanwhile whoever follows a stream is interrupted when this task is learnt, before it is noted."""

    def follow(*args, plain=along_stream.follow, **options):
        for state, record in plain(*args, **options):
            if record["task"] == index:
                raise KeyboardInterrupt
            yield state, record

    with monkeypatch.context() as patched:
        patched.setattr(along_stream, "follow", follow)
        yield
