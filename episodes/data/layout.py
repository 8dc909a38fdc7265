"""What the folders of images stand for: a class is the path of its folder, but for the part of it that names a split."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from episodes.errors import UserError

SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing")
"""Folders that are splits, where each class lies in one of them at the same depth; capitals do not matter."""
DEEPEST = 4


def is_split(name: str) -> bool:
    return name.lower() in SPLITS


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
            "Either let all folders be classes, or let all be splits, named train, validation and test, with classes in them; "
            f"or give one of them alone{f', as {words}/{mixed[0]}' if mixed else ''}."
        )
