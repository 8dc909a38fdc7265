"""Random views of images: what a network that is trained on them sees, each time another."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def random_view(x_NCHW: Tensor, side: int, rng: np.random.Generator, area: float = 0.3, flip: bool = True) -> Tensor:
    """uint8 images (N, C, H, W) -> pixels in [0, 1] (N, 3, side, side): a random part of each, grey ones in three channels.

    Arguments:
        rng: whose numbers choose the parts, the same whatever device the images are on.
        area: the least share of an image's area that is shown; the part's sides are as 3 to 4 at most.
        flip: half of the images are mirrored, left to right.
    """
    N = len(x_NCHW)
    share = np.sqrt(rng.uniform(area, 1, N))
    aspect = np.exp(rng.uniform(-0.5, 0.5, N) * np.log(4 / 3)).clip(share, 1 / share)  # so that it fits, whatever its share
    size_N2 = np.stack([share * aspect, share / aspect], 1)  # width, height, of two
    place_N2 = rng.uniform(-1, 1, (N, 2)) * (1 - size_N2)
    mirrored_N = (rng.random(N) < 0.5) & flip
    size_N2[:, 0] *= np.where(mirrored_N, -1, 1)
    theta = np.zeros((N, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = size_N2[:, 0], size_N2[:, 1], place_N2
    grid = F.affine_grid(torch.from_numpy(theta).to(x_NCHW.device), [N, 1, side, side], align_corners=False)
    x = F.grid_sample(x_NCHW.float() / 255, grid, padding_mode="border", align_corners=False)
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
