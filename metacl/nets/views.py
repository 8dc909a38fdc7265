"""Random views of images: what a network that is trained on them sees, each time another."""

import numpy as np
import torch
from torch import Tensor


def random_view(x_NCHW: Tensor, side: int, rng: np.random.Generator, area: float = 0.3, flip: bool = True) -> Tensor:
    """uint8 images (N, C, H, W) -> pixels in [0, 1] (N, 3, side, side): a random part of each, grey ones in three channels.

    A part is scaled as `episodes.data.features.shown` scales a whole image: bilinearly, and antialiased where it is reduced.

    Arguments:
        rng: whose numbers choose the parts, the same whatever device the images are on.
        area: the least share of an image's area that is shown; the part's sides are as 3 to 4 at most.
        flip: half of the images are mirrored, left to right.
    """
    N, _, H, W = x_NCHW.shape
    share = np.sqrt(rng.uniform(area, 1, N))
    aspect = np.exp(rng.uniform(-0.5, 0.5, N) * np.log(4 / 3)).clip(share, 1 / share)  # so that it fits, whatever its share
    size_N2 = np.stack([share * aspect, share / aspect], 1)  # width, height, as shares of the image's
    middle_N2 = (1 + rng.uniform(-1, 1, (N, 2)) * (1 - size_N2)) / 2
    mirrored_N = (rng.random(N) < 0.5) & flip
    size_N2[:, 0] *= np.where(mirrored_N, -1, 1)
    middle_2N, size_2N = torch.from_numpy(np.stack([middle_N2.T, size_N2.T]).astype(np.float32)).to(x_NCHW.device)
    across, down = (_windows(middle_2N[i], size_2N[i], pixels, side)[:, None] for i, pixels in enumerate((W, H)))
    with torch.autocast(x_NCHW.device.type, enabled=False):
        x = down @ (x_NCHW.float() / 255) @ across.mT
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def _windows(middle_N: Tensor, size_N: Tensor, pixels: int, side: int) -> Tensor:
    """How much each pixel of a line of an image counts for each of a part of it (N, side, pixels): in sum 1, less the further
    away, and nothing from a distance on that is one pixel of the line or of the part, whichever is larger.

    Arguments:
        middle_N, size_N: of the parts, as shares of the line; a negative size is mirrored.
    """
    own, theirs = (torch.arange(number, device=size_N.device) + 0.5 for number in (side, pixels))
    step_N1 = size_N[:, None] * pixels / side  # pixels of the line to one of the part
    centre_NS = middle_N[:, None] * pixels + step_N1 * (own - side / 2)
    distance_NSP = (theirs - centre_NS[..., None]) / step_N1[..., None].abs().clamp(min=1)
    weights_NSP = (1 - distance_NSP.abs()).clamp(min=0)
    return weights_NSP / weights_NSP.sum(-1, keepdim=True)
