"""A command line in a forked child: torch is imported once, in the parent, and a try costs what the command itself costs."""

import mmap
import os
import resource
import shlex
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

GRACE = 10.0
"""Seconds in which a command that is asked to stop must end."""


@dataclass(frozen=True)
class Command:
    """Words for one of the three scripts."""

    script: str
    """"train", "evaluate" or "benchmark"."""
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"python {self.script}.py {shlex.join(self.words)}"


@dataclass(frozen=True)
class Outcome:
    """What came of a command."""

    command: Command
    status: int
    """The exit status; -N where signal N ended it."""
    said: str
    """All that it printed."""
    seconds: float
    counts: "Counts"
    late: bool = False
    """It was still at work at the time limit, and was sent SIGINT."""
    hung: bool = False
    """And did not end then."""


class Counts:
    """Whole numbers that a child and its parent both see: steps of the optimiser, and writing operations."""

    def __init__(self) -> None:
        self.shared = mmap.mmap(-1, 16)

    @property
    def steps(self) -> int:
        return struct.unpack_from("q", self.shared, 0)[0]

    @property
    def operations(self) -> int:
        return struct.unpack_from("q", self.shared, 8)[0]

    def step(self) -> int:
        struct.pack_into("q", self.shared, 0, self.steps + 1)
        return self.steps

    def operation(self) -> int:
        struct.pack_into("q", self.shared, 8, self.operations + 1)
        return self.operations


Prepare = Callable[[Counts], None]
"""What is called in the child before the command, as to arm a fault there."""


@dataclass
class Child:
    """A command that is running."""

    command: Command
    pid: int
    log: Path
    counts: Counts
    since: float = field(default_factory=time.monotonic)
    status: int | None = None

    def ended(self, seconds: float) -> int | None:
        """The exit status; None where it is still at work after so many seconds."""
        until = time.monotonic() + seconds
        while self.status is None and time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.002)
        return self.status

    def send(self, number: int) -> None:
        """A signal, unless it has ended."""
        if self.ended(0.001) is None:
            os.kill(self.pid, number)

    def finish(self, seconds: float = 60.0) -> Outcome:
        """Waits for the end; after `seconds` it is asked to stop as by Ctrl-C, and killed where it does not."""
        late = hung = False
        status = self.ended(seconds)
        if status is None:
            late = True
            self.send(signal.SIGINT)
            status = self.ended(GRACE)
        if status is None:
            hung = True
            self.send(signal.SIGKILL)
            status = self.ended(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its workers
        said = self.log.read_text(encoding="utf-8", errors="replace")
        return Outcome(self.command, status or 0, said, time.monotonic() - self.since, self.counts, late, hung)


def start(command: Command, place: Path, prepare: Prepare | None = None) -> Child:
    """Starts a command in a child of its own.

    Arguments:
        place: its working directory; what it prints goes to a file beside it.
        prepare: called in the child first.
    """
    log = place.with_name(f"{place.name}-{time.monotonic_ns()}.log")
    counts = Counts()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid == 0:
        _become(command, place, log, counts, prepare)
    return Child(command, pid, log, counts)


def run(command: Command, place: Path, prepare: Prepare | None = None, seconds: float = 60.0) -> Outcome:
    """Runs a command to its end."""
    return start(command, place, prepare).finish(seconds)


def _become(command: Command, place: Path, log: Path, counts: Counts, prepare: Prepare | None) -> None:
    """The child: never returns."""
    status = 1
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for output in (1, 2):
            os.dup2(file, output)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(place)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = [f"{command.script}.py", *command.words]
        status = _status(command, counts, prepare)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status)


def _status(command: Command, counts: Counts, prepare: Prepare | None) -> int:
    """Does what Python does at the end of a program: a status, or a traceback."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import metacl.cli

    def stepped(*_: object) -> None:
        counts.step()

    register_optimizer_step_post_hook(stepped)
    try:
        if prepare is not None:
            prepare(counts)
        getattr(metacl.cli, f"{command.script}_main")()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
