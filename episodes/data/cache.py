"""Pools on disk: each is built once, and read whole once in a process before it is believed; a large one once for all."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from episodes.data.digests import digest_of
from episodes.data.places import cache_folder
from episodes.data.pool import ClassPool
from episodes.errors import UserError, note

POOL_VERSION = 4
"""Part of every cache key: raise it when the same source would give another pool."""
DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError)
"""What opening a damaged entry raises."""
LARGE = 2**28
"""Bytes from which on an entry that was found sound is believed until one of its files changes. It takes a quarter of a second
to read as much."""
SOUND = "sound.json"
"""In a large entry: the sizes, times and places of its files when they were last read whole, or written."""
PART = ".part"
"""What the folder of a build is called that has not ended, after its entry."""


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


def cached_large(key: dict, fill: Callable[[Path], None]) -> ClassPool:
    """As `cached`, of a pool that goes straight to its files and may be larger than the memory.

    One process builds it, others wait for it. A build that was killed is gone on with by the next; one that fails, as for want
    of room, leaves nothing.

    Arguments:
        fill: writes `x.npy`, `ids.npy` and `pool.json` into a folder, and leaves nothing else there. The folder is empty, or as
            a `fill` left it that was killed.
    """
    entry = _place(key, "pools")
    if not entry.exists() or _damage(entry):
        with _alone(entry):
            if not entry.exists() or _damage(entry):  # nobody else has built it in the meantime
                _build_large(entry, fill)
    return ClassPool.load(entry)


def _build_large(entry: Path, fill: Callable[[Path], None]) -> None:
    part = entry.with_name(entry.name + PART)
    with _writing(entry.parent):
        if entry.exists():
            note(f"The entry {entry.name} of the data cache {entry.parent} is damaged ({_damage(entry)}). It is built again.")
            shutil.rmtree(entry)
        part.mkdir(exist_ok=True)
        try:
            fill(part)
            for file in part.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            _believe(part)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        except UserError:  # what a `fill` that can be gone on with has left stays
            with suppress(OSError):
                part.rmdir()
            raise
        part.rename(entry)


@contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """Holds the lock of an entry, for which it waits. The system lets go of it when the process ends, however it ends."""
    with _writing(entry.parent):
        place = entry.parent.parent / "locks" / entry.name
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"Another process is building {entry.name} in the data cache {entry.parent}. This one waits for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            note(f"{place} cannot be locked ({error}): see to it that no other process builds the same data.")
        yield


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
        return _damage_of(entry, _stamps(entry))
    except OSError as error:
        return str(error)


def _stamps(entry: Path) -> tuple:
    """What tells one state of an entry's files from another, without reading them."""
    files = sorted(file for file in entry.iterdir() if file.name != SOUND)
    return tuple((file.name, (about := file.stat()).st_size, about.st_mtime_ns, about.st_ino) for file in files)


@cache
def _damage_of(entry: Path, stamps: tuple) -> str:
    """As above, found out once in a process for each state of the files; of a large entry once for all processes."""
    try:
        if not _believed(entry, stamps):
            ClassPool.verify(entry)
            with suppress(OSError):  # a cache that may only be read
                _believe(entry)
        ClassPool.load(entry)
    except (OSError, ValueError) as error:
        return str(error)
    except DAMAGE:
        return "a file is not what a pool has"
    return ""


def _believed(entry: Path, stamps: tuple) -> bool:
    """Whether these files were found sound, or written, as they are now."""
    try:
        return json.loads((entry / SOUND).read_text(encoding="utf-8")) == [list(stamp) for stamp in stamps]
    except (OSError, ValueError):
        return False


def _believe(entry: Path) -> None:
    """Writes down that the files of a large entry are sound as they are."""
    stamps = _stamps(entry)
    if sum(size for _, size, *_ in stamps) < LARGE:
        return
    fresh = entry.parent / f"sound-{os.getpid()}-{entry.name}"
    fresh.write_text(json.dumps(stamps), encoding="utf-8")
    fresh.replace(entry / SOUND)


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
    with _writing(parent), tempfile.TemporaryDirectory(dir=parent, prefix="building-") as folder:
        yield folder


@contextmanager
def _writing(parent: Path) -> Iterator[None]:
    """As `building`, without the temporary folder."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"The data cache {parent} cannot be written: {error}. Make room there, or set METACL_CACHE to another folder."
        ) from error
