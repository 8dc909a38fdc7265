"""Domains: inputs that are changed in the same way throughout a task, or more and more within it.

The domain of an example is a number: t is that of task t, and 2.5 is half way from that of task 2 to that of task 3.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from episodes.augment.images import warped
from episodes.types import EpisodeShape

TOGETHER = 512
"""Images that are turned at a time: as floats they are few enough for the cache of a processor."""


def in_domains(x: Tensor, domain_BN: np.ndarray, shape: EpisodeShape, numbers: Sequence[np.random.Generator]) -> Tensor:
    """Inputs (B, N, ...), each changed as its domain says.

    Arguments:
        numbers: of each episode, the random numbers that its domains are drawn with.
    """
    kind, domains = shape.schedule.domains, shape.schedule.different(shape.tasks) + 1
    assert kind is not None
    return CHANGES[kind](x, domain_BN, domains, numbers)


def _rotated(x_BNCHW: Tensor, domain_BN: np.ndarray, domains: int, numbers: Sequence[np.random.Generator]) -> Tensor:
    """Turned clockwise about the centre by the angle of the domain, between two of them on the shorter way."""
    angle_BD = np.stack([360 * rng.random(domains) for rng in numbers])
    from_B, part_BN = np.floor(domain_BN).astype(np.int64), domain_BN % 1
    own_BN, next_BN = (np.take_along_axis(angle_BD, from_B + step, 1) for step in (0, 1))
    angle_BN = np.radians(own_BN + part_BN * ((next_BN - own_BN + 180) % 360 - 180))
    cos, sin, zero = np.cos(angle_BN), np.sin(angle_BN), np.zeros_like(angle_BN)
    rows = [np.stack(row, -1) for row in ([cos, sin, zero], [-sin, cos, zero], [zero, zero, zero + 1])]
    map_I33 = torch.from_numpy(np.stack(rows, -2).reshape(-1, 3, 3)).to(x_BNCHW.device, torch.float32)
    pairs = zip(x_BNCHW.flatten(0, 1).split(TOGETHER), map_I33.split(TOGETHER), strict=True)
    turned = [(warped(images.to(torch.float32), maps) + 0.5).to(torch.uint8) for images, maps in pairs]
    return torch.cat(turned).view(x_BNCHW.shape)


def _permuted(x: Tensor, domain_BN: np.ndarray, domains: int, numbers: Sequence[np.random.Generator]) -> Tensor:
    """The pixels (or the numbers of a vector) in the order of the domain; between two, more and more of them in the next's."""
    x_BNCP = x.flatten(3) if x.ndim > 3 else x[:, :, None]
    done = []
    for x_NCP, domain_N, rng in zip(x_BNCP, domain_BN, numbers, strict=True):
        P = x_NCP.shape[-1]
        order_DP, late_P = rng.random((domains, P)).argsort(1), rng.random(P)
        from_N, part_N = np.floor(domain_N).astype(np.int64), domain_N % 1
        order_NP = np.where(late_P < part_N[:, None], order_DP[from_N + 1], order_DP[from_N])
        order_NCP = torch.from_numpy(order_NP).to(x.device)[:, None].expand(-1, x_NCP.shape[1], -1)
        done.append(x_NCP.gather(2, order_NCP))
    return torch.stack(done).view(x.shape)


def _inverted(x_BNCHW: Tensor, domain_BN: np.ndarray, domains: int, numbers: Sequence[np.random.Generator]) -> Tensor:
    """Negatives in every other domain; between two, more and more of the pixels as in the next."""
    x_BNCP = x_BNCHW.flatten(3)
    first_B1 = np.stack([rng.integers(0, 2, 1) for rng in numbers])
    late_BP = np.stack([rng.random(x_BNCP.shape[-1]) for rng in numbers])
    negative_BN, part_BN = (np.floor(domain_BN) + first_B1) % 2 == 1, domain_BN % 1
    negative_BNP = negative_BN[..., None] ^ (late_BP[:, None] < part_BN[..., None])
    return torch.where(torch.from_numpy(negative_BNP).to(x_BNCP.device)[:, :, None], 255 - x_BNCP, x_BNCP).view(x_BNCHW.shape)


CHANGES: dict[str, Callable[[Tensor, np.ndarray, int, Sequence[np.random.Generator]], Tensor]] = {
    "rotation": _rotated,
    "permutation": _permuted,
    "inversion": _inverted,
}
"""By name."""
