"""Pools of several data sets as one, written straight to the cache."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from episodes.data.cache import cached_large
from episodes.data.digests import digest_of
from episodes.data.pool import ClassPool
from episodes.errors import UserError

TOGETHER = 4096
"""Images that are copied at a time."""


def joined(pools: Sequence[ClassPool], source: str) -> ClassPool:
    """The pool of all classes of some pools, in their order. Grey images that join coloured ones get three equal channels.

    Arguments:
        source: what to call it in messages.

    Raises:
        UserError: some have vectors and others images, or images or vectors are of several sizes.
    """
    _check_alike(pools)
    about = [[pool.fingerprint, list(pool.x_shape)] for pool in pools]
    return replace(cached_large({"joined": about}, partial(_fill, pools, digest_of(json.dumps(about).encode()))), source=source)


def _check_alike(pools: Sequence[ClassPool]) -> None:
    first = pools[0]
    for pool in pools:
        if pool.x_kind != first.x_kind:
            raise UserError(f"{pool.source} has {pool.x_kind}s and {first.source} has {first.x_kind}s: they cannot be joined.")
        if pool.x_shape[-2:] != first.x_shape[-2:]:
            raise UserError(
                f"{pool.source} has {pool.x_kind}s of shape {pool.x_shape}, {first.source} of {first.x_shape}: they cannot be "
                "joined. Give them one shape."
            )


def _fill(pools: Sequence[ClassPool], fingerprint: str, folder: Path) -> None:
    """Writes the files of the pool into a folder. Few images at a time are in memory."""
    counts, shape = np.concatenate([pool.counts for pool in pools]), max(pool.x_shape for pool in pools)
    dtype = np.uint8 if pools[0].x_kind == "image" else np.float32
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", dtype, (int(counts.sum()), *shape))
    ids, done = np.empty(len(x), dtype=np.uint64), 0
    for pool in pools:
        rows = pool.rows()
        ids[done : done + len(rows)] = pool.ids[rows]
        for start in range(0, len(rows), TOGETHER):
            some = pool.fetch(rows[None, start : start + TOGETHER])[0].cpu().numpy()
            x[done : done + len(some)] = some  # the one channel of a grey image spreads over three
            done += len(some)
    x.flush()
    np.save(folder / "ids.npy", ids)
    images, known = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("x", "ids"))
    names = tuple(name for pool in pools for name in pool.names)
    ClassPool(images, np.cumsum(counts) - counts, counts, names, "several data sets", fingerprint, known).seal(folder)
