"""A batch that several processes share, each with the same number of its rows: what is drawn for it, and the statistics of
BatchNorm, are those of the whole batch, so that it does not matter how many share it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

_part = (0, 1)


@contextmanager
def shared_batch(rank: int, processes: int) -> Iterator[None]:
    """Within it, what this process computes is part `rank` of a batch that so many processes compute together."""
    global _part
    before, _part = _part, (rank, processes)
    try:
        yield
    finally:
        _part = before


def is_shared() -> bool:
    return _part[1] > 1


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """As `F.dropout`, for x (B, ...)."""
    if not (training and p and is_shared()):
        return F.dropout(x, p, training)
    return x * _own_rows(F.dropout(_ones_of_all(x), p), x)


def randn_like(x: Tensor) -> Tensor:
    """As `torch.randn_like`, for x (B, ...)."""
    return _own_rows(torch.randn_like(_ones_of_all(x)), x)


def _ones_of_all(x: Tensor) -> Tensor:
    """Ones for the rows of all processes, laid out in memory as x is: numbers are drawn in the order of memory."""
    strides = x.stride()
    order = sorted(range(x.ndim), key=lambda axis: (-strides[axis], axis))
    shape = (_part[1] * len(x), *x.shape[1:])
    return x.new_ones([shape[axis] for axis in order]).permute([order.index(axis) for axis in range(x.ndim)])


def _own_rows(of_all: Tensor, x: Tensor) -> Tensor:
    return of_all[_part[0] * len(x) : (_part[0] + 1) * len(x)]


class Dropout(nn.Dropout):
    """As `nn.Dropout`, for inputs (B, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


class BatchNorm1d(nn.BatchNorm1d):
    """As `nn.BatchNorm1d`, over the rows of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        return over_all_rows(self, x) if self.training and is_shared() else super().forward(x)


class BatchNorm2d(nn.BatchNorm2d):
    """As `nn.BatchNorm2d`, over the images of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        return over_all_rows(self, x) if self.training and is_shared() else super().forward(x)


def over_all_rows(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """BatchNorm of x (B, C, ...) by the statistics of the rows of all processes; float32 at least."""
    processes, axes = _part[1], [0, *range(2, x.ndim)]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    own = x.numel() // x.shape[1]
    every = _sum(wide.new_tensor(float(own)))
    weight = processes * own / every  # 1 where all have equally many
    mean_C = _sum(wide.mean(axes) * weight) / processes
    centred = wide - _beside(mean_C, x)
    variance_C = _sum(centred.square().mean(axes) * weight) / processes
    _remember(norm, mean_C.detach(), variance_C.detach(), every)
    scaled = centred * _beside((variance_C + norm.eps).rsqrt() * norm.weight, x)
    return (scaled + _beside(norm.bias, x)).to(x.dtype)


def _remember(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean_C: Tensor, variance_C: Tensor, number: Tensor) -> None:
    """The running statistics, of the unbiased variance, as torch keeps them."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    norm.running_mean.lerp_(mean_C, norm.momentum)
    norm.running_var.lerp_(variance_C * (number / (number - 1).clamp_min(1)), norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1


def _beside(values_C: Tensor, x: Tensor) -> Tensor:
    return values_C.view(-1, *[1] * (x.ndim - 2))


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs, as often as it is differentiated."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


def _sum(values: Tensor) -> Tensor:
    return _Sum.apply(values)
