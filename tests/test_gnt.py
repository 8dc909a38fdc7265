"""CASIA-HWDB: the `.gnt` files of the benchmark `casia`, in their byte format."""

import logging
import struct
from pathlib import Path

import large_pools
import numpy as np
import pytest
from making import gnt_folder, gnt_record
from PIL import Image

from episodes import Benchmark, DataConfig, EpisodeShape, UserError, load_benchmark
from episodes.benchmarks import large
from episodes.data.gnt import character_of, squared
from episodes.data.pool import ClassPool
from episodes.errors import Notice


def casia(folder: Path, **options) -> Benchmark:
    return load_benchmark(DataConfig("casia", path=str(folder), **options), 8)


def pool_of(benchmark: Benchmark) -> ClassPool:
    """All classes of a benchmark, in the order of their images."""
    parts = [pool for split in ("train", "validation", "test") for pool in benchmark.pools(split)]
    names = [name for pool in parts for name in pool.names]
    starts, counts = (np.concatenate([getattr(pool, part) for pool in parts]) for part in ("starts", "counts"))
    order, pool = np.argsort(starts), parts[0]
    starts, counts = starts[order], counts[order]
    return ClassPool(pool.x, starts, counts, tuple(names[i] for i in order), "all", "print", pool.ids)


def test_every_character_is_a_class_and_every_image_is_where_it_belongs(tmp_path, cache):
    folder = gnt_folder(tmp_path / "hwdb", characters="啊阿埃0a", writers=3)
    (folder / "readme.txt").write_text("no gnt")
    benchmark = casia(folder)
    pool = pool_of(benchmark)
    assert pool.names == ("casia/0-3000", "casia/a-6100", "casia/啊-b0a1", "casia/埃-b0a3", "casia/阿-b0a2")
    assert pool.counts.tolist() == [3] * 5 and pool.starts.tolist() == [0, 3, 6, 9, 12]
    assert benchmark.train.spec.x_shape == (1, 32, 32) and isinstance(pool.x, np.memmap)
    for writer, file in enumerate(sorted(folder.rglob("*.gnt"))):  # part0/000, part0/002, part1/001: the order in each class
        data, place = file.read_bytes(), 0
        for code in ("啊", "阿", "埃", "0", "a"):
            size, _, width, height = struct.unpack_from("<I2sHH", data, place)
            drawn = np.frombuffer(data, np.uint8, width * height, place + 10).reshape(height, width)
            expected = Image.fromarray(squared(drawn)).resize((32, 32), Image.Resampling.BILINEAR)
            label = [name.split("/")[1][0] for name in pool.names].index(code)
            assert np.array_equal(pool.x[3 * label + writer, 0], np.asarray(expected))
            place += size
    assert len(set(pool.ids.tolist())) == 15
    episode = benchmark.generator("train", EpisodeShape(2, 1, 1), 0).batch([0])
    assert episode.stream.x.shape == (1, 2, 1, 32, 32)


def test_an_image_is_padded_to_a_square_with_white():
    square = squared(np.zeros((2, 5), np.uint8))
    assert square.shape == (5, 5) and (square[1:3] == 0).all() and (square[[0, 3, 4]] == 255).all()
    assert (squared(np.zeros((4, 1), np.uint8))[:, [0, 2, 3]] == 255).all()


