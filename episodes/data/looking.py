"""What a sample of a data set's images says of how they are to be read: size, channels, range of values, ground."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from episodes.data.images import LARGEST_OWN_SIZE, Ground, Look, look
from episodes.data.reading import Reading, Stored, bytes_of
from episodes.errors import note

SAMPLE = 256
"""Images that are looked at, spread over all classes."""
USUAL_LEVELS = (0.0, 65535.0)
"""Of integer image files."""
DARK = 32
"""Images of eight bits none of whose pixels has this value are said to be nearly black."""
BITS = (8, 10, 12, 14, 16)
"""Numbers of bits that pixels have, where a value is beyond the few that are taken as they are."""


def completed_by_looking(stored: Stored, reading: Reading, where: str) -> Reading:
    """The reading with all that it leaves open, as a sample of the images says; what was decided is said where they differ.

    Size: the median of their longer sides, at most 64. Channels: 3 where one has colour. Range: of pixels that are not of 8
    bits the least range of a usual number of bits that has all values seen. Ground: white, or black where fewer vanish on it.

    Arguments:
        where: what to call the data set in messages.
    """
    if stored.vectors is not None or None not in (reading.size, reading.channels, reading.ground):
        return reading
    seen = _looks(stored)
    if not seen:  # all are damaged, which decoding says
        return replace(reading, size=reading.size or LARGEST_OWN_SIZE, channels=reading.channels or 1, ground="white")
    if several := sum(one.frames > 1 for one in seen):
        note(f"{where}: {several} of {len(seen)} image files that were looked at hold several pictures. The first is read.")
    _say_dark(seen, where)
    return replace(
        reading,
        size=reading.size or _size(seen, where),
        channels=reading.channels or _channels(seen, where),
        levels=reading.levels or _levels(seen, stored, where),
        ground=reading.ground or _ground(seen, where),
        seen=_sides(seen),
    )


def _looks(stored: Stored) -> list[Look]:
    """Of a sample, or of the first images that can be decoded where none of the sample can."""
    order = np.argsort(stored.labels, kind="stable")
    sample = order[np.unique(np.linspace(0, len(order) - 1, SAMPLE).astype(np.int64))]
    seen = list(_sound(stored, np.sort(sample)))
    return seen or [one for one, _ in zip(_sound(stored, np.arange(len(order))), range(1), strict=False)]


def _sound(stored: Stored, places: np.ndarray) -> Iterator[Look]:
    for _, image in stored.at(places):
        try:
            yield look(bytes_of(image))
        except MemoryError:
            raise
        except Exception:  # Pillow raises many kinds; decoding names the image
            continue


def _say_dark(seen: list[Look], where: str) -> None:
    """A note where no image uses more than the darkest values: those of labels or masks, or of more bits than were stored."""
    known = [one.brightest for one in seen if one.brightest is not None]
    if known and max(known) < DARK:
        note(
            f"{where}: no pixel of the {len(known)} images that were looked at is above {max(known)} of 255: they are nearly "
            "black. Where they were meant to have fewer levels, or more bits, store them with values from 0 to 255."
        )


def _sides(seen: list[Look]) -> str:
    """The smallest and the largest width and height."""
    kinds = sorted({one.sides for one in seen}, key=lambda sides: (max(sides), sides))
    least, most = (f"{width} x {height}" for width, height in (kinds[0], kinds[-1]))
    return least if least == most else f"{least} to {most}"


def _size(seen: list[Look], where: str) -> int:
    """The median of the longer sides, at most 64."""
    longer = sorted(max(one.sides) for one in seen)
    size = min(longer[(len(longer) - 1) // 2], LARGEST_OWN_SIZE)
    if (kinds := len({one.sides for one in seen})) > 1:
        note(
            f"{where}: images are of {kinds} sizes, from {_sides(seen)} pixels ({len(seen)} were looked at). All are "
            f"read at {size} x {size}, by the median of their longer sides, at most {LARGEST_OWN_SIZE}. Another: --data.size."
        )
    return size


def _channels(seen: list[Look], where: str) -> int:
    """3 where an image has colour."""
    colour = sum(one.channels == 3 for one in seen)
    if 0 < colour < len(seen):
        note(
            f"{where}: {colour} of {len(seen)} images that were looked at have colour, the others are grey. All are read in "
            "colour; --data.channels 1 makes all grey."
        )
    return 3 if colour else 1


def _levels(seen: list[Look], stored: Stored, where: str) -> tuple[float, float] | None:
    """The range of those pixels whose values do not say it."""
    known = [one.levels for one in seen if one.levels is not None]
    if not known:
        return None
    low, high = min(low for low, _ in known), max(high for _, high in known)
    levels = _range(low, high)
    _, first = next(stored.at(np.arange(1)))
    if levels != ((0.0, 255.0) if isinstance(first, np.ndarray) else USUAL_LEVELS):
        note(
            f"{where}: pixel values are {low:g} to {high:g} in the {len(known)} images that were looked at: {levels[0]:g} is "
            f"read as black, {levels[1]:g} as white."
        )
    return levels


def _range(low: float, high: float) -> tuple[float, float]:
    """What is black and what is white, by the least and greatest value seen."""
    if -1 <= low < 0 and high <= 1:
        return -1.0, 1.0
    black = min(low, 0.0)
    if high <= 1:
        return black, 1.0
    full = next((2.0**bits - 1 for bits in BITS if high < 2**bits), high)
    return black, full if high >= 64 and black == 0 else high  # few levels: 0 to 16 in the digits of scikit-learn


def _ground(seen: list[Look], where: str) -> Ground:
    """White, or black where fewer images vanish on it."""
    clear = [one.blank_on for one in seen if one.blank_on is not None]
    white, black = (sum(ground in blank and len(blank) == 1 for blank in clear) for ground in ("white", "black"))
    ground: Ground = "black" if black < white else "white"
    if ground == "black":
        note(f"{where}: {white} of {len(clear)} transparent images would vanish on white. All are read on black.")
    return ground
