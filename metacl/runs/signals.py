"""Signals that ask a program to end: it ends its step, saves, and exits with a code that says which one it was."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; what a scheduler sends some seconds before it kills; the terminal was closed."""


class Stopped(KeyboardInterrupt):
    """A signal has asked to end at once."""

    def __init__(self, number: int):
        super().__init__(signal.strsignal(number))
        self.status = exit_status(number)


def exit_status(number: int) -> int:
    """What a program exits with that a signal has ended, as a shell counts: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + number


@contextmanager
def stops_noted() -> Iterator[list[int]]:
    """The signals that have come: they only fill the list, but for a second Ctrl-C, which raises `Stopped`. SIGTERM often comes
    twice, from a scheduler and from what it has started; there is SIGKILL for who means it."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and number in seen:
            raise Stopped(number)
        seen.append(number)

    with _handled_by(note):
        yield seen


@contextmanager
def stops_raised() -> Iterator[None]:
    """Each signal raises `Stopped`, so that what is open is closed."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Any) -> Iterator[None]:
    """A signal that is ignored stays so: `nohup` sees to it that a closed terminal changes nothing."""
    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread alone
        yield
        return
    previous = {number: signal.getsignal(number) for number in STOPS}
    try:
        for number, before in previous.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
