"""Paths that a user gives, the folder of the cache, and sentences for what cannot be read there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from episodes.errors import UserError

ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".parquet", ".arrow", ".csv", ".tsv", ".jsonl", ".npz")
"""What is no part of a data set's name."""


def user_path(text: str | Path) -> Path:
    """The path, with ~ for the home folder.

    Raises:
        UserError: it starts with ~ and there is no such home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"The ~ in {text} stands for a home folder, and there is none. Write the whole path.") from error


def name_of(place: str | Path) -> str:
    """What a folder or file is called, however its path is written: the last part, without the ending of an archive."""
    name = user_path(place).resolve().name
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or name


def cache_folder() -> Path:
    """`$METACL_CACHE`, or `~/.cache/metacl`.

    Raises:
        UserError: METACL_CACHE is not set and there is no home folder.
    """
    if named := os.environ.get("METACL_CACHE"):
        return user_path(named)
    try:
        return Path("~/.cache/metacl").expanduser()
    except RuntimeError as error:
        raise UserError(
            "There is no home folder for the data cache. Set the environment variable METACL_CACHE to a folder for it."
        ) from error


@contextmanager
def readable(where: object) -> Iterator[None]:
    """What the operating system refuses while data are read becomes a `UserError` that names the file, or else `where`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or where} cannot be read ({error.strerror or error}). Check that it is there and may be read."
        ) from error
