"""Tables: of image files and their labels, beside the images; and of numbers with a label, whose rows are vectors."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from episodes.data.columns import LABEL_NAMES, counts_the_rows
from episodes.data.folders import ImageFolder, is_image
from episodes.data.layout import is_split
from episodes.data.reading import Reading, Stored
from episodes.data.table_file import LOOKED_AT, Table, names_image, read_table
from episodes.data.walking import files_below
from episodes.errors import UserError, listed, note, unknown

TABLES = (".csv", ".tsv", ".jsonl")
"""How the names of tables end."""
BESIDE = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
"""Tables that are read wherever they lie in a folder; the paths in them start where they lie."""
FILE_NAMES = ("file_name", "filename", "file", "path", "image", "image_path", "img")
"""Columns of image files, the first that is there."""


def tables_in(folder: Path, label: str | None = None) -> list[Path]:
    """The tables that say which image of a folder is of which class: `BESIDE`, else a single one without classes beside.

    Where images lie in folders of classes, a table counts only with a column that is named like a label, or `label`.
    """
    files = files_below(folder)
    tops = {file.parts[0] for file in files if is_image(file) and len(file.parts) > 1}
    if found := [file for file in files if file.name.lower() in BESIDE]:
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
    notes, taken, out = list[str](), set[str](), 0
    for place in tables:
        table = read_table(folder / place)
        file = _file_column(table, folder / place.parent, reading.image)
        label = _label_column(table, reading, file)
        which = place.parts[0].lower() if split else "train"
        part, numbers = found.setdefault(which, {}), told.setdefault(which, {})
        rows = list(zip(table.paths(file, folder / place.parent), table.labels(label), strict=True))
        targets = _targets(table, reading.targets)
        for (name, own), row in zip(rows, targets, strict=True):
            if name and own:
                image = place.parent / name
                taken.add(os.path.normpath(folder / image))
            if name and own and np.isfinite(row).all():
                part.setdefault(own, []).append(image)
                numbers.setdefault(own, []).append(row)
        if lacking := int((~np.isfinite(targets).all(axis=1)).sum()):
            notes.append(f"{table.file}: {lacking} rows lack a number in {' or '.join(reading.targets)} and are left out.")
            out += lacking
        if missing := sum(not (name and own) for name, own in rows):
            notes.append(f"{table.file}: {missing} rows have no {file} or no {label} and are left out.")
            out += missing
    if left := [file for file in files_below(folder) if is_image(file) and os.path.normpath(folder / file) not in taken]:
        notes.append(f"{words}: {len(left)} images that no table names are left out, such as {left[0]}.")
    return ImageFolder(folder, found, tuple(notes), out + len(left), told if reading.targets else None)


def images_named(file: Path) -> list[Path]:
    """The images that a table names, relative to its folder; none: it is one of numbers."""
    table = read_table(file)
    columns = _image_columns(table, file.parent)
    return sorted({Path(value) for name in columns for value in table.paths(name, file.parent) if value})


def column_of_table(file: Path, reading: Reading, column: str) -> list[tuple[str, str]]:
    """(label, value of a column) of each row that has a label.

    Raises:
        UserError: there is no such column, or it is not said which one has the labels.
    """
    table = read_table(file)
    if column not in table.columns:
        raise unknown(f"column of {file}", column, table.columns)
    images = [reading.image] if reading.image else _image_columns(table, file.parent)
    label = _label_column(table, reading, images[0] if images else None)
    return [(own, value) for own, value in zip(table.labels(label), table.values(column), strict=True) if own]


def table_of_vectors(file: Path, reading: Reading) -> Stored:
    """The rows of a table of numbers with a label.

    Raises:
        UserError: it has no numbers, does not say which column has the labels, or a number is missing.
    """
    table = read_table(file)
    label = _label_column(table, reading, None)
    columns = [column for column in table.columns if column not in (label, *reading.apart)]
    found = {column: own for column in columns if (own := table.numbers(column)) is not None}
    numbers = {column: own for column, own in found.items() if not counts_the_rows(column, own)}
    shown = {column: f"{column or 'one without a name'} (such as {table.columns[column][0].as_py()!r})" for column in columns}
    if not numbers:
        raise UserError(
            f"{file} has neither a column of image files that are there, nor one of numbers. Beside {label} it has "
            f"{listed(list(shown.values())) or 'none'}. The paths of images start at the folder of the table and have their "
            "ending, as cat/1.png; --data.image names their column. Numbers have a decimal point."
        )
    if other := [shown[column] for column in columns if column not in found]:
        note(f"{file}: columns that are no numbers are left out: {listed(other)}.")
    if rows := [shown[column] for column in found if column not in numbers]:
        note(f"{file}: columns that only count the rows are left out: {listed(rows)}.")
    if beside := [own for own in files_below(file.parent) if is_image(own)]:
        note(f"{file} names none of the {len(beside)} images that lie beside it, such as {beside[0]}, and is read as numbers.")
    x, labels = np.stack([*numbers.values()], axis=1), table.labels(label)
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
    return [name for name in looked if any(names_image(folder, value) for value in table.columns[name][:LOOKED_AT].to_pylist())]


def _label_column(table: Table, reading: Reading, file: str | None) -> str:
    """The asked column, the only one with a name like label, or the only one beside the files."""
    asked = reading.label
    if asked is not None:
        if asked not in table.columns:
            raise unknown(f"label column of {table.file}", asked, table.columns)
        return _single(table, asked)
    others = [column for column in table.columns if column not in (file, *reading.apart)]
    named = [column for column in others if LABEL_NAMES.fullmatch(column)]
    found = named or (others if file is not None else [])
    if len(found) != 1:
        which = f"several columns that may be labels: {', '.join(found)}" if found else "no column with a name like label"
        raise UserError(f"{table.file} has {which}, in {', '.join(table.columns)}. Choose one with --data.label.")
    return _single(table, found[0])


def _single(table: Table, label: str) -> str:
    """A column of labels. Raises `UserError` where it holds lists or objects, which are no labels."""
    if label in table.nested:
        raise UserError(
            f"{table.file}: {label!r} holds lists or objects. A label is one text or number. Choose another column."
        )
    return label
