"""Frozen features: the images of a pool become vectors, once."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from episodes.data.backbones.known import Backbone, backbone_of
from episodes.data.cache import cached
from episodes.data.config import DataConfig
from episodes.data.digests import digest_of
from episodes.data.memory import must_fit
from episodes.data.pool import ClassPool
from episodes.data.reading import cause
from episodes.errors import UserError
from episodes.progress import progress

FEATURES_VERSION = 1
"""Part of every cache key: raise it when the same weights would give other features."""
TOGETHER = {"cpu": 16, "cuda": 256}
"""Images that pass a backbone at a time, by device: on a processor few, which stay in its cache."""


def with_features(pool: ClassPool, data: DataConfig) -> ClassPool:
    """The pool of the features that `data` asks for, from the cache where they were computed before; or the pool as it is.

    Raises:
        UserError: there is no such backbone, it cannot be loaded, has other weights than the run was begun with, or does not
            give a vector of finite numbers for each image.
    """
    if data.features is None:
        return pool
    if pool.x_kind == "vector":
        raise UserError(f"{pool.source} has vectors already: leave out --data.features.")
    backbone = checked_backbone(data)
    key = {"features of": pool.fingerprint, "weights": backbone.digest, "side": backbone.side, "features": FEATURES_VERSION}
    return replace(cached(key, partial(features_of, pool, backbone)), source=pool.source)


def checked_backbone(data: DataConfig) -> Backbone:
    """The backbone of `data`. Raises `UserError` where it has other weights than `data` remembers."""
    assert data.features is not None
    backbone = backbone_of(data.features, data.features_size)
    if data.features_weights not in (None, backbone.digest):
        raise UserError(
            f"The weights of {data.features} are not those that the run was begun with (their SHA-256 is {backbone.digest}, "
            f"then {data.features_weights}). Name the file with the old ones: --data.features FILE; or train anew."
        )
    return backbone


def remembering(data: DataConfig) -> DataConfig:
    """The configuration with the hash of the backbone's weights and the side of its images, so that no others pass for them."""
    if data.features is None:
        return data
    backbone = checked_backbone(data)
    return replace(data, features_size=backbone.side, features_weights=backbone.digest)


def features_of(pool: ClassPool, backbone: Backbone) -> ClassPool:
    """The pool of the same classes whose inputs are (F,) float32 features of the images; grey ones are shown in three channels.

    Raises:
        UserError: as `with_features`.
    """
    rows, store = pool.rows(), np.empty((0, 0), dtype=np.float32)
    vectors = _vectors(pool, rows, backbone)
    for i, vector in enumerate(progress(vectors, len(rows), f"features of {pool.source}")):
        if not len(store):
            must_fit(len(rows), vector, pool.source)
            store = np.empty((len(rows), len(vector)), dtype=np.float32)
        store[i] = vector
    if wrong := int((~np.isfinite(store).all(axis=1)).sum()):
        raise UserError(
            f"{backbone.name} gives numbers that are not finite (NaN or infinite) for {wrong} of the {len(rows)} images of "
            f"{pool.source}. Its weights may be damaged, or it expects other images."
        )
    starts = np.cumsum(pool.counts) - pool.counts
    fingerprint = digest_of(f"{pool.fingerprint}/{backbone.digest}/{backbone.side}/{FEATURES_VERSION}".encode())
    ids, targets = np.array(pool.ids[rows]), None if pool.targets is None else pool.targets[rows]
    return replace(pool, x=store, starts=starts, ids=ids, fingerprint=fingerprint, targets=targets)


def _vectors(pool: ClassPool, rows: np.ndarray, backbone: Backbone) -> Iterator[np.ndarray]:
    """The features (F,) of the images at `rows`, one after another."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = backbone.load().to(device)
    for first in range(0, len(rows), TOGETHER[device]):
        x_BCHW = pool.fetch(rows[None, first : first + TOGETHER[device]])[0].to(device)
        yield from _run(network, shown(x_BCHW, backbone.side), backbone).cpu().numpy()


@torch.inference_mode()
def _run(network: nn.Module, x_BCHW: Tensor, backbone: Backbone) -> Tensor:
    """(B, F) float32."""
    shape = " x ".join(map(str, x_BCHW.shape))
    try:
        h = network(x_BCHW)
    except Exception as error:  # a network of one's own may raise anything
        raise UserError(
            f"{backbone.name} fails on images of {shape} ({cause(error)}). It takes (B, 3, H, W) float32; where it needs "
            "another side, give it: --data.features-size 224."
        ) from error
    if not isinstance(h, Tensor) or h.ndim != 2 or len(h) != len(x_BCHW) or not h.is_floating_point():
        found = f"{h.dtype} of shape {tuple(h.shape)}" if isinstance(h, Tensor) else type(h).__name__
        raise UserError(
            f"{backbone.name} must give a row of features for each image, (B, F) floating-point numbers. Of {shape} it gives "
            f"{found}. Let it end with a mean over the map, and return that alone."
        )
    return h.float()


def shown(x_BCHW: Tensor, side: int | None) -> Tensor:
    """(B, C, H, W) uint8 -> (B, 3, side, side) float32 in [0, 1], as a backbone takes them; `side` None leaves the size."""
    x = x_BCHW.float() / 255
    if side is not None and tuple(x.shape[2:]) != (side, side):
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
