"""Recurrences that add what they are told and forget by a decay: fixed, a scalar or a vector from the token."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metacl.attention.interface import Sizes, wide
from metacl.attention.recurrent import Gate, Recurrent, softplus_inverse, start_at
from metacl.attention.scan import Tokens

LEAST = 0.001
"""Log decay of a token, with the other sign, at the matching start: memory halves after 690 tokens."""


class Retention(Recurrent):
    """S <- gamma_h S + k v^T with gamma_h = 1 - 2^(-5-h) for head h (RetNet, Sun 2023, eq. 5-8). No rotation of q and k:
    places carry no meaning here."""

    log_decay_H: Tensor

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.register_buffer("log_decay_H", torch.log1p(-(2.0 ** (-5.0 - torch.arange(self.heads)))), persistent=False)

    def tokens(self, x_BND: Tensor) -> Tokens:
        q, k, v = self.project(x_BND)
        return Tokens(q, k, v, self.log_decay_H[:, None].expand(len(x_BND), -1, x_BND.shape[1]))


class GatedLinearAttention(Recurrent):
    """S <- Diag(alpha) S + k v^T, alpha = sigmoid(W2 W1 x + b)^(1/16), one for each key feature (GLA, Yang 2024, eq. 3-4)."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.gate = Gate(self.width, self.heads, self.key_width, rank=16)

    def start_matching(self) -> None:
        super().start_matching()
        start_at(self.gate, -softplus_inverse(16 * LEAST))

    def tokens(self, x_BND: Tensor) -> Tokens:
        return Tokens(*self.project(x_BND), F.logsigmoid(self.gate(x_BND)) / 16)


class HGRN2(Recurrent):
    """S <- Diag(f) S + (1 - f) v^T, read by SiLU(q): what a key feature forgets is what it writes (HGRN2, Qin 2024).

    f = bound + (1 - bound) sigmoid(-k), k a projection of the token, so that 1 - f grows with k. The bounds are learnt. In the
    paper those of a layer are sums of a softmax over all layers, so that later layers remember longer; here each key feature
    of each head has its own in each layer, and at first half of what is told is forgotten after 2 to 350 tokens.
    """

    activated = 2
    recalls = False

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        start_E = (2 ** torch.linspace(1, 8, self.key_width) - 1).log()  # 1 - bound is from 1/2 to 1/256
        self.bound_logit = nn.Parameter(start_E.repeat(self.heads, 1, 1))

    @torch.no_grad()
    def start_matching(self) -> None:
        super().start_matching()
        self.qkv.bias[self.parts[0] : sum(self.parts[:2])] = -2  # a key is a sigmoid: below its middle it tells inputs apart

    def tokens(self, x_BND: Tensor) -> Tokens:
        q, k, v = self.project(x_BND)
        bound = wide(self.bound_logit)
        log_decay = torch.logaddexp(F.logsigmoid(bound), F.logsigmoid(-bound) + F.logsigmoid(-wide(k)))
        return Tokens(F.silu(q), -log_decay.expm1().to(k.dtype), v, log_decay)


class Mamba2(Recurrent):
    """S <- exp(-dt A) S + dt k v^T, dt = softplus(w x + b) a scalar of each head and token (SSD form, Dao 2024, section 6)."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.decay = DecayGate(self.width, self.heads)

    def tokens(self, x_BND: Tensor) -> Tokens:
        q, k, v = self.project(x_BND)
        dt, log_decay = self.decay(x_BND)
        return Tokens(q, k, v * dt[..., None].to(v.dtype), log_decay)


class DecayGate(nn.Module):
    """dt = softplus(w x + b) and the log decay -dt A: (B, H, N) each, or (B, H, N, size), with a dt for each feature of a key.

    As in Mamba-2 each head starts with an A drawn from U(1, 16) and each dt, where the token says nothing, with one whose
    logarithm is drawn uniformly between those of 0.001 and 0.1: memory halves after 0.4 to 690 tokens.

    Arguments:
        size, rank: see `Gate`.
    """

    def __init__(self, width: int, heads: int, size: int | None = None, rank: int | None = None):
        super().__init__()
        self.gate = Gate(width, heads, size, rank)
        self.log_rate_H = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        start_at(self.gate, softplus_inverse(torch.empty(heads * (size or 1)).uniform_(math.log(0.001), math.log(0.1)).exp()))

    @torch.no_grad()
    def remember(self) -> None:
        """All heads start with the longest memory of those that are drawn."""
        self.log_rate_H.zero_()
        start_at(self.gate, softplus_inverse(LEAST))

    def forward(self, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        dt = F.softplus(self.gate(x_BND))
        rate = wide(self.log_rate_H).exp()[:, None]
        return dt, -dt * (rate if self.gate.size is None else rate[..., None])


class Longhorn(Recurrent):
    """S <- (1 - delta k^2) S + delta k v^T with delta = beta / (1 + beta |k|^2).

    It minimises |S' - S|^2 + beta |S'^T k - v|^2, the matrix k k^T of the solution cut to its diagonal (Longhorn, Liu 2024,
    theorem 3.1 and section 3.2). Keys have length 1; beta = sigmoid(w x) is one number for each head, where the published
    model has one for each value feature.
    """

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.beta = Gate(self.width, self.heads)

    def tokens(self, x_BND: Tensor) -> Tokens:
        q, k, v = self.project(x_BND)
        k_wide = F.normalize(wide(k), dim=-1)
        beta = self.beta(x_BND).sigmoid()[..., None]
        delta = beta / (1 + beta)  # at most 1/2: the decay is never below it
        return Tokens(q, k_wide.to(k), (delta * v).to(v.dtype), torch.log1p(-delta * k_wide.square()))
