"""What was read, as a small table that is told the first time a pool is built."""

import logging
from collections.abc import Sequence

import numpy as np

from episodes.data.pool import ClassPool
from episodes.data.reading import Stored

log = logging.getLogger("episodes")
"""Tells at level INFO what was read. The commands show it; from Python nothing is shown unless logging is set up."""


def tell(pool: ClassPool, out: Sequence[str] = (), seen: str | None = None) -> None:
    """Tells what a pool has that was just read, and how it came about. Arguments as `told`."""
    log.info(told(pool, out, seen))


def left_out(pool: ClassPool, stored: Stored) -> list[str]:
    """What was stored, or lay beside it, and is not in the pool."""
    damaged = len(stored.labels) - int(pool.counts.sum())
    out = [f"{stored.left_out} files or rows that are no labelled examples"] if stored.left_out else []
    return out + ([f"{damaged} images that cannot be read"] if damaged else [])


def told(pool: ClassPool, out: Sequence[str], seen: str | None) -> str:
    """The table: classes, images of each (least, median, most), size and channels as found and as read, what was left out.

    Arguments:
        out: what was left out.
        seen: width and height of the images before they were resized.
    """
    counts, of_images = pool.counts, pool.x_kind == "image"
    least, median, most = int(counts.min()), f"{np.median(counts):g}", int(counts.max())
    each = f"{least} of each class" if least == most else f"{least} to {most} of a class, median {median}"
    lines = {"classes": str(len(counts)), "images" if of_images else "vectors": f"{counts.sum()}: {each}"}
    if of_images:
        found = f"{seen}, read at " if seen else ""
        lines["pixels"] = f"{found}{pool.x_shape[2]} x {pool.x_shape[1]}"
        lines["channels"] = "1 (grey)" if pool.x_shape[0] == 1 else "3 (colour)"
    else:
        lines["numbers"] = f"{pool.x_shape[0]} a vector"
    lines["left out"] = "; ".join(out) or "nothing"
    return "\n".join([f"{pool.source} is read for the first time:", *(f"    {name:9} {what}" for name, what in lines.items())])
