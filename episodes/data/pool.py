"""ClassPool: all examples of a data set, grouped by class, in memory, memory-mapped or on a device."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from episodes.data.arrays import Names, as_inputs, as_labels, as_targets, check_kind, checked_labels
from episodes.data.digests import digest_of, fingerprint_of, path_of
from episodes.data.gathering import by_class
from episodes.data.identity import identity
from episodes.errors import UserError


@dataclass(frozen=True, eq=False)
class ClassPool:
    """Images, or vectors, grouped by class. Pools of one data set's meta-splits share them."""

    x: np.ndarray | Tensor
    """(I, C, H, W) uint8 images, or (I, F) float32 vectors, those of a class in one run; a read-only memory map, an array, or a
    tensor on a device. What is said of images below holds for vectors."""
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
    ids: np.ndarray
    """(I,) uint64, for each image what it is (`episodes.data.identity`): equal where the same image is stored."""
    targets: np.ndarray | None = None
    """(I, Y) float32, for each image the numbers that are to be told of it in regression; None: nothing but its class."""

    def __post_init__(self) -> None:
        check_kind(self.x.dtype, self.x.ndim, self.source)
        if len(self.names) != len(self.starts) or len(self.names) != len(self.counts) or len(self.ids) != len(self.x):
            raise UserError(
                f"{self.source}: a pool has a name, a start and a count for each class, and an id for each image, not "
                f"{len(self.names)}, {len(self.starts)}, {len(self.counts)} and {len(self.ids)} (of {len(self.x)})."
            )
        if self.targets is not None and (self.targets.ndim != 2 or len(self.targets) != len(self.x)):
            raise UserError(f"{self.source}: targets are a row for each of {len(self.x)} images, not {self.targets.shape}.")
        if len(self.starts) and (self.starts.min() < 0 or (self.starts + self.counts).max() > len(self.x)):
            raise UserError(f"{self.source}: a class lies outside of the {len(self.x)} images.")

    @property
    def x_shape(self) -> tuple[int, ...]:
        """(C, H, W), or (F,)."""
        return tuple(self.x.shape[1:])

    @property
    def x_kind(self) -> Literal["image", "vector"]:
        return "image" if self.x.ndim == 4 else "vector"

    @staticmethod
    def from_arrays(x: Any, y: Any, names: Names = None, source: str = "arrays", targets: Any = None) -> "ClassPool":
        """A pool of arrays or tensors of one's own.

        Arguments:
            x: uint8 images (I, H, W), (I, H, W, C) or (I, C, H, W) with 1 or 3 channels, or vectors (I, F) of any numbers.
            y: (I,) labels, integers or texts.
            names: the name of class 0, 1, ... of integer labels; None: classes are called by their labels.
            source: where they come from, in words, which also qualify the names: "source/name".
            targets: (I, Y) numbers to be told in regression; None: nothing but the class.

        Raises:
            UserError: they are of other shapes or types, or do not fit each other.
        """
        inputs = as_inputs(x, source)
        codes, labels = as_labels(y, names, len(inputs), source)
        return grouped(
            codes, [f"{source}/{label}" for label in labels], inputs, source, as_targets(targets, len(inputs), source)
        )

    def select(self, classes: Sequence[int] | np.ndarray, source: str | None = None) -> "ClassPool":
        """The pool of some classes, in the order given. The images are shared, not copied."""
        classes = np.asarray(classes, dtype=np.int64)
        return replace(
            self,
            starts=self.starts[classes],
            counts=self.counts[classes],
            names=tuple(self.names[i] for i in classes),
            source=self.source if source is None else source,
            fingerprint=digest_of(self.fingerprint.encode(), classes.astype("<i8").tobytes()),
        )

    def first(self, most: int | None) -> "ClassPool":
        """The pool of the same classes with at most so many images of each, its first; None: with all."""
        if most is None or not (self.counts > most).any():
            return self
        fingerprint = digest_of(self.fingerprint.encode(), f"first {most}".encode())
        return replace(self, counts=self.counts.clip(max=most), fingerprint=fingerprint)

    def fetch(self, indices: np.ndarray) -> Tensor:
        """The images (B, N, *x_shape) at `indices` (B, N) into `x`: a copy, on the pool's device."""
        if isinstance(self.x, Tensor):
            flat = torch.from_numpy(indices.reshape(-1).astype(np.int64)).to(self.x.device)
            return self.x.index_select(0, flat).view(*indices.shape, *self.x_shape)
        return torch.from_numpy(np.asarray(self.x).take(indices, axis=0))

    def to(self, device: torch.device | str) -> "ClassPool":
        """The same classes with their own images, and no others, as a tensor on `device`. The fingerprint stays."""
        rows = self.rows()
        ids, targets = np.array(self.ids[rows]), None if self.targets is None else self.targets[rows]
        return replace(self, x=self.fetch(rows).to(device), starts=_starts(self.counts), ids=ids, targets=targets)

    def rows(self) -> np.ndarray:
        """(N,) the places in `x` of all images of the pool's own classes, one class after another."""
        before = self.starts - _starts(self.counts)  # places in `x` before a class that are of no class before it here
        return np.repeat(before, self.counts) + np.arange(self.counts.sum())

    def __reduce__(self):
        """A memory map travels to another process as its file's path, not as its bytes."""
        x, ids, targets = (path_of(part) or part for part in (self.x, self.ids, self.targets))
        return _restore, (x, self.starts, self.counts, self.names, self.source, self.fingerprint, ids, targets)

    def save(self, folder: Path) -> None:
        """Writes `x.npy`, `ids.npy`, `targets.npy` where it has any, and `pool.json`, which has a digest of all, into an
        existing folder."""
        np.save(folder / "x.npy", np.asarray(self.x.cpu() if isinstance(self.x, Tensor) else self.x))
        np.save(folder / "ids.npy", np.asarray(self.ids))
        if self.targets is not None:
            np.save(folder / "targets.npy", self.targets)
        self.seal(folder)

    def seal(self, folder: Path) -> None:
        """Writes `pool.json` into a folder that has the arrays of this pool already."""
        x = self.x.cpu().numpy() if isinstance(self.x, Tensor) else self.x
        about = {"starts": self.starts.tolist(), "counts": self.counts.tolist(), "names": self.names}
        about |= {"source": self.source, "fingerprint": self.fingerprint}
        about |= {"targets": True} if self.targets is not None else {}
        about |= {"digest": _content(about, x, self.ids, self.targets)}
        (folder / "pool.json").write_text(json.dumps(about), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> "ClassPool":
        """Opens a saved pool, its images memory-mapped. What is in the files is believed: see `verify`.

        Raises:
            OSError, ValueError, KeyError, TypeError: a file is missing, truncated or foreign.
        """
        about = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
        starts, counts = (np.array(about[part], dtype=np.int64) for part in ("starts", "counts"))
        x, ids = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("x", "ids"))
        targets = np.load(folder / "targets.npy") if "targets" in about else None
        return ClassPool(x, starts, counts, tuple(about["names"]), about["source"], about["fingerprint"], ids, targets)

    @staticmethod
    def verify(folder: Path) -> None:
        """Reads all of a saved pool, at the speed of the digest (about 1 GB a second).

        Raises:
            ValueError: it is not as it was written.
            OSError, KeyError, TypeError: a file is missing, truncated or foreign.
        """
        about = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
        digest = about.pop("digest")
        parts = ("x", "ids", *["targets"] * ("targets" in about))
        if digest != _content(about, *(np.load(folder / f"{part}.npy", mmap_mode="r") for part in parts)):
            raise ValueError("its content is not what was written")


