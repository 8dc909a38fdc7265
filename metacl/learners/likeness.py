"""Answers by likeness: a learner says what the inputs of each label are like, and the nearest label is the answer."""

import math

import torch
from torch import Tensor, nn

NEAR = 1 / 16
"""What a squared distance counts at the start."""


class Likeness(nn.Module):
    """logit_v = -s |norm(z) - e_v|^2, e_v what a learner expects of inputs with symbol v (Snell 2017, eq. 2, if a mean).

    Arguments:
        width: features of an input (E).
        norm: LayerNorm of the features, as tokens have it.
    """

    def __init__(self, width: int, norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.log_scale = nn.Parameter(torch.tensor(math.log(NEAR)))

    def forward(self, z_BME: Tensor, expected_BVE: Tensor) -> Tensor:
        """(B, M, V): the logits, in float32 at least: a distance is the difference of large numbers."""
        with torch.autocast(z_BME.device.type, enabled=False):
            scale = self.log_scale.exp()
            z_BME, expected_BVE = self.norm(z_BME), expected_BVE.to(scale.dtype)
            squares_BMV = z_BME.square().sum(-1, keepdim=True) + expected_BVE.square().sum(-1)[:, None]
            return scale * (2 * z_BME @ expected_BVE.mT - squares_BMV)
