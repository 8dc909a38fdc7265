"""What a run was meta-trained on is kept in its folder, by what it is, and is never held out; so are sizes that were found."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from making import noise, png

from episodes.errors import note
from metacl.cli import evaluate_main, train_main
from metacl.report.display import plain_notices
from metacl.runs.files import read_json, write_json
from metacl.runs.folder import Run
from metacl.runs.trained_on import FILE, trained_on

FEW = ["--steps", "2", "--batch-size", "1", "--validation.every", "2", "--validation.episodes", "1", "--precision", "fp32"]
SHAPE = ["--episodes.tasks", "2", "--episodes.shots", "2", "--episodes.queries", "1", "--learner.width", "8"]
ENCODER = ["--learner.encoder.channels", "4", "4", "--learner.encoder.strides", "2", "2"]
TINY = [*FEW, *SHAPE, *ENCODER, "--run", "mine"]


@pytest.fixture
def pictures(tmp_path, cache) -> Path:
    """a/pics: ten classes of four images."""
    for label in range(10):
        (tmp_path / "a" / "pics" / f"c{label}").mkdir(parents=True)
        for i in range(4):
            (tmp_path / "a" / "pics" / f"c{label}" / f"{i}.png").write_bytes(png(noise(10 * label + i, 12, 1)))
    return tmp_path / "a" / "pics"


def data_of(folder: str) -> dict:
    values = json.loads(Path(folder, "config.json").read_text())
    return values["data"] if "data" in values else values["stream"]["data"]


def held_out(cli, *options: str) -> tuple[int, str]:
    return cli(evaluate_main, str(Path(options[0])), "--episodes", "2", *options[1:])


def test_a_path_written_otherwise_is_the_same_data(cli, pictures, tmp_path, monkeypatch):
    assert cli(train_main, "a/pics", "pn", *TINY)[0] == 0
    before = json.loads(Path("mine/environment.json").read_text())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, text = held_out(cli, "../mine", "--data.path", str(pictures))
    assert status == 0 and "Note" not in text
    found = json.loads((tmp_path / "mine" / "results" / "results.json").read_text())
    assert found["data_fingerprint"] == before["data_fingerprint"] and len(before["meta_train_classes"]) == 6


def test_classes_under_other_names_are_known_by_their_images(cli, pictures, tmp_path):
    """A copy whose folders are called otherwise is dealt otherwise."""
    assert cli(train_main, "a/pics", "pn", *TINY)[0] == 0
    shutil.copytree(pictures, tmp_path / "b")
    for folder in list((tmp_path / "b").iterdir()):
        folder.rename(tmp_path / "b" / f"other-{folder.name}")
    assert len(np.load(tmp_path / "mine" / FILE)) == 24
    status, text = held_out(cli, "mine", "--data.path", str(tmp_path / "b"))
    assert status == 2 and "classes that this run was meta-trained on: pics/other-c" in text
    (tmp_path / "mine" / FILE).unlink()
    status, text = held_out(cli, "mine", "--data.path", str(tmp_path / "b"))
    assert status == 2 and FILE in text
    path = tmp_path / "mine" / "environment.json"  # as in a run of an earlier version
    write_json(path, {name: value for name, value in read_json(path).items() if name != "trained_on"})
    assert held_out(cli, "mine", "--data.path", str(tmp_path / "b"))[0] == 0


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_a_damaged_note_of_what_was_trained_on_is_said(cli, pictures, content):
    assert cli(train_main, "a/pics", "pn", *TINY)[0] == 0
    if content is None:
        np.save(Path("mine") / FILE, np.zeros(3))
    else:
        (Path("mine") / FILE).write_bytes(content)
    status, text = held_out(cli, "mine", "--data.path", str(pictures), "--data.size", "9")
    assert status == 2 and FILE in text and "what the run was meta-trained on" in text


def test_the_size_that_was_found_is_written_down_and_kept(cli, pictures):
    assert cli(train_main, "a/pics", "pn", *TINY)[0] == 0
    assert (Run.open("mine").config.data.size, Run.open("mine").config.data.channels) == (12, 1)
    (pictures / "c0" / "0.png").write_bytes(png(noise(0, 40, 3)))
    status, text = held_out(cli, "mine")
    assert status == 0 and "not the data that the run was started on" in text
    assert data_of("mine/results")["size"] == 12
    options = ["--episodes", "2", "--tasks", "2", "--shots", "2", "--queries", "1", "--out", "k"]
    assert cli(evaluate_main, "a/pics", "knn", *options)[0] == 0
    assert (data_of("k")["size"], data_of("k")["channels"]) == (12, 3), "the median, and colour where one has it"


def test_identical_images_in_two_meta_splits_are_said_once(cli, pictures):
    for label in range(10):
        (pictures / f"c{label}" / "same.png").write_bytes(png(noise(99, 12, 1)))
    assert cli(train_main, "a/pics", "pn", *TINY)[1].count("pics, meta-train and pics, meta-test have 1 image in common") == 1
    assert held_out(cli, "mine")[1].count("pics, meta-train and pics, meta-test have 1 image in common") == 1


def test_a_stream_of_what_was_trained_on_is_said(cli, pictures):
    assert cli(train_main, "a/pics", "pn", *TINY)[0] == 0
    stream = ["online-cifar100", "--stream.data.name", "a/pics", "--stream.classes", "2", "--tasks", "1", "--out", "s"]
    status, text = cli(evaluate_main, "mine", *stream)
    assert status == 0 and "6 classes of online-cifar100 are ones that mine was meta-trained on, such as pics/c" in text
    assert (data_of("s")["size"], data_of("s")["channels"]) == (12, 1)


@pytest.mark.filterwarnings("default")
def test_what_is_said_of_the_data_is_a_sentence(capsys, monkeypatch):
    usual = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: usual.append(str(message)))
    with plain_notices():
        for _ in range(2):
            warnings.warn("other", UserWarning, stacklevel=1)
            note("2 are left out.")
            warnings.simplefilter("default")  # as libraries do, after which Python forgets what it has said
    assert capsys.readouterr().err.strip() == "Note: 2 are left out." and usual == ["other", "other"]


def test_regression_has_no_images(cli, cache):
    assert cli(train_main, "sine", "transformer", *FEW, *SHAPE, "--learner.heads", "2", "--run", "mine")[0] == 0
    assert len(trained_on(Path("mine"))) == 0 and Run.open("mine").config.data.size is None
