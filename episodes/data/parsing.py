"""From the bytes of a table to its columns of text."""

import codecs
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episodes.data.folders import SUFFIXES
from episodes.data.reading import first_line
from episodes.errors import UserError

if TYPE_CHECKING:
    from pyarrow import ChunkedArray

HEADER = 1 << 20
"""Bytes in which the first line ends."""


@dataclass(frozen=True)
class Table:
    """What a table says: columns of text, kept by Arrow, as there may be many."""

    file: Path
    columns: "dict[str, ChunkedArray]"

    def values(self, column: str) -> list[str]:
        return self.columns[column].to_pylist()

    def numbers(self, column: str) -> np.ndarray | None:
        """(I,) float32: the values as numbers, a missing one as NaN; None: one is no number."""
        import pyarrow as pa
        import pyarrow.compute as pc

        text = self.columns[column]
        try:
            numbers = pc.if_else(pc.equal(text, ""), None, text).cast(pa.float64())
        except pa.ArrowInvalid:
            return None
        return numbers.to_numpy().astype(np.float32)


def read_table(file: Path) -> Table:
    """A table of comma-, semicolon- or tab-separated values, its columns named in the first line, or of JSON lines.

    A first line that names an image is taken for a row; the columns are then called 1, 2, ...

    Raises:
        UserError: it is empty, no text in UTF-8, or a line has more or fewer values than there are columns.
    """
    import pyarrow as pa

    try:
        data = file.read_bytes().removeprefix(codecs.BOM_UTF8)
        columns = _lines(file, data) if file.suffix.lower() == ".jsonl" else _separated(file, data)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{file} cannot be read as a table ({first_line(error)}). Store it as UTF-8, its columns named in line 1, with as "
            "many values in each line."
        ) from error
    if not columns or not len(next(iter(columns.values()))):
        raise UserError(f"{file} has no rows. Line 1 names the columns; each further line is an example.")
    return Table(file, columns)


def _separated(file: Path, data: bytes) -> "dict[str, ChunkedArray]":
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    lines = io.StringIO(data[:HEADER].decode("utf-8", "ignore"), newline="")
    first = next((line for line in lines if line.strip()), "")
    separator = max(",;\t", key=first.count) if file.suffix.lower() != ".tsv" else "\t"
    header = [name.strip() for name in next(csv.reader([first], delimiter=separator, strict=True), [])]
    data.decode("utf-8")
    if not header:
        return {}
    bare = any(Path(name).suffix.lower() in SUFFIXES for name in header)
    names = [str(i + 1) for i in range(len(header))] if bare else header
    if len(set(names)) < len(names):
        raise UserError(f"{file} names a column twice in line 1: {', '.join(names)}. Give each another name.")
    rows = data[len(data) - len(data.lstrip()) :]
    if not bare and not rows[len(first.encode()) :].strip():
        return {}
    options = ReadOptions(column_names=names, skip_rows=0 if bare else 1)
    kinds = ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    parsing = ParseOptions(delimiter=separator, newlines_in_values=True)
    table = read_csv(io.BytesIO(rows), options, parsing, kinds)
    return {name: pc.utf8_trim_whitespace(table[name]) for name in names}


def _lines(file: Path, data: bytes) -> "dict[str, ChunkedArray]":
    import pyarrow as pa

    rows = [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{file}: each line must be an object, such as {{'file_name': '1.png', 'label': 'cat'}}.")
    names = dict.fromkeys(str(name) for row in rows for name in row)
    text = {name: ["" if (own := row.get(name)) is None else str(own) for row in rows] for name in names}
    return {name: pa.chunked_array([own], pa.string()) for name, own in text.items()}
