"""Any image data set as a ClassPool: a hub name, a folder, a parquet file, or a zip or tar archive of a folder."""

import json
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from episodes.data.cache import building, remembered
from episodes.data.folders import files_below, holds_images, image_folder, stored_files
from episodes.data.hf import open_splits, stored_rows
from episodes.data.places import cache_folder, readable, user_path
from episodes.data.pool import ClassPool, digest_of, gathered
from episodes.data.reading import Reading, Stored, cause, decoded, found_shape
from episodes.errors import UserError, note


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
        shape = found_shape(stored) if reading is None or None in (reading.size, reading.channels) else (1, 1)
        done = _filled(reading or Reading(), *shape)
        assert done.size is not None and done.channels is not None
        images = decoded(stored, done.size, done.channels)
        return gathered(stored.labels, [f"{name}/{label}" for label in stored.names], images, words or name)


def complete_reading(where: str, splits: Sequence[str] | None, reading: Reading) -> Reading:
    """The reading with a size and channels, found from the first images where it leaves them open. Errors as `read`."""
    with readable(where):
        return _filled(reading, *found_shape(_stored(where, splits, reading)))


def splits_of(where: str) -> list[str]:
    """The splits that a data set has. Errors as `read`."""
    with readable(where):
        key = {"splits of": source_identity(path) if (path := user_path(where)).exists() else where}
        return remembered(key, lambda: {"splits": _splits(where)})["splits"]


def with_columns(reading: Reading, where: str, image: str, label: str) -> Reading:
    """The reading with the usual columns of a data set, where it leaves them open and is not of a folder of images."""
    with readable(where):
        own = (image, label) if _images_at(where) is None else (None, None)
        return replace(reading, image=reading.image or own[0], label=reading.label or own[1])


def source_identity(where: Path) -> list:
    """What tells one state of a folder or file from another: its place, and the name, bytes and time of each file in it."""
    files = [Path()] if where.is_file() else files_below(where)
    return [str(where.resolve()), *([str(file), *_stamp(where / file)] for file in files)]


def _splits(where: str) -> list[str]:
    folder = _images_at(where)
    return list(open_splits(where)) if folder is None else list(image_folder(folder, where, _is_file(where)).splits)


def _filled(reading: Reading, size: int, channels: int) -> Reading:
    return replace(reading, size=reading.size or size, channels=reading.channels or channels)


def _stored(where: str, splits: Sequence[str] | None, reading: Reading) -> Stored:
    if (folder := _images_at(where)) is None:
        return stored_rows(where, splits, reading)
    if column := reading.image or reading.label:
        ways = f"leave out --data.image and --data.label ({column})"
        raise UserError(f"{where} holds folders of images, which have no columns: {ways}.")
    return stored_files(image_folder(folder, where, descend=_is_file(where)), where, splits)


def _images_at(where: str) -> Path | None:
    """The folder of images that is meant; None where the `datasets` library is to read."""
    path = user_path(where)
    if not path.exists():
        return None
    if path.is_file() and path.suffix.lower() != ".parquet":
        path = _unpacked(path)
        if not holds_images(path):
            ways = "It should hold a folder of images for each class; one with parquet files or a metadata.csv must be unpacked"
            raise UserError(f"{where} holds nothing that can be read as it is. {ways} first.")
    return path if holds_images(path) else None


def _is_file(where: str) -> bool:
    return user_path(where).is_file()


def _unpacked(archive: Path) -> Path:
    """The folder in the cache that an archive was unpacked to, now or before; one that was changed since is unpacked again."""
    place = cache_folder() / "unpacked" / _words(source_identity(archive))
    listed = place / "listed"
    if listed.is_file() and listed.read_text(encoding="utf-8") == _words(source_identity(place / "files")[1:]):
        return place / "files"
    if place.exists():
        note(f"What was unpacked from {archive} to {place} is damaged. It is unpacked again.")
        shutil.rmtree(place)
    if not (zipfile.is_zipfile(archive) or tarfile.is_tarfile(archive)):
        raise UserError(
            f"{archive} is neither a parquet file nor a zip or tar archive. Give one of these, or a folder with a sub-folder "
            "of images for each class."
        )
    with building(place.parent) as folder:
        fresh = Path(folder, "new")
        (fresh / "files").mkdir(parents=True)
        try:
            _unpack(archive, fresh / "files")
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
            raise UserError(f"{archive} cannot be unpacked ({cause(error)}). Pack it again, or give the folder.") from error
        (fresh / "listed").write_text(_words(source_identity(fresh / "files")[1:]), encoding="utf-8")
        if not place.exists():
            fresh.rename(place)
    return place / "files"


def _unpack(archive: Path, folder: Path) -> None:
    """The files of an archive, and nothing outside of the folder. Links in a tar are left out, with a note."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
        return
    with tarfile.open(archive) as opened:
        left = []
        for member in opened:
            target = folder / member.name
            if not member.isdir() and not (member.isfile() and target.resolve().is_relative_to(folder.resolve())):
                left.append(member.name)
            elif member.isfile():
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.extractfile(member) as source, target.open("wb") as file:  # type: ignore[union-attr]
                    shutil.copyfileobj(source, file)
    if left:
        note(f"{archive}: {len(left)} links or files of other places are left out, such as {left[0]}.")


def _words(identity: list) -> str:
    return digest_of(json.dumps(identity).encode())


def _stamp(file: Path) -> tuple[int, int]:
    """Bytes and time of a file; of a link to nothing, zeros."""
    if not file.exists():
        return 0, 0
    return (about := file.stat()).st_size, about.st_mtime_ns
