"""Omniglot as its authors publish it: two zip archives of alphabet/character folders."""

import http.client
import os
import re
import shutil
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from episodes.data.identity import identity
from episodes.data.images import decode
from episodes.data.places import cache_folder
from episodes.data.pool import ClassPool, gathered
from episodes.data.telling import tell
from episodes.errors import UserError
from episodes.progress import progress

OMNIGLOT_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
OMNIGLOT_ARCHIVES = {"background": "images_background.zip", "evaluation": "images_evaluation.zip"}


def read_omniglot_archive(archive: Path, source: str, size: int, channels: int = 1) -> ClassPool:
    """A pool of one archive; a class is alphabet/character, e.g. "omniglot/Latin/character01".

    Raises:
        UserError: the archive is missing or damaged, has no entry of that layout, or an image cannot be decoded.
    """
    if not archive.is_file():
        raise missing_archive(archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            return _read(opened, archive, source, size, channels)
    except zipfile.BadZipFile as error:
        again = f"Delete it and get it again from {OMNIGLOT_URL}{archive.name}."
        raise UserError(f"{archive} is damaged ({error}). {again}") from error


def missing_archive(archive: Path) -> UserError:
    return UserError(f"{archive} does not exist. --data.path wants both {' and '.join(OMNIGLOT_ARCHIVES.values())}.")


def omniglot_download() -> Path:
    """The cache folder with both archives, downloaded where it does not hold them yet.

    Raises:
        UserError: no network.
    """
    folder = cache_folder() / "downloads" / "omniglot"
    for name in OMNIGLOT_ARCHIVES.values():
        if not (folder / name).is_file():
            _download(OMNIGLOT_URL + name, folder / name)
    return folder


def _read(opened: zipfile.ZipFile, archive: Path, source: str, size: int, channels: int) -> ClassPool:
    layout = re.compile(r"images_\w+/([^/]+/[^/]+)/[^/]+\.png")
    entries = sorted((match[1], match[0]) for name in opened.namelist() if (match := layout.fullmatch(name)))
    if not entries:
        raise UserError(f"{archive} has no entry like images_background/ALPHABET/character01/0709_01.png.")
    classes, labels = np.unique([name for name, _ in entries], return_inverse=True)
    images = _images(opened, [entry for _, entry in entries], archive, size, channels)
    pool = gathered(labels, [f"omniglot/{name}" for name in classes], images, source)
    tell(pool)
    return pool


def _images(
    opened: zipfile.ZipFile, entries: list[str], archive: Path, size: int, channels: int
) -> Iterator[tuple[np.ndarray, int]]:
    for entry in entries:
        raw = opened.read(entry)
        try:
            yield decode(raw, size, channels), identity(raw)
        except Exception as error:  # Pillow raises many kinds
            raise UserError(f"{archive}: the image {entry} cannot be decoded ({error}). Get the archive again.") from error


def _download(url: str, target: Path) -> None:
    """Downloads to a temporary name and renames, so that a broken transfer leaves no archive."""
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as answer, partial.open("wb") as file:
            expected = int(answer.headers.get("Content-Length") or 0)
            chunks = iter(lambda: answer.read(1 << 16), b"")
            for chunk in progress(chunks, -(-expected >> 16) or 1, f"downloading {target.name} (64 KiB blocks)"):
                file.write(chunk)
        if expected and partial.stat().st_size != expected:
            raise OSError(f"{partial.stat().st_size} of {expected} bytes came")
        shutil.move(partial, target)
    except (OSError, http.client.HTTPException) as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{url} could not be downloaded to {target.parent} ({error}). "
            "Check the network, or give --data.path a folder with a copy."
        ) from error
