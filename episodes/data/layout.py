"""What the folders of images stand for: a class is the path of its folder, but for the part of it that names a split."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from episodes.errors import UserError, listed

SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing")
"""Folders that are splits, where each class lies in one of them at the same depth; capitals do not matter."""
PARTS: dict[str, str | tuple[str, ...]] = {"train": "train", "validation": ("val", "dev"), "test": "test"}
"""The meta-splits, and how the names of `SPLITS` begin that stand for them."""
DEEPEST = 4


def is_split(name: str) -> bool:
    return name.lower() in SPLITS


def meta_splits_of(pairs: Iterable[tuple[str, str]], column: str, where: str) -> dict[str, str]:
    """Label -> "train", "validation" or "test", of (label, what a column says) of each row; no word says nothing.

    Raises:
        UserError: a word is none of `SPLITS`, or a class has rows in two.
    """
    given: dict[str, str] = {}
    for label, word in dict.fromkeys(pairs):
        if not word:
            continue
        if not is_split(word):
            raise UserError(
                f"The column {column} of {where} says {word!r} of class {label}. It should say train, validation or test of "
                "each row, or nothing."
            )
        part = next(part for part, first in PARTS.items() if word.lower().startswith(first))
        if given.setdefault(label, part) != part:
            raise UserError(
                f"The column {column} of {where} has rows of class {label} for {given[label]} and for {part}. A class is in "
                "one meta-split: what is tested is never trained on."
            )
    return given


def no_such_split(asked: str, where: str, columns: Iterable[str]) -> UserError:
    return UserError(
        f"data.split {asked} is neither three shares, as 60/20/20, nor hierarchy, nor a file that is there, nor a column of "
        f"{where}. Its columns are {listed(list(columns))}."
    )


def class_folders(files: Sequence[Path]) -> list[Path]:
    """For each image the topmost folder on the way to it that has images of its own: what lies below that belongs to it."""
    own = {file.parent for file in files}
    return [next(above for above in [*reversed(file.parents)][1:] if above in own) for file in files]


def split_level(classes: Iterable[Path]) -> int | None:
    """The place in the paths of all classes at which each has the name of a split; None: they are not in splits.

    Layouts: train/CLASS, images/train/CLASS, CLASS/train.
    """
    paths = {own.parts for own in classes}
    for level in (*range(DEEPEST), -1):
        if paths and all(len(own) > max(1, level) and is_split(own[level]) for own in paths):
            return level
    return None


def without(path: Path, level: int | None) -> Path:
    """The path of a class without the split in it."""
    return path if level is None else Path(*(part for i, part in enumerate(path.parts) if i != level % len(path.parts)))


def check_splits(classes: Iterable[Path], words: str) -> None:
    """Raises `UserError` where some classes seem to lie in splits, and not all do: one class would be two.

    Arguments:
        words: what to call the folder of the data.
    """
    paths = sorted({own.parts for own in classes})
    tops = {own[0] for own in paths}
    direct, nested = ({own[0] for own in paths if (len(own) == 1) is single} for single in (True, False))
    mixed = [top for top in sorted(nested) if is_split(top) and (top not in direct or all(map(is_split, tops)))]
    seen: dict[tuple[str, ...], tuple[str, ...]] = {}
    twice = ""
    for own in paths:
        rest = tuple(part for part in own if not is_split(part))
        if rest and len(rest) < len(own) and seen.setdefault(rest, own) != own:
            twice = f" {'/'.join(seen[rest])} and {'/'.join(own)} would be two classes."
    if mixed or twice:
        which = f"{mixed[0]} holds" if mixed else "some folders hold"
        raise UserError(
            f"{words}: {which} folders of images, as a split does, but not all that lies beside it or in it does.{twice} "
            "Either let all folders be classes, or let all be splits, named train, validation and test, with classes in them."
        )
