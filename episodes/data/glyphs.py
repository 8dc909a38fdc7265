"""Glyphs: the data set that needs no download, letters drawn with the DejaVu faces that matplotlib installs.

A class is a letter; an example is one of twelve faces under a small random affine map, black ink on white. Scripts make the
meta-splits: Latin and modifier letters, Greek, and Cyrillic with Armenian and Georgian. Many letters look the same in two
scripts (Latin A, Greek Alpha, Cyrillic A) or nearly so in one (Greek breathings): a letter whose drawing, in the regular Sans
or the regular Serif face, differs from an earlier one's of the same meta-split in less than 2 % of its ink, or from one of an
earlier meta-split in less than 6 %, is left out. Of 1500 letters
that leaves 859 in meta-train (740 Latin, 119 modifiers), 241 Greek in meta-validation, and 220 in meta-test (113 Cyrillic, 64
Armenian, 43 Georgian); another version of Pillow's FreeType may differ by a few.
"""

import unicodedata
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from episodes.data.cache import cached
from episodes.data.pool import ClassPool, grouped
from episodes.drawing import import_matplotlib
from episodes.rng import keyed_numbers

SCRIPTS = {"train": ("LATIN", "MODIFIER"), "validation": ("GREEK",), "test": ("CYRILLIC", "ARMENIAN", "GEORGIAN")}
FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, slant in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("", "-Bold", f"-{slant}", f"-Bold{slant}")
)
SANS, SERIF = 0, 8
"""The faces in which homoglyphs are looked for."""
ALIKE, ALIKE_ACROSS = 0.02, 0.06
"""Two letters look alike when the squared difference of their drawings is less than this part of the fainter one's ink: within
a meta-split, and across two, where what is tested must not nearly have been trained on (Cyrillic Ef, Greek Phi: 5 %)."""

JITTERS = 2
"""Drawings of a letter in each face: 24 examples a class."""
EM = 22 / 28
"""Font size, as a part of the image's side: all letters but the largest fit, and keep their relative sizes."""
ROTATION, SHEAR, SCALE, SHIFT = 0.15, 0.15, (0.85, 1.1), 0.07
"""Largest rotation (radians, either way) and shear, range of the scale, largest shift (a part of the side)."""
OVERSAMPLING = 3


def glyph_pools(size: int = 28) -> dict[str, ClassPool]:
    """The pools "train", "validation" and "test" of letters drawn `size` x `size`, grey; drawn once, then cached."""
    pool = cached({"source": "glyphs", "size": size}, partial(draw_glyphs, size))
    return {split: _of_scripts(pool, split) for split in SCRIPTS}


def draw_glyphs(size: int, letters: list[str] | None = None) -> ClassPool:
    """One pool of all letters, or of `letters`; a letter's examples do not depend on the others. About 10 s for all."""
    letters = glyph_letters() if letters is None else letters
    labels = np.repeat(np.arange(len(letters)), len(FACES) * JITTERS)
    names = [f"glyphs/{unicodedata.name(letter)}" for letter in letters]
    return grouped(labels, names, _drawings(letters, size), "glyphs")


def glyph_letters() -> list[str]:
    """The letters that all twelve faces have and that look different, meta-train's first and each split's in Unicode order."""
    import_matplotlib()
    from matplotlib.ft2font import FT2Font

    in_all = set.intersection(*(set(FT2Font(str(_face_file(face))).get_charmap()) for face in FACES))
    letters = [chr(code) for code in sorted(in_all) if unicodedata.category(chr(code)).startswith("L")]
    ordered = [letter for scripts in SCRIPTS.values() for letter in letters if _script(letter) in scripts]
    unlike = np.minimum(*(_differences(_font(FACES[face], 100), ordered) for face in (SANS, SERIF)))
    split = np.array([next(name for name, scripts in SCRIPTS.items() if _script(letter) in scripts) for letter in ordered])
    least = np.where(split[:, None] == split, ALIKE, ALIKE_ACROSS)
    return [letter for i, letter in enumerate(ordered) if not (unlike[i, :i] < least[i, :i]).any()]


