"""Digests: what tells one pool from another."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 2**23
"""Bytes of a file that are read at a time."""


def fingerprint_of(x: np.ndarray, starts: np.ndarray, names: Sequence[str]) -> str:
    """The fingerprint of a pool of which no classes were selected."""
    shape = json.dumps(x.shape).encode()
    return digest_of(shape, x, starts.astype("<i8").tobytes(), json.dumps(names).encode())


def digest_of(*parts) -> str:
    """Hex blake2b of byte buffers. The file of a memory map is read block by block, so that it takes no memory."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        file = path_of(part)
        if file is None or part.offset + part.nbytes != file.stat().st_size:
            digest.update(part)
            continue
        with file.open("rb") as opened:
            opened.seek(part.offset)
            while block := opened.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def digest_of_file(path: Path) -> str:
    """Hex digest (SHA-256) of a file."""
    about = path.stat()
    return _sha256(path.resolve(), about.st_size, about.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, time: int) -> str:
    """Hex digest of a file, found out once in a process for each of its states."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_of(array: Any) -> Path | None:
    """The file of a memory map."""
    name = array.filename if isinstance(array, np.memmap) else None
    return None if name is None else Path(name)
