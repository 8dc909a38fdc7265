"""From images that come in any order to one array in which those of a class stand together."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from episodes.data.arrays import check_kind
from episodes.data.memory import must_fit
from episodes.errors import UserError
from episodes.progress import progress


class Gathered(NamedTuple):
    """Images in the order of their classes; within a class as they came."""

    store: np.ndarray
    """(I, C, H, W) uint8, or (I, F) float32."""
    ids: np.ndarray
    """(I,) uint64."""
    came: np.ndarray
    """(I,) which of those that came each of them is."""


def by_class(labels: np.ndarray, images: Iterable[tuple[np.ndarray, int] | None], source: str) -> Gathered:
    """Each image goes straight to its place: the images exist once in memory.

    Arguments:
        labels: of each image that comes.
        images: pairs, an image and its id; None stands for one that is left out.
        source: where they come from, in words.

    Raises:
        UserError: images are of another kind or of several shapes, numbers are not finite, or they do not fit into the memory
            that is free.
    """
    order = np.argsort(labels, kind="stable")
    places = np.empty(len(labels), dtype=np.int64)
    places[order] = np.arange(len(labels))
    store, ids, kept = np.empty((0, 0)), np.empty(len(labels), dtype=np.uint64), np.ones(len(labels), dtype=bool)
    for place, one in zip(places, progress(images, len(labels), f"reading {source}"), strict=True):
        if one is None:
            kept[place] = False
            continue
        image, known = one
        if not len(store):  # the first image tells the shape
            check_kind(image.dtype, image.ndim + 1, source)
            must_fit(len(labels), image, source)
            store = np.empty((len(labels), *image.shape), dtype=image.dtype)
        if image.dtype != store.dtype or image.shape != store.shape[1:]:
            raise UserError(f"{source}: an image is {_what(image)}, and the first was {_what(store[0])}. All must be alike.")
        if store.ndim == 2 and not np.isfinite(image).all():
            raise UserError(f"{source}: a vector has numbers that are not finite (NaN or infinite). Leave it out, or mend it.")
        store[place], ids[place] = image, known
    return Gathered(store, ids, order) if kept.all() else Gathered(store[kept], ids[kept], order[kept])


def _what(image: np.ndarray) -> str:
    return f"{image.dtype} of shape {image.shape}"
