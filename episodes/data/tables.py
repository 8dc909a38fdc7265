"""Tables: of image files and their labels, beside the images; and of numbers with a label, whose rows are vectors."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from episodes.data.columns import LABEL_NAMES
from episodes.data.folders import SPLITS, SUFFIXES, ImageFolder, is_image
from episodes.data.reading import Reading, Stored
from episodes.data.walking import files_below
from episodes.errors import UserError, note, unknown

TABLES = (".csv", ".tsv", ".jsonl")
"""How the names of tables end."""
BESIDE = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
"""Tables that are read wherever they lie in a folder; the paths in them start where they lie."""
FILE_NAMES = ("file_name", "filename", "file", "path", "image", "image_path", "img")
"""Columns of image files, the first that is there."""


@dataclass(frozen=True)
class Table:
    """What a table says, as text."""

    file: Path
    rows: tuple[dict[str, str], ...]

    @cached_property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def values(self, column: str) -> list[str]:
        return [row.get(column, "") for row in self.rows]


def read_table(file: Path) -> Table:
    """A table of comma-, semicolon- or tab-separated values, its columns named in the first line, or of JSON lines.

    A first line that names an image is taken for a row; the columns are then called 1, 2, ...

    Raises:
        UserError: it is empty, no text in UTF-8, or a line has more or fewer values than there are columns.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = _lines(file, text) if file.suffix.lower() == ".jsonl" else _separated(file, text)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise UserError(
            f"{file} cannot be read as a table ({error}). Store it as UTF-8, with its columns in line 1."
        ) from error
    if not rows:
        raise UserError(f"{file} has no rows. Line 1 names the columns; each further line is an example.")
    return Table(file, tuple(rows))


def tables_in(folder: Path) -> list[Path]:
    """The tables that say which image of a folder is of which class: `BESIDE`, else a single one without classes beside."""
    files = files_below(folder)
    if found := [file for file in files if file.name in BESIDE]:
        return found
    loose = [file for file in files if len(file.parts) == 1 and file.suffix.lower() in TABLES]
    tops = {file.parts[0] for file in files if is_image(file) and len(file.parts) > 1}
    return loose if len(loose) == 1 and len(tops) < 2 and _image_columns(read_table(folder / loose[0]), folder) else []


def table_folder(folder: Path, tables: Sequence[Path], reading: Reading, words: str) -> ImageFolder:
    """The images that tables name, as a folder of images.

    Arguments:
        tables: relative to the folder. Those in folders that are all named like splits are splits.
        words: what to call the folder in messages.

    Raises:
        UserError: a table cannot be read, or does not say which column has the files, or the labels.
    """
    tops = [table.parts[0] for table in tables]
    split = all(len(table.parts) > 1 for table in tables) and set(tops) <= set(SPLITS)
    found: dict[str, dict[str, list[Path]]] = {}
    notes, taken, out = list[str](), set[Path](), 0
    for place in tables:
        table = read_table(folder / place)
        file = _file_column(table, folder / place.parent, reading.image)
        label = _label_column(table, reading.label, file)
        part = found.setdefault(place.parts[0] if split else "train", {})
        for name, own in zip(table.values(file), table.values(label), strict=True):
            if name and own:
                taken.add(image := place.parent / name)
                part.setdefault(own, []).append(image)
        if missing := sum(not (row.get(file) and row.get(label)) for row in table.rows):
            notes.append(f"{table.file}: {missing} rows have no {file} or no {label} and are left out.")
            out += missing
    if left := [file for file in files_below(folder) if is_image(file) and file not in taken]:
        notes.append(f"{words}: {len(left)} images that no table names are left out, such as {left[0]}.")
    return ImageFolder(folder, found, tuple(notes), out + len(left))


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
    label = _label_column(table, reading.label, None)
    columns = [column for column in table.columns if column != label]
    numbers = {column: own for column in columns if (own := _numbers(table.values(column))) is not None}
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
    if (wrong := kept & ~np.isfinite(x).all(axis=1)).any():
        raise UserError(
            f"{int(wrong.sum())} of {len(x)} rows of {file} lack a finite number, such as row {int(wrong.argmax()) + 1}. "
            "Fill them in, or leave them out."
        )
    names = in_order(own for own in labels if own)
    code = {name: i for i, name in enumerate(names)}
    codes = np.array([code[own] for own in labels if own], dtype=np.int64)
    return Stored(codes, names, lambda places: iter(()), x[kept].astype(np.float32), int((~kept).sum()))


def in_order(labels) -> list[str]:
    """Each label once: numbers by their value, else by their letters."""
    names = set(labels)
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


def _separated(file: Path, text: str) -> list[dict[str, str]]:
    lines = text.splitlines()
    first = lines[0] if lines else ""
    separator = max(",;\t", key=first.count) if file.suffix.lower() != ".tsv" else "\t"
    rows = [row for row in csv.reader(lines, delimiter=separator, strict=True) if row]
    if not rows:
        return []
    header = [name.strip() for name in rows[0]]
    if any(Path(name).suffix.lower() in SUFFIXES for name in header):
        header, rows = [str(i + 1) for i in range(len(header))], [[], *rows]
    if len(set(header)) < len(header):
        raise UserError(f"{file} names a column twice in line 1: {', '.join(header)}. Give each another name.")
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(header):
            raise UserError(f"{file}: row {number} has {len(row)} values, and there are {len(header)} columns. Mend the row.")
    return [dict(zip(header, (value.strip() for value in row), strict=True)) for row in rows[1:]]


def _lines(file: Path, text: str) -> list[dict[str, str]]:
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{file}: each line must be an object, such as {{'file_name': '1.png', 'label': 'cat'}}.")
    return [{str(name): "" if value is None else str(value) for name, value in row.items()} for row in rows]


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
    return [name for name in looked if any(_is_there(folder, value) for value in table.values(name)[:100])]


def _is_there(folder: Path, name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and (folder / name).is_file()


def _label_column(table: Table, asked: str | None, file: str | None) -> str:
    """The asked column, the only one with a name like label, or the only one beside the files."""
    if asked is not None:
        if asked not in table.columns:
            raise unknown(f"label column of {table.file}", asked, table.columns)
        return asked
    others = [column for column in table.columns if column != file]
    named = [column for column in others if LABEL_NAMES.fullmatch(column)]
    found = named or (others if file is not None else [])
    if len(found) != 1:
        which = f"several columns that may be labels: {', '.join(found)}" if found else "no column with a name like label"
        raise UserError(f"{table.file} has {which}, in {', '.join(table.columns)}. Choose one with --data.label.")
    return found[0]


def _numbers(values: list[str]) -> np.ndarray | None:
    """(I,) the values as numbers, a missing one as NaN; None: one is no number."""
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None
