"""The decayed second moment of keys, feature by feature: how much a state has been told about each of them.

    A <- exp(g) A + weight k^2

It is the shared recurrence with one key feature, the weight, and k^2 as value; always in float32 at least, by PyTorch.
"""

import torch
from torch import Tensor

from metacl.attention.interface import wide
from metacl.attention.scan import Tokens, look, scan


def moments(k: Tensor, weight: Tensor, log_decay: Tensor, state_BHE: Tensor) -> tuple[Tensor, Tensor]:
    """A up to and with each token (B, H, N, E), and after all of them (B, H, E).

    Arguments:
        k: (B, H, N, E), 0 where a token is not valid.
        weight: (B, H, N)
        log_decay: (B, H, N), 0 where a token is not valid.
        state_BHE: A before the first token.
    """
    out, state = scan(_tokens(k, weight, log_decay), state_BHE[:, :, None])
    return out, state[:, :, 0]


def moments_alone(k: Tensor, weight: Tensor, log_decay: Tensor, state_BHE: Tensor) -> Tensor:
    """(B, H, M, E): A up to and with each token if it alone came next."""
    return look(_tokens(k, weight, log_decay), state_BHE[:, :, None])


def _tokens(k: Tensor, weight: Tensor, log_decay: Tensor) -> Tokens:
    weight = weight[..., None]
    return Tokens(torch.ones_like(weight), weight, wide(k).square().to(weight), log_decay)
