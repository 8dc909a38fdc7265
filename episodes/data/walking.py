"""The files below a folder, and what tells one state of them from another."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and its sub-folders, relative to it and in the order of their names; links are followed.

    Raises:
        OSError: a folder cannot be read.
    """
    return sorted(Path(name) for name in _walk(folder, "", (folder.resolve(),)))


def stamps_of(folder: Path, files: Iterable[Path]) -> list[list]:
    """[name, bytes, time] of files, relative to a folder; zeros for a link to nothing."""
    return [[str(file), *_stamp(folder / file)] for file in files]


def _walk(folder: Path, prefix: str, above: tuple[Path, ...]) -> Iterator[str]:
    """`above`: the folders on the way, so that a link to one of them is not followed."""
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if not entry.is_dir():
            yield prefix + entry.name
            continue
        place = Path(entry.path).resolve() if entry.is_symlink() else above[-1] / entry.name
        if place not in above:
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, place))


def _stamp(file: Path) -> tuple[int, int]:
    """Bytes and time of a file; of a link to nothing, zeros."""
    if not file.exists():
        return 0, 0
    return (about := file.stat()).st_size, about.st_mtime_ns
