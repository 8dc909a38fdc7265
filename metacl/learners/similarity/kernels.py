"""Kernel regression on the newest examples: query-only attention in which nothing is learnt.

Nadaraya-Watson: answer = sum_j w_j y_j / sum_j w_j with w_j = exp(-rate |x - x_j|^2), over the support. kNN: the same over
the k nearest of the support (Bekal et al. 2025, eq. 7-9).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.learners.buffers import append_, empty_buffer, newest
from metacl.learners.trained.online import OnlineLearner
from metacl.learners.trained.online_state import Memory, OnlineConfig, OnlineState, Work
from metacl.nets.scratch import Weights

RARE = 1e-6
"""Share that a label has at least, so that its logarithm is finite where no neighbour has that label."""


@dataclass(frozen=True)
class KernelConfig(OnlineConfig):
    """Weighted neighbours among the newest examples. Nothing is trained: `rate` belongs to the kernel."""

    rate: float = 1.0
    """Inverse of the squared width of the kernel, in the units of the inputs (images count from 0 to 1)."""
    support: int = 100
    """Newest examples, which are kept and answer."""
    nearest: int = 0
    """Nearest examples that answer (k of kNN). 0: all that are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "support")
        at_least(0, self, "learner.", "nearest")

    def build(self, spec: EpisodeSpec) -> "Kernel":
        return Kernel(self, spec)


class Width(nn.Module):
    """The kernel: its one parameter is the inverse of its squared width."""

    def __init__(self, rate: float):
        super().__init__()
        self.inverse = nn.Parameter(torch.tensor([rate]))


class Kernel(OnlineLearner):
    """Answers from its support. The logit of a label is the logarithm of its share."""

    config: KernelConfig

    trains = False

    def __init__(self, config: KernelConfig, spec: EpisodeSpec):
        super().__init__(config, spec)
        self.support, self.chunkable = config.support, True

    def make(self) -> Width:
        return Width(self.config.rate)

    def start(self, seeds: Sequence[int], rates: Sequence[float] | None = None, alike: bool = False) -> OnlineState:
        state = super().start(seeds, rates, alike)
        return state._replace(weights={"inverse": state.rate[:, None]})

    def remember(self, flat_BP: Tensor) -> Memory:
        return {"support": empty_buffer(self.spec, flat_BP, len(flat_BP), self.config.support)}

    def update(self, work: Work, x: Tensor, y: Tensor) -> None:
        append_(work.memory["support"], x=x, y=y)

    def support_in(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        return newest(memory["support"], self.config.support)

    def answer_from(self, weights: Weights, x: Tensor, x_s: Tensor, y_s: Tensor, filled_BN: Tensor) -> Tensor:
        width_B11 = weights["inverse"][:, :, None]
        scores_BMN = -width_B11 * squared_distances(self._flat(x), self._flat(x_s))
        if self.config.nearest:
            scores_BMN = nearest_only(scores_BMN, filled_BN, self.config.nearest)
        answers_BMF = weighted(scores_BMN, self.targets(y_s), filled_BN)
        return answers_BMF.clamp_min(RARE).log() if self.spec.classification else answers_BMF

    def _flat(self, x: Tensor) -> Tensor:
        x = x.to(next(self.parameters()).dtype).flatten(2)
        return x / 255 if self.spec.x_kind == "image" else x


def squared_distances(x_BMD: Tensor, near_BND: Tensor) -> Tensor:
    """(B, M, N): |x_m - near_n|^2, not below 0."""
    squares_BMN = x_BMD.square().sum(2)[:, :, None] + near_BND.square().sum(2)[:, None]
    return (squares_BMN - 2 * x_BMD @ near_BND.mT).clamp_min(0)


def weighted(scores_BMN: Tensor, y_BNF: Tensor, filled_BN: Tensor | None = None) -> Tensor:
    """(B, M, F): the mean of y (B, N, F) over the filled places, with weights exp(score); zeros where none is filled."""
    if filled_BN is None:
        return scores_BMN.softmax(2) @ y_BNF
    nobody_B11 = ~filled_BN.any(1)[:, None, None]
    scores_BMN = scores_BMN.masked_fill(~filled_BN[:, None], -torch.inf).masked_fill(nobody_B11, 0)
    return (scores_BMN.softmax(2) @ y_BNF).masked_fill(nobody_B11, 0)


def nearest_only(scores_BMN: Tensor, filled_BN: Tensor, number: int) -> Tensor:
    """(B, M, N): scores below the `number` highest of a query become -inf. Where scores are equal, more than `number` stay."""
    scores_BMN = scores_BMN.masked_fill(~filled_BN[:, None], -torch.inf)
    return scores_BMN.masked_fill(
        scores_BMN < scores_BMN.topk(min(number, scores_BMN.shape[2]), dim=2).values[..., -1:], -torch.inf
    )