def test_size_and_channels(tmp_path, cache):
    folder = gnt_folder(tmp_path / "hwdb")
    assert casia(folder, size=14, channels=3).train.spec.x_shape == (3, 14, 14)
    assert casia(folder / "part0" / "000-c.gnt").train.spec.x_shape == (1, 32, 32), "a single file"
    with pytest.raises(UserError, match=r"--data.label means nothing for casia"):
        casia(folder, label="x")
    with pytest.raises(UserError, match=r"casia cannot be downloaded.*--data.path FOLDER"):
        load_benchmark(DataConfig("casia"), 8)
    for file in folder.rglob("*.gnt"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no .gnt files"):
        casia(tmp_path)


@pytest.mark.parametrize(
    ("classes", "expected"), [(7356, (6256, 100, 1000)), (10_000, (8900, 100, 1000)), (735, (625, 10, 100)), (5, (3, 1, 1))]
)
def test_a_thousand_classes_are_held_out_or_as_large_a_part(classes, expected, cache):
    counts = np.ones(classes, np.int64)
    names = tuple(f"casia/{i}" for i in range(classes))
    x, ids = np.zeros((classes, 1, 2, 2), np.uint8), np.zeros(classes, np.uint64)
    pool = ClassPool(x, np.arange(classes), counts, names, "casia", "print", ids)
    benchmark = large._dealt(DataConfig("casia"), 8, pool)
    assert tuple(len(benchmark.classes(split)) for split in ("train", "validation", "test")) == expected


CUT = {
    "in the image": (lambda data: data[:-3], r"ends after \d+ of a record's \d+ bytes"),
    "in the head": (lambda data: data + b"\x20\0\0", "ends after 3 of the 10 bytes"),
    "a size that does not fit": (
        lambda data: struct.pack("<I", 77) + data[4:],
        r"\(a record of 77 bytes cannot have",
    ),
    "another format": (lambda data: b"PNG and so on, no gnt", r"\(a record of"),
    "no pixels": (lambda data: struct.pack("<I2sHH", 10, b"a\0", 0, 5) + data, "cannot have an image of 0 x 5"),
}


@pytest.mark.parametrize("case", CUT)
def test_a_file_that_is_cut_off_or_no_gnt_is_an_error(tmp_path, cache, case):
    folder = gnt_folder(tmp_path / "hwdb", writers=4)
    change, words = CUT[case]
    for file in ("part0/002-c.gnt", "part1/003-c.gnt"):
        (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(UserError, match=rf"casia: 2 of 4 files .*part0/002-c.gnt at byte.*{words}.*; part1/003-c.gnt.*go on"):
        casia(folder)
    assert not list((cache / "pools").iterdir()), "nothing is left of the build"


def test_an_empty_file_is_no_gnt(tmp_path, cache):
    folder = gnt_folder(tmp_path / "hwdb", writers=4)
    (folder / "part0" / "002-c.gnt").write_bytes(b"")
    with pytest.raises(UserError, match=r"casia: 1 of 4 files .*part0/002-c.gnt \(it is empty\)"):
        casia(folder)


def test_codes_that_are_no_characters_are_left_out_up_to_a_limit(tmp_path, cache):
    folder = gnt_folder(tmp_path / "hwdb")
    image = np.zeros((3, 3), np.uint8)
    bad = b"".join(gnt_record(code, image) for code in (b"\xff\xff", b"\0\0", b"\x81\x20"))
    (folder / "z.gnt").write_bytes(gnt_record("啊".encode("gbk"), image) + bad)
    with pytest.warns(
        UserWarning, match=r"casia: 3 of 19 records cannot be read .*: byte 19 of z.gnt \(the code ffff is no char"
    ):
        benchmark = casia(folder)
    assert pool_of(benchmark).counts.tolist() == [3, 3, 4, 3, 3]
    (folder / "z.gnt").write_bytes(4 * bad)
    with pytest.raises(UserError, match=r"12 of 27 records cannot be read, which is too many"):
        casia(folder)


def test_the_code_page_is_told_and_can_be_another(tmp_path, cache, caplog):
    """Every code is a character of both, so that only who looks at the images can tell."""
    caplog.set_level(logging.INFO, "episodes")
    folder = tmp_path / "hwdb"
    folder.mkdir()
    image = np.arange(9, dtype=np.uint8).reshape(3, 3)
    (folder / "a.gnt").write_bytes(b"".join(gnt_record(own.encode("big5"), image) for own in "是有我0"))
    told = "casia: 3 characters are read as {} ... Where images show others, {}."
    pool = pool_of(casia(folder))
    assert caplog.messages[0] == told.format("GBK: 琌Τи", "give --data.configuration big5")
    caplog.clear()
    assert pool_of(casia(folder)).names == pool.names and casia(folder, configuration="gbk") and not caplog.text, "once"
    names = pool_of(casia(folder, configuration="big5")).names
    assert sorted(name[6:] for name in names) == ["0-3000", "我-a7da", "是-ac4f", "有-a6b3"]
    assert caplog.messages[0] == told.format("Big5: 是有我", "leave out --data.configuration")
    with pytest.raises(UserError, match=r"Unknown code page .*'utf-8'.* There is: big5, gbk"):
        casia(folder, configuration="utf-8")
    with pytest.raises(UserError, match=r"--data.configuration means nothing for celeb"):
        load_benchmark(DataConfig("celeb", path=str(folder), configuration="big5"), 8)
    caplog.clear()
    load_benchmark(DataConfig("rotation", path=str(folder), configuration="big5", size=8), 2)
    assert caplog.messages[0] == told.format("Big5: 是有我", "leave out --data.configuration")


def test_codes_of_another_code_page_are_called_so(tmp_path, cache):
    folder = gnt_folder(tmp_path / "hwdb")
    (folder / "z.gnt").write_bytes(gnt_record("的".encode("big5"), np.zeros((3, 3), np.uint8)))
    with pytest.warns(Notice, match=r"the code aaba is no character of GBK, but one of Big5\)"):
        casia(folder)


def test_the_measurement_of_large_pools_writes_such_files(tmp_path, cache):
    large_pools.synthesise(tmp_path / "gnt", writers=2, classes=40)
    pool = pool_of(casia(tmp_path / "gnt"))
    assert pool.counts.tolist() == [2] * 40


@pytest.mark.parametrize(
    ("code", "character"),
    [(b"\xb0\xa1", "啊"), (b"0\0", "0"), (b"\xff\xff", None), (b" \0", None), (b"\0\0", None), (b"ab", None), (b"\n\0", None)],
)
def test_characters(code, character):
    assert character_of(code) == character
