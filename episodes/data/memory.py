"""Whether a pool of images fits into the memory that is free, asked before it is allocated."""

import os
from pathlib import Path

import numpy as np

from episodes.errors import UserError

GROUP = Path("/sys/fs/cgroup")
"""Where Linux says what a container may take."""


def must_fit(images: int, like: np.ndarray, source: str) -> None:
    """Raises `UserError` where as many images (C, H, W), or vectors (F,), would not fit into the memory that is free."""
    need, free = images * like.nbytes, free_memory()
    if free is not None and need > free:
        shape = " x ".join(map(str, (*like.shape[1:], like.shape[0])))
        smaller = " Give a smaller --data.size (of a stream --stream.data.size)." if like.ndim == 3 else ""
        what = "images" if like.ndim == 3 else "vectors"
        raise UserError(
            f"{source}: {images} {what} of {shape} need {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.{smaller}"
        )


def free_memory() -> int | None:
    """Bytes that can be taken without swapping; on systems that do not say, all that are built in; None: not known."""
    found = [number for number in (_available(), _left_to_the_group()) if number is not None]
    return min(found, default=None)


def _available() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _left_to_the_group() -> int | None:
    """What a container's limit leaves; files that are only cached do not count as taken."""
    try:
        limit, taken = (int((GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        about = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return limit - taken + int(about.get("inactive_file", 0)) + int(about.get("active_file", 0))
    except (OSError, ValueError):  # no container, or "max": no limit
        return None
