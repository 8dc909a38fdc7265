"""JSON files of a run folder: written whole or not at all, lines added one by one, each with a check of its content."""

import errno
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from episodes import UserError
from episodes.errors import note
from metacl.runs.lock import LOCK

DIGEST, CHECK = "digest", "check"
"""The keys of what tells a damaged file (blake2b of all else that is in it), and a damaged line (crc32) from a sound one."""

MEMBERS = "runs.json"
"""The names of the folders of several runs in one folder, in their order."""


def must_be_new(folder: Path, advice: str) -> None:
    """Raises `UserError` where something is in the folder already, or no folder can be there."""
    if not folder.name:
        raise UserError(f"{str(folder)!r} is no name of a folder. Name one that does not exist yet.")
    if os.path.lexists(folder) and (not folder.is_dir() or any(part.name != LOCK for part in folder.iterdir())):
        raise UserError(f"{folder} exists and is not overwritten. {advice}")


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run, or holds several."""
    return (folder / "config.json").is_file() or (folder / MEMBERS).is_file()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file with one on each line. The last, where a killed process cut it off, is left out; so is, with a
    warning, every other one that is not as it was written."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    found = [_record(line) for line in lines if line.endswith(b"\n")]
    if damaged := [number for number, record in enumerate(found, 1) if record is None]:
        listed = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        note(f"{path} is damaged: line {listed} cannot be read, and is left out.")
    return [record for record in found if record is not None]


def add_line(path: Path, record: dict[str, Any]) -> None:
    """Adds a record as a line, whole or not at all."""
    line = _line(record)
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        if file.write(line) < len(line):  # a disk that is full now: half a line would spoil the next one
            os.truncate(path, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """All of them, or none."""
    write_whole(path, b"".join(_line(record) for record in records))


def write_json(path: Path, values: Any) -> None:
    """Dictionaries get a digest, by which `read_json` knows them to be as they were written."""
    if isinstance(values, dict):
        values = values | {DIGEST: _digest(values)}
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote. A dictionary without a digest is taken as it is.

    Raises:
        UserError: it is not JSON, or not what was written.
    """
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): it is damaged, or not of this project.") from error
    if isinstance(values, dict) and DIGEST in values and values.pop(DIGEST) != _digest(values):
        raise UserError(
            f"{path} is not as it was written: it is damaged, or was changed by hand. Put it back; or, if the change is "
            f"meant, remove the line with its {DIGEST!r}."
        )
    return values


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None where it is damaged."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or record.pop(CHECK, None) not in (None, _check(record)):
        return None
    return record


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record | {CHECK: _check(record)}) + "\n").encode()


def _check(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())


def _digest(values: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """All of a file, or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    to_disk(part)
    os.replace(part, path)


def to_disk(path: Path) -> None:
    """Waits until a file, or what a folder says of its files, is on the disk: a power cut then loses it no more."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
