"""Folders of images: a sub-folder for each class, by itself or in a folder for each split. Names of files say nothing."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from episodes.data.hf import is_saved
from episodes.data.layout import check_splits, class_folders, is_split, split_level, without
from episodes.data.reading import Stored, StoredImage
from episodes.data.walking import files_below
from episodes.errors import UserError, listed, note, unknown

FORMATS = ".avif .bmp .dib .gif .icns .ico .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pcx .pgm .png .pnm .ppm .tga .tif .tiff .webp"
SUFFIXES = frozenset(FORMATS.split())
"""The names of files that are taken for images end with one of these."""
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx")
"""Files that may say which image is of which class."""
TABLE = "Or put a table metadata.csv beside the images, with the columns file_name (paths from its folder on) and label."


@dataclass(frozen=True)
class ImageFolder:
    """What lies in a folder of images."""

    root: Path
    splits: dict[str, dict[str, list[Path]]]
    """Split -> class -> its images, relative to `root`, in the order of their names. Without splits: "train"."""
    notes: tuple[str, ...]
    """Sentences on what was taken for what, and what was left out."""
    left_out: int = 0
    """Files, or rows of tables, that are left out."""
    targets: dict[str, dict[str, list[np.ndarray]]] | None = None
    """Split -> class -> what is to be told of its images in regression, (Y,) float32 each, in their order."""


def holds_images(folder: Path) -> bool:
    """Whether a folder is to be read here: it has images, and no parquet or arrow files."""
    if not folder.is_dir() or is_saved(folder):
        return False
    files = files_below(folder)
    return not any(file.suffix in (".parquet", ".arrow") for file in files) and any(map(is_image, files))


def image_folder(folder: Path, words: str, descend: bool = False) -> ImageFolder:
    """The splits, classes and images of a folder.

    Arguments:
        words: what to call the folder in messages.
        descend: where all lies in one sub-folder, as in an archive of a folder, that is looked into.

    Raises:
        UserError: there are no folders of images where they are expected; says what would work.
        OSError: a folder cannot be read.
    """
    files = files_below(folder)
    images = [file for file in files if is_image(file)]
    while descend and len({file.parts[0] for file in images}) == 1 and all(len(file.parts) > 2 for file in images):
        if is_split(inner := images[0].parts[0]):
            break
        folder, files = folder / inner, [Path(*file.parts[1:]) for file in files if file.parts[0] == inner]
        images = [file for file in files if is_image(file)]
    inside = [file for file in images if len(file.parts) > 1]
    classes = class_folders(inside)
    level = split_level(classes)
    if level is None:
        _check_layout(words, files, inside, classes)
    found: dict[str, dict[str, list[Path]]] = {}
    for file, own in zip(inside, classes, strict=True):
        name = "train" if level is None else own.parts[level].lower()
        found.setdefault(name, {}).setdefault(without(own, level).as_posix(), []).append(file)
    notes = _notes(folder, words, files, inside, classes, level)
    return ImageFolder(folder, found, notes, len(files) - len(inside))


def stored_files(folder: ImageFolder, words: str, splits: Sequence[str] | None) -> Stored:
    """The images of some splits (None: all). What was left out is said, as warnings.

    Raises:
        UserError: there is no such split, or a class has no image.
    """
    for split in splits or ():
        if split not in folder.splits:
            raise unknown(f"split of {words}", split, folder.splits)
    for sentence in folder.notes:
        note(sentence)
    parts = [folder.splits[split] for split in splits or folder.splits]
    names = sorted(set().union(*parts))
    code = {name: i for i, name in enumerate(names)}
    labels = [code[name] for part in parts for name, files in part.items() for _ in files]
    images = [file for part in parts for files in part.values() for file in files]
    at, told = partial(_images, folder.root, images), None
    if folder.targets is not None:
        rows = [row for split in splits or folder.splits for own in folder.targets[split].values() for row in own]
        told = np.stack(rows) if rows else None
    return Stored(np.array(labels, dtype=np.int64), names, at, left_out=folder.left_out, targets=told)


def _images(root: Path, files: list[Path], places: np.ndarray) -> Iterator[StoredImage]:
    for place in places:
        yield str(files[place]), {"bytes": None, "path": str(root / files[place])}


def is_image(file: Path) -> bool:
    """Whether a file, relative to the folder of the data, is taken for an image."""
    return file.suffix.lower() in SUFFIXES and not _is_hidden(file)


def _is_hidden(file: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in file.parts)


def _reasons(folder: Path, left: Sequence[Path]) -> str:
    """How many files are left out for which reason; a file that is no image has the ending of none."""
    counts = Counter(_reason(folder, file) for file in left)
    return listed([f"{count} {reason}" for reason, count in counts.most_common()])


def _reason(folder: Path, file: Path) -> str:
    if _is_hidden(file):
        return "hidden"
    if is_image(file):
        return "in no folder of a class"
    if not (folder / file).exists():
        return "links to nothing"
    return file.suffix.lower() or "without an ending"


def _check_layout(words: str, files: list[Path], inside: list[Path], classes: list[Path]) -> None:
    """Raises `UserError` where the images lie in no folders, some folders alone seem to be splits, or a table has labels."""
    table = next((str(file) for file in files if len(file.parts) == 1 and file.suffix.lower() in TABLES), None)
    if not inside:
        what = f"{len([file for file in files if is_image(file)])} images but no folders"
        raise UserError(f"{words} has {what}: each class needs a sub-folder with its images. {TABLE}")
    check_splits(classes, words)
    if table is not None and len({file.parts[0] for file in inside}) == 1:
        raise UserError(
            f"{words} has one folder of images, {inside[0].parts[0]}, and the table {table}, which is not read: each class "
            f"needs a sub-folder with its images. {TABLE}"
        )


def _notes(
    folder: Path, words: str, files: list[Path], inside: list[Path], classes: list[Path], level: int | None
) -> tuple[str, ...]:
    notes = []
    if level is not None:
        splits = sorted({own.parts[level] for own in classes})
        notes.append(
            f"{words}: the folders {', '.join(splits)} are taken for splits, and the folders "
            f"{'in them' if level != -1 else 'that they are in'} for classes: all of them are pooled."
        )
    if deeper := [(file, own) for file, own in zip(inside, classes, strict=True) if file.parent != own]:
        notes.append(
            f"{words}: {len(deeper)} images lie in sub-folders of a folder that has images of its own, and belong to its "
            f"class: {deeper[0][0]} to {without(deeper[0][1], level)}."
        )
    taken = set(inside)
    if left := [file for file in files if file not in taken]:
        ways = "files that are no images" if not any(map(is_image, left)) else "files that are no images of a class"
        notes.append(f"{words}: {len(left)} {ways} are left out, such as {left[0]} (in all {_reasons(folder, left)}).")
    tops = {file.parts[0] for file in inside}
    if empty := sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name not in tops):
        notes.append(f"{words}: {len(empty)} folders without an image are left out: {listed(empty)}.")
    return tuple(notes)
