"""Both commands on data as people have them: a folder of images, a table, a parquet file, and the real Tiny ImageNet."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from making import labelled_folder, noise, png
from test_cli import SHAPE, SMALL_ENCODER

from metacl.cli import evaluate_main, train_main

TWO_STEPS = ["--steps", "2", "--batch-size", "2", "--validation.every", "2", "--validation.episodes", "2"]


def folder(place: Path) -> Path:
    for label in range(10):
        for i in range(4):
            file = place / "pics" / f"class {label}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(noise(10 * label + i)))
    return place / "pics"


def table(place: Path) -> Path:
    rows = [f"{file.relative_to(place)};{file.parent.name}" for file in sorted(folder(place).rglob("*.png"))]
    (place / "labels.csv").write_text("\n".join(["file;label", *rows]) + "\n", encoding="utf-8")
    return place / "labels.csv"


def parquet(place: Path) -> Path:
    (file,) = Path(labelled_folder(place / "set", classes=10, each=4)).rglob("*.parquet")
    return Path(shutil.copy(file, place / "labelled.parquet"))


def trained_and_evaluated(cli: Callable, *data: str) -> dict:
    """The result of two tasks by a learner that was meta-trained for two steps."""
    status, text = cli(train_main, *data[:1], "pn", *data[1:], *TWO_STEPS, *SHAPE, *SMALL_ENCODER, "--run", "run")
    assert status == 0 and "Done." in text, text
    status, text = cli(evaluate_main, "run", "--tasks", "2", "--episodes", "4")
    assert status == 0 and "2 x 2" in text, text
    (found,) = json.loads(Path("run/results/results.json").read_text())["results"]
    return found


@pytest.mark.parametrize("written", [folder, table, parquet])
def test_a_run_on_data_of_ones_own(cli, tmp_path, cache, written):
    found = trained_and_evaluated(cli, str(written(tmp_path)))
    assert found["episodes"]["number"] == 4 and found["measures"]


@pytest.mark.slow
def test_a_run_on_tiny_imagenet(cli, real_data, cache):
    found = trained_and_evaluated(cli, "tiny-imagenet", "--data.path", real_data("tiny-imagenet"))
    assert found["episodes"]["number"] == 4
