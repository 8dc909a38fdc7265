"""Which columns of a Hugging Face data set hold the images and their labels."""

import re
from typing import TYPE_CHECKING

from episodes.errors import UserError, unknown

if TYPE_CHECKING:
    from datasets import Features

LABEL_NAMES = re.compile(r"(class|category|label|target)(es|s|_?id|_?name|_?label)?", re.IGNORECASE)
CATEGORICAL = {"bool", "string", "large_string", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


def image_column(features: "Features", asked: str | None) -> str:
    """The column to take images from: the asked one, or the only one of the feature type `Image`."""
    from datasets import Image

    found = [column for column, kind in features.items() if isinstance(kind, Image)]
    return _column("image", features, asked, found, "columns of the feature type Image")


def label_column(features: "Features", asked: str | None) -> str:
    """The column to take labels from: the asked one, the only `ClassLabel`, or the only one that is named like a label."""
    from datasets import ClassLabel

    found = [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
    fit = [column for column, kind in features.items() if getattr(kind, "dtype", None) in CATEGORICAL]
    found = found or [column for column in fit if LABEL_NAMES.fullmatch(column)]
    wanted = "ClassLabel columns, nor integer or text columns with a name like 'label'"
    column = _column("label", features, asked, found, wanted)
    if column not in fit:
        raise UserError(
            f"Label column {column!r} is not categorical: it holds {getattr(features[column], 'dtype', features[column])}. "
            "A label is a ClassLabel, an integer or a text. "
            f"Choose another with --data.label; there is: {', '.join(fit) or 'none'}."
        )
    return column


def _column(role: str, features: "Features", asked: str | None, found: list[str], wanted: str) -> str:
    if asked is not None:
        if asked not in features:
            raise unknown(f"{role} column", asked, features)
        return asked
    if len(found) != 1:
        which = f"several {role} columns: {', '.join(found)}" if found else f"no {wanted}, in {', '.join(features)}"
        raise UserError(f"The data set has {which}. Choose one with --data.{role}.")
    return found[0]
