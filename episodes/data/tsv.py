"""MS-Celeb-1M's aligned faces (Guo et al., ECCV 2016): a row is columns with a tab between two, the identity first and a JPEG
in base64 last."""

import base64
import binascii
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from episodes.data.identity import identity
from episodes.data.images import decode
from episodes.data.places import readable
from episodes.data.records import Faulty, Index, in_order
from episodes.errors import listed, note
from episodes.progress import progress

STEP = 2**24
"""Bytes of whole lines that are read at a time."""


def tsv_index(root: Path, files: list[str], source: str) -> Index:
    """Finds all rows, in one pass; a class is an identity, e.g. "celeb/m.0107_f". Rows without two columns are faulty."""
    number, offset, row, label = array("i"), array("q"), array("q"), array("i")
    codes: dict[bytes, int] = {}
    faulty: list[Faulty] = []
    for own, name in enumerate(files):
        with readable(root / name), (root / name).open("rb") as file:
            place = 0
            for at, line in enumerate(_lines(file, f"looking through {name}"), 1):
                who, *others = line.split(b"\t", 1)
                who = who.strip()
                if not (who and others):
                    faulty.append(Faulty(own, at, "it has no identity" if others else "it has one column"))
                else:
                    label.append(codes.setdefault(who, len(codes)))
                    for column, value in ((number, own), (offset, place), (row, at)):
                        column.append(value)
                place += len(line)
    if label and (empty := [name for name in files if not (root / name).stat().st_size]):
        note(f"{source}: {len(empty)} of {len(files)} files are empty: {listed(empty)}.")
    names = [f"{source}/{who.decode('utf-8', 'backslashreplace')}" for who in codes]
    file_I, offset_I, row_I, label_I = (np.asarray(column) for column in (number, offset, row, label))
    names, label_I = in_order(names, label_I)
    return Index(file_I, offset_I, row_I, label_I, names, faulty)


def _lines(file: BinaryIO, words: str) -> Iterator[bytes]:
    """The lines of a file; of a large one the progress is shown."""
    size = os.fstat(file.fileno()).st_size
    for block in progress(iter(lambda: file.readlines(STEP), []), -(-size // STEP), f"{words} (in parts of 16 MiB)"):
        yield from block


def decoded_at(file: BinaryIO, offset: int, size: int, channels: int) -> tuple[np.ndarray, int]:
    """The image (channels, size, size) of the row at `offset`, and its id, of the bytes of the JPEG.

    Raises:
        Exception: the last column is no base64, or of nothing that Pillow can decode.
    """
    file.seek(offset)
    column = file.readline().rsplit(b"\t", 1)[-1].rstrip(b"\r\n")
    try:
        raw = base64.b64decode(column, validate=True)
    except binascii.Error as error:
        raise ValueError("its last column is no base64") from error
    return decode(raw, size, channels), identity(raw)
