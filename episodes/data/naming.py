"""What the names of a data set's classes are suspected of: names that are written alike, and labels that may mean that there is
none. They are taken as they are, and said."""

import re
import unicodedata
from collections.abc import Sequence

from episodes.errors import listed, note

NO_LABEL = ("", "-1", "-1.0", "na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "none", "nil", "?", "-")
"""How other programs write that there is no label; capitals do not matter."""
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


def say_of_names(names: Sequence[str], where: str) -> None:
    """Notes on classes that may be one, or none.

    Arguments:
        where: what to call the data set in messages.
    """
    seen: dict[str, str] = {}
    alike = [(first, name) for name in names if (first := seen.setdefault(_alike(name), name)) != name]
    if alike:
        some = listed([f"{first!r} and {name!r}" for first, name in alike], 3)
        note(
            f"{where}: {len(alike)} classes have a name that another has too, but for capitals, spaces, accents or zeros: "
            f"{some}. They are read as different classes; where they are one, write them alike."
        )
    if none := [name for name in names if name.strip().lower() in NO_LABEL]:
        note(
            f"{where}: {listed([repr(name) for name in none])} is read as the name of a class. Where it stands for no label, "
            f"leave it out: --data.without={none[0]} (of a stream --stream.data.without)."
        )


def _alike(name: str) -> str:
    """Equal of names that look the same: in Unicode's compatible form, without capitals and spaces; of numbers their value."""
    plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    return f"{float(plain):.17g}" if NUMBER.fullmatch(plain) else plain
