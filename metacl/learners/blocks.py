"""What a sequence learner is stacked of: blocks of attention and MLP, their norms, and codes of places."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from metacl.attention import Attention, make_attention
from metacl.learners.paired import InputNorm
from metacl.nets.shared_batch import Dropout

if TYPE_CHECKING:
    from metacl.learners.sequence import SequenceConfig


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    attention: Attention

    def __init__(self, config: "SequenceConfig"):
        super().__init__()
        width = config.width
        self.norm_attention, self.norm_mlp = make_norm(config), make_norm(config)
        self.attention = make_attention(
            config.attention,
            width,
            config.heads,
            config.attention_dropout,
            backend=config.backend,
            head_width=config.head_width,
            key_width=config.key_width,
            **config.options,
        )
        self.mlp = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, width))
        self.dropout = Dropout(config.dropout)

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


def make_norm(config: "SequenceConfig") -> nn.Module:
    if not config.norm:
        return nn.Identity()
    return InputNorm(config.width) if config.layout == "paired" else nn.LayerNorm(config.width)


def sinusoids(place_BN: Tensor, width: int) -> Tensor:
    """(B, N) places -> (B, N, D) codes of sines and cosines (Vaswani 2017, section 3.5)."""
    rate = 10_000.0 ** (-torch.arange(0, width, 2, device=place_BN.device) / width)
    angle = place_BN[..., None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[..., :width]
