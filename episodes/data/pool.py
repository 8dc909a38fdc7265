"""ClassPool: all examples of a data set, grouped by class; built once, cached on disk, memory-mapped or on a device."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from episodes.errors import UserError
from episodes.progress import progress

POOL_VERSION = 1
"""Part of every cache key: raise it when the same source would give another pool."""


@dataclass(frozen=True, eq=False)
class ClassPool:
    """Images grouped by class. Pools of one data set's meta-splits share their images."""

    images: np.ndarray | Tensor
    """(I, C, H, W) uint8, the images of a class in one run; a read-only memory map, an array, or a tensor on a device."""
    starts: np.ndarray
    """int64, for each class the index of its first image."""
    counts: np.ndarray
    """int64, for each class how many images it has."""
    names: tuple[str, ...]
    """One for each class, qualified by the source, e.g. "omniglot/12": the same name is the same class."""
    source: str
    """Where the images come from, in words for messages, e.g. "omniglot, meta-train"."""
    fingerprint: str
    """Hex digest of images, starts and names; where classes were selected, of the parent's fingerprint and these classes."""

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return tuple(self.images.shape[1:])

    def select(self, classes: Sequence[int] | np.ndarray, source: str | None = None) -> "ClassPool":
        """The pool of some classes, in the order given. The images are shared, not copied."""
        classes = np.asarray(classes, dtype=np.int64)
        return replace(
            self,
            starts=self.starts[classes],
            counts=self.counts[classes],
            names=tuple(self.names[i] for i in classes),
            source=self.source if source is None else source,
            fingerprint=_digest(self.fingerprint.encode(), classes.astype("<i8").tobytes()),
        )

    def fetch(self, indices: np.ndarray) -> Tensor:
        """The images (B, N, C, H, W), uint8, at `indices` (B, N) into `images`: a copy, on the pool's device."""
        if isinstance(self.images, Tensor):
            flat = torch.from_numpy(indices.reshape(-1).astype(np.int64)).to(self.images.device)
            return self.images.index_select(0, flat).view(*indices.shape, *self.x_shape)
        return torch.from_numpy(np.asarray(self.images).take(indices, axis=0))

    def to(self, device: torch.device | str) -> "ClassPool":
        """The same classes with their own images, and no others, as a tensor on `device`. The fingerprint stays."""
        rows = [np.arange(start, start + count) for start, count in zip(self.starts, self.counts, strict=True)]
        images = self.fetch(np.concatenate(rows)).to(device)
        return replace(self, images=images, starts=_starts(self.counts))

    def __reduce__(self):
        """A memory map travels to another process as its file's path, not as its bytes."""
        name = self.images.filename if isinstance(self.images, np.memmap) else None
        images = self.images if name is None else Path(name)
        return _restore, (images, self.starts, self.counts, self.names, self.source, self.fingerprint)

    def save(self, folder: Path) -> None:
        """Writes `images.npy` and `pool.json` into an existing folder."""
        np.save(folder / "images.npy", np.asarray(self.images.cpu() if isinstance(self.images, Tensor) else self.images))
        about = {"starts": self.starts.tolist(), "counts": self.counts.tolist(), "names": self.names}
        about |= {"source": self.source, "fingerprint": self.fingerprint}
        (folder / "pool.json").write_text(json.dumps(about), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> "ClassPool":
        """Opens a saved pool, its images memory-mapped.

        Raises:
            OSError, ValueError, KeyError: a file is missing, truncated or foreign.
        """
        about = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
        starts, counts = (np.array(about[part], dtype=np.int64) for part in ("starts", "counts"))
        images = np.load(folder / "images.npy", mmap_mode="r")
        if images.dtype != np.uint8 or len(images) < (starts + counts).max(initial=0):
            raise ValueError(f"{folder} is not a pool")
        return ClassPool(images, starts, counts, tuple(about["names"]), about["source"], about["fingerprint"])


def grouped(labels: np.ndarray, names: Sequence[str], images: Iterable[np.ndarray], source: str) -> ClassPool:
    """A pool of images that come in any order. Each goes straight to its place: the images exist once in memory.

    Arguments:
        labels: (I,) integers, the class of each image.
        names: the name of class 0, 1, ...; a class without an image is left out.
        images: I arrays (C, H, W) uint8, all of one shape, in the order of `labels`; progress is shown when they come slowly.
        source: where they come from, in words.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if not len(labels):
        raise UserError(f"{source} has no images.")
    places = np.empty(len(labels), dtype=np.int64)
    places[np.argsort(labels, kind="stable")] = np.arange(len(labels))
    store = np.empty((0, 0, 0, 0), dtype=np.uint8)
    for place, image in zip(places, progress(images, len(labels), f"reading {source}"), strict=True):
        if not len(store):  # the first image tells the shape
            store = np.empty((len(labels), *image.shape), dtype=np.uint8)
        store[place] = image
    counts = np.bincount(labels, minlength=len(names))
    kept = tuple(name for name, count in zip(names, counts, strict=True) if count)
    counts = counts[counts > 0].astype(np.int64)
    starts = _starts(counts)
    shape = json.dumps(store.shape).encode()
    fingerprint = _digest(shape, store, starts.astype("<i8").tobytes(), json.dumps(kept).encode())
    return ClassPool(store, starts, counts, kept, source, fingerprint)


def cache_folder() -> Path:
    """`$METACL_CACHE`, or `~/.cache/metacl`."""
    return Path(os.environ.get("METACL_CACHE") or "~/.cache/metacl").expanduser()


def cached(key: dict, build: Callable[[], ClassPool]) -> ClassPool:
    """The pool that `build` makes, from the cache where it has been built before.

    Arguments:
        key: everything that the pool depends on, as JSON values; `POOL_VERSION` is added.
        build: called when the cache has no sound entry for `key`.
    """
    text = json.dumps(key | {"version": POOL_VERSION}, sort_keys=True)
    entry = cache_folder() / "pools" / _digest(text.encode())
    pool = _try_load(entry)
    if pool is None:
        _store(build(), entry)
        pool = ClassPool.load(entry)
    return pool


def _try_load(entry: Path) -> ClassPool | None:
    try:
        return ClassPool.load(entry)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _store(pool: ClassPool, entry: Path) -> None:
    """Writes beside the entry and renames, so that nobody ever sees half a pool; of two writers the first wins."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=entry.parent, prefix="building-") as folder:
            fresh, damaged = Path(folder, "new"), Path(folder, "old")
            fresh.mkdir()
            pool.save(fresh)
            if entry.exists() and _try_load(entry) is None:
                entry.rename(damaged)
            if not entry.exists():
                shutil.move(fresh, entry)
    except OSError as error:
        raise UserError(
            f"The data cache {entry.parent} cannot be written: {error}. Make room there, or set METACL_CACHE to another folder."
        ) from error


def _restore(images, *rest) -> ClassPool:
    return ClassPool(np.load(images, mmap_mode="r") if isinstance(images, Path) else images, *rest)


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)[: len(counts)]


def _digest(*parts) -> str:
    """Hex blake2b of byte buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
