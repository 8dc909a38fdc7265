"""Random views of images, beside a plain resize and a sampled grid."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from episodes.data.features import shown
from metacl.nets.views import random_view


def test_views():
    """Within the image, of its share of the area, and some mirrored."""
    ramp = torch.arange(16, dtype=torch.uint8).expand(1, 16, 16)[None].repeat(200, 1, 1, 1) * 10
    whole = random_view(ramp, 16, np.random.default_rng(0), area=1, flip=False)
    assert torch.allclose(whole, ramp.float() / 255, atol=1e-5), "an area of 1 shows all of an image"
    assert whole.shape == (200, 3, 16, 16) and whole.min() >= 0 and whole.max() <= 150 / 255 + 1e-6
    widths = (lambda x: (x[:, 0, 8, -1] - x[:, 0, 8, 0]) * 255 / 150)(random_view(ramp, 16, np.random.default_rng(0), area=0.3))
    assert 0.35 < (widths < 0).float().mean() < 0.65 and widths.abs().min() > 0.3
    again = random_view(ramp, 16, np.random.default_rng(0), area=0.3)
    assert torch.equal(again, random_view(ramp, 16, np.random.default_rng(0), area=0.3))


@pytest.mark.parametrize("side", [7, 16, 50])
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 21, 33)])
def test_a_whole_image_is_what_features_are_made_of(shape, side):
    """Reduced, as it is, and enlarged."""
    x = torch.randint(0, 256, (4, *shape), dtype=torch.uint8)
    assert_close(random_view(x, side, np.random.default_rng(0), area=1, flip=False), shown(x, side), rtol=0, atol=1e-5)


def sampled(x_NCHW: torch.Tensor, side: int, seed: int) -> torch.Tensor:
    """The same views from a grid of points, without a look at what lies between them: right where images are enlarged."""
    rng, N = np.random.default_rng(seed), len(x_NCHW)
    share = np.sqrt(rng.uniform(0.3, 1, N))
    aspect = np.exp(rng.uniform(-0.5, 0.5, N) * np.log(4 / 3)).clip(share, 1 / share)
    width, height = share * aspect, share / aspect
    place = rng.uniform(-1, 1, (N, 2)) * (1 - np.stack([width, height], 1))
    width = np.where(rng.random(N) < 0.5, -width, width)
    zero = np.zeros(N)
    theta = np.stack([np.stack([width, zero, place[:, 0]], 1), np.stack([zero, height, place[:, 1]], 1)], 1)
    grid = F.affine_grid(torch.from_numpy(theta), [N, 1, side, side], align_corners=False)
    return F.grid_sample(x_NCHW.double() / 255, grid, padding_mode="border", align_corners=False).float()


def test_enlarged_parts_are_interpolated_between_four_pixels():
    x = torch.randint(0, 256, (20, 3, 16, 13), dtype=torch.uint8)
    assert_close(random_view(x, 24, np.random.default_rng(1)), sampled(x, 24, 1), rtol=0, atol=1e-5)


def test_reduced_parts_leave_no_pixel_out():
    """Of a fine chequerboard nothing is left but grey, where a sampled grid has stripes."""
    board = ((torch.arange(96)[:, None] + torch.arange(96)) % 2 * 255).to(torch.uint8).expand(20, 1, 96, 96)
    seen = random_view(board, 16, np.random.default_rng(2))
    assert (seen - 0.5).abs().max() < 0.15 < (sampled(board, 16, 2) - 0.5).abs().max()


def test_mixed_precision_does_not_round_pixels():
    x = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        seen = random_view(x, 16, np.random.default_rng(3))
    assert seen.dtype == torch.float32 and torch.equal(seen, random_view(x, 16, np.random.default_rng(3)))