def grouped(
    labels: np.ndarray, names: Sequence[str], images: Iterable[np.ndarray], source: str, targets: np.ndarray | None = None
) -> ClassPool:
    """A pool of images that come in any order, for arrays of one's own. The id of an image is one of its pixels.

    Arguments:
        labels: (I,) integers, the class of each image.
        names: the name of class 0, 1, ..., each another; a class without an image is left out.
        images: I arrays, all (C, H, W) uint8 or all (F,) float32, of one shape, in the order of `labels`; progress is shown
            when they come slowly.
        source: where they come from, in words.
        targets: (I, Y) float32, what is to be told of each image in regression.

    Raises:
        UserError: there are no images, they are of another kind or of several shapes, numbers are not finite, or a label is
            not the place of a name.
    """
    return gathered(labels, names, ((image, identity(image)) for image in images), source, targets)


def gathered(
    labels: np.ndarray,
    names: Sequence[str],
    images: Iterable[tuple[np.ndarray, int] | None],
    source: str,
    targets: np.ndarray | None = None,
) -> ClassPool:
    """As `grouped`, of pairs: an image and its id.

    Arguments:
        images: None stands for one that is left out.

    Raises:
        UserError: as `grouped`; the images do not fit into the memory that is free.
    """
    labels = checked_labels(labels, names, source)
    store, ids, came = by_class(labels, images, source)
    labels, told = labels[came], None if targets is None else targets[came]
    counts = np.bincount(labels, minlength=len(names))
    there = tuple(name for name, count in zip(names, counts, strict=True) if count)
    counts = counts[counts > 0].astype(np.int64)
    starts = _starts(counts)
    fingerprint = fingerprint_of(store, starts, there)
    if told is not None:
        fingerprint = digest_of(fingerprint.encode(), np.ascontiguousarray(told))
    return ClassPool(store, starts, counts, there, source, fingerprint, ids, told)


def _content(about: dict, *arrays: np.ndarray | None) -> str:
    """The digest of a whole pool: of its words and numbers, its inputs, its ids and its targets."""
    there = [array for array in arrays if array is not None]
    shapes = [word for array in there for word in (array.shape, str(array.dtype))]
    return digest_of(json.dumps([about, shapes], sort_keys=True).encode(), *there)


def _restore(images, starts, counts, names, source, fingerprint, ids, targets) -> ClassPool:
    images, ids = (np.load(part, mmap_mode="r") if isinstance(part, Path) else part for part in (images, ids))
    return ClassPool(images, starts, counts, names, source, fingerprint, ids, targets)


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)[: len(counts)]
