"""The one exception that speaks to a user, and the nearest names for a wrong one."""

import difflib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

LISTED = 60
"""Choices that an error lists all."""


class UserError(ValueError):
    """Something the user gave cannot work. The message says what was wrong, where, and what to do."""


class Notice(UserWarning):
    """Something was left out, converted, guessed or made again. The commands show it as a sentence."""


def note(words: str) -> None:
    """Says a sentence as a `Notice`, a warning: once in a process where it is the same."""
    warnings.warn(words, Notice, stacklevel=3)


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """A `UserError` for a name that is not among `choices`, with the nearest ones first; of many only some are listed."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    there = ", ".join(choices) if len(choices) <= LISTED else listed(choices)
    return UserError(f"Unknown {kind} {name!r}. {hint}There is: {there}.")


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names in a row; of many only the first, and how many there are."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} ... ({len(names)} in all)"


MOST = 10**9
"""No size and no number of anything is above this."""


def at_least(least: int, options: Any, prefix: str, *names: str, most: int | None = None) -> None:
    """Raises `UserError` where one of the fields `names` of `options`, or a number in it, is below `least`, above `most`, or no
    number; None is not looked at. `most`: None is `MOST` for integers."""
    for name in names:
        value = getattr(options, name)
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            words, limit = f"{prefix}{name.replace('_', '-')}", most or (MOST if isinstance(number, int) else float("inf"))
            if not number >= least:
                raise UserError(f"{words} must be at least {least}, not {number}.")
            if number > limit:
                raise UserError(f"{words} must be at most {limit}, not {number}.")


def above_zero(what: str, *numbers: float) -> None:
    """Raises `UserError` where one of the numbers of `what` is not above 0, or not finite."""
    if not all(0 < number < float("inf") for number in numbers):
        raise UserError(f"{what} must be above 0, and finite, not {' '.join(f'{number:g}' for number in numbers)}.")
