"""Gated DeltaProduct: several steps of the delta rule at each token."""

import torch
from torch import Tensor, nn

from metacl.attention.gated import DecayGate
from metacl.attention.interface import Sizes
from metacl.attention.recurrent import Gate, Recurrent, start_at_half, unit
from metacl.attention.scan import Tokens


class GatedDeltaProduct(Recurrent):
    """S <- alpha S, then n times S <- S + beta_i k_i (v_i - S^T k_i)^T, as DeltaNet does it once (Siems 2025).

    What a token does to the state is, for beta near 2, a product of n reflections: two of them are any rotation of a plane.
    Each step has keys, values and beta of its own; alpha is that of Gated DeltaNet. The last step is that of `qkv`, so that
    what is told last is what the shared projections say.

    Arguments: see `Attention`; steps: n; negative: 1, as published: beta is up to 2. 0: up to 1.
    """

    def __init__(self, sizes: Sizes, *, steps: int = 2, negative: int = 1):
        super().__init__(sizes)
        self.most = 1 + negative
        own = self.heads * (self.key_width + self.head_width)
        self.more = nn.ModuleList(nn.Linear(self.width, own) for _ in range(steps - 1))
        self.beta, self.decay = Gate(self.width, self.heads, steps), DecayGate(self.width, self.heads)

    @torch.no_grad()
    def start_matching(self) -> None:
        """See `DeltaNet`. The steps before the last do little."""
        super().start_matching()
        start_at_half(self.beta, self.most)
        self.beta.linear.bias.unflatten(0, (self.heads, -1))[:, :-1] = -4  # type: ignore[operator]

    def tokens(self, x_BND: Tensor) -> Tokens:
        q, k, v = self.project(x_BND)
        widths = [self.key_width, self.head_width]
        earlier = [
            further(x_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2).split(widths, dim=-1) for further in self.more
        ]
        keys, values = (torch.stack(parts, dim=3).flatten(2, 3) for parts in zip(*earlier, (k, v), strict=True))
        beta = self.most * self.beta(x_BND).sigmoid().flatten(2)
        return Tokens(unit(q), unit(keys), values, self.decay(x_BND)[1], beta)
