"""Evaluation on held-out episodes: many batches, followed one after the other."""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from episodes import Benchmark, EpisodeGenerator, EpisodeShape, EpisodeSource
from episodes.catalog import Split
from metacl.evaluation.curves import Curve, curves
from metacl.evaluation.follow import followed
from metacl.evaluation.layers import Layers, joined, layers
from metacl.evaluation.questions import EPISODES, Questions
from metacl.evaluation.result import Evaluation, chances, known_matrix, whole_matrix
from metacl.learners import Learner, state_bytes

NOT_OF_TRAINING = 2**32
"""Added to the seed of evaluations of meta-train and meta-validation: their episodes are others than training has seen."""


def held_out(benchmark: Benchmark, split: Split, shape: EpisodeShape, seed: int) -> EpisodeGenerator:
    """The episodes of a meta-split that evaluations are about; those of the test are the same for every learner."""
    return benchmark.generator(split, shape, seed if split == "test" else seed + NOT_OF_TRAINING)


def evaluate(
    learner: Learner,
    generator: EpisodeGenerator,
    episodes: int = 1024,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
    questions: Questions = EPISODES,
) -> Evaluation:
    """The learner's answers along the first `episodes` episodes, each learnt from nothing, `batch_size` at a time.

    Arguments:
        progress: is told how many episodes are done.
        questions: what is asked; without the matrix there are no scores of the middle of the stream.
    """
    learner.to(device)
    matrices, known, extra, measured = list[Tensor](), list[Tensor | None](), list[dict[str, Curve]](), list[Layers]()
    spec, name = generator.family.spec, "accuracy" if generator.family.spec.classification else "loss"
    for first in range(0, episodes, batch_size):
        numbers = range(first, min(first + batch_size, episodes))
        source = EpisodeSource(generator.batch(numbers), generator.address)
        state, records = followed(learner, source, questions, state=learner.start(numbers, alike=True))
        matrices.append(whole_matrix(records, name, len(numbers)))
        known.append(known_matrix(records, len(numbers)))
        extra.append(curves(records))
        measured.append(layers(records))
        progress(numbers.stop)
    beside = {name: (extra[0][name][0], np.concatenate([own[name][1] for own in extra], 1)) for name in extra[0]}
    return Evaluation(
        generator.shape,
        torch.cat(matrices),
        spec.classification,
        state_bytes(state),
        generator.address,
        beside,
        joined(measured),
        None if known[0] is None else torch.cat([own for own in known if own is not None]),
        generator.classes(range(episodes)),
        chances(records),
    )


@torch.no_grad()
def validate(
    learner: Learner, generator: EpisodeGenerator, episodes: int, batch_size: int, accelerator: Accelerator
) -> dict[str, float]:
    """The learner's mean loss and score over the first `episodes` episodes."""
    was_training = learner.training
    learner.eval()
    totals: dict[str, float] = {}
    for first in range(0, episodes, batch_size):
        indices = range(first, min(first + batch_size, episodes))
        with accelerator.autocast():
            metrics = learner.meta_loss(generator.batch(indices).to(accelerator.device)).metrics
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + float(value) * len(indices) / episodes
    learner.train(was_training)
    return totals
