"""From the bytes of an image file, or an array of pixels, to (C, size, size) uint8, whatever its mode."""

import io
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
LARGEST_OWN_SIZE = 64
"""Where no size is asked, images are kept at their own size up to this many pixels."""
Ground = Literal["white", "black"]


class Look(NamedTuple):
    """What an image is, before it is decoded at a size."""

    channels: int
    """1 where its mode, or its whole palette, is grey, else 3."""
    sides: tuple[int, int]
    """Width and height in pixels."""
    levels: tuple[float, float] | None
    """Least and greatest pixel value, of an image whose mode does not say which are black and white; else None."""
    blank_on: tuple[Ground, ...] | None
    """The grounds on which nothing of it would be seen; None: it is not transparent."""
    frames: int = 1
    """Pictures in its file, of which the first is read."""
    brightest: int | None = None
    """The greatest pixel value where it has eight bits, no transparency, and several values; else None."""


def decode(
    raw: bytes | np.ndarray, size: int, channels: int, levels: tuple[float, float] | None = None, ground: Ground = "white"
) -> np.ndarray:
    """A (channels, size, size) uint8 image, 1 channel grey or 3 RGB; other shapes are stretched.

    Arguments:
        raw: the bytes of an image file; or pixels (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels.
        levels: the values that become 0 and 255, of integer and floating-point pixels whose range is not 8 bits. None: of
            integer image files 0 and 65535, of arrays 0 and 255.
        ground: what is seen through transparent pixels.

    Raises:
        Exception: whatever Pillow raises for bytes that are no whole image; callers say which row it was.
    """
    opened = _array_image(raw, levels or (0, 255)) if isinstance(raw, np.ndarray) else _plain(_open(raw), levels, ground)
    image = opened.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)  # Pillow widens its filter: antialiased
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def look(raw: bytes | np.ndarray) -> Look:
    """What is known of an image without a size. Errors as `decode`."""
    if isinstance(raw, np.ndarray):
        pixels = _channels_last(raw)
        return Look(pixels.shape[2], (pixels.shape[1], pixels.shape[0]), _levels(pixels), None)
    frames = getattr(Image.open(io.BytesIO(raw)), "n_frames", 1) if raw else 1
    image = _open(raw)
    grey = image.mode in GREY_MODES or (image.mode == "P" and _is_grey(_plain(image).convert("RGB")))
    levels = _levels(np.asarray(image)) if image.mode[0] in "IF" else None
    blank = None
    if _is_transparent(image):
        blank = tuple(ground for ground in ("white", "black") if is_blank(np.asarray(_plain(image, ground=ground))))
    plain = image.mode in ("L", "RGB") and blank is None and not is_blank(np.asarray(image))
    brightest = int(np.asarray(image).max()) if plain else None
    return Look(1 if grey else 3, image.size, levels, blank, frames, brightest)  # type: ignore[arg-type]


def is_blank(pixels: np.ndarray) -> bool:
    """Whether there is nothing to see: all values are one."""
    return bool(pixels.min() == pixels.max())


def _open(raw: bytes) -> Image.Image:
    if not raw:
        raise ValueError("it is empty")
    try:
        image = Image.open(io.BytesIO(raw))
    except UnidentifiedImageError as error:
        raise ValueError("it is of no format that Pillow knows") from error
    image.load()
    return ImageOps.exif_transpose(image) if image.format in ("JPEG", "MPO", "TIFF", "WEBP") else image


def _plain(image: Image.Image, levels: tuple[float, float] | None = None, ground: Ground = "white") -> Image.Image:
    """The image as L or RGB."""
    if image.mode == "F" and levels is None:
        raise ValueError("floating-point pixels have no known range; store the images with 8 or 16 bits")
    if image.mode[0] in "IF":  # 16 bits in 16 or 32
        return Image.fromarray(_scaled(np.asarray(image), levels or (0, 65535)))
    if _is_transparent(image):
        ink = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", ink.size, ground), ink).convert("RGB")
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")


def _array_image(pixels: np.ndarray, levels: tuple[float, float]) -> Image.Image:
    scaled = _scaled(_channels_last(pixels), levels)
    return Image.fromarray(scaled[..., 0] if scaled.shape[2] == 1 else scaled)


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) of pixels whose channels come last, first or not at all."""
    if pixels.dtype == object:
        raise ValueError("its rows of pixels are not of one length")
    if pixels.dtype.kind not in "uifb":
        raise ValueError(f"its pixels are {pixels.dtype}, no numbers")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim == 3 and pixels.shape[2] not in (1, 3) and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
        raise ValueError(f"pixels are (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels, not of shape {pixels.shape}")
    return np.ascontiguousarray(pixels)


def _scaled(pixels: np.ndarray, levels: tuple[float, float]) -> np.ndarray:
    """As uint8: the first of `levels` becomes 0, the second 255, what lies outside the nearer of the two."""
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError("a pixel is no finite number")
    black, white = levels
    return np.clip((pixels.astype(np.float64) - black) * 255 / (white - black), 0, 255).astype(np.uint8)


def _levels(pixels: np.ndarray) -> tuple[float, float]:
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("a pixel is no finite number")
    return low, high


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _is_grey(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())
