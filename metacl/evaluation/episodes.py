"""Evaluation: learn a held-out stream task by task, and ask about every task seen so far after each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from episodes import Benchmark, Episode, EpisodeGenerator, EpisodeShape
from episodes.catalog import Split
from metacl.evaluation.metrics import Estimate, estimate, matrix_json, summary
from metacl.learners import Learner, query_score, state_bytes, task_parts

NOT_OF_TRAINING = 2**32
"""Added to the seed of evaluations of meta-train and meta-validation: their episodes are others than training has seen."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one learner on held-out streams of one shape."""

    shape: EpisodeShape
    scores_ETT: Tensor
    """Accuracy or squared error on task i after task t, of each episode; NaN for i > t."""
    classification: bool
    state_bytes: int
    """Bytes of one episode's state at the end of the stream."""
    address: str
    """The benchmark, meta-split and seed that the episodes are from; they are number 0 and following."""

    @property
    def measures(self) -> dict[str, Estimate]:
        return summary(self.scores_ETT, higher_is_better=self.classification)

    def by_position(self) -> list[tuple[Estimate, Estimate]]:
        """For each task: the score just after it was learnt, and after the whole stream."""
        return [(estimate(self.scores_ETT[:, i, i]), estimate(self.scores_ETT[:, -1, i])) for i in range(self.shape.tasks)]

    def to_json(self) -> dict[str, Any]:
        return {
            "episodes": {"address": self.address, "first": 0, "number": len(self.scores_ETT), **vars(self.shape)},
            "score": "accuracy" if self.classification else "mse",
            "measures": {name: value.to_json() for name, value in self.measures.items()},
            "matrix": matrix_json(self.scores_ETT),
            "state_bytes": self.state_bytes,
        }


def held_out(benchmark: Benchmark, split: Split, shape: EpisodeShape, seed: int) -> EpisodeGenerator:
    """The episodes of a meta-split that evaluations are about; those of the test are the same for every learner."""
    return benchmark.generator(split, shape, seed if split == "test" else seed + NOT_OF_TRAINING)


@torch.no_grad()
def evaluate(
    learner: Learner,
    generator: EpisodeGenerator,
    episodes: int = 1024,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """The learner's score matrix over the first `episodes` episodes. `progress` is told how many are done."""
    learner.eval()
    scores, size = [], 0
    for first in range(0, episodes, batch_size):
        indices = range(first, min(first + batch_size, episodes))
        matrix_BTT, state = evaluate_batch(learner, generator.batch(indices).to(device))
        scores.append(matrix_BTT.cpu())
        size = state_bytes(state)
        progress(indices.stop)
    spec = generator.family.spec
    return Evaluation(generator.shape, torch.cat(scores), spec.classification, size, generator.address)


def evaluate_batch(learner: Learner, episode: Episode) -> tuple[Tensor, Any]:
    """The score matrices (B, T, T) of a batch of episodes, and the state at the end. Inputs are encoded once."""
    z_stream, z_query = learner.encode_episode(episode)
    parts, queries = list(task_parts(episode.stream)), list(task_parts(episode.queries))
    state = learner.init_state(len(z_stream))
    matrix_BTT = z_stream.new_full((len(z_stream), len(parts), len(parts)), torch.nan, dtype=torch.float32)
    for t, part in enumerate(parts):
        state = learner.learn_features(state, z_stream[:, part], episode.stream[part])
        seen = slice(0, queries[t].stop)
        score_BM = query_score(learner.predict_features(state, z_query[:, seen]), episode.queries.y[:, seen], episode.spec)
        matrix_BTT[:, t, : t + 1] = torch.stack([score_BM[:, queries[i]].mean(1) for i in range(t + 1)], dim=1)
    return matrix_BTT, state
