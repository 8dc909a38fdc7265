"""One error path: what disks, permissions and memory do is a sentence, and nothing that was written before is damaged."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from making import labelled_folder, noise, png
from test_cli import FEW, SHAPE, SMALL_ENCODER, TINY

from metacl.cli import evaluate_main, train_main
from metacl.learners.sequence import SequenceLearner
from metacl.report.display import with_plain_errors
from metacl.runs import files
from metacl.runs.folder import Run

BOTH = ((train_main, ["sine", "transformer", *TINY], "--run"), (evaluate_main, ["sine", "knn"], "--out"))
"""Both commands, and the option that names their folder."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/mine"), "runs/mine: No space left on device. Make room"),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), "runs: Permission denied. Give yourself the right"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "Read-only file system. Give yourself"),
        (OSError("odd"), "odd. Check the disk"),
        (MemoryError(), "Memory ran out. A smaller --batch-size"),
        (MemoryError("Unable to allocate 9 TiB"), r"Memory ran out (Unable to allocate 9 TiB). A smaller"),
    ],
)
def test_faults_of_the_machine_are_sentences(capsys, error, words):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        with_plain_errors(fail)
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_what_torch_says_of_memory_is_a_sentence(capsys):
    with pytest.raises(SystemExit):
        with_plain_errors(lambda: torch.empty(2**60, dtype=torch.uint8))
    assert "Memory ran out" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback():
    def fail():
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError):
        with_plain_errors(fail)


@pytest.mark.parametrize("seeds", ["0", "0 1"])
def test_a_run_that_fails_before_its_first_step_is_not_left_behind(cli, monkeypatch, seeds):
    def fail(self, episode):
        raise MemoryError

    monkeypatch.setattr(SequenceLearner, "forward", fail)
    status, text = cli(train_main, "sine", "transformer", *TINY, "--seeds", *seeds.split(), "--run", "runs/mine")
    assert status == 2 and "Memory ran out" in text
    assert list(Path("runs").iterdir()) == []


@pytest.mark.parametrize("source", ["sine", "slowly-changing-regression"])
def test_an_evaluation_that_fails_before_its_first_result_is_not_left_behind(cli, monkeypatch, source):
    def fail(*_, **more):
        raise MemoryError

    for module in ("on_episodes.evaluate", "along_stream.follow"):
        monkeypatch.setattr(f"metacl.commands.{module}", fail)
    status, text = cli(evaluate_main, source, "knn", "--out", "mine")
    assert status == 2 and "Memory ran out" in text and list(Path().iterdir()) == [], text


def test_a_full_disk_damages_nothing_and_the_run_goes_on(cli, monkeypatch):
    words = ["sine", "transformer", *TINY]
    assert cli(train_main, *words, "--run", "whole")[0] == 0
    plain = files.write_whole

    def full(path, content):
        if path.name == "checkpoint.json" and "00000010" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        plain(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_whole", full)
        status, text = cli(train_main, *words, "--run", "mine")
    assert status == 2 and "No space left on device" in text and Run.open("mine").last() == 5
    assert cli(train_main, "--resume", "mine")[0] == 0
    ends = [Run.open(name).checkpoints.about(10) for name in ("whole", "mine")]
    assert ends[0]["digests"] == ends[1]["digests"] and ends[0]["score"] == ends[1]["score"]


@pytest.mark.parametrize("place", ["file", "file/below", "folder", "link"])
def test_places_where_no_run_can_be(cli, place):
    Path("file").write_text("mine")
    Path("folder").mkdir()
    (Path("folder") / "thing").touch()
    Path("link").symlink_to("nowhere")
    for command, words, option in (
        (train_main, ["sine", "transformer", *TINY], "--run"),
        (evaluate_main, ["sine", "knn"], "--out"),
    ):
        status, text = cli(command, *words, option, place)
        assert status == 2 and "Error: " in text and place.split("/")[0] in text, text
    assert Path("file").read_text() == "mine" and [path.name for path in Path("folder").iterdir()] == ["thing"]
    assert not Path("nowhere").exists() and len(list(Path().iterdir())) == 3


def test_no_name_is_no_folder(cli):
    for command, words, option in (
        (train_main, ["sine", "transformer", *TINY], "--run"),
        (evaluate_main, ["sine", "knn"], "--out"),
    ):
        for name in ("", "."):
            status, text = cli(command, *words, option, name)
            assert status == 2 and "is no name of a folder" in text
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        "--workers 1000000000",
        "--learner.dropout nan",
        "--learner.attention-dropout 1.5",
        "--optimiser.rate inf",
        "--optimiser.weight-decay nan",
        "--seeds 123456789012345678901234567890",
        "--seeds 4294967296",
        "--episodes.tasks 123456789012345678901234567890",
        "--batch-size 100000000",
        "--learner.width 999999996",
        "--smoothing 1",
    ],
)
def test_hostile_numbers_are_said(cli, options):
    status, text = cli(train_main, "sine", "transformer", *FEW, *SHAPE, *options.split(), "--run", "mine")
    assert status == 2 and "Traceback" not in text and list(Path().iterdir()) == [], text


