"""Attention through positive features: weights phi(q) . phi(k), so that sums over the stream take the place of its tokens."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metacl.attention import backends, naive
from metacl.attention.interface import Attention, Sizes, wide
from metacl.attention.recurrent import Recurrent, RecurrentState
from metacl.attention.scan import Tokens, divided, look
from metacl.nets.shared_batch import dropout


class LinearAttention(Recurrent):
    """out = phi(q) S / (phi(q) . z), S and z the sums of phi(k) v^T and phi(k), phi(x) = elu(x) + 1.

    Source: Katharopoulos 2020, eq. 9-12. z is the last column of the state: values carry a 1. Arguments: see `Attention`.
    """

    has_weights = True
    recalls = False
    normed = False
    sharpness = 200.0  # wide apart, elu(x) + 1 is nearly relu(x), whose products tell inputs apart best

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.norm = nn.Identity()

    def init_state(self, batch_size: int) -> RecurrentState:
        return RecurrentState(self.zeros(batch_size, self.heads, self.key_width, self.head_width + 1))

    def tokens(self, x_BND: Tensor) -> Tokens:
        q, k, v = self.project(x_BND)
        return Tokens(F.elu(q) + 1, F.elu(k) + 1, with_one(v))

    def task_mass(self, x_BMD: Tensor, x_BND: Tensor, task_BN: Tensor, heads: int, valid_BN: Tensor | None = None) -> Tensor:
        """See `Attention`. phi(q) . z_t over its sum over tasks, z_t the sum of phi(k) in task t: linear in N."""
        q, k = (F.elu(wide(self.project_part(x, part, heads))) + 1 for part, x in enumerate((x_BMD, x_BND)))
        return key_mass(q, k, task_BN, valid_BN)


class PerformerState(NamedTuple):
    """Sums over the stream, divided by exp(top)."""

    sums: Tensor
    """(B, H, features, F + 1)"""
    top: Tensor
    """(B, H): the largest exponent of any key so far."""


class Performer(Attention[PerformerState]):
    """FAVOR+: linear attention whose features estimate softmax's exp(q . k / sqrt(E)) without bias (Choromanski 2021, lemma 1).

    phi(x)_m = exp(w_m . x - |x|^2 / 2) with x / E^(1/4) for x and orthogonal random directions w_m, drawn once and saved with
    the model. All exponents are kept below 0: for queries their own largest cancels in the quotient, for keys the largest so
    far is a scalar decay of the sums, so that a stream in pieces gives what it gives in one.

    Arguments: see `Attention`; features: M, the random directions; None: twice as many as a key has features.
    """

    has_weights = True
    recalls = False
    sharpness = 3.0  # the variance of the estimate grows with exp(|q|^2)
    kernels = ("fla",)
    directions_ME: Tensor

    def __init__(self, sizes: Sizes, *, features: int | None = None):
        super().__init__(sizes)
        self.register_buffer("directions_ME", orthogonal_directions(features or 2 * self.key_width, self.key_width))

    def init_state(self, batch_size: int) -> PerformerState:
        empty = self.zeros(batch_size, self.heads, len(self.directions_ME), self.head_width + 1)
        return PerformerState(empty, torch.full_like(empty[..., 0, 0], -torch.inf))

    def extend(self, x_BND: Tensor, state: PerformerState, valid_BN: Tensor | None) -> tuple[Tensor, PerformerState]:
        tokens, top = self._tokens(x_BND, state.top, valid_BN)
        out, sums = backends.scan(tokens, state.sums, self.backend, divide=True)
        return self._outputs(out, x_BND), PerformerState(sums, top)

    def extend_naive(self, x_BND: Tensor, state: PerformerState, valid_BN: Tensor | None) -> tuple[Tensor, PerformerState]:
        q, k, v = self.project(x_BND)
        top = self._tokens(x_BND, state.top, valid_BN)[1]
        scale = torch.where(state.top.isinf(), top, state.top).exp()[..., None, None]
        tokens = Tokens(self._exponents(q).exp(), self._exponents(k).exp(), with_one(v)).masked(valid_BN)
        out, sums = naive.recurrence(tokens, state.sums * scale)
        return self._outputs(divided(out), x_BND), PerformerState(sums / top.exp()[..., None, None], top)

    def read(self, x_BMD: Tensor, state: PerformerState) -> Tensor:
        q, k, v = self.project(x_BMD)
        exponent = self._exponents(k)
        now = torch.maximum(exponent.detach().amax(-1), state.top[..., None])
        decay = (state.top[..., None] - now).nan_to_num(neginf=0)
        tokens = Tokens(self._query(q), (exponent - now[..., None]).exp().to(v), with_one(v), decay)
        return self._outputs(divided(look(tokens, state.sums)), x_BMD)

    def task_mass(self, x_BMD: Tensor, x_BND: Tensor, task_BN: Tensor, heads: int, valid_BN: Tensor | None = None) -> Tensor:
        exponent = self._exponents(self.project_part(x_BND, 1, heads))
        k = (exponent - exponent.detach().amax((-2, -1), keepdim=True)).exp()
        return key_mass(wide(self._query(self.project_part(x_BMD, 0, heads))), k, task_BN, valid_BN)

    def _tokens(self, x_BND: Tensor, top_BH: Tensor, valid_BN: Tensor | None) -> tuple[Tokens, Tensor]:
        """The tokens of the recurrence, and the largest exponent after them."""
        q, k, v = self.project(x_BND)
        exponent = self._exponents(k)
        highest_BHN = exponent.detach().amax(-1)
        if valid_BN is not None:
            highest_BHN = highest_BHN.masked_fill(~valid_BN[:, None], -torch.inf)
        tops = torch.cat([top_BH[..., None].to(highest_BHN), highest_BHN], dim=-1).cummax(-1).values
        decay = torch.where(tops[..., :-1].isinf(), 0.0, tops[..., :-1] - tops[..., 1:])
        k = (exponent - tops[..., 1:, None].nan_to_num(neginf=0)).exp().to(v)
        return Tokens(self._query(q), k, with_one(v), decay).masked(valid_BN), tops[..., -1]

    def _exponents(self, t_BHNE: Tensor) -> Tensor:
        with torch.autocast(t_BHNE.device.type, enabled=False):
            t = wide(t_BHNE) * self.key_width**-0.25
            return t @ self.directions_ME.to(t).mT - t.square().sum(-1, keepdim=True) / 2

    def _query(self, q_BHNE: Tensor) -> Tensor:
        exponent = self._exponents(q_BHNE)
        return (exponent - exponent.detach().amax(-1, keepdim=True)).exp().to(q_BHNE.dtype)

    def _outputs(self, out_BHNF: Tensor, like_BND: Tensor) -> Tensor:
        return self.merge(dropout(out_BHNF, self.dropout, self.training), like_BND)


def orthogonal_directions(features: int, width: int) -> Tensor:
    """(features, width): blocks of orthogonal rows with the lengths of Gaussian vectors (Choromanski 2021, section 3.2)."""
    blocks = []
    for _ in range(-(-features // width)):
        rotation, triangle = torch.linalg.qr(torch.randn(width, width))
        blocks.append(rotation * triangle.diagonal().sign())  # without the signs some directions are more likely than others
    return torch.cat(blocks)[:features] * torch.randn(features, width).norm(dim=1, keepdim=True)


def with_one(v_BHNF: Tensor) -> Tensor:
    """(B, H, N, F) -> (B, H, N, F + 1): values with a 1 behind them, whose sum is the normaliser."""
    return torch.cat([v_BHNF, torch.ones_like(v_BHNF[..., :1])], dim=-1)


def key_mass(q_BHME: Tensor, k_BHNE: Tensor, task_BN: Tensor, valid_BN: Tensor | None) -> Tensor:
    """(B, H, M, T): the share of each task's tokens in the sum of q . k over the stream."""
    k = k_BHNE if valid_BN is None else k_BHNE * valid_BN[:, None, :, None]
    with torch.autocast(q_BHME.device.type, enabled=False):
        norm_BHTE = torch.einsum("bhne,bnt->bhte", k, F.one_hot(task_BN).to(k))
        mass_BHMT = q_BHME @ norm_BHTE.mT
        return mass_BHMT / mass_BHMT.sum(-1, keepdim=True)
