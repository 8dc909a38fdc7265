"""RWKV-7: what is taken back, where it is taken from and what is written instead are three keys."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metacl.attention.gated import LEAST
from metacl.attention.interface import Sizes, wide
from metacl.attention.recurrent import Gate, Recurrent, start_at
from metacl.attention.scan import Tokens


class RWKV7(Recurrent):
    """S <- Diag(w) S - (a * r) (S^T r)^T + k' v^T, the time mixing of RWKV-7 ("Goose", Peng 2025).

    w = exp(-exp(-1/2) sigmoid(d)) is a decay and a = sigmoid(...) a rate for each key feature, d and the inside of a from the
    token by maps of low rank. r = k * xi, scaled to length 1, is the key whose value is taken back, along a * r, and
    k' = k * (1 + (a - 1) alpha) the key along which v is written; xi and alpha are parameters. For the shared recurrence a
    token writes twice: first 0 - S^T (r / w) along a * r, after the decay, then v along k'.

    Of the published block these are left out, since all mechanisms have the same surroundings here: the shift that mixes a
    token with the one before it, values that are mixed with those of the first layer, the bonus of a token's own value, the
    output gate; and all start as the first layer.

    Arguments: see `Attention`. There is no option `negative`: what a token does to the state turns it around along r wherever
    a > w, and twice as much could make it grow.
    """

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        rank = max(32, 32 * round(2.5 * self.width**0.5 / 32))
        self.decay, self.rate = (Gate(self.width, self.heads, self.key_width, rank) for _ in range(2))
        cast(nn.Sequential, self.decay.linear).insert(1, nn.Tanh())
        place = torch.linspace(-0.5, 0.5, self.heads * self.key_width).view(self.heads, 1, -1)
        self.removal = nn.Parameter(0.71 - 0.1 * place)
        self.replacement = nn.Parameter(torch.full_like(place, 1.02))
        bend = torch.linspace(-1, 1, self.key_width).repeat(self.heads).view_as(place)
        bend = bend * bend.abs()
        _start(self.decay, 6 * place - 2.5 + 2.5 * bend)
        _start(self.rate, 0.4 * place - 0.19 + 0.3 * bend)

    def start_matching(self) -> None:
        super().start_matching()
        start_at(self.decay, math.log(LEAST) + 0.5)

    def tokens(self, x_BND: Tensor) -> Tokens:
        q, k, v = self.project(x_BND)
        log_decay, a = -math.exp(-0.5) * self.decay(x_BND).sigmoid(), self.rate(x_BND).sigmoid()
        r = F.normalize(wide(k) * self.removal, dim=-1)
        replaced = torch.addcmul(1 - self.replacement, a, self.replacement) * k
        erase = (-log_decay).exp() * r
        keys = torch.stack([(a * r).to(k), replaced.to(k)], dim=3).flatten(2, 3)
        return Tokens(q, keys, _between(v, before=1), log_decay, erase=_between(erase.to(k), after=1))


def _between(t_BHNX: Tensor, before: int = 0, after: int = 0) -> Tensor:
    """(B, H, N, X) -> (B, H, 2 N, X): with a row of zeros before or after each."""
    return F.pad(t_BHNX[..., None, :], (0, 0, before, after)).flatten(2, 3)


@torch.no_grad()
def _start(gate: Gate, bias: Tensor) -> None:
    """A gate of low rank that says `bias` of all tokens at first. As published its first matrix is 0, its second orthogonal."""
    linear = cast(nn.Sequential, gate.linear)
    nn.init.zeros_(cast(nn.Linear, linear[0]).weight)
    nn.init.orthogonal_(cast(nn.Linear, linear[-1]).weight, gain=0.1)
    start_at(gate, bias.flatten())
