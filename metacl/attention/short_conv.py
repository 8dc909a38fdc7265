"""The short convolution that published blocks put before their recurrence, as an option of each that has a `Shell`.

    p_n = sum over j of kernel_j * (W x_(n-j)) + b,  j from 0 to short_conv - 1

apart for each feature of q, k and v, then SiLU where the mechanism does not do it itself. What is before a stream counts as 0.
Sources: Mamba-2 (Dao 2024), Gated DeltaNet (Yang 2025). As in Mamba-2 the bias comes after the convolution.
"""

import functools
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metacl.attention.interface import Learn, Sizes, wide
from metacl.attention.recurrent import Shell


class ConvolvedState(NamedTuple):
    """The state of the mechanism, and what its convolution needs of the stream."""

    inner: NamedTuple
    """The state of the mechanism without the convolution."""
    recent: Tensor
    """(B, short_conv - 1, D): the last valid tokens, 0 before the first, float32 at least. Tokens take a third of the room of
    their projections, and W 0 is 0."""


class ShortConvolution(nn.Linear):
    """(B, N, D) -> (B, N, P): a projection, then a causal convolution of `tokens` tokens for each of its features.

    Arguments:
        projection: its weight and bias are taken over.
        tokens: how many tokens are seen, the last the token itself.
        plain: the first so many features get no SiLU.
    """

    def __init__(self, projection: nn.Linear, tokens: int, plain: int):
        super().__init__(projection.in_features, projection.out_features)
        self.weight, self.bias, self.plain = projection.weight, projection.bias, plain
        self.kernel = nn.Parameter(torch.empty(self.out_features, tokens).uniform_(-(tokens**-0.5), tokens**-0.5))
        """(P, tokens): the last is for the token itself. It starts as torch's convolutions and the published ones do."""

    def forward(self, x_BND: Tensor) -> Tensor:
        N, past = x_BND.shape[1], self.kernel.shape[1] - 1
        padded = F.pad(F.linear(x_BND, self.weight), (0, 0, past, 0))
        kernel = self.kernel.to(padded)
        p_BNP = self.bias.to(padded).expand_as(padded[:, :N])
        for j in range(past + 1):
            p_BNP = torch.addcmul(p_BNP, padded[:, j : j + N], kernel[:, j])
        if not self.plain:
            return F.silu(p_BNP)
        return torch.cat([p_BNP[..., : self.plain], F.silu(p_BNP[..., self.plain :])], dim=-1)


class Convolved(Shell[ConvolvedState]):
    """A mechanism whose projections see the last `places` tokens. See `convolved`, which joins it with the mechanism.

    Tokens that came earlier go before the new ones as padding: their projections are seen, but they leave no trace.
    """

    places: int

    def __init__(self, sizes: Sizes, **options: object):
        super().__init__(sizes, **options)
        self.qkv = ShortConvolution(self.qkv, self.places, sum(self.parts[: self.activated]))

    @torch.no_grad()
    def start_matching(self) -> None:
        """See `Attention`. The convolution sees the token itself alone."""
        super().start_matching()
        cast(ShortConvolution, self.qkv).kernel[:, -1] = 1

    def init_state(self, batch_size: int) -> ConvolvedState:
        return ConvolvedState(super().init_state(batch_size), self.zeros(batch_size, self.places - 1, self.qkv.in_features))

    def extend(self, x_BND: Tensor, state: ConvolvedState, valid_BN: Tensor | None) -> tuple[Tensor, ConvolvedState]:
        return self._behind(cast(Learn, super().extend), x_BND, state, valid_BN)

    def extend_naive(self, x_BND: Tensor, state: ConvolvedState, valid_BN: Tensor | None) -> tuple[Tensor, ConvolvedState]:
        return self._behind(cast(Learn, super().extend_naive), x_BND, state, valid_BN)

    def read(self, x_BMD: Tensor, state: ConvolvedState) -> Tensor:
        """See `Attention`. Each query is put behind the last tokens of the stream, so that it costs `places` queries."""
        recent = state.recent.to(x_BMD)[:, None].expand(-1, x_BMD.shape[1], -1, -1)
        behind = torch.cat([recent, x_BMD[:, :, None]], dim=2).flatten(1, 2)
        return super().read(behind, state.inner)[:, self.places - 1 :: self.places]  # type: ignore[arg-type]

    def _behind(
        self, extend: Learn, x_BND: Tensor, state: ConvolvedState, valid_BN: Tensor | None
    ) -> tuple[Tensor, ConvolvedState]:
        """The tokens behind those before them, valid ones first: then what is seen is a neighbour, whatever the padding."""
        N, past, place = x_BND.shape[1], self.places - 1, torch.arange(x_BND.shape[1] + self.places, device=x_BND.device)
        count_B1 = place.new_full((len(x_BND), 1), N) if valid_BN is None else valid_BN.sum(1, keepdim=True)
        order_BN = None if valid_BN is None else (~valid_BN).long().argsort(dim=1, stable=True)
        x_BND = x_BND if order_BN is None else _taken(x_BND, order_BN)
        whole = torch.cat([state.recent.to(x_BND), x_BND], dim=1)
        out, inner = extend(whole, state.inner, F.pad(place[:N] < count_B1, (past, 0)))
        out, recent = out[:, past:], _taken(whole, count_B1 + place[:past])
        return out if order_BN is None else _taken(out, order_BN.argsort(dim=1)), ConvolvedState(inner, wide(recent))


@functools.cache
def convolved(mechanism: type[Shell], tokens: int) -> type[Shell]:
    """The mechanism with a short convolution that sees `tokens` tokens, the last the token itself."""
    return type(f"Convolved{mechanism.__name__}", (Convolved, mechanism), {"places": tokens})


def _taken(t_BND: Tensor, place_BN: Tensor) -> Tensor:
    return t_BND.gather(1, place_BN[..., None].expand(-1, -1, t_BND.shape[2]))
