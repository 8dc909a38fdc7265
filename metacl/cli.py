"""The three commands: `train.py`, `evaluate.py` and `benchmark.py`, also installed as `metacl-train` and so on."""

import sys
from collections.abc import Callable, Sequence

import torch.distributed as dist

from metacl.benchmarking.command import benchmark
from metacl.commands.evaluate import evaluate
from metacl.commands.train import train
from metacl.report.display import with_plain_errors


def train_main(argv: Sequence[str] | None = None) -> None:
    """`train.py`: starts or resumes a run."""
    _run(train, argv)


def evaluate_main(argv: Sequence[str] | None = None) -> None:
    """`evaluate.py`: the results of a run, or of a learner without meta-training."""
    _run(evaluate, argv)


def benchmark_main(argv: Sequence[str] | None = None) -> None:
    """`benchmark.py`: measures one subject."""
    _run(benchmark, argv)


def _run(command: Callable[[list[str]], None], argv: Sequence[str] | None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with_plain_errors(lambda: command(words))
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()  # its threads may still hold tensors, which they cannot release as Python ends
