"""RanPAC: streaming ridge regression on random projections of frozen features (McDonnell et al., NeurIPS 2023).

    h = relu(W^T z),  W (D, M) drawn once,  G = sum h h^T,  C = sum h onehot(y)^T,  answer = h^T (G + ridge I)^-1 C

G and C are all that is kept, so the order of tasks does not matter but for the ridge. It is chosen anew at each task, among
powers of ten, by the squared error on the last fifth of the task's own examples after learning from the others.

As in the paper and its code: the projection, the two sums, the choice of the ridge. Left out: what it trains in its first task
(adapters of the backbone). Other numbers: the projection and the sums are in float64, since the smallest ridge is far below the
rounding of float32 sums; and M is 2 000, of 32 MB for each row, where the paper has 10 000, of 0.8 GB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from episodes import EpisodeSpec, Examples
from episodes.errors import at_least
from metacl.learners.protocol import AT_ONCE, State
from metacl.learners.statistics.features import OfVectors
from metacl.learners.statistics.running import UNSEEN

RIDGES = 10.0 ** torch.arange(-8, 9, dtype=torch.float64)
"""(R,): the ridge is one of these."""


@dataclass(frozen=True)
class RanPACConfig:
    """Ridge regression on a random projection of vectors."""

    projected: int = 2_000
    """Numbers that a vector is projected to (M). The state has M x M. Published: 10 000."""

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "projected")

    def build(self, spec: EpisodeSpec) -> "RanPAC":
        return RanPAC(self, spec)


class Sums(NamedTuple):
    """G (B, M, M) and C (B, M, V) of some examples."""

    gram: Tensor
    cross: Tensor


class RanPACState(NamedTuple):
    """Sums over all examples so far, in float64, and what follows from them."""

    projection: Tensor
    """(B, D, M), W."""
    gram: Tensor
    """(B, M, M), G."""
    cross: Tensor
    """(B, M, V), C."""
    counts: Tensor
    """(B, V), examples of each class."""
    ridge: Tensor
    """(B,), of the latest task that had two examples to choose it by; 1 before."""
    weights_of_answer: Tensor
    """(B, M, V), (G + ridge I)^-1 C."""


class RanPAC(OfVectors):
    """A task is learnt at once, so that its ridge can be chosen on a part of it."""

    projection: Tensor
    chunkable, whole_tasks = False, True

    def __init__(self, config: RanPACConfig, spec: EpisodeSpec):
        super().__init__("ranpac", spec)
        self.config = config
        self.register_buffer("projection", torch.randn(self.width, config.projected, dtype=torch.float64), persistent=False)

    def init_state(self, batch_size: int) -> RanPACState:
        projection_BDM = self.projection.double().expand(batch_size, -1, -1)
        B, (_, M), V, new = batch_size, self.projection.shape, self.spec.symbols, projection_BDM.new_zeros
        return RanPACState(projection_BDM, new(B, M, M), new(B, M, V), new(B, V), new(B) + 1, new(B, M, V))

    def start(self, seeds: Sequence[int], rates: Sequence[float] | None = None, alike: bool = False) -> State:
        """A projection for each seed; `alike`: the module's own."""
        state = super().start(seeds, rates, alike)
        if alike:
            return state
        rows = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = [torch.randn(self.projection.shape, generator=rng, dtype=torch.float64) for rng in rows]
        return state._replace(projection=torch.stack(drawn).to(self.projection.device))

    @torch.no_grad()
    def learn_features(self, state: RanPACState, z_BND: Tensor, examples: Examples) -> RanPACState:
        valid_BN = torch.ones_like(examples.y, dtype=torch.bool) if examples.valid is None else examples.valid
        y_BNV = F.one_hot(examples.y.where(valid_BN, 0), self.spec.symbols).double()
        number_B = valid_BN.sum(1)
        fitted_BN = valid_BN & (valid_BN.cumsum(1) <= (4 * number_B // 5)[:, None])
        if z_BND.shape[1] < self.config.projected:
            new = sums(z_BND, y_BNV, valid_BN, state.projection)
            errors_RB = errors_of_few(z_BND, y_BNV, fitted_BN, valid_BN & ~fitted_BN, state.projection)
        else:
            fitted, asked = (sums(z_BND, y_BNV, use, state.projection) for use in (fitted_BN, valid_BN & ~fitted_BN))
            new = Sums(fitted.gram + asked.gram, fitted.cross + asked.cross)
            errors_RB = errors_of_many(fitted, asked)
        ridge_B = RIDGES.to(state.ridge)[errors_RB.argmin(0)].where(number_B > 1, state.ridge)
        gram_BMM, cross_BMV = state.gram + new.gram, state.cross + new.cross
        ridge_B, weights_BMV = solved(gram_BMM, cross_BMV, ridge_B)
        counts_BV = state.counts + (y_BNV * valid_BN[..., None]).sum(1)
        return RanPACState(state.projection, gram_BMM, cross_BMV, counts_BV, ridge_B, weights_BMV)

    @torch.no_grad()
    def predict_features(self, state: RanPACState, z_BMD: Tensor) -> Tensor:
        answers_BMV = (projected(z_BMD, state.projection) @ state.weights_of_answer).to(self.anchor.dtype)
        return answers_BMV.masked_fill(state.counts[:, None] == 0, UNSEEN)


def projected(z_BND: Tensor, projection_BDM: Tensor) -> Tensor:
    """(B, N, M) float64: relu(W^T z)."""
    return (z_BND.double() @ projection_BDM).relu()


def sums(z_BND: Tensor, y_BNV: Tensor, use_BN: Tensor, projection_BDM: Tensor) -> Sums:
    """Over the examples that are to be used, a few thousand at a time."""
    B, _, M = projection_BDM.shape
    gram_BMM, cross_BMV = z_BND.new_zeros(B, M, M, dtype=torch.float64), y_BNV.new_zeros(B, M, y_BNV.shape[2])
    for start in range(0, z_BND.shape[1], AT_ONCE):
        part = slice(start, start + AT_ONCE)
        h_BNM = projected(z_BND[:, part], projection_BDM) * use_BN[:, part, None]
        gram_BMM += h_BNM.mT @ h_BNM
        cross_BMV += h_BNM.mT @ y_BNV[:, part]
    return Sums(gram_BMM, cross_BMV)


def errors_of_many(fitted: Sums, asked: Sums) -> Tensor:
    """(R, B): at each ridge the squared error of what is `asked`, but for a constant, after learning from what is `fitted`.

    With the sums G = U s U^T and C of the fitted, G' and C' of the asked: W = U (s + ridge)^-1 U^T C, and the error is
    tr(W^T G' W) - 2 tr(W^T C').
    """
    values_BM, vectors_BMM = torch.linalg.eigh(fitted.gram)
    cross_BMV, gram_BMM = vectors_BMM.mT @ fitted.cross, vectors_BMM.mT @ asked.gram @ vectors_BMM
    asked_BMV = vectors_BMM.mT @ asked.cross
    errors = []
    for ridge in RIDGES.tolist():
        weights_BMV = cross_BMV / (values_BM.clamp_min(0) + ridge)[..., None]
        errors.append((weights_BMV * (gram_BMM @ weights_BMV - 2 * asked_BMV)).sum((1, 2)))
    return torch.stack(errors)


def errors_of_few(z_BND: Tensor, y_BNV: Tensor, fitted_BN: Tensor, asked_BN: Tensor, projection_BDM: Tensor) -> Tensor:
    """The same where there are fewer examples than numbers in a projection: H H^T = U s U^T is smaller than G, and answers are
    A H^T U (s + ridge)^-1 U^T Y."""
    h_BNM = projected(z_BND, projection_BDM)
    fitted_BNM, asked_BNM = h_BNM * fitted_BN[..., None], h_BNM * asked_BN[..., None]
    values_BN, vectors_BNN = torch.linalg.eigh(fitted_BNM @ fitted_BNM.mT)
    left_BNN, right_BNV = asked_BNM @ fitted_BNM.mT @ vectors_BNN, vectors_BNN.mT @ (y_BNV * fitted_BN[..., None])
    errors = []
    for ridge in RIDGES.tolist():
        answers_BNV = left_BNN / (values_BN.clamp_min(0) + ridge)[:, None] @ right_BNV
        errors.append((answers_BNV - y_BNV * asked_BN[..., None]).square().sum((1, 2)))
    return torch.stack(errors)


def solved(gram_BMM: Tensor, cross_BMV: Tensor, ridge_B: Tensor) -> tuple[Tensor, Tensor]:
    """The ridge, and (G + ridge I)^-1 C. A ridge that is lost in the rounding of G, so that the sum is not positive definite,
    is taken ten times as large until it is."""
    while True:
        whole_BMM = gram_BMM.clone()
        whole_BMM.diagonal(dim1=1, dim2=2).add_(ridge_B[:, None])
        root_BMM, failed_B = torch.linalg.cholesky_ex(whole_BMM)
        if not failed_B.any():
            return ridge_B, torch.cholesky_solve(cross_BMV, root_BMM)
        ridge_B = torch.where(failed_B > 0, 10 * ridge_B, ridge_B)
