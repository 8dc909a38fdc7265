"""InfLoRA (Liang and Li 2024): low-rank weights whose A is designed so that a task leaves the inputs of earlier ones alone.

Before a task its images pass the transformer once. What is known of the inputs of earlier tasks is taken out of their second
moments, and the leading directions of the rest become A, which stays; B, from zero, and the head are trained. Then what the
task's inputs span is added to what is known (dual gradient projection memory). The published code keeps a basis of what is
known, or, once that is more than half of all, of what is left; here a projection stands for both.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from episodes import EpisodeSpec, UserError
from episodes.errors import at_least, note
from metacl.learners.vision.base import VisionLearner, among
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.fitting import Schedule, fit, groups, trainable
from metacl.learners.vision.identity import Weights, head_logits, no_head, present
from metacl.learners.vision.pairs import beside, merged, pair_shape
from metacl.learners.vision.second_moments import second_moments

NOTHING = 1e-12
"""Squared singular values that are so small a part of all are rounding."""


@dataclass(frozen=True)
class InfLoraConfig(FittingConfig):
    """Low-rank weights for each task that keep out of the way of earlier tasks; classes are told by a linear head."""

    clip: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    rank: int = 10
    """R, of a pair."""
    least: float = 0.95
    """Share of the (squared) second moments of a first task's inputs that is kept in memory."""
    most: float = 1.0
    """The same, after `tasks` tasks; until then it grows evenly."""
    tasks: int = 10
    """Tasks in which that share grows; the last of them has nearly `most`, later ones have it."""
    rate: float = 5e-4
    """Learning rate (Adam) of B."""
    head_rate: float = 1.0
    """Rate of the head, in rates of B."""
    schedule: Schedule = "quarter"
    """Of the rate over the epochs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "rank", "tasks")
        at_least(0, self, "learner.", "head_rate")
        if not 0 < self.least <= self.most <= 1:
            raise UserError(f"learner.least {self.least:g} and learner.most {self.most:g} must rise within 0 to 1.")

    def build(self, spec: EpisodeSpec) -> "InfLora":
        return InfLora(self, spec)


class InfLoraState(NamedTuple):
    """Of one row (and with B before each shape, of all)."""

    key: Tensor
    """() the row's seed."""
    rate: Tensor
    """() learning rate."""
    tasks: Tensor
    """() int64, tasks so far."""
    seen: Tensor
    """(V,) bool, the symbols so far."""
    pairs: Tensor
    """(T, P, 2, 2, R, D): of each task and block, for keys and values, A and the transpose of B."""
    head: Weights
    known: Tensor
    """(P, D, D), the projection on the inputs of earlier tasks of each block."""


