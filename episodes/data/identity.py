"""What an image is, whatever it is called and wherever it lies: eight bytes of a digest of what is stored of it."""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from episodes.data.pool import ClassPool


def identity(stored: bytes | memoryview | np.ndarray) -> int:
    """The id of an image: of the bytes of its file, before they are decoded, or of its pixels where it has no file."""
    data = stored.tobytes() if isinstance(stored, np.ndarray) else stored
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def ids_of(pools: Iterable["ClassPool"]) -> np.ndarray:
    """(I,) uint64: the ids of all images of some pools, sorted, each once."""
    parts = [pool.ids[pool.rows()] for pool in pools]
    ids = np.sort(np.concatenate([np.empty(0, dtype=np.uint64), *parts]))  # np.unique takes ten times as long for millions
    return ids[np.append(True, ids[1:] != ids[:-1])[: len(ids)]]


def classes_among(pool: "ClassPool", ids: np.ndarray) -> list[str]:
    """The classes of a pool of whose images more than half are among `ids`."""
    known = np.isin(pool.ids, ids)
    runs = zip(pool.names, pool.starts, pool.counts, strict=True)
    return [name for name, start, count in runs if 2 * known[start : start + count].sum() > count]


def images_in_both(pool: "ClassPool", other: "ClassPool") -> str:
    """A sentence on the identical images of two pools, with their number and an example; empty where there are none."""
    few, many = sorted((ids_of([pool]), ids_of([other])), key=len)
    shared = few[many[np.searchsorted(many, few).clip(max=len(many) - 1)] == few]
    if not len(shared):
        return ""
    first, second = (_class_of(part, shared[0]) for part in (pool, other))
    return (
        f"{pool.source} and {other.source} have {_counted(len(shared))} in common, byte for byte; "
        f"one is of {first} and of {second}."
    )


def images_twice(pool: "ClassPool") -> str:
    """A sentence on the images that a pool has more than once, with their number and an example; empty where it has none."""
    ids = np.sort(pool.ids[pool.rows()])
    again = ids[1:] == ids[:-1]
    if not again.any():
        return ""
    images = int((again & ~np.append(False, again[:-1])).sum())  # each once, however often it is there
    example = _class_of(pool, ids[1:][again][0])
    return f"{pool.source} has {_counted(images)} more than once, byte for byte; one is of {example}."


def _class_of(pool: "ClassPool", image: np.uint64) -> str:
    """The first class of a pool that has an image."""
    runs = zip(pool.names, pool.starts, pool.counts, strict=True)
    return next(name for name, start, count in runs if image in pool.ids[start : start + count])


def _counted(images: int) -> str:
    return "1 image" if images == 1 else f"{images} images"