def test_a_run_goes_on_from_another_folder_and_with_data_that_moved(cli, tmp_path, monkeypatch, cache):
    """The path of the data is written down whole, and the way to evaluate is one that works."""
    labelled_folder(tmp_path / "here" / "a" / "pics", classes=10, each=4)
    monkeypatch.chdir(tmp_path / "here")
    words = ["a/pics", "transformer", *TINY, *SMALL_ENCODER, "--episodes.tasks", "3"]
    status, text = cli(train_main, *words, "--run", str(tmp_path / "run"))
    assert status == 0 and f"Now: python evaluate.py {tmp_path}/run" in text and "--tasks" not in text
    assert "Meta-test has classes for 2 tasks, not for 3: its streams have 2." in text
    monkeypatch.chdir(tmp_path)
    few = ["--tasks", "2", "--episodes", "2"]
    assert cli(evaluate_main, "run", *few)[0] == 0 and cli(train_main, "--resume", "run")[0] == 0
    (tmp_path / "here").rename(tmp_path / "there")
    assert cli(train_main, "--resume", "run")[0] == 2
    assert cli(train_main, "--resume", "run", "--data.path", "there/a/pics")[0] == 0
    assert cli(evaluate_main, "run", *few, "--data.path", "there/a/pics", "--out", "out")[0] == 0


def test_a_run_on_an_archive_goes_on_from_another_folder(cli, tmp_path, monkeypatch, cache):
    for label in range(10):
        (tmp_path / "pics" / f"c{label}").mkdir(parents=True)
        for i in range(4):
            (tmp_path / "pics" / f"c{label}" / f"{i}.png").write_bytes(png(noise(10 * label + i, 12, 1)))
    shutil.make_archive("pics", "zip", tmp_path, "pics")
    assert cli(train_main, "pics.zip", "pn", *FEW, *SHAPE, *SMALL_ENCODER, "--learner.width", "8", "--run", "mine")[0] == 0
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert cli(evaluate_main, "../mine", "--tasks", "2", "--episodes", "2")[0] == 0
    status, text = cli(train_main, "~nobody-of-this-name/pics", "pn")
    assert status == 2 and "stands for a home folder" in text


def test_a_run_that_goes_on_elsewhere_says_what_rounds_otherwise(cli):
    assert cli(train_main, "sine", "transformer", *TINY, "--run", "mine")[0] == 0
    path = Path("mine/environment.json")
    files.write_json(path, files.read_json(path) | {"threads": 99, "precision": "bf16"})
    status, text = cli(train_main, "--resume", "mine")
    assert status == 0 and "not to the last bit" in text and "threads 1, not 99" in text and "precision no, not bf16" in text


@pytest.mark.parametrize("command", [train_main, evaluate_main])
def test_help_for_a_folder(cli, tmp_path, command):
    labelled_folder(tmp_path / "pics")
    status, text = cli(command, str(tmp_path / "pics"), "--help")
    assert status == 0 and "LEARNER" in text
