"""Hugging Face data sets and the Omniglot archives as pools: columns, image modes, and what bad input says."""

import http.server
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
from making import hf_folder, labelled_folder, noise, omniglot_zips, png
from PIL import Image

import episodes.data.archives
from episodes.data.archives import omniglot_download, read_omniglot_archive
from episodes.data.hf import open_splits
from episodes.data.images import decode, look
from episodes.data.reading import Reading
from episodes.data.sources import read
from episodes.errors import UserError

GREY, RGB = 1, 3


def paletted() -> Image.Image:
    """Left half red, right half transparent."""
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 255, 0, 255, 0, 0])
    image.paste(0, (4, 0, 8, 8))
    image.info["transparency"] = 0
    return image


def halves(mode: str, left, right) -> Image.Image:
    image = Image.new(mode, (8, 8), right)
    image.paste(left, (0, 0, 4, 8))
    return image


SIXTEEN_BITS = Image.fromarray(np.repeat(np.array([[0] * 4 + [65535] * 4], np.uint16), 8, axis=0))
MODES = {  # image; left and right pixel in RGB; channels inferred
    "1": (halves("1", 0, 1), (0, 0, 0), (255, 255, 255), GREY),
    "L": (halves("L", 10, 200), (10, 10, 10), (200, 200, 200), GREY),
    "LA": (halves("LA", (10, 255), (10, 0)), (10, 10, 10), (255, 255, 255), GREY),
    "P": (paletted(), (255, 0, 0), (255, 255, 255), RGB),
    "P grey": (halves("L", 0, 255).convert("P"), (0, 0, 0), (255, 255, 255), GREY),
    "RGB": (halves("RGB", (1, 2, 3), (4, 5, 6)), (1, 2, 3), (4, 5, 6), RGB),
    "RGBA": (halves("RGBA", (9, 8, 7, 255), (9, 8, 7, 0)), (9, 8, 7), (255, 255, 255), RGB),
    "I;16": (SIXTEEN_BITS, (0, 0, 0), (255, 255, 255), GREY),
    "CMYK": (halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), (255, 0, 0), (255, 255, 255), RGB),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_image_mode(mode):
    import io

    image, left, right, channels = MODES[mode]
    file = io.BytesIO()
    image.save(file, "TIFF" if mode == "CMYK" else "PNG")
    if mode != "P grey":
        assert Image.open(io.BytesIO(file.getvalue())).mode == mode
    rgb = decode(file.getvalue(), 8, RGB)
    assert rgb.shape == (3, 8, 8) and rgb.dtype == np.uint8
    assert (tuple(rgb[:, 4, 1]), tuple(rgb[:, 4, 6])) == (left, right)
    grey = decode(file.getvalue(), 8, GREY)
    weights = np.array([0.299, 0.587, 0.114])
    assert grey.shape == (1, 8, 8)
    assert np.abs(np.array([grey[0, 4, 1], grey[0, 4, 6]]) - [weights @ left, weights @ right]).max() <= 1
    found = look(file.getvalue())
    assert (found.channels, found.sides, found.blank_on or ()) == (channels, (8, 8), ())
    assert found.levels == ((0, 65535) if mode == "I;16" else None)


def test_floating_point_pixels_are_refused():
    import io

    file = io.BytesIO()
    Image.new("F", (4, 4)).save(file, "TIFF")
    with pytest.raises(ValueError, match=r"floating-point"):
        decode(file.getvalue(), 4, GREY)


def test_resizing_is_antialiased():
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode(png(board), 8, GREY)
    assert small.shape == (1, 8, 8) and np.abs(small.astype(int) - 127).max() < 10  # picking pixels would give 0 or 255


