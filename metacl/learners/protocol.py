"""The protocol: a continual learner is a state machine. It learns (state in, state out) and predicts (state read only)."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from episodes import Episode, EpisodeSpec, Examples, UserError
from metacl.learners.losses import MetaLoss, query_loss, query_score

State = Any
"""A tree (NamedTuple, tuple, dict) of tensors whose first axis is B."""


Distributed = Literal["random", "every"] | None
"""When the meta-loss asks a query: once after a `random` task from its own on, after `every` such task, or at the end."""


class DivergedError(UserError):
    """Learning left the finite numbers: the learning rate is too high."""


class Learner(nn.Module):
    """Base of all learners. A family writes `encode`, `init_state`, `learn_features` and `predict_features`.

    Inputs are encoded apart from the state, so that a whole episode is encoded in one batch, and features that are asked
    about again and again (evaluation after every task) are computed once.

    Arguments:
        spec: of the episodes it is built for.
        distributed: when the meta-loss asks the queries; None: at the end of the stream.
    """

    chunkable = True
    """learn(learn(s, a), b) equals learn(s, a then b)."""
    constant_state = True
    """The state does not grow with the stream."""
    outer_sgd = False
    """Its meta-gradient is a way to go (Reptile): the outer optimiser is plain SGD, without momentum or weight decay."""
    step = 0
    """The meta-training step, set by the outer loop: schedules inside a learner read it."""

    def __init__(self, spec: EpisodeSpec, distributed: Distributed = None):
        super().__init__()
        self.spec, self.distributed = spec, distributed

    def encode(self, x: Tensor) -> Tensor:
        """(B, N, *x_shape) -> features (B, N, D), every example on its own."""
        raise NotImplementedError

    def init_state(self, batch_size: int) -> State:
        """What it knows before the first example."""
        raise NotImplementedError

    def learn_features(self, state: State, z_BND: Tensor, examples: Examples) -> State:
        """`learn` for inputs that are encoded already; `examples.x` is not looked at."""
        raise NotImplementedError

    def predict_features(self, state: State, z_BMD: Tensor) -> Tensor:
        """`predict` for inputs that are encoded already."""
        raise NotImplementedError

    def learn(self, state: State, examples: Examples) -> State:
        """The state after more of the stream. Pure: the old state stays usable."""
        return self.learn_features(state, self.encode(examples.x), examples)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """(B, M, *x_shape) -> logits (B, M, V) or targets (B, M, *y_shape); every query on its own."""
        return self.predict_features(state, self.encode(x))

    def meta_loss(self, episode: Episode) -> MetaLoss:
        """The loss on the queries, in eval mode always after the whole stream. All inputs are encoded in one batch."""
        z_stream, z_query = self.encode_episode(episode)
        if self.distributed and self.training:
            return self._distributed_loss(episode, z_stream, z_query)
        state = self.learn_features(self.init_state(len(z_stream)), z_stream, episode.stream)
        return query_loss(self.predict_features(state, z_query), episode.queries.y, self.spec)

    def shaped(self, answers: Tensor) -> Tensor:
        """(..., outputs) -> logits as they are, or targets (..., *y_shape)."""
        return answers if self.spec.classification else answers.unflatten(-1, self.spec.y_shape)

    def forward(self, episode: Episode) -> MetaLoss:
        return self.meta_loss(episode)

    def encode_episode(self, episode: Episode) -> tuple[Tensor, Tensor]:
        z = self.encode(torch.cat([episode.stream.x, episode.queries.x], dim=1))
        return z[:, : len(episode.stream)], z[:, len(episode.stream) :]

    def _distributed_loss(self, episode: Episode, z_stream: Tensor, z_query: Tensor) -> MetaLoss:
        """Queries are asked at the end of their own task or of later ones.

        `random`: each once, the task drawn uniformly (CL-Seq's distributed meta-loss). `every`: each after every such task, so
        that earlier tasks are asked about after every task (as in automated continual learning, Irie 2023). The metric
        `forgetting` compares what is asked right after its task with what is asked later.
        """
        parts, own_M = list(task_parts(episode.stream)), episode.queries.task[0].cpu()
        asked_TM = torch.arange(len(parts))[:, None] >= own_M
        if self.distributed == "random":
            drawn_M = own_M + (torch.rand(len(own_M)) * (len(parts) - own_M)).long()
            asked_TM = torch.arange(len(parts))[:, None] == drawn_M
        state, predictions = self.init_state(len(z_stream)), []
        for part, asked_M in zip(parts, asked_TM, strict=True):
            state = self.learn_features(state, z_stream[:, part], episode.stream[part])
            if asked_M.any():
                predictions.append(self.predict_features(state, z_query[:, asked_M]))
        after_A, query_A = asked_TM.nonzero().unbind(1)
        prediction, target = torch.cat(predictions, dim=1), episode.queries.y[:, query_A]
        loss = query_loss(prediction, target, self.spec)
        late_A = after_A > own_M[query_A]
        score_A = query_score(prediction.detach(), target, self.spec).mean(0)
        lost = (score_A[~late_A].mean() - score_A[late_A].mean()).nan_to_num()
        loss.metrics["forgetting"] = lost if self.spec.classification else -lost
        return loss


def task_parts(stream: Examples) -> Iterator[slice]:
    """The parts of a stream that belong to one task after another; the same in every episode of the batch."""
    start = 0
    for size in torch.unique_consecutive(stream.task[0], return_counts=True)[1].tolist():
        yield slice(start, start + size)
        start += size


def state_bytes(state: State) -> int:
    """Bytes of the state of one episode."""
    return sum(t[0].numel() * t.element_size() for t in pytree.tree_leaves(state))
