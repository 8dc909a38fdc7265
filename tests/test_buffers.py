"""Buffers against lists."""

import numpy as np
import pytest
import torch
from online_learners import IMAGES, REGRESSION
from torch import Tensor

from metacl.learners.buffers import append_, empty_buffer, newest, reservoir_, sampled


def numbered(first: int, size: int) -> dict[str, Tensor]:
    """Two learners' examples, which hold their numbers; those of the second are 100 more."""
    number = torch.arange(first, first + size).float() + torch.tensor([[0.0], [100.0]])
    return {"x": number[..., None].expand(2, size, 5), "y": number[..., None].expand(2, size, 3)}


@pytest.mark.parametrize("sizes", [(1,) * 9, (2, 3, 1, 4), (7, 2), (3, 11, 1)])
def test_the_ring_holds_the_newest(sizes):
    buffer, seen = empty_buffer(REGRESSION, torch.zeros(1), 2, 5), 0
    assert not newest(buffer, 3)[2].any()
    for size in sizes:
        append_(buffer, **numbered(seen, size))
        seen += size
        for number in (1, 3, 5):
            x, y, filled = newest(buffer, number)
            kept = min(seen, number)
            assert filled.tolist() == [[False] * (number - kept) + [True] * kept] * 2
            assert x[0, number - kept :, 4].tolist() == list(range(seen - kept, seen))
            assert torch.equal(x[1, number - kept :, 0], y[0, number - kept :, 2] + 100)
    assert buffer["count"].tolist() == [seen] * 2


def test_types_of_images_and_labels():
    buffer = empty_buffer(IMAGES, torch.zeros(1), 3, 4)
    assert (buffer["x"].dtype, buffer["y"].dtype) == (torch.uint8, torch.int64)
    assert buffer["x"].shape == (3, 4, 3, 12, 12) and buffer["y"].shape == (3, 4)


def test_samples_are_uniform_over_what_is_in_it():
    buffer = empty_buffer(REGRESSION, torch.zeros(1), 2, 8)
    append_(buffer, **numbered(0, 5))
    drawn = sampled(buffer, [np.random.default_rng(seed) for seed in (0, 1)], 5000)
    assert set(drawn) == {"x", "y"} and torch.equal(drawn["x"][..., 0], drawn["y"][..., 0])
    for b in range(2):
        shares = torch.bincount(drawn["y"][b, :, 0].long() - 100 * b, minlength=5) / 5000
        assert len(shares) == 5 and (shares - 0.2).abs().max() < 0.03


@pytest.mark.parametrize("sizes", [(1,) * 30, (7, 3, 20), (30,)])
def test_the_reservoir_is_a_uniform_sample(sizes):
    """Of 30 examples each is among the 4 kept equally often, and none is twice."""
    rngs, kept = [np.random.default_rng(seed) for seed in (0, 1)], torch.zeros(30)
    for _ in range(200):
        buffer, seen = empty_buffer(REGRESSION, torch.zeros(1), 2, 4), 0
        for size in sizes:
            reservoir_(buffer, rngs, **numbered(seen, size))
            seen += size
        numbers = buffer["x"][..., 0] - torch.tensor([[0.0], [100.0]])
        assert torch.equal(buffer["x"][..., 0], buffer["y"][..., 0])
        assert all(len(set(row)) == 4 for row in numbers.tolist())
        kept += torch.bincount(numbers.flatten().long(), minlength=30)
    assert (kept / (200 * 2 * 4 / 30) - 1).abs().max() < 0.5


def test_a_reservoir_that_is_not_full_keeps_all():
    buffer = empty_buffer(REGRESSION, torch.zeros(1), 2, 6)
    reservoir_(buffer, [np.random.default_rng(0)] * 2, **numbered(0, 4))
    assert buffer["x"][0, :, 0].tolist() == [0, 1, 2, 3, 0, 0] and buffer["count"].tolist() == [4, 4]
