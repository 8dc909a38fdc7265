"""What was read, as a small table that is told the first time a pool is built."""

import logging

import numpy as np

from episodes.data.pool import ClassPool
from episodes.data.reading import Reading, Stored

log = logging.getLogger("episodes")
"""Tells at level INFO what was read. The commands show it; from Python nothing is shown unless logging is set up."""


def tell(pool: ClassPool, stored: Stored, reading: Reading) -> None:
    """Tells what a pool has that was just read, and how it came about."""
    log.info(told(pool, stored, reading))


def told(pool: ClassPool, stored: Stored, reading: Reading) -> str:
    """The table: classes, images of each (least, median, most), size and channels as found and as read, what was left out.

    Arguments:
        reading: with nothing that is still to be found out.
    """
    counts, of_images = pool.counts, pool.x_kind == "image"
    least, median, most = int(counts.min()), f"{np.median(counts):g}", int(counts.max())
    each = f"{least} of each class" if least == most else f"{least} to {most} of a class, median {median}"
    lines = {"classes": str(len(counts)), "images" if of_images else "vectors": f"{counts.sum()}: {each}"}
    if of_images:
        found = f"{reading.seen}, read at " if reading.seen else ""
        lines["pixels"] = f"{found}{pool.x_shape[2]} x {pool.x_shape[1]}"
        lines["channels"] = "1 (grey)" if pool.x_shape[0] == 1 else "3 (colour)"
    else:
        lines["numbers"] = f"{pool.x_shape[0]} a vector"
    damaged = len(stored.labels) - int(counts.sum())
    out = [f"{stored.left_out} files or rows that are no labelled examples"] if stored.left_out else []
    out += [f"{damaged} images that cannot be read"] if damaged else []
    lines["left out"] = "; ".join(out) or "nothing"
    return "\n".join([f"{pool.source} is read for the first time:", *(f"    {name:9} {what}" for name, what in lines.items())])
