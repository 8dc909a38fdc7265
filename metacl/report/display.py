"""What a person sees while something runs: progress with time left, and plain lines where no terminal is."""

import errno
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from episodes import UserError
from episodes.errors import Notice
from metacl.report.errors import in_words
from metacl.runs.signals import Stopped, exit_status, stops_raised

MISTAKEN, UNHEARD = 2, 1
"""Exit statuses. UNHEARD: the program that read what was printed has ended, as `head` does."""


def _screen(wide: bool, **options: Any) -> Console:
    """A console, 100 characters wide where it is no terminal (`wide`), or where COLUMNS leaves no room for a word."""
    made = Console(highlight=False, markup=False, width=100 if wide else None, **options)
    if made.width < 20:
        made.width = 100
    return made


console = _screen(wide=not (sys.stdout and sys.stdout.isatty()))
COLUMNS = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())


def say(words: str) -> None:
    """A line on the screen, which a file does not break."""
    console.print(words, soft_wrap=True)


def show_table(table: Table) -> None:
    """On a terminal as wide as that, elsewhere as wide as the table needs."""
    width = console.width
    if not console.is_terminal:
        console.width = max(width, table.__rich_measure__(console, console.options.update(max_width=1000)).maximum)
    console.print(table)
    console.width = width


class _Bar(Progress):
    def stop(self) -> None:
        """Where no bar is shown, there is no line to end."""
        if not self.disable:
            super().stop()


def bar(words: str) -> Progress:
    """A progress bar with the time left; its one kind of task counts steps."""
    columns = (TextColumn(words), *COLUMNS, TextColumn("{task.fields[now]}"))
    return _Bar(*columns, console=console, transient=True, disable=not console.is_terminal)


class TrainingDisplay:
    """The state of a meta-training run: one bar, and a line at every meta-validation."""

    def __init__(self, steps: int, first: int, batch_size: int, enabled: bool = True):
        self.enabled = enabled
        self.progress = bar("meta-training")
        self.progress.disable = self.progress.disable or not enabled
        self.task = self.progress.add_task("", total=steps, completed=first, now="")
        self.latest: dict[str, Any] = {}

    def update(self, record: dict[str, Any]) -> None:
        self.latest |= record
        self.progress.update(self.task, completed=record["step"], now=_words(self.latest, ""))
        if self.enabled and "validation_loss" in record:
            parts = (
                f"step {record['step']:6}",
                "meta-train",
                _words(self.latest, ""),
                "meta-validation",
                _words(self.latest, "validation_"),
            )
            console.print(Text("  ".join(parts)), soft_wrap=True)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()


def with_plain_errors(work: Callable[[], None]) -> None:
    """Runs `work`; what is the user's to mend is said without a traceback, and ends the program.

    Printing never fails: what the terminal cannot show becomes '?', and a pipe that nobody reads any more ends the program.
    """
    try:
        try:
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="replace")
            with plain_notices(), _tellings(), _plain_threads(), stops_raised():
                work()
        finally:
            if sys.stdout:  # which a program may be started without
                sys.stdout.flush()
    except BrokenPipeError:
        _print_no_more()
        raise SystemExit(UNHEARD) from None
    except UserError as error:
        _fail(str(error), MISTAKEN)
    except Stopped as stopped:
        _fail(f"{stopped}.", stopped.status, "Stopped: ")
    except KeyboardInterrupt:
        _fail("Interrupted.", exit_status(signal.SIGINT), "Stopped: ")
    except Exception as error:
        if (words := in_words(error)) is None:
            raise
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            _print_no_more()
        _fail(words, MISTAKEN)


def _print_no_more() -> None:
    """What is still to be printed goes nowhere, without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _plain_threads() -> Iterator[None]:
    """What a disk does to a thread in the background (tensorboard has one) is told to the foreground, which says it."""
    usual = threading.excepthook

    def quiet(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is None or in_words(failed.exc_value) is None:
            usual(failed)

    threading.excepthook = quiet
    try:
        yield
    finally:
        threading.excepthook = usual


@contextmanager
def plain_notices() -> Iterator[None]:
    """What was left out or guessed is a sentence on stderr, once, without the line of code that says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=Notice)
        usual, said = warnings.showwarning, set[str]()

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, Notice):
                usual(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                _screen(wide=False, stderr=True).print(Text.assemble(("Note: ", "bold"), str(message)), soft_wrap=True)

        warnings.showwarning = show
        yield


class _Telling(logging.Handler):
    """Shows what is told of the data on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        _screen(wide=False, stderr=True).print(record.getMessage(), soft_wrap=True)


@contextmanager
def _tellings() -> Iterator[None]:
    """What `episodes` tells of the data that it reads is shown."""
    log, handler = logging.getLogger("episodes"), _Telling(logging.INFO)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _fail(message: str, status: int, what: str = "Error: ") -> NoReturn:
    _screen(wide=False, stderr=True).print(Text.assemble((what, "bold red"), message), soft_wrap=True)
    raise SystemExit(status)


def _words(record: dict[str, Any], prefix: str) -> str:
    parts = [f"loss {record[prefix + 'loss']:.4f}"] if prefix + "loss" in record else []
    if prefix + "accuracy" in record:
        parts.append(f"accuracy {record[prefix + 'accuracy']:.1%}")
    if not prefix and "episodes_per_second" in record:
        parts.append(f"{record['episodes_per_second']:.0f} episodes/s")
    return "  ".join(parts)
