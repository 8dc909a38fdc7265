"""The ring of latest examples, against a list."""

import pytest
import torch
from tiny import IMAGES, VECTORS

from metacl.learners.buffers import fifo, fifo_add_, newest


@pytest.mark.parametrize("sizes", [(1,) * 9, (2, 3, 1, 4), (7, 2), (3, 11, 1)])
def test_the_ring_holds_the_latest(sizes):
    ring, seen = fifo(VECTORS, torch.zeros(1), 2, 5), []
    assert len(newest(ring, 3)) == 0
    for size in sizes:
        y = torch.arange(len(seen), len(seen) + size).float()[None, :, None].expand(2, size, 3)
        fifo_add_(ring, y[..., :1].expand(2, size, 5) + 100, y)
        seen += y[0, :, 0].tolist()
        for number in (1, 3, 5, 9):
            places = newest(ring, number)
            assert ring["y"][0, places, 0].tolist() == seen[-min(number, 5) :]
            assert torch.equal(ring["x"][:, places, 4], ring["y"][:, places, 0] + 100)
        assert ring["stored"].tolist() == [len(seen)] * 2


def test_types_of_images_and_labels():
    ring = fifo(IMAGES, torch.zeros(1), 3, 4)
    assert (ring["x"].dtype, ring["y"].dtype) == (torch.uint8, torch.int64)
    assert ring["x"].shape == (3, 4, 1, 8, 8) and ring["y"].shape == (3, 4)