class InfLora(VisionLearner):
    """See above. It need not be told which task a query is of."""

    has_features = True

    def __init__(self, config: InfLoraConfig, spec: EpisodeSpec):
        super().__init__(config, spec)
        self.pair_shape = pair_shape(self.trunk.shape, config.rank)

    def fresh(self, key: Tensor, rate: Tensor) -> InfLoraState:
        V, (P, _, _, _, D), device = self.spec.symbols, self.pair_shape, key.device
        return InfLoraState(
            key,
            rate,
            torch.zeros_like(key),
            torch.zeros(V, dtype=torch.bool, device=device),
            torch.zeros(0, *self.pair_shape, device=device),
            no_head(V, D, torch.zeros_like(rate)),
            torch.zeros(P, D, D, device=device),
        )

    def learn_row(self, state: InfLoraState, x_NCHW: Tensor, y_N: Tensor) -> InfLoraState:
        state = state._replace(pairs=state.pairs[: int(state.tasks)])
        pair, head = self._trained(state, x_NCHW, y_N)
        pairs = torch.cat([state.pairs, pair[None]])
        moments = second_moments(self.trunk, x_NCHW, merged(self.trunk, pairs))
        share = min(1.0, self.config.least + (self.config.most - self.config.least) * int(state.tasks) / self.config.tasks)
        known = torch.stack([remembered(*both, share) for both in zip(state.known, moments, strict=True)])
        seen = state.seen | present(y_N, self.spec.symbols)
        return InfLoraState(state.key, state.rate, state.tasks + 1, seen, pairs, head, known)

    def logits(self, state: InfLoraState, h_MD: Tensor) -> Tensor:
        return among(head_logits(state.head, h_MD), state.seen)

    def features_row(self, state: InfLoraState, x_NCHW: Tensor) -> Tensor:
        return self.trunk.features(x_NCHW, weights=merged(self.trunk, state.pairs))

    def _trained(self, state: InfLoraState, x_NCHW: Tensor, y_N: Tensor) -> tuple[Tensor, Weights]:
        """The pair (P, 2, 2, R, D) of these images, and the head."""
        config, rng, rate = self.config, self.draws(state, "train"), float(state.rate)
        weights = merged(self.trunk, state.pairs)
        moments = second_moments(self.trunk, x_NCHW, weights)
        a_PRD = torch.stack([designed(*both, config.rank) for both in zip(state.known, moments, strict=True)])
        if missing := int((~a_PRD.any(-1)).sum()):
            note(
                f"Of {config.rank * len(a_PRD)} directions that pairs were to have in {len(a_PRD)} blocks, the inputs of this "
                f"task have {missing} too few beside those of earlier ones: these stay empty. Give more images, a "
                "lower --learner.rank, or --learner.tasks where there are more tasks than it says."
            )
        a_P2RD = a_PRD[:, None].expand(-1, 2, -1, -1)
        parts = trainable({str(i): torch.zeros_like(own) for i, own in enumerate(a_P2RD)})
        head, some_V = trainable(state.head), present(y_N, self.spec.symbols)

        def loss(places: np.ndarray) -> Tensor:
            added = [beside(a_2RD, parts[str(i)]) for i, a_2RD in enumerate(a_P2RD)]
            h_ND = self.trunk(self.trunk.view(x_NCHW[places], rng), added, weights=weights)
            return F.cross_entropy(among(head_logits(head, h_ND), some_V), y_N[places])

        own = groups([(list(parts.values()), rate), (list(head.values()), config.head_rate * rate)])
        fit(torch.optim.Adam(own), loss, len(y_N), config.epochs, config.batch_size, rng, config.schedule, config.clip)
        b_P2RD = torch.stack([part.detach() for part in parts.values()])
        return torch.stack([a_P2RD, b_P2RD], 2), {name: part.detach() for name, part in head.items()}


def designed(known_DD: Tensor, moment_DD: Tensor, rank: int) -> Tensor:
    """(R, D): the leading directions of the second moments without those of earlier inputs, divided by the root of three.

    Where there are fewer than R, as with fewer tokens or when all is known, the others are zeros: the published code fills them
    up with any directions, which may be those of earlier inputs.
    """
    moment_DD = moment_DD.double()
    rest_DD = moment_DD - known_DD.double() @ moment_DD
    value_D, left_DD = torch.linalg.eigh(rest_DD @ rest_DD.T)
    there_D = value_D > NOTHING * moment_DD.square().sum()
    return ((left_DD * there_D).flip(1)[:, :rank].T / 3**0.5).float()


def remembered(known_DD: Tensor, moment_DD: Tensor, share: float) -> Tensor:
    """(D, D) the projection on known inputs, with as many leading directions of the new ones as bring it to a share of them.

    As in the published code, the share is of the squared singular values of the second moments, and for a first task the
    direction that reaches it is left out, but for one.
    """
    known_DD, moment_DD = known_DD.double(), moment_DD.double()
    rest_DD = moment_DD - known_DD @ moment_DD
    value_D, left_DD = torch.linalg.eigh(rest_DD @ rest_DD.T)
    value_D, left_DD = value_D.flip(0).clamp_min(0), left_DD.flip(1)
    whole, first = moment_DD.square().sum(), not bool(known_DD.any())
    covered_D = (whole - value_D.sum() + value_D.cumsum(0)) / whole
    below = int((covered_D < share).sum())
    k = max(1, below) if first else below + 1
    if not first and float((whole - value_D.sum()) / whole) >= share:
        k = 0
    free = len(known_DD) - round(float(known_DD.trace()))
    k = min(k, free, int((value_D > NOTHING * whole).sum()))
    new_Dk = torch.linalg.qr(left_DD[:, :k] - known_DD @ left_DD[:, :k]).Q
    return (known_DD + new_Dk @ new_Dk.T).float()
