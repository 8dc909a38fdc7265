"""What was read is told once, as a table; and what the meta-test cannot have is found before the meta-training."""

import logging

import numpy as np
import pytest
from making import noise, png
from test_cli import TINY

from episodes import DataConfig, UserError, load_benchmark
from episodes.data.reading import Reading
from episodes.data.sources import read
from episodes.errors import Notice
from metacl.cli import evaluate_main, train_main


def test_what_was_read_is_told(tmp_path, cache, caplog):
    for i, (label, side) in enumerate((("a", 8), ("a", 8), ("b", 12), ("a", 10))):
        (tmp_path / "pics" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pics" / label / f"{i}.png").write_bytes(png(noise(i, side, 1)))
    (tmp_path / "pics" / "b" / "x.png").write_bytes(b"")
    (tmp_path / "pics" / "read.me").write_text("no image")
    caplog.set_level(logging.INFO, "episodes")
    with pytest.warns(Notice):
        read(str(tmp_path / "pics"), "p", reading=Reading(skip_damaged=True))
    (record,) = caplog.records
    assert record.getMessage().splitlines() == [
        "p is read for the first time:",
        "    classes   2",
        "    images    4: 1 to 3 of a class, median 2",
        "    pixels    8 x 8 to 12 x 12, read at 8 x 8",
        "    channels  1 (grey)",
        "    left out  1 files or rows that are no labelled examples; 1 images that cannot be read",
    ]


def vectors(folder, each: int = 10, fewer: int | None = None) -> str:
    """Ten classes of vectors; class `fewer` has two alone."""
    y = np.array([c for c in range(10) for _ in range(2 if c == fewer else each)])
    np.savez(folder / "v.npz", x=np.random.default_rng(0).standard_normal((len(y), 4)), y=y)
    return str(folder / "v.npz")


def test_the_commands_show_it_the_first_time(cli, tmp_path, cache):
    where = vectors(tmp_path)
    told = "v is read for the first time: classes 10 vectors 100: 10 of each class numbers 4 a vector left out nothing"
    words = [where, "transformer", *TINY]
    status, said = cli(train_main, *words, "--run", "one")
    assert status == 0 and told in said
    status, said = cli(train_main, *words, "--run", "two")
    assert status == 0 and "first time" not in said


def test_a_class_of_the_meta_test_that_is_too_small_is_found_before_the_meta_training(cli, tmp_path, cache):
    benchmark = load_benchmark(DataConfig(vectors(tmp_path)), 8)
    for split in ("test", "validation"):
        small = int(benchmark.classes(split)[0].removeprefix("v/"))
        where = vectors(tmp_path, fewer=small)
        status, said = cli(train_main, where, "transformer", *TINY, "--run", "run")
        assert status == 2 and not (tmp_path / "run").exists()
        assert f"classes of v, meta-{split} have fewer than the" in said and f"v/{small} (2)" in said
        assert "leave out such classes: --data.fewest" in said


def test_a_class_that_is_too_small_to_choose_a_rate_on_is_found_at_once(cli, tmp_path, cache):
    small = int(load_benchmark(DataConfig(vectors(tmp_path)), 8).classes("validation")[0].removeprefix("v/"))
    words = ["--tasks", "2", "--rates", "0.1", "0.01", "--episodes", "2"]
    status, said = cli(evaluate_main, vectors(tmp_path, fewer=small), "bp", *words)
    assert (
        status == 2
        and f"v, meta-validation have fewer than the 5 shots + 5 queries = 10 images that are asked: v/{small} (2)" in said
    )


def test_nothing_is_told_when_nothing_can_be_read(tmp_path, caplog):
    caplog.set_level(logging.INFO, "episodes")
    with pytest.raises(UserError):
        read(str(tmp_path / "nowhere"), "p")
    assert not caplog.records
