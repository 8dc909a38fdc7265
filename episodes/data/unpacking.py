"""Zip and tar archives, unpacked once into the cache."""

import json
import shutil
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

from episodes.data.cache import building
from episodes.data.digests import digest_of
from episodes.data.places import cache_folder
from episodes.data.reading import cause
from episodes.data.walking import files_below, stamps_of
from episodes.errors import UserError, note

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def is_archive(file: Path) -> bool:
    """Whether a file is called as archives are."""
    return file.name.lower().endswith(ARCHIVES)


def unpacked(archive: Path) -> Path:
    """The folder in the cache that an archive was unpacked to, now or before; one that was changed since is unpacked again."""
    place = cache_folder() / "unpacked" / _words([str(archive.resolve()), *stamps_of(archive, [Path()])])
    listed = place / "listed"
    if listed.is_file() and listed.read_text(encoding="utf-8") == _listed(place / "files"):
        return place / "files"
    if place.exists():
        note(f"What was unpacked from {archive} to {place} is damaged. It is unpacked again.")
        shutil.rmtree(place)
    if not (zipfile.is_zipfile(archive) or tarfile.is_tarfile(archive)):
        if is_archive(archive):
            raise UserError(f"{archive} is damaged, or no archive of that kind. Get it again, or pack it again.")
        raise UserError(
            f"{archive} is neither a zip or tar archive nor a .parquet, .arrow, .csv, .tsv, .jsonl or .npz file. "
            "Give one of these, or a folder with a sub-folder of images for each class."
        )
    with building(place.parent) as folder:
        fresh = Path(folder, "new")
        (fresh / "files").mkdir(parents=True)
        try:
            _unpack(archive, fresh / "files")
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
            raise UserError(f"{archive} cannot be unpacked ({cause(error)}). Pack it again, or give the folder.") from error
        (fresh / "listed").write_text(_listed(fresh / "files"), encoding="utf-8")
        if not place.exists():
            fresh.rename(place)
    return place / "files"


def _unpack(archive: Path, folder: Path) -> None:
    """The files of an archive, and nothing outside of the folder. Links in a tar are left out, with a note."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            _unpack_zip(opened, archive, folder)
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


def _unpack_zip(opened: zipfile.ZipFile, archive: Path, folder: Path) -> None:
    """Of entries with one name the last is kept, with a note. Names written as on Windows are paths too."""
    entries = opened.infolist()
    backwards = not any("/" in entry.filename for entry in entries)
    for entry in entries:
        if backwards:
            entry.filename = entry.filename.replace("\\", "/")
    names = Counter(entry.filename for entry in entries if not entry.is_dir())
    if twice := [name for name, count in names.items() if count > 1]:
        note(f"{archive}: {len(twice)} names are there more than once, such as {twice[0]}. The last file of each is read.")
    for entry in entries:
        opened.extract(entry, folder)


def _listed(folder: Path) -> str:
    """What tells one state of the files in a folder from another."""
    return _words(stamps_of(folder, files_below(folder)))


def _words(identity: list) -> str:
    return digest_of(json.dumps(identity).encode())
