"""Arrays of one's own, from Python or from an .npz file: inputs x, labels y, and the names of the classes."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from episodes.data.reading import Reading, Stored, StoredImage
from episodes.errors import UserError

Names = Sequence[str] | Mapping[int, str] | None
"""The name of class 0, 1, ..., in a row or by these numbers; None: classes are called by their labels."""


def as_inputs(x: Any, source: str) -> np.ndarray:
    """(I, C, H, W) uint8 images of (I, H, W), (I, H, W, C) or (I, C, H, W) with 1 or 3 channels, or (I, F) float32 vectors.

    Raises:
        UserError: it is of another shape, or vectors have numbers that are not finite.
    """
    array = _array(x)
    if array.ndim == 2 and array.dtype.kind in "fiub":
        with np.errstate(over="ignore"):
            vectors = array.astype(np.float32)
        _check_finite(vectors, source)
        return vectors
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise UserError(
            f"{source}: x is of shape {array.shape}. Images are (I, H, W), (I, H, W, C) or (I, C, H, W) with 1 or 3 channels; "
            "vectors are (I, F)."
        )
    return array


def _check_finite(vectors: np.ndarray, source: str) -> None:
    if (wrong := ~np.isfinite(vectors).all(axis=1)).any():
        raise UserError(
            f"{source}: {int(wrong.sum())} of {len(vectors)} vectors have numbers that are not finite (NaN or infinite), such "
            f"as x[{int(wrong.argmax())}]. Leave them out, or mend them."
        )


def as_labels(y: Any, names: Names, length: int, source: str) -> tuple[np.ndarray, list[str]]:
    """((I,) int64 the place of each label in the names, the names). Without names a class is called by its label.

    Raises:
        UserError: there are not as many labels as inputs, or a label is neither an integer nor a text, or has no name.
    """
    labels = _array(y)
    if labels.shape == (length, 1):
        labels = labels[:, 0]
    if labels.shape != (length,):
        raise UserError(f"{source}: y must have a label for each of the {length} inputs, and is of shape {labels.shape}.")
    if labels.dtype.kind not in "iubUO" or (labels.dtype.kind == "O" and not all(isinstance(own, str) for own in labels)):
        raise UserError(f"{source}: labels must be integers or texts, not {labels.dtype}.")
    if names is None:
        kinds, codes = np.unique(labels.astype(str) if labels.dtype.kind == "O" else labels, return_inverse=True)
        return codes.astype(np.int64), [str(kind) for kind in kinds]
    if labels.dtype.kind not in "iu":
        raise UserError(f"{source}: with names, labels are the places of names, integers from 0 on, not {labels.dtype}.")
    if isinstance(names, Mapping):
        if sorted(names) != list(range(len(names))):
            raise UserError(f"{source}: names must have the keys 0 to {len(names) - 1}, or be a list.")
        names = [names[i] for i in range(len(names))]
    return labels, [str(name) for name in names]


def as_targets(targets: Any, length: int, source: str) -> np.ndarray | None:
    """(I, Y) float32 numbers to be told in regression; one for each input may be (I,).

    Raises:
        UserError: there are not as many as inputs, or they are no finite numbers.
    """
    if targets is None:
        return None
    array = _array(targets)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != length or array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise UserError(
            f"{source}: targets are (I, Y) finite numbers, a row for each of the {length} inputs, not {array.dtype} of shape "
            f"{array.shape}."
        )
    return array.astype(np.float32)


def checked_labels(labels: np.ndarray, names: Sequence[str], source: str) -> np.ndarray:
    """(I,) the labels as int64.

    Raises:
        UserError: there are none, they are no places of `names`, or a name is there twice.
    """
    given = np.asarray(labels)
    if not given.size:
        raise UserError(f"{source} has no images.")
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise UserError(f"{source}: labels must be one row of integers, not {given.dtype} of shape {given.shape}.")
    if given.min() < 0 or given.max() >= len(names):
        raise UserError(
            f"{source}: labels must be in 0..{len(names) - 1}, the places of names, not {given.min()}..{given.max()}."
        )
    if len(set(names)) < len(names):
        raise UserError(f"{source}: a class name is there twice. The same name is the same class: give it one label.")
    return given.astype(np.int64)


def check_kind(dtype: np.dtype | torch.dtype, dimensions: int, source: str) -> None:
    """Raises `UserError` where these are neither images nor vectors."""
    if dimensions == 2:
        if dtype not in (np.float32, torch.float32):
            raise UserError(f"{source}: vectors must be float32, not {dtype}. Convert them first.")
    elif dtype not in (np.uint8, torch.uint8):
        raise UserError(f"{source}: images must be uint8, 0 to 255, not {dtype}. Scale and round them first.")
    elif dimensions != 4:
        raise UserError(f"{source}: an image must be (C, H, W), a vector (F,), and this has {dimensions - 1} axes.")


def stored_arrays(file: Path, reading: Reading) -> Stored:
    """What an .npz file holds: `x` and `y`, and where it has them `names`.

    Raises:
        UserError: it is damaged, an array is missing, or they do not fit.
    """
    if option := next((name for name in ("configuration", "image", "label", "targets") if getattr(reading, name)), ""):
        raise UserError(
            f"--data.{option.removesuffix('s')} means nothing for {file}, which holds arrays x and y; leave it out."
        )
    try:
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in ("x", "y", "names") if name in opened}
            there = ", ".join(opened.files)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        texts = ", texts as y.astype(str)" if "Object arrays" in str(error) else ""
        raise UserError(f"{file} cannot be read ({error}). Write it with numpy.savez(FILE, x=x, y=y){texts}.") from error
    if missing := [name for name in ("x", "y") if name not in arrays]:
        raise UserError(f"{file} has no array {missing[0]!r}, only {there}. Write it with numpy.savez(FILE, x=x, y=y).")
    x = as_inputs(arrays["x"], str(file))
    named = arrays["names"].tolist() if "names" in arrays else None
    codes, names = as_labels(arrays["y"], named, len(x), str(file))
    codes = checked_labels(codes, names, str(file))
    if x.ndim == 2:
        return Stored(codes, names, lambda places: iter(()), x)

    narrow = x.shape[3] in (1, 3)  # the width would pass for channels

    def at(places: np.ndarray) -> Iterator[StoredImage]:
        return ((f"x[{place}]", x[place].transpose(1, 2, 0) if narrow else x[place]) for place in places)

    return Stored(codes, names, at)


def _array(values: Any) -> np.ndarray:
    """A NumPy array of an array, a list, or a tensor on any device."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # which NumPy does not have
    return np.asarray(values)
