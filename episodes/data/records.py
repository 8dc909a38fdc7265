"""Records of a large source: where they are, and which of them cannot be read."""

from typing import NamedTuple

import numpy as np

from episodes.errors import UserError, note

LEFT_OUT_AT_MOST = 0.01
"""The share of records that may be left out because they cannot be read; ten may be in any case."""
LISTED = 10


class TooManyFaultyError(UserError):
    """Too many records cannot be read to go on without them."""


class Faulty(NamedTuple):
    """A record that cannot be read."""

    file: int
    """Number of its file."""
    position: int
    """What a message calls its place: a row, from 1, or a byte, from 0."""
    why: str


class Index(NamedTuple):
    """All records of a source, in the order of its files and in them."""

    file_I: np.ndarray
    """int32, the number of each record's file."""
    offset_I: np.ndarray
    """int64, the byte at which it starts."""
    position_I: np.ndarray
    """int64, what a message calls its place: a row, from 1, or this byte."""
    label_I: np.ndarray
    """int32, its class."""
    names: list[str]
    """The name of class 0, 1, ..., in their order."""
    faulty: list[Faulty]
    """The records that cannot be read, which are not among the I."""


def check_left_out(faulty: list[Faulty], records: int, files: list[str], unit: str, source: str) -> None:
    """Raises `TooManyFaultyError` where too many of the records of a source cannot be read.

    Arguments:
        unit: what a position is, "row" or "byte".
    """
    if len(faulty) > max(LISTED, LEFT_OUT_AT_MOST * records):
        raise TooManyFaultyError(
            f"{source}: {len(faulty)} of {records} records cannot be read, which is too many to go on without them: "
            f"{_listed(faulty, files, unit)}. Get the files again, or check that they are of this format."
        )


def note_left_out(faulty: list[Faulty], records: int, files: list[str], unit: str, source: str) -> None:
    """Says which records are left out."""
    if faulty:
        words = f"{len(faulty)} of {records} records cannot be read and are left out"
        note(f"{source}: {words}: {_listed(faulty, files, unit)}.")


def in_order(index_names: list[str], label_I: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The classes in the order of their names, and the label of each record among them."""
    order = sorted(range(len(index_names)), key=index_names.__getitem__)
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return [index_names[i] for i in order], rank[label_I]


def _listed(faulty: list[Faulty], files: list[str], unit: str) -> str:
    some = sorted(faulty)[:LISTED]
    words = "; ".join(f"{unit} {own.position} of {files[own.file]} ({own.why})" for own in some)
    return words + (" ..." if len(faulty) > len(some) else "")
