"""What the commands of this package (`preview`, `freeze`) have in common."""

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tyro

from episodes.data.config import DataConfig
from episodes.errors import Notice, UserError


@dataclass(frozen=True)
class NamedLater(DataConfig):
    """How the data set is read, whose name is said apart."""

    name: tyro.conf.Suppress[str] = ""


def spoken(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    """Runs a command; what is the user's to mend is said without a traceback, and notes are sentences."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.showwarning = lambda message, *about, **more: print(f"Note: {message}", file=sys.stderr)
        try:
            command(argv)
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
