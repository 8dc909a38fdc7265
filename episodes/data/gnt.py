"""CASIA-HWDB 1.0 to 1.2: handwritten characters in `.gnt` files, one for each writer (Liu, Yin, Wang, Wang, ICDAR 2011).

A file is one record after another: how many bytes the record has (uint32, little-endian), the character in GBK (two bytes, of
ASCII the second is 0), width and height (uint16), and width x height bytes of grey, black ink on white. Other files of this
format have characters in Big5. No file says in which: most codes are characters of both.
"""

import struct
from array import array
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from episodes.data.identity import identity
from episodes.data.places import readable
from episodes.data.records import Faulty, Index, in_order
from episodes.data.telling import log
from episodes.errors import UserError
from episodes.progress import progress

HEADER = struct.Struct("<I2sHH")
PAGES = {"gbk": "GBK", "big5": "Big5"}
"""The code pages, by the names that `--data.configuration` takes."""
SHOWN = 8
"""Characters that are shown of a pool."""


def gnt_index(root: Path, files: list[str], source: str, page: str = "gbk") -> Index:
    """Finds all records; a class is a character with its code, e.g. "casia/啊-b0a1".

    Records of a code that is no character are faulty. Tells which code page was taken, and shows some characters.

    Arguments:
        page: the code page, of `PAGES`.

    Raises:
        UserError: a file is cut off, or is no `.gnt`: nothing after that place could be trusted. All such files are named.
    """
    number, offset, label = array("i"), array("q"), array("i")
    codes: dict[bytes, int] = {}
    names: list[str] = []
    faulty, broken = list[Faulty](), list[str]()
    for own, name in enumerate(progress(files, len(files), f"looking through {source}")):
        with readable(root / name), (root / name).open("rb") as file:
            end = file.seek(0, 2)
            place = file.seek(0)
            if not end:
                broken.append(f"{name} (it is empty)")
            while place < end:
                head = file.read(HEADER.size)
                if wrong := _wrong(head, end - place):
                    broken.append(f"{name} at byte {place} ({wrong})")
                    break
                size, code, _, _ = HEADER.unpack(head)
                if code not in codes:
                    codes[code] = -1 if (character := character_of(code, page)) is None else len(names)
                    names += [] if character is None else [f"{source}/{character}-{code.hex()}"]
                if codes[code] < 0:
                    faulty.append(Faulty(own, place, _no_character(code, page)))
                else:
                    for column, value in ((number, own), (offset, place), (label, codes[code])):
                        column.append(value)
                place = file.seek(place + size)
    if broken:
        raise UserError(
            f"{source}: {len(broken)} of {len(files)} files in {root} are cut off or no .gnt: {'; '.join(broken[:10])}"
            f"{' ...' if len(broken) > 10 else ''}. Get them again, or take them away to go on without them."
        )
    _tell_page([code for code, own in codes.items() if own >= 0 and code[1]], page, source)
    file_I, offset_I, label_I = (np.asarray(column) for column in (number, offset, label))
    names, label_I = in_order(names, label_I)
    return Index(file_I, offset_I, offset_I, label_I, names, faulty)


def character_of(code: bytes, page: str = "gbk") -> str | None:
    """The character of a code; None where it has none."""
    try:
        character = code.removesuffix(b"\0").decode(page)
    except UnicodeDecodeError:
        return None
    return character if len(character) == 1 and character.isprintable() and not character.isspace() else None


def _no_character(code: bytes, page: str) -> str:
    others = "".join(f", but one of {PAGES[own]}" for own in PAGES if own != page and character_of(code, own) is not None)
    return f"the code {code.hex()} is no character of {PAGES[page]}{others}"


def _tell_page(codes: list[bytes], page: str, source: str) -> None:
    """Tells in which code page characters of two bytes are read, and some of them: whether it is the right one shows in the
    images alone."""
    if codes:
        some = "".join(str(character_of(code, page)) for code in codes[:: -(-len(codes) // SHOWN)])
        other = "give --data.configuration big5" if page == "gbk" else "leave out --data.configuration"
        log.info(f"{source}: {len(codes)} characters are read as {PAGES[page]}: {some} ... Where images show others, {other}.")


def decoded_at(file: BinaryIO, offset: int, size: int, channels: int) -> tuple[np.ndarray, int]:
    """The image (channels, size, size) of the record at `offset`, and its id: of its pixels and sides.

    It is padded to a square with white, its ink in the middle, before it is resized.

    Raises:
        ValueError: the record is not whole.
    """
    file.seek(offset)
    length, _, width, height = HEADER.unpack(file.read(HEADER.size))
    stored = file.read(length - HEADER.size)
    pixels_HW = np.frombuffer(stored, dtype=np.uint8).reshape(height, width)
    image = Image.fromarray(squared(pixels_HW))
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    known = identity(b"%d %d " % (width, height) + stored)
    pixels = np.asarray(image)[None]
    return pixels if channels == 1 else np.broadcast_to(pixels, (channels, size, size)), known


def squared(pixels_HW: np.ndarray) -> np.ndarray:
    """A grey image in the middle of a white square."""
    height, width = pixels_HW.shape
    side = max(height, width)
    square = np.full((side, side), 255, dtype=np.uint8)
    down, right = (side - height) // 2, (side - width) // 2
    square[down : down + height, right : right + width] = pixels_HW
    return square


def _wrong(head: bytes, left: int) -> str:
    """What is wrong with the start of a record, of which `left` bytes are there; empty where nothing is."""
    if len(head) < HEADER.size:
        return f"it ends after {len(head)} of the {HEADER.size} bytes that a record starts with"
    size, _, width, height = HEADER.unpack(head)
    if size != HEADER.size + width * height or not width * height:
        return f"a record of {size} bytes cannot have an image of {width} x {height}"
    return f"it ends after {left} of a record's {size} bytes" if size > left else ""
