"""MS-Celeb-1M: the `.tsv` files of the benchmark `celeb`, in their byte format."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from making import face, face_row

from episodes import Benchmark, DataConfig, UserError, load_benchmark
from episodes.data.images import decode

IDENTITIES = ("m.0b", "m.0a", "m.0d", "m.0c", "m.0f", "m.0e")


def celeb(path: Path, **options) -> Benchmark:
    return load_benchmark(DataConfig("celeb", path=str(path), **options), 8)


@pytest.fixture
def rows() -> list[bytes]:
    """Twenty rows of each of six identities, mixed, and three of another."""
    faces = [face_row(who, face(100 * i + rank), rank) for rank in range(20) for i, who in enumerate(IDENTITIES)]
    return faces + [face_row("m.rare", face(900 + rank), rank) for rank in range(3)]


def written(folder: Path, rows: list[bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "faces.tsv").write_bytes(b"".join(rows))
    return folder


def test_every_identity_is_a_class_and_those_with_few_images_are_left_out(tmp_path, cache, rows):
    with pytest.warns(UserWarning, match=r"celeb: 1 of 7 classes are left out with fewer than 20 images: m.rare \(3\)"):
        benchmark = celeb(written(tmp_path / "ms", rows))
    assert sorted(name for split in ("train", "validation", "test") for name in benchmark.classes(split)) == [
        f"celeb/{who}" for who in sorted(IDENTITIES)
    ]
    assert benchmark.train.spec.x_shape == (3, 32, 32)
    for split in ("train", "validation", "test"):
        (pool,) = benchmark.pools(split)
        for start, count, name in zip(pool.starts, pool.counts, pool.names, strict=True):
            seeds = [100 * IDENTITIES.index(name.split("/")[1]) + rank for rank in range(20)]
            assert count == 20
            assert all(np.array_equal(pool.x[start + i], decode(face(seed), 32, 3)) for i, seed in enumerate(seeds))


def test_broken_rows_are_left_out_and_said(tmp_path, cache, rows):
    broken = {
        1: rows[1].rsplit(b"\t", 1)[0] + b"\t%%%\n",  # a face of m.0a, as the next
        7: rows[7].rsplit(b"\t", 1)[0] + b"\n",
        120: b"m.rare\n",
        121: b"\tx\n",
    }
    for at, row in broken.items():
        rows[at] = row
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        benchmark = celeb(written(tmp_path / "ms", rows))
    words = [str(one.message) for one in said]
    assert words[0].startswith(
        "celeb: 4 of 123 records cannot be read and are left out: row 2 of faces.tsv (its last column is no"
    )
    assert "row 8 of faces.tsv (it is of no format" in words[0], "the box of a face, where the face is missing"
    assert "row 121 of faces.tsv (it has one column); row 122 of faces.tsv (it has no identity)." in words[0]
    assert words[1:] == ["celeb: 2 of 7 classes are left out with fewer than 20 images: m.rare (1), m.0a (18)."]
    assert not any("celeb/m.0a" in benchmark.classes(split) for split in ("train", "validation", "test"))


def test_a_class_whose_faulty_images_are_taken_out_is_whole(tmp_path, cache, rows):
    rows[8:8] = [face_row("m.0b", b"no image")] * 2  # between good ones
    with pytest.warns(UserWarning, match="2 of 122 records cannot be read"):
        benchmark = celeb(written(tmp_path / "ms", rows[:122]))
    (pool,) = [
        pool for split in ("train", "validation", "test") for pool in benchmark.pools(split) if "celeb/m.0b" in pool.names
    ]
    own = pool.names.index("celeb/m.0b")
    run = slice(pool.starts[own], pool.starts[own] + pool.counts[own])
    assert pool.counts[own] == 20
    assert all(np.array_equal(image, decode(face(rank), 32, 3)) for rank, image in enumerate(pool.x[run]))
    assert len(set(pool.ids[run].tolist())) == 20 and 0 not in pool.ids[run]


def test_too_many_broken_rows_are_an_error(tmp_path, cache, rows):
    rows = [row[:60] + b"\n" if i % 5 == 0 else row for i, row in enumerate(rows)]
    with pytest.raises(UserError, match=r"celeb: 24 of 123 records cannot be read, which is too many .*: row 1 of faces.tsv"):
        celeb(written(tmp_path / "ms", rows))
    assert not list((cache / "pools").iterdir())


def test_what_was_read_is_told_and_a_file_without_rows_is_said(tmp_path, cache, rows, caplog):
    caplog.set_level(logging.INFO, "episodes")
    (tmp_path / "ms").mkdir()
    (tmp_path / "ms" / "more.tsv").touch()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        celeb(written(tmp_path / "ms", rows))
    assert str(said[0].message) == "celeb: 1 of 2 files are empty: more.tsv."
    (record,) = caplog.records
    assert record.getMessage().splitlines() == [
        "celeb is read for the first time:",
        "    classes   6",
        "    images    120: 20 of each class",
        "    pixels    32 x 32",
        "    channels  3 (colour)",
        "    left out  3 of 123 records",
    ]


def test_no_class_has_enough(tmp_path, cache, rows):
    with pytest.raises(UserError, match=r"celeb has 6 classes, none of them with 20 images"):
        celeb(written(tmp_path / "ms", rows[:40]))
    with pytest.raises(UserError, match="celeb has no images"):
        celeb(written(tmp_path / "none", []))
