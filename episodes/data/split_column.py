"""Which meta-split each class belongs to, as a column of the data set says: `--data.split column:NAME`."""

from collections.abc import Iterable, Iterator

from episodes.data.columns import label_column, labelled_rows
from episodes.data.hf import open_splits
from episodes.data.layout import is_split
from episodes.data.reading import Reading
from episodes.data.rows import features_of
from episodes.data.sources import tables_of
from episodes.data.tables import column_of_table
from episodes.errors import UserError, unknown

PARTS = {"tr": "train", "va": "validation", "de": "validation", "te": "test"}
"""What the usual names of splits begin with."""


def parts_of_classes(where: str, reading: Reading, column: str) -> dict[str, str]:
    """Label -> "train", "validation" or "test". A class of which no row says it is in none.

    Arguments:
        where: a folder, a file or a hub name.
        column: its values are train, validation and test, or as folders of splits are called.

    Raises:
        UserError: there is no such column, a value is none of these, or a class is in two meta-splits.
    """
    given: dict[str, str] = {}
    for label, value in dict.fromkeys(_pairs(where, reading, column)):
        if not value:
            continue
        if not is_split(value):
            raise UserError(
                f"Column {column!r} of {where} says {value!r} of the class {label}. Its values must be train, validation or "
                "test."
            )
        if given.setdefault(label, part := PARTS[value.lower()[:2]]) != part:
            raise UserError(
                f"Column {column!r} of {where} gives the class {label} to {given[label]} and to {part}. What is tested is "
                "never trained on: all rows of a class must say the same. A split of images, not of classes, is for streams."
            )
    return given


def _pairs(where: str, reading: Reading, column: str) -> Iterable[tuple[str, str]]:
    place, tables = tables_of(where, reading)
    if tables:
        return [pair for table in tables for pair in column_of_table(table, reading, column)]
    return _of_rows(place, reading, column)


def _of_rows(where: str, reading: Reading, column: str) -> Iterator[tuple[str, str]]:
    parts = open_splits(where, None, reading.configuration)
    there = dict.fromkeys(name for part in parts.values() for name in part.features)
    if column not in there:
        raise unknown(f"column of {where}", column, there)
    rows, codes, names = labelled_rows(parts, label_column(features_of(parts, reading), reading.label), where)
    first = 0
    for split, part in parts.items():
        own = codes[first : first + len(rows[split])]
        first += len(own)
        named = getattr(part.features[column], "names", None)
        for code, value in zip(own, part.select(rows[split])[column], strict=True):
            yield names[code], "" if value is None else str(named[value] if named else value).strip()
