"""From the bytes of an image file to (C, size, size) uint8, whatever its mode."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
LARGEST_OWN_SIZE = 64
"""Where no size is asked, images are kept at their own size up to this many pixels."""


def decode(raw: bytes, size: int, channels: int) -> np.ndarray:
    """A (channels, size, size) uint8 image, 1 channel grey or 3 RGB; transparency becomes white, other shapes are stretched.

    Raises:
        Exception: whatever Pillow raises for bytes that are no whole image; callers say which row it was.
    """
    image = _plain(_open(raw)).convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)  # Pillow widens its filter: antialiased
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def look(raw: bytes) -> tuple[int, int]:
    """(channels, longer side in pixels) of an image: 1 channel where its mode, or its whole palette, is grey."""
    image = _open(raw)
    grey = image.mode in GREY_MODES or (image.mode == "P" and _is_grey(_plain(image).convert("RGB")))
    return 1 if grey else 3, max(image.size)


def _open(raw: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(raw))
    except UnidentifiedImageError as error:
        raise ValueError("it is of no format that Pillow knows") from error
    image.load()
    return ImageOps.exif_transpose(image) if image.format in ("JPEG", "MPO", "TIFF", "WEBP") else image


def _plain(image: Image.Image) -> Image.Image:
    """The image as L or RGB."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store the images with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits in 16 or 32
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        ink = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", ink.size, "white"), ink).convert("RGB")
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")


def _is_grey(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())
