"""One writer at a time: a lock on a folder, which the system lets go of when its process ends, however it ends."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from episodes import UserError
from episodes.errors import note

LOCK = ".lock"
"""The file that is locked; who holds it stands in it."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is made where there is none.

    The lock is the process's: a process that it forked does not hold it, and the same process may not take it twice.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                note(f"{folder} cannot be locked ({error}): see to it that nothing else writes there.")
            else:
                file.seek(0)
                raise UserError(
                    f"{folder} is in use by another process ({file.read().strip() or 'unknown'}). "
                    "Wait until that is done, end it, or name another folder."
                ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