def test_parquet_splits_are_pooled_by_class(tmp_path, cache):
    kinds = {
        "picture": datasets.Image(),
        "kind": datasets.ClassLabel(names=["cat", "dog", "emu"]),
        "row": datasets.Value("int32"),
    }
    train = {"picture": [png(noise(i)) for i in range(4)], "kind": [2, 0, 2, 0], "row": [0, 1, 2, 3]}
    test = {"picture": [png(noise(9))], "kind": [0], "row": [0]}
    pool = read(hf_folder(tmp_path / "set", kinds, train=train, test=test), "pets")
    assert pool.names == ("pets/cat", "pets/emu") and pool.counts.tolist() == [3, 2] and pool.x_shape == (3, 10, 10)
    for place, seed in enumerate((1, 3, 9, 0, 2)):
        assert np.array_equal(pool.x[place], noise(seed).transpose(2, 0, 1))
    only = read(str(tmp_path / "set"), "pets", ["test"], Reading(size=5, channels=1))
    assert only.names == ("pets/cat",) and only.x_shape == (1, 5, 5)


def test_an_image_folder(tmp_path):
    for i, name in enumerate(("ant", "ant", "bee")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{i}.png").write_bytes(png(noise(i)))
    pool = read(str(tmp_path), "insects")
    assert pool.names == ("insects/ant", "insects/bee") and pool.counts.tolist() == [2, 1]
    assert np.array_equal(pool.x[2], noise(2).transpose(2, 0, 1))


def test_a_saved_data_set(tmp_path):
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = {"image": [{"bytes": png(noise(i)), "path": None} for i in range(2)], "label": ["b", "a"]}
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(str(tmp_path / "set"))
    assert read(str(tmp_path / "set"), "x").names == ("x/a", "x/b")


def test_without_a_home_folder_the_library_keeps_its_files_in_our_cache(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", "~/.cache/huggingface/datasets")
    monkeypatch.chdir(tmp_path)
    assert len(read(labelled_folder(tmp_path / "set"), "x").names) == 6
    assert (cache / "datasets").is_dir() and not (tmp_path / "~").exists()


def test_integer_labels_are_ordered_by_value(tmp_path):
    where = labelled_folder(tmp_path / "set", classes=12, each=1)
    assert read(where, "n").names == tuple(f"n/{i}" for i in range(12))


def test_large_images_are_read_at_64_unless_asked(tmp_path):
    columns = {"image": [png(noise(0, 90))], "label": [0]}
    where = hf_folder(tmp_path / "set", {"image": datasets.Image(), "label": datasets.Value("int8")}, train=columns)
    assert read(where, "x").x_shape == (3, 64, 64)
    assert read(where, "x", reading=Reading(size=70)).x_shape == (3, 70, 70)


@pytest.mark.parametrize("kind", [datasets.Value("int64"), datasets.ClassLabel(names=["a", "b"])])
def test_rows_without_a_label_are_left_out_with_a_warning(tmp_path, kind):
    missing = -1 if isinstance(kind, datasets.ClassLabel) else None
    columns = {"image": [png(noise(0)), b"broken but not asked", png(noise(2))], "label": [1, missing, 0]}
    where = hf_folder(tmp_path / "set", {"image": datasets.Image(), "label": kind}, train=columns)
    with pytest.warns(UserWarning, match=r"1 rows of split 'train' have no label"):
        pool = read(where, "x")
    assert pool.counts.tolist() == [1, 1] and np.array_equal(pool.x[0], noise(2).transpose(2, 0, 1))


COLUMNS = {
    "image": ([png(noise(0))], datasets.Image()),
    "photo": ([png(noise(1))], datasets.Image()),
    "label": ([3], datasets.Value("int64")),
    "class_name": (["x"], datasets.Value("string")),
    "fine": ([0], datasets.ClassLabel(names=["a"])),
    "coarse": ([0], datasets.ClassLabel(names=["a"])),
    "weight": ([0.5], datasets.Value("float32")),
    "boxes": ([[1, 2]], datasets.List(datasets.Value("int64"))),
}


def with_columns(folder: Path, *names: str) -> str:
    return hf_folder(folder, {n: COLUMNS[n][1] for n in names}, train={n: COLUMNS[n][0] for n in names})


@pytest.mark.parametrize(
    ("columns", "asked", "words"),
    [
        (("image", "photo", "label"), Reading(), "several image columns: image, photo.*--data.image"),
        (("label",), Reading(), "no columns of the feature type Image, of pixels or of vectors, in label"),
        (("image", "fine", "coarse"), Reading(), "several label columns: fine, coarse.*--data.label"),
        (("image", "label", "class_name"), Reading(), "several label columns: label, class_name"),
        (("image", "weight"), Reading(), "no ClassLabel columns.*in image, weight.*--data.label"),
        (("image", "label"), Reading(label="lable"), "Unknown label column 'lable'. Did you mean 'label'"),
        (("image", "label"), Reading(image="imgae"), "Unknown image column 'imgae'. Did you mean 'image'"),
        (("image", "label", "weight"), Reading(label="weight"), "'weight' is not categorical: it holds 0.5.*label"),
        (("image", "label", "boxes"), Reading(label="boxes"), "'boxes' is not categorical"),
        (("image", "label", "weight"), Reading(image="weight"), "'weight' holds Value.*--data.image"),
    ],
)
def test_columns_that_do_not_do(tmp_path, columns, asked, words):
    with pytest.raises(UserError, match=words):
        read(with_columns(tmp_path / "set", *columns), "x", reading=asked)


def test_the_class_label_column_wins_over_names(tmp_path):
    where = with_columns(tmp_path / "set", "image", "photo", "label", "fine", "weight")
    assert read(where, "x", reading=Reading(image="photo")).names == ("x/a",)
    pool = read(where, "x", reading=Reading(image="image", label="label"))
    assert pool.names == ("x/3",) and np.array_equal(pool.x[0], noise(0).transpose(2, 0, 1))


@pytest.mark.parametrize("value", [{"size": 0}, {"size": 5000}, {"channels": 2}])
def test_impossible_sizes_and_channels(value):
    with pytest.raises(UserError, match=f"data.{next(iter(value))}"):
        Reading(**value)


@pytest.mark.parametrize("damaged", [png(noise(5, 40))[:600], b"no image at all", b"", None])
@pytest.mark.parametrize("row", [1, 30])
def test_a_damaged_image_names_split_and_row(tmp_path, damaged, row):
    images = [png(noise(i, 40)) for i in range(32)]
    images[row] = damaged
    kinds = {"image": datasets.Image(), "label": datasets.Value("int64")}
    good = {"image": images[2:4], "label": [0, 1]}
    where = hf_folder(tmp_path / "set", kinds, train=good, test={"image": images, "label": [0, 1] * 16})
    with pytest.raises(UserError, match=rf"1 of 34 images of .*set cannot be read: row {row} of split 'test' \("):
        read(where, "x")


def test_an_empty_split_and_an_unknown_one(tmp_path):
    kinds = {"image": datasets.Image(), "label": datasets.Value("int64")}
    rows = {"image": [png(noise(0))], "label": [0]}
    nothing = {"image": [], "label": []}
    beside, alone = hf_folder(tmp_path / "a", kinds, train=rows, test=nothing), hf_folder(tmp_path / "b", kinds, test=nothing)
    for where in (beside, alone):
        with pytest.raises(UserError, match=r"Split 'test' of .* is empty"):
            open_splits(where)
    where = hf_folder(tmp_path / "set", kinds, train=rows)
    with pytest.raises(UserError, match=r"Unknown split of .* 'tain'. Did you mean 'train'"):
        open_splits(where, ["tain"])
    assert list(open_splits(where, ["train"])) == ["train"]


def test_folders_that_hold_no_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"PAR1 no more")
    for name in ("empty", "broken"):
        with pytest.raises(UserError, match=f"{name} cannot be read as a Hugging Face data set"):
            open_splits(str(tmp_path / name))
    (tmp_path / "packed").mkdir()
    for name in ("a", "b"):
        (tmp_path / "packed" / name).write_bytes(png(noise(0)))
    with pytest.raises(
        UserError, match=r"packed cannot be read .*Its files are 2 without an ending: archives in it have to be"
    ):
        open_splits(str(tmp_path / "packed"))
    with pytest.raises(UserError, match=r"missing does not exist"):
        open_splits(str(tmp_path / "missing"))


def test_a_hub_name_offline():
    started = time.monotonic()
    with pytest.raises(UserError, match=r"no folder someone/pictures.*network.*--data.path"):
        open_splits("someone/pictures")
    assert time.monotonic() - started < 10


UNREACHABLE = """
import time
from episodes.data.hf import open_splits
import datasets  # a busy machine takes its time for that
begun = time.monotonic()
try:
    open_splits("someone/pictures")
finally:
    print(time.monotonic() - begun)
"""


def test_a_hub_that_cannot_be_reached_fails_quickly():
    unreachable = {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*"}
    root, environment = str(Path(__file__).parents[1]), os.environ | unreachable
    words = [sys.executable, "-c", UNREACHABLE]
    got = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True, timeout=120)
    assert got.returncode == 1 and float(got.stdout) < 15
    last = got.stderr.strip().splitlines()[-1]
    assert "UserError" in last and "hub cannot be reached" in last and "HF_HUB_OFFLINE=1" in last


def test_omniglot_archives(tmp_path):
    pool = read_omniglot_archive(omniglot_zips(tmp_path) / "images_background.zip", "omniglot, background", 21)
    assert pool.counts.tolist() == [2] * 6 and pool.x_shape == (1, 21, 21)
    assert (
        pool.names[0] == "omniglot/Greek_background/character01" and pool.names[-1] == "omniglot/Latin_background/character03"
    )
    assert set(np.unique(pool.x)) == {0, 255}


def test_damaged_omniglot_archives(tmp_path):
    import zipfile

    archive = tmp_path / "images_background.zip"
    with pytest.raises(UserError, match=r"images_background.zip does not exist.*images_evaluation.zip"):
        read_omniglot_archive(archive, "omniglot", 28)
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("images_background/Latin/character01/0001_01.png", b"broken")
    with pytest.raises(UserError, match=r"character01/0001_01.png cannot be decoded"):
        read_omniglot_archive(archive, "omniglot", 28)
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("something.txt", b"else")
    with pytest.raises(UserError, match=r"no entry like"):
        read_omniglot_archive(archive, "omniglot", 28)
    archive.write_bytes(b"PK but no archive")
    with pytest.raises(UserError, match=r"damaged"):
        read_omniglot_archive(archive, "omniglot", 28)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Small archives served over HTTP on this machine, in the place of the official ones."""
    files = omniglot_zips(tmp_path / "served")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(files))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(episodes.data.archives, "OMNIGLOT_URL", f"http://127.0.0.1:{running.server_address[1]}/")
        yield files
        running.shutdown()


def test_omniglot_is_downloaded_once(server, cache):
    folder = omniglot_download()
    for archive in ("images_background.zip", "images_evaluation.zip"):
        assert (folder / archive).read_bytes() == (server / archive).read_bytes()
        (server / archive).unlink()
    assert omniglot_download() == folder
    assert sorted(path.name for path in folder.iterdir()) == ["images_background.zip", "images_evaluation.zip"]


def test_a_failed_download_says_what_to_do_and_leaves_nothing(server, cache):
    (server / "images_evaluation.zip").unlink()
    with pytest.raises(UserError, match=r"images_evaluation.zip could not be downloaded.*404.*--data.path"):
        omniglot_download()
    assert [path.name for path in (cache / "downloads" / "omniglot").iterdir()] == ["images_background.zip"]
