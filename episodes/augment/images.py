"""Images that are warped, coloured and blended: many at once, each its own way, on the device where they are.

Nothing here depends on how many images there are: each comes out the same, alone or among others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from episodes.augment.config import AugmentConfig

GREY = (0.299, 0.587, 0.114)
"""What red, green and blue weigh in the grey of a colour (ITU-R BT.601)."""


def warped(x_ICHW: Tensor, map_I33: Tensor) -> Tensor:
    """Images whose pixels come from where the maps say (`episodes.augment.maps`), bilinear between four pixels; what lies
    beyond an edge has the value of the edge. Floats."""
    H, W = x_ICHW.shape[-2:]
    right_W, down_H = (torch.arange(side, dtype=map_I33.dtype, device=map_I33.device) - (side - 1) / 2 for side in (W, H))
    # From edge to edge grid_sample counts from -1 to 1. No matrix product: its last bits may depend on the number of images.
    map_I23 = map_I33[:, :2] * map_I33.new_tensor([[2 / W], [2 / H]])
    along_I2W = map_I23[..., 0, None] * right_W + map_I23[..., 2, None]
    down_I2H = map_I23[..., 1, None] * down_H
    grid_I2HW = along_I2W[:, :, None, :] + down_I2H[:, :, :, None]
    return F.grid_sample(x_ICHW, grid_I2HW.movedim(1, -1), mode="bilinear", padding_mode="border", align_corners=False)


def coloured(x_ICHW: Tensor, config: AugmentConfig, lots_I3: Tensor) -> Tensor:
    """Images of another brightness, contrast and saturation, in this order, each cut off at 0 and 255. Floats, written over the
    ones given: to make room for others takes longer than to change them.

    Arguments:
        lots_I3: even in [-1, 1), one for each of the three.
    """
    bright, contrast, saturation = lots_I3[:, :, None, None, None].unbind(1)
    if config.brightness:
        x_ICHW.mul_(1 + config.brightness * bright).clamp_(0, 255)
    if config.contrast:
        grey_I1HW = _grey(x_ICHW)
        mean_I111 = grey_I1HW.mean((-2, -1), keepdim=True).round()  # whole: the order of a sum is another in other batches
        grey_I1HW.copy_(mean_I111)  # lerp is several times as fast where one number of an image alone is broadcast
        torch.lerp(grey_I1HW, x_ICHW, 1 + config.contrast * contrast, out=x_ICHW).clamp_(0, 255)
    if config.saturation:
        torch.lerp(_grey(x_ICHW), x_ICHW, 1 + config.saturation * saturation, out=x_ICHW).clamp_(0, 255)
    return x_ICHW


def _grey(x_ICHW: Tensor) -> Tensor:
    """(I, 1, H, W): of three channels what the eye sees of them, of any other number the mean."""
    if x_ICHW.shape[1] != 3:
        return x_ICHW.mean(1, keepdim=True)
    red, green, blue = x_ICHW.split(1, dim=1)
    return (GREY[0] * red).add_(GREY[1] * green).add_(GREY[2] * blue)


def blended(own: Tensor, other: Tensor, by: str) -> Tensor:
    """Images (..., H, W) uint8 that are half one, half another: the mean of their pixels, or the upper half above the lower."""
    if by == "pixels":
        return (own & other) + ((own ^ other) >> 1)  # the bits that both have, and half of those that one has: no wider numbers
    half = own.shape[-2] // 2
    return torch.cat([own[..., :half, :], other[..., half:, :]], dim=-2)
