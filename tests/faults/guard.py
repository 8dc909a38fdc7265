"""What keeps hostile commands from harming the machine, and notes what they write where they should not."""

import errno
import os
import resource
import sys
from pathlib import Path
from typing import Any

from tests.faults.child import Counts, Prepare
from tests.faults.operations import WRITES, absolute

MEMORY, FILE, PROCESSES = 4 << 30, 1 << 28, 12
"""Bytes of memory and of a file that a command may have, and processes that it may start."""
OPENLY = ("/dev/", "/proc/self/")


def guarded(place: Path, *allowed: Path) -> Prepare:
    """Bounds memory, the size of files and the number of processes, as a machine does. What would be written outside of the
    folders that are allowed is noted beside `place`, see `written_outside`, and refused."""
    folders = tuple(str(folder) for folder in (place, *allowed))
    note = os.open(_note(place), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in ("os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"):
            started.append(event)
            if len(started) > PROCESSES:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            if isinstance(args[2], int) and args[2] & WRITES:
                check(absolute(args[0]))
        elif event == "os.mkdir":
            check(absolute(args[0], args[-1]))
        elif event == "os.rename":
            check(absolute(args[1], args[-1]))

    def check(path: str) -> None:
        beside = tuple(end for folder in folders for end in (folder + os.sep, folder + "."))  # made there, and then moved
        inside = path in folders or path.startswith(beside)
        if not inside and not path.startswith(OPENLY) and not os.path.isdir(path):
            os.write(note, os.fsencode(path) + b"\n")
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    def prepare(counts: Counts) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
        sys.dont_write_bytecode = True
        sys.addaudithook(hook)

    started: list[str] = []
    return prepare


def written_outside(place: Path) -> str:
    """The first path that was written where it should not be; empty: none."""
    note = _note(place)
    lines = note.read_text(errors="replace").splitlines() if note.exists() else []
    return lines[0] if lines else ""


def _note(place: Path) -> Path:
    return place.with_name(f"{place.name}-outside.log")
