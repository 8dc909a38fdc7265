"""Tables: of image files and their labels, beside the images; and of numbers with a label, whose rows are vectors."""

import codecs
import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episodes.data.columns import LABEL_NAMES
from episodes.data.folders import SUFFIXES, ImageFolder, is_image
from episodes.data.layout import is_split, no_such_split
from episodes.data.reading import Reading, Stored, first_line
from episodes.data.walking import files_below
from episodes.errors import UserError, note, unknown

if TYPE_CHECKING:
    from pyarrow import ChunkedArray

TABLES = (".csv", ".tsv", ".jsonl")
"""How the names of tables end."""
BESIDE = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
"""Tables that are read wherever they lie in a folder; the paths in them start where they lie."""
HEADER = 1 << 20
"""Bytes in which the first line ends."""
FILE_NAMES = ("file_name", "filename", "file", "path", "image", "image_path", "img")
"""Columns of image files, the first that is there."""


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


def tables_in(folder: Path, label: str | None = None) -> list[Path]:
    """The tables that say which image of a folder is of which class: `BESIDE`, else a single one without classes beside.

    Where images lie in folders of classes, a table counts only with a column that is named like a label, or `label`.
    """
    files = files_below(folder)
    tops = {file.parts[0] for file in files if is_image(file) and len(file.parts) > 1}
    if found := [file for file in files if file.name in BESIDE]:
        named = [name for file in found for name in read_table(folder / file).columns if LABEL_NAMES.fullmatch(name)]
        return found if named or label is not None or len(tops) < 2 else []
    loose = [file for file in files if len(file.parts) == 1 and file.suffix.lower() in TABLES]
    return loose if len(loose) == 1 and len(tops) < 2 and _image_columns(read_table(folder / loose[0]), folder) else []


def table_folder(folder: Path, tables: Sequence[Path], reading: Reading, words: str) -> ImageFolder:
    """The images that tables name, as a folder of images.

    Arguments:
        tables: relative to the folder. Those in folders that are all named like splits are splits.
        words: what to call the folder in messages.

    Raises:
        UserError: a table cannot be read, or does not say which column has the files, or the labels.
    """
    split = all(len(table.parts) > 1 and is_split(table.parts[0]) for table in tables)
    found: dict[str, dict[str, list[Path]]] = {}
    told: dict[str, dict[str, list[np.ndarray]]] = {}
    notes, taken, out = list[str](), set[Path](), 0
    for place in tables:
        table = read_table(folder / place)
        file = _file_column(table, folder / place.parent, reading.image)
        label = _label_column(table, reading, file)
        which = place.parts[0].lower() if split else "train"
        part, numbers = found.setdefault(which, {}), told.setdefault(which, {})
        targets = _targets(table, reading.targets)
        for name, own, row in zip(table.values(file), table.values(label), targets, strict=True):
            if name and own:
                taken.add(image := place.parent / name)
            if name and own and np.isfinite(row).all():
                part.setdefault(own, []).append(image)
                numbers.setdefault(own, []).append(row)
        if lacking := int((~np.isfinite(targets).all(axis=1)).sum()):
            notes.append(f"{table.file}: {lacking} rows lack a number in {' or '.join(reading.targets)} and are left out.")
            out += lacking
        if missing := sum(not (a and b) for a, b in zip(table.values(file), table.values(label), strict=True)):
            notes.append(f"{table.file}: {missing} rows have no {file} or no {label} and are left out.")
            out += missing
    if left := [file for file in files_below(folder) if is_image(file) and file not in taken]:
        notes.append(f"{words}: {len(left)} images that no table names are left out, such as {left[0]}.")
    return ImageFolder(folder, found, tuple(notes), out + len(left), told if reading.targets else None)


def images_named(file: Path) -> list[Path]:
    """The images that a table names, relative to its folder; none: it is one of numbers."""
    table = read_table(file)
    return sorted({Path(value) for name in _image_columns(table, file.parent) for value in table.values(name) if value})


