"""How images are read: size, channels, range of values and ground by a sample; labels by name; what is damaged."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from making import hf_folder, noise, png
from PIL import Image

from episodes import DataConfig, UserError, load_benchmark
from episodes.data.hf import open_splits
from episodes.data.reading import Reading
from episodes.data.sources import read, splits_of
from episodes.errors import Notice

KINDS = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["red", "blue"])}
OTHER = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["blue", "red"])}
TEXT = {"image": datasets.Image(), "label": datasets.Value("string")}
NUMBERS = {"image": datasets.Image(), "label": datasets.Value("int64")}


def folder_of(folder: Path, **images: bytes) -> str:
    """A file for each: the class is the first letter of its name."""
    for name, data in images.items():
        (folder / name[0]).mkdir(parents=True, exist_ok=True)
        (folder / name[0] / f"{name}.png").write_bytes(data)
    return str(folder)


def tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    return file.getvalue()


def ink(value: int) -> bytes:
    """A square of one grey on a transparent ground of the same grey."""
    pixels = np.full((8, 8, 4), value, np.uint8)
    pixels[..., 3] = 0
    pixels[2:6, 2:6, 3] = 255
    return png(Image.fromarray(pixels))


def saved(folder: Path, **splits: tuple[dict, list]) -> str:
    """A data set as `save_to_disk` writes it: kinds and labels of each split, whose images are unlike."""
    parts = {}
    for i, (split, (kinds, labels)) in enumerate(splits.items()):
        columns = {"image": [{"bytes": png(noise(10 * i + j)), "path": None} for j in range(2)], "label": labels}
        parts[split] = datasets.Dataset.from_dict({name: columns[name] for name in kinds}, features=datasets.Features(kinds))
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return str(folder)


def parquet(folder: Path, **splits: tuple[dict, list]) -> str:
    """The same as files of parquet."""
    for i, (split, (kinds, labels)) in enumerate(splits.items()):
        columns = {"image": [png(noise(10 * i + j)) for j in range(2)], "label": labels}
        hf_folder(folder / split, kinds, **{split: {name: columns[name] for name in kinds}})
        (folder / "data").mkdir(exist_ok=True)
        (file,) = (folder / split / "data").iterdir()
        file.rename(folder / "data" / file.name)
        (folder / split / "data").rmdir()
        (folder / split).rmdir()
    return str(folder)


@pytest.mark.parametrize("written", [saved, parquet])
def test_a_class_is_its_name_whatever_number_it_has_in_a_split(written, tmp_path, cache):
    where = written(tmp_path / "set", train=(KINDS, [0, 1]), test=(OTHER, [0, 1]))
    pool = read(where, "p")
    assert pool.names == ("p/red", "p/blue") and pool.counts.tolist() == [2, 2]
    for place, seed in enumerate((0, 11, 1, 10)):
        assert np.array_equal(pool.x[place], noise(seed).transpose(2, 0, 1)), "red of train and test, then blue"
    assert read(where, "p", ["test"]).names == ("p/blue", "p/red")


@pytest.mark.parametrize("written", [saved, parquet])
def test_splits_whose_labels_are_of_other_kinds(written, tmp_path, cache):
    same = written(tmp_path / "a", train=(KINDS, [0, 1]), test=(TEXT, ["blue", "green"]))
    assert read(same, "p").names == ("p/red", "p/blue", "p/green") and read(same, "p").counts.tolist() == [1, 2, 1]
    with pytest.raises(UserError, match=r"'label' of split 'test' of .*b holds int64 labels, .* names: the same class cannot"):
        read(written(tmp_path / "b", train=(KINDS, [0, 1]), test=(NUMBERS, [0, 1])), "p")
    only = {"image": datasets.Image()}
    for name, parts in (("c", {"train": KINDS, "test": only}), ("d", {"test": only, "train": KINDS})):
        where = written(tmp_path / name, **{split: (kinds, [0, 1]) for split, kinds in parts.items()})
        with pytest.warns(Notice, match=r"2 rows of split 'test' have no label in 'label' and are left out"):
            assert read(where, "p").counts.tolist() == [1, 1]


def test_labels_as_programs_write_them(tmp_path, cache):
    """Spaces around a label are no part of it, a blank one is none, and a gap makes floats of whole numbers."""
    image, number = datasets.Image(), datasets.Value("float64")
    text = {"image": image, "label": datasets.Value("string")}
    for name, kinds, labels, classes in (
        ("text", text, [["a ", " "], ["a", "b"]], ("p/a", "p/b")),
        ("gap", {"image": image, "label": number}, [[2.0, None], [10.0, 2.0]], ("p/2", "p/10")),
        ("nan", {"image": image, "label": number}, [[2.0, float("nan")], [10.0, 2.0]], ("p/2", "p/10")),
    ):
        where = saved(tmp_path / name, train=(kinds, labels[0]), test=(kinds, labels[1]))
        with pytest.warns(Notice, match=r"1 rows of split 'train' have no label"):
            pool = read(where, "p")
        assert pool.names == classes and pool.counts.tolist() == [2, 1]


def test_columns_of_numbers_are_vectors(tmp_path, cache):
    kinds = {"a": "float64", "id": "int64", "b": "int64", "who": "string", "label": "string"}
    columns = {"a": [0.5, 1, 2, 3], "id": [1, 2, 3, 4], "b": [7, 8, 9, 9], "who": [*"stuv"], "label": [*"abca"]}
    features = {name: datasets.Value(kind) for name, kind in kinds.items()}
    with pytest.warns(Notice) as said:
        pool = read(hf_folder(tmp_path / "set", features, train=columns), "p")
    assert pool.x.tolist() == [[0.5, 7], [3, 9], [1, 8], [2, 9]] and pool.counts.tolist() == [2, 1, 1]
    words = " ".join(str(one.message) for one in said)
    assert "no numbers are left out: who" in words and "only count the rows are left out: id" in words
    columns["a"][1] = float("nan")
    with (
        pytest.warns(Notice),
        pytest.raises(UserError, match=r"1 rows of split 'train' .* lack a finite number, such as row 1"),
    ):
        read(hf_folder(tmp_path / "other", features, train=columns), "p")


def test_files_of_one_split_that_name_classes_otherwise(tmp_path, cache):
    where = parquet(tmp_path / "set", train=(KINDS, [0, 1]))
    parquet(tmp_path / "other", train=(OTHER, [0, 1]))
    (tmp_path / "other/data/train-00000-of-00001.parquet").rename(tmp_path / "set/data/train-00001-of-00002.parquet")
    with pytest.raises(UserError, match=r"The files of split 'train' have other names of classes: .*'blue', 'red'"):
        read(where, "p")


def test_several_configurations(tmp_path, cache):
    for name, label in (("small", "a"), ("large", "b")):
        parquet(tmp_path / "set" / name, train=(TEXT, [label, label]))
    lines = ["- config_name: small", "  data_files: small/data/*.parquet", "- config_name: large"]
    lines += ["  data_files: large/data/*.parquet"]
    (tmp_path / "set" / "README.md").write_text("\n".join(["---", "configs:", *lines, "---"]))
    where = str(tmp_path / "set")
    with pytest.raises(UserError, match=r"several configurations. Choose one with --data.configuration: small, large"):
        read(where, "p")
    assert read(where, "p", reading=Reading(configuration="large")).names == ("p/b",)
    assert splits_of(where, Reading(configuration="small")) == ["train"]
    with pytest.raises(UserError, match=r"Unknown configuration of .* 'smal'. Did you mean 'small'"):
        open_splits(where, None, "smal")
    with pytest.raises(UserError, match=r"--data.configuration means nothing for .*pics, which is one data set"):
        read(folder_of(tmp_path / "pics", a=png(noise(0))), "p", reading=Reading(configuration="small"))


def test_the_size_is_the_median_and_one_odd_image_decides_nothing(tmp_path):
    images = {f"{'ab'[i % 2]}{i}": png(noise(i, 20, 1)) for i in range(6)}
    where = folder_of(tmp_path / "pics", a=png(noise(9, 1, 1)), b=png(noise(9, 300, 1)), **images)
    with pytest.warns(Notice) as said:
        assert read(where, "p").x_shape == (1, 20, 20)
    words = " ".join(str(one.message) for one in said)
    assert "images are of 3 sizes, from 1 x 1 to 300 x 300 pixels (8 were looked at). All are read at 20 x 20" in words
    assert "nothing to be seen on 1 of 8 images, such as a/a.png; they are kept" in words, "one pixel at 20 x 20"
    assert read(where, "p", reading=Reading(size=1, channels=1)).x_shape == (1, 1, 1), "where nothing is left open"


def test_one_image_in_colour_makes_all_of_colour(tmp_path):
    images = {f"a{i}": png(noise(i, 8, 1)) for i in range(20)}
    where = folder_of(tmp_path / "pics", **images, b=png(noise(0, 8)))
    with pytest.warns(Notice, match=r"1 of 21 images that were looked at have colour.*--data.channels 1 makes all grey"):
        assert read(where, "p").x_shape == (3, 8, 8)


LEVELS = {  # pixels; what is black and white; what is said
    "int32": (np.arange(256, dtype=np.int32), (0, 255), "pixel values are 0 to 255 .*: 0 is read as black, 255 as white"),
    "12 bits": (np.arange(4000, 4096, dtype=np.uint16), (0, 4095), "pixel values are 4000 to 4095 .*: 0 is .* 4095 as white"),
    "16 bits": (np.arange(0, 65536, 256, dtype=np.uint16), (0, 65535), None),
    "signed": (np.arange(-1000, 3001, 100, dtype=np.int32), (-1000, 3000), "-1000 is read as black, 3000 as white"),
    "floats": (np.linspace(0, 1, 64, dtype=np.float32), (0, 1), "0 is read as black, 1 as white"),
}


@pytest.mark.parametrize("case", LEVELS)
def test_the_range_of_values_is_that_of_the_data(case, tmp_path):
    pixels, (black, white), words = LEVELS[case]
    rows = [np.stack([np.roll(pixels, i)] * 8) for i in range(2)]
    for place, own in zip("ab", rows, strict=True):
        (tmp_path / "pics" / place).mkdir(parents=True)
        (tmp_path / "pics" / place / "1.tif").write_bytes(tiff(own))
    reading = Reading(size=8, channels=1)
    if words is None:
        pool = read(str(tmp_path / "pics"), "p", reading=reading)
    else:
        with pytest.warns(Notice, match=words):
            pool = read(str(tmp_path / "pics"), "p", reading=reading)
    scaled = Image.fromarray(((rows[0] - float(black)) * 255 / (white - black)).astype(np.uint8))
    assert np.array_equal(pool.x[0, 0], np.asarray(scaled.resize((8, 8), Image.Resampling.BILINEAR)))


PIXELS = {  # (H, W) uint8 -> what is stored, and of which kind
    "lists": (lambda a: a.tolist(), datasets.List(datasets.List(datasets.Value("int64")))),
    "channels last": (lambda a: a[..., None].tolist(), datasets.List(datasets.List(datasets.List(datasets.Value("int32"))))),
    "channels first": (lambda a: a[None].tolist(), datasets.Array3D((1, 8, 8), "int64")),
    "array": (lambda a: a.tolist(), datasets.Array2D((8, 8), "uint8")),
    "of 0 to 1": (lambda a: (a / 255.0).tolist(), datasets.Array2D((8, 8), "float64")),
}


@pytest.mark.parametrize("case", PIXELS)
def test_a_column_of_pixels(case, tmp_path, cache):
    store, kind = PIXELS[case]
    own = [noise(i, 8, 1) for i in range(4)]
    columns = {"pixels": [store(image) for image in own], "label": [*"abab"]}
    where = hf_folder(tmp_path / "set", {"pixels": kind, "label": datasets.Value("string")}, train=columns)
    if case != "of 0 to 1":  # the usual range of arrays is that of 8 bits
        pool = read(where, "p")
    else:
        with pytest.warns(Notice, match=r"pixel values are .* to 1 in the 4 images .* 0 is read as black, 1 as white"):
            pool = read(where, "p")
    assert pool.x_shape == (1, 8, 8) and np.abs(pool.x[:, 0].astype(int) - np.stack([own[i] for i in (0, 2, 1, 3)])).max() <= 1


def test_images_as_bytes_without_a_type(tmp_path, cache):
    """As pandas or Arrow write them."""
    import pyarrow as pa
    import pyarrow.parquet

    data = [png(noise(i)) for i in range(2)]
    for name, column in (("plain", data), ("pair", [{"bytes": own, "path": "x"} for own in data])):
        pyarrow.parquet.write_table(pa.table({"picture": column, "label": ["a", "b"]}), tmp_path / f"{name}.parquet")
        pool = read(str(tmp_path / f"{name}.parquet"), "p")
        assert np.array_equal(pool.x[1], noise(1).transpose(2, 0, 1)), name


def test_pixels_that_are_no_images_are_counted(tmp_path, cache):
    kind = datasets.List(datasets.List(datasets.Value("int64")))
    columns = {"image": [[[0, 255], [255, 0]], [[1, 2], [3]], [[9, 99], [9, 255]]], "label": [0, 0, 1]}
    where = hf_folder(tmp_path / "set", {"image": kind, "label": datasets.Value("int64")}, train=columns)
    with pytest.raises(UserError, match=r"1 of 3 images of .* row 1 of split 'train' \(its rows .* not of one length\)"):
        read(where, "p")


def test_pixels_that_are_no_numbers_are_counted(tmp_path, cache):
    """Beyond the sample that is looked at, too."""
    x = np.random.default_rng(0).random((400, 4, 4))
    x[123, 2, 2] = np.nan
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(400) % 4)
    with pytest.warns(Notice), pytest.raises(UserError, match=r"1 of 400 images of .* x\[123\] \(a pixel is no finite number"):
        read(str(tmp_path / "a.npz"), "p")


def test_narrow_images_of_arrays_are_not_taken_for_channels(tmp_path, cache):
    for shape in ((6, 1, 3, 3), (6, 3, 3, 3), (6, 3, 5, 3), (6, 9, 3)):
        x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        np.savez(tmp_path / "a.npz", x=x, y=np.arange(6)[:, None] % 2)
        pool = read(str(tmp_path / "a.npz"), "p", reading=Reading(size=max(shape[2:])))
        assert pool.x_shape[0] == (1 if len(shape) == 3 else shape[1])
        if shape[2:] == (3, 3):
            assert np.array_equal(pool.x, x[[0, 2, 4, 1, 3, 5]])


def test_images_that_are_nearly_black_are_said(tmp_path):
    """As colour of 12 bits in 16 is, of which Pillow takes the upper eight, or a mask of 0 and 1."""
    masks = [png((noise(i, 8, 1) % 2).astype(np.uint8)) for i in range(2)]
    with pytest.warns(Notice, match=r"no pixel of the 2 images that were looked at is above 1 of 255: they are nearly black"):
        read(folder_of(tmp_path / "masks", a=masks[0], b=masks[1]), "p")
    bright = folder_of(tmp_path / "bright", a=masks[0], b=png(noise(1, 8, 1)))
    assert read(bright, "p").counts.tolist() == [1, 1]


def test_white_ink_on_a_transparent_ground_is_seen(tmp_path):
    with pytest.warns(Notice, match=r"2 of 2 transparent images would vanish on white. All are read on black"):
        pool = read(folder_of(tmp_path / "white", a=ink(255), b=ink(255)), "p", reading=Reading(size=8, channels=1))
    assert pool.x[0, 0, 4, 4] == 255 and pool.x[0, 0, 0, 0] == 0
    pool = read(folder_of(tmp_path / "black", a=ink(0), b=ink(0)), "p", reading=Reading(size=8, channels=1))
    assert pool.x[0, 0, 4, 4] == 0 and pool.x[0, 0, 0, 0] == 255


def test_images_on_which_nothing_is_to_be_seen_are_counted(tmp_path):
    blank = png(np.full((8, 8), 7, np.uint8))
    with pytest.raises(UserError, match=r"nothing to be seen on any of the 2 images of .*all pixels of each have one value"):
        read(folder_of(tmp_path / "all", a=blank, b=blank), "p")
    with pytest.warns(Notice, match=r"nothing to be seen on 1 of 3 images, such as b/b1.png; they are kept"):
        read(folder_of(tmp_path / "some", a=png(noise(1, 8, 1)), b=png(noise(2, 8, 1)), b1=blank), "p")


def test_all_damaged_images_are_named_at_once_and_can_be_left_out(tmp_path, cache):
    sound = {f"{c}{i}": png(noise(10 * i + ord(c), 8, 1)) for i in range(2) for c in "abcde"}
    damaged = {f"{c}9": png(noise(1, 8, 1))[:60] for c in "abcde"} | {"a0x": b"", "f": b""}
    where = folder_of(tmp_path / "pics", **sound, **damaged)
    words = r"7 of 17 images of .*pics cannot be read: a/a0x.png \(it is empty\), a/a9.png \(.*\), .* and 2 more\."
    with pytest.raises(UserError, match=words + r" Repair or remove them, or leave them out with --data.skip-damaged"):
        load_benchmark(DataConfig(where), 8)
    with pytest.warns(Notice) as said:
        benchmark = load_benchmark(DataConfig(where, skip_damaged=True), 8)
    told = " ".join(str(one.message) for one in said)
    assert f"7 of 17 images of {where} cannot be read and are left out, as asked: a/a0x.png" in told
    assert "1 classes are left out, as no image of theirs can be read: pics/f." in told
    pools = [benchmark.train.pool, benchmark.validation.pool, benchmark.test.pool]
    assert sorted(name for pool in pools for name in pool.names) == [f"pics/{c}" for c in "abcde"], "f has none left"
    for pool in pools:
        for name, start, count in zip(pool.names, pool.starts, pool.counts, strict=True):
            own = [noise(10 * i + ord(name[-1]), 8, 1) for i in range(2)]
            assert count == 2 and np.array_equal(pool.x[start : start + 2, 0], own)
    with pytest.raises(UserError, match=r"2 of 2 images of .* cannot be read"):
        read(folder_of(tmp_path / "none", a=b"", b=b""), "p", reading=Reading(skip_damaged=True))
