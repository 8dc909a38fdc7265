"""Running statistics of each class: count, mean and sum of squared deviations. A chunk of examples is added in one scatter.

The statistics are exact, and the order does not matter but for rounding. A deviation is always taken from the nearest mean
that is known (Welford 1962; Chan, Golub, LeVeque 1983), so no two large numbers are subtracted.
A chunk of N examples costs O(N D), whatever came before.
"""

from typing import NamedTuple

import torch
from torch import Tensor

UNSEEN = -1e9
"""Logit of a symbol without examples."""


class ClassMeans(NamedTuple):
    """Count and mean of the examples of each class."""

    counts: Tensor
    """(B, V)"""
    means: Tensor
    """(B, V, D)"""


class ClassMoments(NamedTuple):
    """Count and mean of the examples of each class, and their squared deviations from it."""

    counts: Tensor
    """(B, V)"""
    means: Tensor
    """(B, V, D)"""
    squares: Tensor
    """(B, V, D), sum of (z - mean)^2."""


def no_means(like: Tensor, batch_size: int, symbols: int, width: int) -> ClassMeans:
    """The statistics of no example, in the type and on the device of `like`."""
    zeros_BVD = like.new_zeros(batch_size, symbols, width)
    return ClassMeans(zeros_BVD[..., 0].clone(), zeros_BVD)


def no_moments(like: Tensor, batch_size: int, symbols: int, width: int) -> ClassMoments:
    """The statistics of no example, in the type and on the device of `like`."""
    means = no_means(like, batch_size, symbols, width)
    return ClassMoments(*means, torch.zeros_like(means.means))


def add_to_means(old: ClassMeans, z_BND: Tensor, y_BN: Tensor, valid_BN: Tensor | None) -> ClassMeans:
    """The statistics with more examples: mean' = mean + sum (z - mean) / count'."""
    weight_BN = torch.ones_like(z_BND[..., 0]) if valid_BN is None else valid_BN.to(z_BND)
    counts_BV = old.counts.scatter_add(1, y_BN, weight_BN)
    share_BN1 = (weight_BN / counts_BV.gather(1, y_BN).clamp_min(1))[..., None]
    step_BND = share_BN1 * (z_BND - _of_class(old.means, y_BN))
    return ClassMeans(counts_BV, old.means.scatter_add(1, _index(y_BN, z_BND), step_BND))


def add_to_moments(old: ClassMoments, z_BND: Tensor, y_BN: Tensor, valid_BN: Tensor | None) -> ClassMoments:
    """The statistics with more examples: squares' = squares + sum (z - mean')^2 + count (mean' - mean)^2.

    The last term belongs to the class; each of its new examples brings an equal part of it.
    """
    counts_BV, means_BVD = add_to_means(ClassMeans(old.counts, old.means), z_BND, y_BN, valid_BN)
    before_BN, after_BN = old.counts.gather(1, y_BN), counts_BV.gather(1, y_BN)
    mean_BND = _of_class(means_BVD, y_BN)
    moved_BND = (mean_BND - _of_class(old.means, y_BN)).square()
    part_BN1 = (before_BN / (after_BN - before_BN).clamp_min(1))[..., None]
    rise_BND = (z_BND - mean_BND).square() + part_BN1 * moved_BND
    if valid_BN is not None:
        rise_BND = rise_BND * valid_BN[..., None]
    return ClassMoments(counts_BV, means_BVD, old.squares.scatter_add(1, _index(y_BN, z_BND), rise_BND))


def seen_symbols(counts_BV: Tensor) -> Tensor:
    """(B, S): the symbols that have examples. S is the most of any episode; in an episode with fewer, other symbols follow."""
    most = int((counts_BV > 0).sum(1).max())
    return torch.argsort(counts_BV > 0, dim=1, descending=True, stable=True)[:, :most]


def _of_class(means_BVD: Tensor, y_BN: Tensor) -> Tensor:
    return means_BVD.gather(1, _index(y_BN, means_BVD))


def _index(y_BN: Tensor, like_BXD: Tensor) -> Tensor:
    return y_BN[..., None].expand(*y_BN.shape, like_BXD.shape[-1])
