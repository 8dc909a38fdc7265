"""A meta-loss that asks along the stream, not at its end alone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from episodes import Episode
from metacl.learners.losses import MetaLoss, query_score

if TYPE_CHECKING:
    from metacl.learners.protocol import Learner

Distributed = Literal["random", "every"] | None
"""When the meta-loss asks a query: once after a `random` task from its own on, after `every` such task, or at the end."""


def distributed_loss(learner: "Learner", episode: Episode, z_stream: Tensor, z_query: Tensor) -> MetaLoss:
    """Queries are asked at the end of the phase of their own task or of later ones.

    `random`: each once, the task drawn uniformly (CL-Seq's distributed meta-loss). `every`: each after every such task, so
    that earlier tasks are asked about after every task (as in automated continual learning, Irie 2023). The metric
    `forgetting` compares what is asked right after its task with what is asked later.
    """
    parts, own_M = list(task_parts(episode)), episode.queries.task[0].cpu()
    asked_TM = torch.arange(len(parts))[:, None] >= own_M
    if learner.distributed == "random":
        drawn_M = own_M + (torch.rand(len(own_M)) * (len(parts) - own_M)).long()
        asked_TM = torch.arange(len(parts))[:, None] == drawn_M
    state, predictions = learner.init_state(len(z_stream)), []
    for part, asked_M in zip(parts, asked_TM, strict=True):
        state = learner.learn_features(state, z_stream[:, part], episode.stream[part])
        if asked_M.any():
            predictions.append(learner.predict_features(state, z_query[:, asked_M]))
    after_A, query_A = asked_TM.nonzero().unbind(1)
    prediction, target, valid = torch.cat(predictions, dim=1), episode.queries.y[:, query_A], episode.queries.valid
    valid = None if valid is None else valid[:, query_A]
    loss = learner.query_loss(prediction, target, valid)
    score_BA = query_score(prediction.detach(), target, learner.spec)
    late_BA = (after_A > own_M[query_A]).to(score_BA.device).expand_as(score_BA)
    score_BA = score_BA if valid is None else score_BA.where(valid, torch.nan)
    lost = (score_BA[~late_BA].nanmean() - score_BA[late_BA].nanmean()).nan_to_num()
    loss.metrics["forgetting"] = lost if learner.spec.classification else -lost
    return loss


def task_parts(episode: Episode) -> Iterator[slice]:
    """The phases of the stream, one after another; the same in every episode of the batch."""
    start = 0
    for end in episode.phases():
        yield slice(start, end)
        start = end
