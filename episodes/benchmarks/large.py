"""Named benchmarks whose images go straight to disk: CASIA-HWDB and MS-Celeb-1M. Neither can be downloaded here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from episodes.benchmarks.benchmark import SPLITS, Benchmark, classification, refuse
from episodes.data.cache import cached_large
from episodes.data.config import DataConfig, local_copy, reading_of
from episodes.data.dealing import cut, shuffled_by_name
from episodes.data.features import with_features
from episodes.data.filling import fill
from episodes.data.folders import files_below
from episodes.data.gnt import PAGES, gnt_index
from episodes.data.leaving_out import left_in
from episodes.data.pool import ClassPool
from episodes.data.records import Index
from episodes.data.sources import source_identity
from episodes.data.tsv import tsv_index
from episodes.errors import UserError, unknown

VALIDATION, TEST, USUAL = 100, 1000, 7356
"""Classes that are held out, and how many CASIA-HWDB has; of fewer as large a part is held out."""
FEWEST_FACES = 20
"""Images that an identity of MS-Celeb-1M has at least, or it is left out."""


def casia(config: DataConfig, vocabulary: int) -> Benchmark:
    """CASIA-HWDB 1.0 to 1.2, `.gnt` files at any depth of a folder: 7 356 characters; 32 x 32 grey.

    1 000 of them are to test, 100 to validate, or as large a part where there are fewer than 7 356. The configuration is the
    code page of the characters, `gbk` or `big5`.
    """
    ways = "CASIA-HWDB 1.0 to 1.2 (nlpr.ia.ac.cn/databases/handwriting), its archives unpacked"
    page = config.configuration or "gbk"
    if page not in PAGES:
        raise unknown("code page (--data.configuration of casia)", page, PAGES)
    pool = _streamed(config, "gnt", "byte", partial(gnt_index, page=page), 1, 1, ways)
    return _dealt(config, vocabulary, pool)


def celeb(config: DataConfig, vocabulary: int) -> Benchmark:
    """MS-Celeb-1M's aligned faces, `.tsv` files: identities of 20 images or more, held out as in `casia`; 32 x 32 RGB."""
    pool = _streamed(config, "tsv", "row", tsv_index, 3, FEWEST_FACES, "MS-Celeb-1M's aligned faces")
    return _dealt(config, vocabulary, pool)


def _dealt(config: DataConfig, vocabulary: int, pool: ClassPool) -> Benchmark:
    pool = with_features(pool, config)
    others = max(len(pool.names), USUAL) - VALIDATION - TEST
    parts = cut(pool, config.name, shuffled_by_name(pool, config.name), (others, VALIDATION, TEST), SPLITS)
    return classification(config.name, vocabulary, left_in(parts, config, config.name))


def _streamed(
    config: DataConfig,
    kind: str,
    unit: str,
    index: Callable[[Path, list[str], str], Index],
    channels: int,
    fewest: int,
    what: str,
) -> ClassPool:
    refuse(config, "image", "label", "skip_damaged")
    place = local_copy(config)
    if place is None:
        raise UserError(f"{config.name} cannot be downloaded. Give the folder of a copy of {what}: --data.path FOLDER.")
    root, found = (place.parent, [Path(place.name)]) if place.is_file() else (place, files_below(place))
    files = [str(file) for file in found if file.suffix.lower() == f".{kind}"]
    if not files:
        raise UserError(f"{config.path} has no .{kind} files. Give the folder of a copy of {what}.")
    reading = reading_of(config, 32, channels)
    about: dict[str, Any] = {"format": kind, "unit": unit, "root": str(root.resolve()), "files": files, "source": config.name}
    about |= {"size": reading.size, "channels": reading.channels}
    key = {"source": source_identity(place), "name": config.name, "size": reading.size, "channels": reading.channels}
    key |= {"configuration": config.configuration} if config.configuration not in (None, "gbk") else {}
    find = partial(index, root, files, config.name)
    return cached_large(key, lambda folder: fill(folder, about, find, fewest))
