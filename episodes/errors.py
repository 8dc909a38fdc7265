"""The one exception that speaks to a user, and the nearest names for a wrong one."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave cannot work. The message says what was wrong, where, and what to do."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """A `UserError` for a name that is not among `choices`, with the nearest ones first."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UserError(f"Unknown {kind} {name!r}. {hint}There is: {', '.join(choices)}.")
