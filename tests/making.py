"""Small data sets for tests, in the formats in which real ones come."""

import base64
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from episodes.data.pool import ClassPool, grouped


def png(image: Image.Image | np.ndarray) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG")
    return file.getvalue()


def noise(seed: int, side: int = 10, channels: int = 3) -> np.ndarray:
    shape = (side, side, 3) if channels == 3 else (side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def small_pool(counts=(3, 1, 4), shape=(1, 4, 5), seed: int = 0) -> ClassPool:
    """Images in mixed order; the first pixel of each is its class, the second counts within the class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    images = rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8)
    images[:, 0, 0, 0] = labels
    for label in range(len(counts)):
        images[labels == label, 0, 0, 1] = np.arange(counts[label])
    return grouped(labels, [f"small/{i}" for i in range(len(counts))], images, "small")


def hf_folder(folder: Path, features: dict | None = None, **splits: dict) -> str:
    """A folder of parquet files, `data/SPLIT-00000-of-00001.parquet`, from the columns of each split; images are bytes."""
    import datasets

    (folder / "data").mkdir(parents=True)
    for split, columns in splits.items():
        kinds = None
        if features is not None:
            kinds = datasets.Features({name: features[name] for name in columns})
        columns = {name: [_stored(value) for value in values] for name, values in columns.items()}
        rows = datasets.Dataset.from_dict(columns, features=kinds)
        rows.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return str(folder)


def labelled_folder(folder: Path, classes: int = 6, each: int = 3, splits=("train",)) -> str:
    """A folder of grey noise with an integer label."""
    import datasets

    labels = np.repeat(np.arange(classes), each).tolist()
    images = [png(noise(i, 10, 1)) for i in range(len(labels))]
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    return hf_folder(folder, features, **{split: {"image": images, "label": labels} for split in splits})


def omniglot_zips(folder: Path, alphabets=("Latin", "Greek"), characters: int = 3, each: int = 2) -> Path:
    """The two official archives in small: images_background/ALPHABET/characterNN/XXXX_YY.png, 1-bit."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, number in (("background", 1), ("evaluation", 500)):
        with zipfile.ZipFile(folder / f"images_{part}.zip", "w") as archive:
            archive.writestr(f"images_{part}/", "")
            archive.writestr(f"__MACOSX/images_{part}/._x.png", "no image")
            for alphabet in alphabets:
                for character in range(1, characters + 1):
                    for drawer in range(1, each + 1):
                        name = f"{alphabet}_{part}/character{character:02}/{number + character:04}_{drawer:02}.png"
                        image = Image.fromarray(noise(zlib.crc32(name.encode()), 21, 1)).convert("1")
                        archive.writestr(f"images_{part}/{name}", png(image))
    return folder


def gnt_record(code: bytes, image: np.ndarray) -> bytes:
    """A record of CASIA-HWDB: how long it is, the character in GBK, the sides, and the grey pixels (H, W)."""
    height, width = image.shape
    return struct.pack("<I2sHH", 10 + image.size, code.ljust(2, b"\0"), width, height) + image.tobytes()


def gnt_folder(folder: Path, characters: str = "啊阿埃0a", writers: int = 3, side: int = 12) -> Path:
    """Folders of `.gnt` files, one for each writer, who wrote each character once; widths and heights differ."""
    for writer in range(writers):
        file = folder / f"part{writer % 2}" / f"{writer:03}-c.gnt"
        file.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(writer)
        sides = rng.integers(side // 2, side * 2, (len(characters), 2))
        drawn = [rng.integers(0, 256, tuple(own), dtype=np.uint8) for own in sides]
        file.write_bytes(b"".join(gnt_record(c.encode("gbk"), x) for c, x in zip(characters, drawn, strict=True)))
    return folder


def face(seed: int, side: int = 8) -> bytes:
    """A JPEG in colour."""
    file = io.BytesIO()
    Image.fromarray(noise(seed, side)).save(file, "JPEG")
    return file.getvalue()


def face_row(identity: str, raw: bytes, rank: int = 0) -> bytes:
    """A row of MS-Celeb-1M's aligned faces: the identity, the rank of the search, ids, a box, and the JPEG in base64."""
    return b"\t".join([identity.encode(), b"%d" % rank, b"FaceId-0", b"AAAAAA==", base64.b64encode(raw)]) + b"\n"


def _stored(value):
    return {"bytes": value, "path": None} if isinstance(value, bytes) else value
