"""A progress bar for work that turns out to be long."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int, words: str, patience: float = 2.0) -> Iterator[Item]:
    """Passes `items` on; work longer than `patience` seconds shows a bar with the time left on stderr.

    Arguments:
        total: how many items there are, in the unit in which they come.
        words: what is being done, e.g. "reading omniglot".
    """
    started, bar = time.monotonic(), None
    try:
        for done, item in enumerate(items):
            if bar is None and sys.stderr.isatty() and time.monotonic() - started > patience:
                bar = _bar()
                task = bar.add_task(words, total=total, completed=done)
            yield item
            if bar is not None:
                bar.update(task, completed=done + 1)
    finally:
        if bar is not None:
            bar.stop()


def _bar():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    return bar
