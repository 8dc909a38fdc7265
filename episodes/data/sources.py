"""Any data set as a ClassPool: a hub name, a folder, a parquet file, a table, arrays, or a zip or tar archive of a folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from episodes.data.arrays import stored_arrays
from episodes.data.cache import remembered
from episodes.data.folders import ImageFolder, holds_images, image_folder, is_image, stored_files
from episodes.data.hf import open_splits
from episodes.data.layout import is_split
from episodes.data.looking import completed_by_looking
from episodes.data.naming import say_of_names
from episodes.data.places import readable, user_path
from episodes.data.pool import ClassPool, gathered, grouped
from episodes.data.reading import Reading, Stored, decoded
from episodes.data.rows import stored_parts, stored_rows
from episodes.data.tables import TABLES, images_named, table_folder, table_of_vectors, tables_in
from episodes.data.telling import left_out, tell
from episodes.data.unpacking import is_archive, unpacked
from episodes.data.walking import files_below, stamps_of
from episodes.errors import UserError, listed, note, unknown

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def read(
    where: str, name: str, splits: Sequence[str] | None = None, reading: Reading | None = None, words: str = ""
) -> ClassPool:
    """Reads a data set into one pool. What is left out (rows without a label, files that are no images) is said as a warning.

    Arguments:
        where: a folder, a file, or a hub name.
        name: qualifies the class names: "name/label".
        splits: the data set's splits to pool; None: all.
        words: what to call the pool in messages; empty: its name.

    Raises:
        UserError: nothing can be read there, a column is unknown or unfit, a split is empty or missing, an image is damaged.
    """
    with readable(where):
        stored = _stored(where, splits, reading or Reading())
        return pool_of(stored, name, reading or Reading(), where, words or name)


def pool_of(stored: Stored, name: str, reading: Reading, where: str, words: str) -> ClassPool:
    """The pool of what is stored. Arguments and errors as `read`."""
    say_of_names(stored.names, where)
    names = [f"{name}/{label}" for label in stored.names]
    if stored.vectors is not None:
        _refuse_sizes(reading, where)
        pool, done = grouped(stored.labels, names, stored.vectors, words, stored.targets), reading
    else:
        done = completed_by_looking(stored, reading, where)
        pool = gathered(stored.labels, names, decoded(stored, done, where), words, stored.targets)
        if lost := sorted(set(names) - set(pool.names)):
            note(f"{where}: {len(lost)} classes are left out, as no image of theirs can be read: {listed(lost)}.")
    tell(pool, left_out(pool, stored), done.seen)
    return pool


def pool_of_dataset(
    dataset: "Dataset | DatasetDict",
    name: str = "dataset",
    image: str | None = None,
    label: str | None = None,
    size: int | None = None,
    channels: int | None = None,
) -> ClassPool:
    """The pool of a `datasets.Dataset`, or of all splits of a `DatasetDict`, that a program has at hand.

    Arguments:
        name: what to call it; it also qualifies the class names: "name/label".
        image, label: the columns; None: as `DataConfig` finds them.
        size, channels: of the images; None: as `DataConfig` finds them.

    Raises:
        UserError: a column is unknown or unfit, no row has a label, or images are damaged.
    """
    from datasets import Dataset

    reading = Reading(image, label, size, channels)
    parts = dict(dataset) if isinstance(dataset, dict) else {"train": dataset}
    if other := [type(part).__name__ for part in parts.values() if not isinstance(part, Dataset)]:
        raise UserError(f"{name} is a {other[0]}, and must be a datasets.Dataset or a DatasetDict, which have all rows.")
    return pool_of(stored_parts(parts, name, reading), name, reading, name, name)


def complete_reading(where: str, splits: Sequence[str] | None, reading: Reading) -> Reading:
    """The reading with all that a sample of the images says where it is left open. Errors as `read`."""
    with readable(where):
        return completed_by_looking(_stored(where, splits, reading), reading, where)


def splits_of(where: str, reading: Reading | None = None) -> list[str]:
    """The splits that a data set has. Errors as `read`."""
    asked = reading or Reading()
    with readable(where):
        source = source_identity(path) if (path := user_path(where)).exists() else where
        key = {"splits of": source, "columns": [asked.image, asked.label, asked.configuration]}
        return remembered(key, lambda: {"splits": _splits(where, asked)})["splits"]


def with_columns(reading: Reading, where: str, image: str, label: str) -> Reading:
    """The reading with the usual columns of a data set, where it leaves them open and is not of a folder of images."""
    with readable(where):
        place = _opened(where)
        columns = place is None or not (_kind(place) or _folder_at(where, place, reading))
        own = (image, label) if columns else (None, None)
        return replace(reading, image=reading.image or own[0], label=reading.label or own[1])


def tables_of(where: str, reading: Reading) -> tuple[str, list[Path]]:
    """Where the rows of a data set lie, and the tables in which they stand; none: the `datasets` library reads them.

    Raises:
        UserError: it has no columns.
    """
    with readable(where):
        if (place := _opened(where)) is None:
            return where, []
        folder = place.is_dir() and holds_images(place)
        tables = (
            [place] if _kind(place) == "table" else [place / own for own in tables_in(place, reading.label)] if folder else []
        )
        if _kind(place) == "arrays" or (folder and not tables):
            raise UserError(f"{where} has no columns. List the classes of the meta-splits in a file: --data.split FILE.")
        return str(place), tables


def source_identity(where: Path) -> list:
    """What tells one state of a folder or file from another: its place, and the name, bytes and time of each file in it.

    Of a table the images that it names count too.
    """
    stamps = stamps_of(where, [Path()] if where.is_file() else files_below(where))
    named = stamps_of(where.parent, images_named(where)) if _kind(where) == "table" else []
    return [str(where.resolve()), *stamps, *named]


def _splits(where: str, reading: Reading) -> list[str]:
    if (place := _opened(where)) is None:
        return list(open_splits(where, None, reading.configuration))
    if _kind(place) == "arrays" or (_kind(place) == "table" and not images_named(place)):
        return ["train"]
    folder = _folder_at(where, place, reading)
    return list(folder.splits) if folder is not None else list(open_splits(str(place), None, reading.configuration, where))


def _stored(where: str, splits: Sequence[str] | None, reading: Reading) -> Stored:
    if (place := _opened(where)) is None:
        return stored_rows(where, splits, reading)
    if (kind := _kind(place)) == "arrays":
        return _whole(stored_arrays(place, reading), splits, where)
    if kind == "table" and reading.image is None and not images_named(place):
        return _whole(table_of_vectors(place, reading), splits, where)
    if (folder := _folder_at(where, place, reading)) is None:
        return stored_rows(str(place), splits, reading, where)
    if reading.configuration is not None:
        raise UserError(f"--data.configuration means nothing for {where}, which is one data set; leave it out.")
    return stored_files(folder, where, splits)


def _kind(path: Path) -> Literal["arrays", "table", ""]:
    """Whether a path is that of a file with arrays, or of a table."""
    if not path.is_file():
        return ""
    return "arrays" if path.suffix.lower() == ".npz" else "table" if path.suffix.lower() in TABLES else ""


def _whole(stored: Stored, splits: Sequence[str] | None, where: str) -> Stored:
    """What has no splits: all is "train"."""
    for split in splits or ():
        if split != "train":
            raise unknown(f"split of {where}", split, ["train"])
    return stored


def _folder_at(where: str, place: Path, reading: Reading) -> ImageFolder | None:
    """The images that are meant, by the tables beside them or else by their folders; None: the `datasets` library reads."""
    if _kind(place) == "table":
        return table_folder(place.parent, [Path(place.name)], reading, where)
    if not holds_images(place):
        return None
    if tables := tables_in(place, reading.label):
        return table_folder(place, tables, reading, where)
    if reading.targets:
        raise UserError(
            f"{where} holds folders of images, which have no columns of targets. Put a table beside them, metadata.csv, with "
            f"the columns file_name, label and {', '.join(reading.targets)}."
        )
    if column := reading.image or reading.label:
        ways = f"leave out --data.image and --data.label ({column})"
        raise UserError(f"{where} holds folders of images, which have no columns: {ways}.")
    return image_folder(place, where, descend=user_path(where).is_file())


def _opened(where: str) -> Path | None:
    """The place to read from: of an archive what was unpacked from it, and there the folder that holds all; a table, a
    file of arrays or another archive that lies in a folder alone; None: nothing is there, so it may be a name of the hub."""
    place = user_path(where)
    if not place.exists():
        return None
    if archive := place.is_file() and not _kind(place) and place.suffix.lower() not in (".parquet", ".arrow"):
        place = unpacked(place)
    while place.is_dir() and len(inside := [one for one in place.iterdir() if not one.name.startswith((".", "__MACOSX"))]) == 1:
        if inside[0].is_file() and is_archive(inside[0]):
            archive, place = True, unpacked(inside[0])
            continue
        if not _kind(inside[0]) and not (archive and inside[0].is_dir() and not _is_class(inside[0])):
            break
        place = inside[0]
    if place.is_dir() and archive and not files_below(place):
        raise UserError(f"{where} holds no files. It should hold a folder of images for each class.")
    if place.is_dir() and (inside := list(place.iterdir())) and all(file.suffix.lower() == ".zip" for file in inside):
        raise UserError(f"{where} holds {len(inside)} archives and nothing else. Unpack them, or give one of them.")
    return place


def _is_class(folder: Path) -> bool:
    """Whether a folder has images of its own and no table of what they are, or is one of the splits."""
    files = [Path(file.name) for file in folder.iterdir() if file.is_file()]
    named = any(file.suffix.lower() in TABLES for file in files)
    return is_split(folder.name) or (any(map(is_image, files)) and not named)


def _refuse_sizes(reading: Reading, where: str) -> None:
    for option in ("size", "channels"):
        if getattr(reading, option) is not None:
            raise UserError(f"--data.{option} means nothing for {where}, whose rows are vectors; leave it out.")
