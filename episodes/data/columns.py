"""Which columns of a Hugging Face data set hold the images, or vectors, and their labels, and what the labels are."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episodes.errors import UserError, listed, note, unknown

if TYPE_CHECKING:
    from datasets import Dataset

LABEL_NAMES = re.compile(r"(class|category|label|target)(es|s|_?id|_?name|_?label)?", re.IGNORECASE)
FLOATS = {"float16", "float32", "float64", "float", "double"}
CATEGORICAL = {"bool", "string", "large_string", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
ROW_NAMES = re.compile(r"(unnamed.*|__index_level.*|.*[_ ]?id|index|idx|row|no|nr|num|number|#)?", re.IGNORECASE)
"""Columns that may do no more than count the rows."""

TOGETHER = 4096
"""Vectors that are converted together."""
NUMBER = re.compile(r"u?int\d+|float\d+|bool")


def kind_of(feature: object) -> Literal["image", "pixels", "vector"] | None:
    """What a column holds: image files, arrays of pixels, or rows of numbers; None: none of these."""
    from datasets import Array2D, Array3D, Image, LargeList, List, Value

    if isinstance(feature, Image) or feature == Value("binary") or feature == Value("large_binary"):
        return "image"
    if isinstance(feature, dict) and feature.get("bytes") == Value("binary"):
        return "image"
    if isinstance(feature, Array2D | Array3D):
        return "pixels"
    depth = 0
    while isinstance(feature, List | LargeList):
        feature, depth = feature.feature, depth + 1
    if not isinstance(feature, Value) or not NUMBER.match(feature.dtype):
        return None
    return {1: "vector", 2: "pixels", 3: "pixels"}.get(depth)  # type: ignore[return-value]


def image_column(features: "Mapping[str, Any]", asked: str | None) -> str:
    """The column to take inputs from: the asked one, or the only one of images, else of arrays of pixels, else of vectors."""
    kinds = {column: kind_of(feature) for column, feature in features.items()}
    found = next((own for kind in ("image", "pixels", "vector") if (own := [c for c in kinds if kinds[c] == kind])), [])
    return _column("image", features, asked, found, "columns of the feature type Image, of pixels or of vectors")


def label_column(features: "Mapping[str, Any]", asked: str | None) -> str:
    """The column to take labels from: the asked one, the only `ClassLabel`, or the only one that is named like a label."""
    from datasets import ClassLabel

    found = [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
    fit = [column for column, kind in features.items() if getattr(kind, "dtype", None) in CATEGORICAL]
    floats = [
        column for column, kind in features.items() if getattr(kind, "dtype", None) in FLOATS
    ]  # whole, where one is missing
    found = found or [column for column in fit if LABEL_NAMES.fullmatch(column)]
    found = found or [column for column in floats if LABEL_NAMES.fullmatch(column)]
    wanted = "ClassLabel columns, nor integer or text columns with a name like 'label'"
    column = _column("label", features, asked, found, wanted)
    if column not in fit + floats:
        raise UserError(
            f"Label column {column!r} is not categorical: it holds {getattr(features[column], 'dtype', features[column])}. "
            "A label is a ClassLabel, an integer or a text. "
            f"Choose another with --data.label; there is: {', '.join(fit) or 'none'}."
        )
    return column


def _column(role: str, features: "Mapping[str, Any]", asked: str | None, found: list[str], wanted: str) -> str:
    if asked is not None:
        if asked not in features:
            raise unknown(f"{role} column", asked, features)
        return asked
    if len(found) != 1:
        which = f"several {role} columns: {', '.join(found)}" if found else f"no {wanted}, in {', '.join(features)}"
        raise UserError(f"The data set has {which}. Choose one with --data.{role}.")
    return found[0]


def labelled_rows(parts: "dict[str, Dataset]", column: str, where: str) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """(the labelled rows of each split, the class (I,) of each of them in order, the classes' names).

    A class is its name, whichever number it has in a split. Rows without a label, and splits without the column, are left out,
    with a note.

    Raises:
        UserError: no row has a label, or the labels of one split are names and those of another numbers.
    """
    rows, values, order = dict[str, np.ndarray](), list[str | int](), dict[str | int, None]()
    for split, part in parts.items():
        labels, own = _labels(part, column)
        rows[split] = np.flatnonzero([label is not None for label in labels])
        if left_out := part.num_rows - len(rows[split]):
            note(f"{left_out} rows of split {split!r} have no label in {column!r} and are left out.")
        values += (given := [label for label in labels if label is not None])
        order |= dict.fromkeys(own)
        if given and isinstance(given[0], str) is not isinstance(values[0], str):
            raise UserError(
                f"Column {column!r} of split {split!r} of {where} holds {_words(part, column)}, that of the splits before it "
                f"{'names' if isinstance(values[0], str) else 'numbers'}: the same class cannot be known again. Write the "
                "labels alike."
            )
    if not values:
        raise UserError(f"No row of {where} has a label in {column!r}. Choose another column with --data.label.")
    there = set(values)
    classes = [name for name in order if name in there] + sorted(there - set(order))
    code = {label: i for i, label in enumerate(classes)}
    return rows, np.array([code[value] for value in values], dtype=np.int64), [str(label) for label in classes]


def _labels(part: "Dataset", column: str) -> tuple[list[str | int | None], list[str]]:
    """The label of each row, and the names of a `ClassLabel` in their order."""
    if column not in part.features:
        return [None] * part.num_rows, []
    given = part.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    names = getattr(part.features[column], "names", None)
    if names is None:
        return [_plain(label, column) for label in given], []
    return [None if label is None or label < 0 else names[label] for label in given], names  # -1 stands for "not published"


def _plain(label: str | int | float | None, column: str) -> str | int | None:
    """A label without spaces around it; None: there is none. A whole number with a point is one without: columns of numbers
    with a gap are written so.

    Raises:
        UserError: it is a number that is not whole.
    """
    if isinstance(label, str):
        return label.strip() or None
    if not isinstance(label, float):
        return label
    if math.isnan(label):
        return None
    if not label.is_integer():
        raise UserError(
            f"Label column {column!r} is not categorical: it holds {label:g}. A label is a ClassLabel, a whole number or a "
            "text. Choose another with --data.label."
        )
    return int(label)


def _words(part: "Dataset", column: str) -> str:
    return f"{getattr(part.features[column], 'dtype', part.features[column])} labels"


def number_columns(features: "Mapping[str, Any]", label: str) -> list[str]:
    """The columns of single numbers, for a data set that has neither images, nor pixels, nor vectors in a column."""
    from datasets import ClassLabel, Value

    if any(kind_of(feature) for feature in features.values()):
        return []
    single = [column for column, kind in features.items() if isinstance(kind, Value) and not isinstance(kind, ClassLabel)]
    return [column for column in single if column != label and NUMBER.match(features[column].dtype)]


def counts_the_rows(name: str, numbers: np.ndarray) -> bool:
    """Whether a column, by its name too, says 0, 1, 2, ... or 1, 2, 3, ...: which row it is says nothing of what is in it."""
    counts = len(numbers) > 2 and numbers[0] in (0, 1) and bool((np.diff(numbers) == 1).all())
    return counts and ROW_NAMES.fullmatch(name) is not None


def stacked_numbers(parts: "dict[str, Dataset]", rows: dict[str, np.ndarray], columns: list[str], where: str) -> np.ndarray:
    """(I, F) float32: columns of single numbers, without those that count the rows.

    Raises:
        UserError: a number is missing or not finite.
    """
    tables = [part.select_columns(columns).with_format("arrow")[:] for part in parts.values()]
    plain = {name: [table[name].to_numpy().astype(np.float32) for table in tables] for name in columns}
    kept = [name for name, own in plain.items() if not all(counts_the_rows(name, numbers) for numbers in own)]
    if out := [name or "one without a name" for name in columns if name not in kept]:
        note(f"{where}: columns that only count the rows are left out: {listed(out)}.")
    found = []
    for i, split in enumerate(parts):
        found.append(
            np.stack([plain[name][i] for name in kept], axis=1)[rows[split]] if kept else np.empty((len(rows[split]), 0))
        )
        if (wrong := ~np.isfinite(found[-1]).all(axis=1)).any():
            raise UserError(
                f"{int(wrong.sum())} rows of split {split!r} of {where} lack a finite number, such as row "
                f"{rows[split][int(wrong.argmax())]}. Fill them in, or leave them out."
            )
    return np.concatenate(found)


def with_targets(
    parts: "dict[str, Dataset]", rows: dict[str, np.ndarray], labels: np.ndarray, columns: Sequence[str], where: str
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """(the rows of each split that have a number in each of some columns, the labels of these, the numbers (I, Y) float32).

    Others are left out, with a note.

    Raises:
        UserError: a split has no such column, or it is not one of numbers.
    """
    import pyarrow as pa

    found = list[np.ndarray]()
    for split, part in parts.items():
        for column in columns:
            if column not in part.features:
                raise unknown(f"target column of split {split!r} of {where}", column, part.features)
        own = part.select(rows[split]).select_columns(list(columns)).with_format("arrow")[:]
        try:
            found.append(np.stack([own[column].cast(pa.float64()).to_numpy() for column in columns], axis=1))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(
                f"Not all of the targets {', '.join(columns)} of {where} are columns of numbers ({error}). Choose others."
            ) from error
    numbers = np.concatenate(found).astype(np.float32)
    kept = np.isfinite(numbers).all(axis=1)
    if not kept.all():
        note(f"{where}: {int((~kept).sum())} rows lack a number in {' or '.join(columns)} and are left out.")
    ends = np.cumsum([len(rows[split]) for split in parts])[:-1]
    rows = {split: rows[split][own] for split, own in zip(parts, np.split(kept, ends), strict=True)}
    return rows, labels[kept], numbers[kept]


def vectors_of(parts: "dict[str, Dataset]", rows: dict[str, np.ndarray], column: str, where: str) -> np.ndarray:
    """(I, F) float32: a column of rows of numbers, all equally long.

    Raises:
        UserError: they are not, or one is missing or not finite; says in which row.
    """
    import pyarrow.compute as pc

    found = list[np.ndarray]()
    for split, part in parts.items():
        own = part.select(rows[split]).select_columns([column]).with_format("arrow")
        for first, some in zip(range(0, len(own), TOGETHER), own.iter(TOGETHER), strict=True):
            lists = some[column].combine_chunks()
            lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
            width = found[0].shape[1] if found else lengths[0]
            wrong = (lengths != width) | (lengths == 0)
            if not wrong.any():
                found.append(pc.list_flatten(lists).to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width))
                wrong = ~np.isfinite(found[-1]).all(axis=1)
            if wrong.any():
                row = rows[split][first + int(wrong.argmax())]
                raise UserError(
                    f"Row {row} of split {split!r} of {where} has not as many finite numbers in {column!r} as the first. "
                    "Mend it, leave it out, or choose another column with --data.image."
                )
    return np.concatenate(found)
