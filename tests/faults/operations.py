"""Faults at the k-th writing operation: Python's audit events say before each what is about to be written, and where."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.child import Counts, Prepare

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
Half = Callable[[], None]
"""Writes the first half of what is about to be written."""
Act = Callable[[int, str, Path, Half], None]
"""What is done before an operation: its number from 1, its name, the path. It may raise what the system would."""


def together(*prepares: Prepare | None) -> Prepare:
    """One after the other."""

    def all_of(counts: Counts) -> None:
        for prepare in prepares:
            if prepare is not None:
                prepare(counts)

    return all_of


def watch(folder: Path, act: Act | None = None) -> Prepare:
    """Counts the writing operations below a folder: opening a file to write, each write to it, its fsync; making, moving and
    removing files and folders. Calls `act` before each. Events of tensorboard have the number of the operation before."""
    return lambda counts: _arm(str(folder), counts, act)


def kill_at(number: int) -> Act:
    """SIGKILL just before an operation; in the middle of it where it is a write."""

    def act(now: int, name: str, path: Path, half: Half) -> None:
        if now == number:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def fail_from(number: int, error: int, *names: str) -> Act:
    """From operation `number` on, those of these names (none given: all) fail as with `error`, a number of `errno`."""

    def act(now: int, name: str, path: Path, half: Half) -> None:
        if now >= number and (not names or name in names):
            half()
            raise OSError(error, os.strerror(error), str(path))

    return act


def hold_at(number: int, until: Path, seconds: float = 30.0) -> Act:
    """Waits at an operation until a file is there; `until` with .held says that it waits."""

    def act(now: int, name: str, path: Path, half: Half) -> None:
        if now == number:
            until.with_suffix(".held").touch()
            end = time.monotonic() + seconds
            while not until.exists() and time.monotonic() < end:
                time.sleep(0.01)

    return act


def vanish_at(number: int, folder: Path) -> Act:
    """The folder is removed just before an operation."""

    def act(now: int, name: str, path: Path, half: Half) -> None:
        if now == number:
            shutil.rmtree(folder, ignore_errors=True)

    return act


def _arm(folder: str, counts: Counts, act: Act | None) -> None:
    busy = False  # what the act itself does is not counted

    def before(name: str, path: str, half: Half = lambda: None) -> None:
        nonlocal busy
        if busy or not (path == folder or path.startswith(folder + os.sep)):
            return
        number = counts.operations if f"{os.sep}tensorboard" in path else counts.operation()  # which a thread of its own writes
        if act is not None:
            busy = True
            try:
                act(number, name, Path(path), half)
            finally:
                busy = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if isinstance(args[0], str | bytes | os.PathLike) and isinstance(args[2], int) and args[2] & WRITES:
                before("open", absolute(args[0]))
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            before(event, absolute(args[0], args[-1]))
        elif event in ("os.rename", "os.link", "os.symlink"):
            before(event, absolute(args[1], args[-1]))

    sys.addaudithook(hook)
    _patch_writes(before, folder)


def absolute(path: Any, descriptor: int = -1) -> str:
    """Relative ones are below an open folder, or below the working directory."""
    try:
        below = os.readlink(f"/proc/self/fd/{descriptor}") if isinstance(descriptor, int) and descriptor >= 0 else os.getcwd()
    except OSError:
        below = "/"
    return os.path.normpath(os.path.join(below, os.fsdecode(path)))


def _patch_writes(before: Callable[..., None], folder: str) -> None:
    """No audit event tells of a write: files that are opened to be written below `folder` are wrapped, and so are fsync and the
    writer of safetensors."""
    import builtins
    import io

    import safetensors
    import safetensors.torch

    opened, synced, saved = io.open, os.fsync, safetensors.serialize_file

    def open_noting(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        got = opened(file, mode, *args, **kwargs)
        plain = isinstance(file, int) or not set(mode) & set("wax+")
        path = "" if plain else absolute(file)
        return _Noted(got, path, before) if path.startswith(folder + os.sep) else got

    def fsync_noting(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        before("fsync", os.readlink(f"/proc/self/fd/{number}"))
        synced(number)

    def save_noting(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> None:
        path = absolute(filename)
        sys.audit("open", path, "w", WRITES)

        def half() -> None:
            saved(tensors, filename, *args, **kwargs)
            os.truncate(path, os.path.getsize(path) // 2)

        try:
            before("write", path, half)
        except OSError as error:
            raise safetensors.SafetensorError(f"Error while serializing: I/O error: {error}") from None
        saved(tensors, filename, *args, **kwargs)

    places: list[tuple[Any, str, Any]] = [
        (builtins, "open", open_noting),
        (io, "open", open_noting),
        (os, "fsync", fsync_noting),
    ]
    places += [(module, "serialize_file", save_noting) for module in (safetensors, safetensors.torch)]
    for module, name, noting in places:
        setattr(module, name, noting)


class _Noted:
    """An open file whose writes are noted."""

    def __init__(self, file: Any, path: str, before: Callable[..., None]) -> None:
        self._file, self._path, self._before = file, path, before

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._before("write", self._path, half)
        return self._file.write(data)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> "_Noted":
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __next__(self) -> Any:
        return next(self._file)