def _of_scripts(pool: ClassPool, split: str) -> ClassPool:
    scripts = tuple(f"glyphs/{script} " for script in SCRIPTS[split])
    return pool.select([i for i, name in enumerate(pool.names) if name.startswith(scripts)], f"glyphs, meta-{split}")


def _drawings(letters: list[str], size: int) -> Iterator[np.ndarray]:
    """(1, size, size) uint8 images, the examples of one letter after another's."""
    side = size * OVERSAMPLING
    fonts = [_font(face, round(EM * side)) for face in FACES]
    for letter in letters:
        boxes = [font.getbbox(letter) for font in fonts]
        extents = [(right - left, bottom - top) for left, top, right, bottom in boxes]
        fit = min(1.0, 0.95 * side / max(max(extent) for extent in extents))
        rng = keyed_numbers(ord(letter))
        for font, box, extent in zip(fonts, boxes, extents, strict=True):
            ink = _ink(font, letter, box, side)
            for jitter in rng.uniform(-1, 1, (JITTERS, 5)):
                yield _jittered(ink, extent, fit, jitter, side)


def _ink(font: ImageFont.FreeTypeFont, letter: str, box: tuple[float, float, float, float], side: int) -> Image.Image:
    """The letter at the centre of a canvas twice as wide as the drawing, white on black."""
    left, top, right, bottom = box
    canvas = Image.new("L", (2 * side, 2 * side))
    ImageDraw.Draw(canvas).text((side - (left + right) / 2, side - (top + bottom) / 2), letter, 255, font)
    return canvas


def _jittered(ink: Image.Image, extent: tuple[float, float], fit: float, jitter: np.ndarray, side: int) -> np.ndarray:
    """A drawing (1, size, size), black on white. `jitter`: five numbers in [-1, 1]; nothing of the letter leaves the frame."""
    turn, shear, (low, high) = ROTATION * jitter[0], SHEAR * jitter[1], SCALE
    scale = fit * (low + (high - low) * (jitter[2] + 1) / 2)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array([[1, shear], [0, 1]])
    reach = np.abs(linear) @ np.array(extent) / 2  # half the width and height of the turned box
    linear = linear * min(scale, (side / 2 - 1) / reach.max())
    room = side / 2 - np.abs(linear) @ np.array(extent) / 2
    shift = jitter[3:] * np.clip(room, 0, SHIFT * side)
    back = np.linalg.inv(linear)
    offset = np.array([side, side]) - back @ (side / 2 + shift)  # from drawing to canvas, whose centre is at (side, side)
    matrix = (*back[0], offset[0], *back[1], offset[1])
    drawing = ink.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return 255 - np.asarray(drawing.reduce(OVERSAMPLING))[None]


def _differences(font: ImageFont.FreeTypeFont, letters: list[str]) -> np.ndarray:
    """(I, I): the squared difference of two letters' centred drawings, as a part of the fainter one's ink."""
    x = np.stack([_centred(font, letter) for letter in letters]).astype(np.float64)
    ink = (x**2).sum(1)
    return (ink[:, None] + ink - 2 * x @ x.T) / np.minimum.outer(ink, ink)


def _centred(font: ImageFont.FreeTypeFont, letter: str, side: int = 160, reduction: int = 4) -> np.ndarray:
    """A drawing cut to its box and pasted at the centre of a `side` x `side` frame, reduced and flattened; ink is 1."""
    width, height = (mask := font.getmask(letter, mode="L")).size
    frame = Image.new("L", (side, side))
    frame.paste(Image.frombytes("L", (width, height), bytes(mask)), ((side - width) // 2, (side - height) // 2))
    return np.asarray(frame.reduce(reduction)).reshape(-1) / 255


def _script(letter: str) -> str:
    return unicodedata.name(letter).split()[0]


def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_face_file(face)), size, layout_engine=ImageFont.Layout.BASIC)


def _face_file(face: str) -> Path:
    return Path(import_matplotlib().get_data_path(), "fonts", "ttf", face)
