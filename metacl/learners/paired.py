"""Paired tokens: what was seen is in the first half of a token, what was said of it in the second."""

import math

import torch
from torch import Tensor, nn


class InputNorm(nn.Module):
    """LayerNorm of the first half of a token (B, N, D). The second stays as it is: how much is said of a token counts."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width // 2)

    def forward(self, x_BND: Tensor) -> Tensor:
        seen, said = x_BND.chunk(2, dim=-1)
        return torch.cat([self.norm(seen), said], dim=-1)


class Target(nn.Module):
    """Targets as features: (B, N, *shape) -> (B, N, width), by a linear map: a mean of codes is the code of a mean."""

    def __init__(self, shape: tuple[int, ...], width: int):
        super().__init__()
        self.linear = nn.Linear(math.prod(shape), width)

    def forward(self, y: Tensor) -> Tensor:
        return self.linear(y.flatten(2))
