"""The three commands: `train.py`, `evaluate.py` and `benchmark.py`, also installed as `metacl-train` and so on."""

import sys
from collections.abc import Sequence

from metacl.benchmarking.command import benchmark
from metacl.commands.data_of import plain_notes
from metacl.commands.evaluate import evaluate
from metacl.commands.train import train
from metacl.report.display import with_plain_errors


def train_main(argv: Sequence[str] | None = None) -> None:
    """`train.py`: starts or resumes a run."""
    words = list(sys.argv[1:] if argv is None else argv)
    with plain_notes():
        with_plain_errors(lambda: train(words))


def evaluate_main(argv: Sequence[str] | None = None) -> None:
    """`evaluate.py`: the results of a run, or of a learner without meta-training."""
    words = list(sys.argv[1:] if argv is None else argv)
    with plain_notes():
        with_plain_errors(lambda: evaluate(words))


def benchmark_main(argv: Sequence[str] | None = None) -> None:
    """`benchmark.py`: measures one subject."""
    words = list(sys.argv[1:] if argv is None else argv)
    with plain_notes():
        with_plain_errors(lambda: benchmark(words))