def table_of_vectors(file: Path, reading: Reading) -> Stored:
    """The rows of a table of numbers with a label.

    Raises:
        UserError: it has no numbers, does not say which column has the labels, or a number is missing.
    """
    table = read_table(file)
    label = _label_column(table, reading, None)
    columns = [column for column in table.columns if column not in (label, *reading.apart)]
    numbers = {column: own for column in columns if (own := table.numbers(column)) is not None}
    if not numbers:
        raise UserError(
            f"{file} has neither a column of image files that are there, nor one of numbers. Its columns are "
            f"{', '.join(table.columns)}. The paths of images start at the folder of the table; --data.image names theirs."
        )
    if other := [column for column in columns if column not in numbers]:
        note(f"{file}: columns that are no numbers are left out: {', '.join(other)}.")
    x, labels = np.stack([*numbers.values()], axis=1), table.values(label)
    kept = np.array([own != "" for own in labels])
    if not kept.all():
        note(f"{file}: {int((~kept).sum())} rows have no {label} and are left out.")
    targets = _targets(table, reading.targets)
    if (lacking := kept & ~np.isfinite(targets).all(axis=1)).any():
        note(f"{file}: {int(lacking.sum())} rows lack a number in {' or '.join(reading.targets)} and are left out.")
        kept &= ~lacking
    if (wrong := kept & ~np.isfinite(x).all(axis=1)).any():
        raise UserError(
            f"{int(wrong.sum())} of {len(x)} rows of {file} lack a finite number, such as row {int(wrong.argmax()) + 1}. "
            "Fill them in, or leave them out."
        )
    labels = [own for own, there in zip(labels, kept, strict=True) if there]
    names = in_order(labels)
    code = {name: i for i, name in enumerate(names)}
    codes, told = np.array([code[own] for own in labels], dtype=np.int64), targets[kept] if reading.targets else None
    return Stored(codes, names, lambda places: iter(()), x[kept], int((~kept).sum()), told)


def _targets(table: Table, columns: Sequence[str]) -> np.ndarray:
    """(I, Y) float32: columns of numbers, a missing one as NaN. Raises `UserError` where a column is none, or is not there."""
    found = [np.empty((len(next(iter(table.columns.values()))), 0), dtype=np.float32)]
    for column in columns:
        if column not in table.columns:
            raise unknown(f"target column of {table.file}", column, table.columns)
        if (numbers := table.numbers(column)) is None:
            raise UserError(
                f"Column {column} of {table.file} has values that are no numbers. A target is a number: choose another."
            )
        found.append(numbers[:, None])
    return np.concatenate(found, axis=1)


def in_order(labels: Iterable[str]) -> list[str]:
    """Each label once: numbers by their value, else by their letters."""
    names = set(labels)
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


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


def _file_column(table: Table, folder: Path, asked: str | None) -> str:
    if asked is not None:
        if asked not in table.columns:
            raise unknown(f"image column of {table.file}", asked, table.columns)
        return asked
    found = _image_columns(table, folder)
    if not found:
        raise UserError(
            f"No column of {table.file} names images that are there: the columns are {', '.join(table.columns)}, and paths "
            f"start at {folder}. --data.image names the column of the files, which are paths such as cat/1.png."
        )
    return found[0]


def _image_columns(table: Table, folder: Path) -> list[str]:
    """The columns whose values are images that are there, those with a usual name first."""
    usual = [name for name in FILE_NAMES if name in table.columns]
    looked = [*usual, *(name for name in table.columns if name not in usual)]
    return [name for name in looked if any(_is_there(folder, value) for value in table.columns[name][:100].to_pylist())]


def _is_there(folder: Path, name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and (folder / name).is_file()


def labels_and(tables: Sequence[Path], folder: Path, reading: Reading, column: str) -> list[tuple[str, str]]:
    """(label, value of a column) of the rows of some tables, relative to a folder, that have a label.

    Raises:
        UserError: a table has no such column, or does not say which has the labels.
    """
    found = list[tuple[str, str]]()
    for place in tables:
        table = read_table(folder / place)
        if column not in table.columns:
            raise no_such_split(column, str(table.file), table.columns)
        of_images = reading.image is not None or bool(_image_columns(table, folder / place.parent))
        file = _file_column(table, folder / place.parent, reading.image) if of_images else None
        label = _label_column(table, reading, file)
        found += [(own, value) for own, value in zip(table.values(label), table.values(column), strict=True) if own]
    return found


def _label_column(table: Table, reading: Reading, file: str | None) -> str:
    """The asked column, the only one with a name like label, or the only one beside the files."""
    asked = reading.label
    if asked is not None:
        if asked not in table.columns:
            raise unknown(f"label column of {table.file}", asked, table.columns)
        return asked
    others = [column for column in table.columns if column not in (file, *reading.apart)]
    named = [column for column in others if LABEL_NAMES.fullmatch(column)]
    found = named or (others if file is not None else [])
    if len(found) != 1:
        which = f"several columns that may be labels: {', '.join(found)}" if found else "no column with a name like label"
        raise UserError(f"{table.file} has {which}, in {', '.join(table.columns)}. Choose one with --data.label.")
    return found[0]
