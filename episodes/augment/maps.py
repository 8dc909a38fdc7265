"""Affine maps of images: each takes a pixel's place in the new image to its place in the old one.

A place is (x, y, 1), in pixels from the centre, y down; a map is (3, 3), and A @ B is what A makes of an image, changed by B.
"""

import numpy as np

from episodes.augment.config import MapConfig


def affine(config: MapConfig, lots: np.ndarray, height: int, width: int) -> np.ndarray:
    """The maps (..., 3, 3) of some draws: an image is slanted, scaled, turned clockwise and shifted, in this order.

    Arguments:
        lots: (..., 5) from -1 to 1: the slant, the size, the turn and the shifts to the right and down, as parts of the most.
    """
    slant, size = config.shear * lots[..., 0], (1 + config.scale) ** lots[..., 1]
    angle = np.radians(config.degrees) * lots[..., 2]
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros_like(angle)
    slanted = _matrices([1 / size, -slant / size, zero], [zero, 1 / size, zero])
    turned = _matrices([cos, sin, zero], [-sin, cos, zero])
    return slanted @ turned @ shifted(config.shift * np.array([width, height]) * lots[..., 3:])


def shifted(pixels: np.ndarray) -> np.ndarray:
    """The maps (..., 3, 3) of images that are shifted by `pixels` (..., 2) to the right and down."""
    maps = np.broadcast_to(np.eye(3), (*pixels.shape[:-1], 3, 3)).copy()
    maps[..., :2, 2] = -pixels
    return maps


def mirrored(which: np.ndarray) -> np.ndarray:
    """The maps (..., 3, 3) of images that are mirrored, left for right, where `which` (...) is true."""
    maps = np.broadcast_to(np.eye(3), (*which.shape, 3, 3)).copy()
    maps[..., 0, 0] = np.where(which, -1.0, 1.0)
    return maps


def _matrices(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    zero = np.zeros_like(first[0])
    return np.stack([np.stack(row, -1) for row in (first, second, [zero, zero, zero + 1])], -2)
