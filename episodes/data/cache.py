"""Pools on disk: each is built once, and read whole once in a process before it is believed."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from episodes.data.places import cache_folder
from episodes.data.pool import ClassPool, digest_of
from episodes.errors import UserError, note

POOL_VERSION = 4
"""Part of every cache key: raise it when the same source would give another pool."""
DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError)
"""What opening a damaged entry raises."""


def cached(key: dict, build: Callable[[], ClassPool]) -> ClassPool:
    """The pool that `build` makes, from the cache where it has been built before.

    An entry that is not as it was written is built again, with a warning.

    Arguments:
        key: everything that the pool depends on, as JSON values; `POOL_VERSION` is added.
        build: called when the cache has no sound entry for `key`.

    Raises:
        UserError: the cache cannot be written.
    """
    entry = _place(key, "pools")
    damage = _damage(entry) if entry.exists() else "it is not there"
    if damage:
        if entry.exists():
            words = f"The entry {entry.name} of the data cache {entry.parent} is damaged ({damage}). It is built again."
            note(words)
        _store(build(), entry)
    return ClassPool.load(entry)


def remembered(key: dict, find: Callable[[], dict]) -> dict:
    """What `find` finds out, as JSON values, from the cache where it was found before. A damaged note is found out again."""
    note = _place(key, "notes").with_suffix(".json")
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["digest"] == _digest(known["found"]):
            return known["found"]
    except DAMAGE:
        pass
    found = find()
    with building(note.parent) as folder:
        fresh = Path(folder, "new")
        fresh.write_text(json.dumps({"found": found, "digest": _digest(found)}), encoding="utf-8")
        fresh.replace(note)
    return found


def _place(key: dict, kind: str) -> Path:
    return cache_folder() / kind / _digest(key | {"version": POOL_VERSION})


def _digest(values: dict) -> str:
    return digest_of(json.dumps(values, sort_keys=True).encode())


def _damage(entry: Path) -> str:
    """What is wrong with an entry, in words; empty where nothing is."""
    try:
        files = sorted(entry.iterdir())
        stamps = [(file.name, (about := file.stat()).st_size, about.st_mtime_ns, about.st_ino) for file in files]
        return _damage_of(entry, tuple(stamps))
    except OSError as error:
        return str(error)


@cache
def _damage_of(entry: Path, stamps: tuple) -> str:
    """As above, found out once in a process for each state of the files."""
    try:
        ClassPool.verify(entry)
        ClassPool.load(entry)
    except (OSError, ValueError) as error:
        return str(error)
    except DAMAGE:
        return "a file is not what a pool has"
    return ""


def _store(pool: ClassPool, entry: Path) -> None:
    """Writes beside the entry and renames, so that nobody ever sees half a pool; of two writers the first wins."""
    with building(entry.parent) as folder:
        fresh, damaged = Path(folder, "new"), Path(folder, "old")
        fresh.mkdir()
        pool.save(fresh)
        if entry.exists() and _damage(entry):
            with suppress(FileNotFoundError):  # another writer was faster
                entry.rename(damaged)
        try:
            fresh.rename(entry)
        except OSError:
            if not entry.exists():
                raise


@contextmanager
def building(parent: Path) -> Iterator[str]:
    """A temporary folder in `parent`, which is made. Raises `UserError` where that, or what is written there, fails."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix="building-") as folder:
            yield folder
    except OSError as error:
        raise UserError(
            f"The data cache {parent} cannot be written: {error}. Make room there, or set METACL_CACHE to another folder."
        ) from error
