"""Several runs as jobs of their own, and grids of options."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from episodes import UserError
from metacl.cli import evaluate_main, train_main
from metacl.commands.grid import take_grid
from metacl.commands.parse_train import parse_train
from metacl.report.results import read_results
from metacl.runs import launching
from metacl.runs.launching import LOG, launch

SUBMITIT = find_spec("submitit") is not None
RESUMES = "import sys; print('resumed', sys.argv[-1]); sys.exit(3 if sys.argv[-1].endswith('bad') else 0)"


@pytest.fixture
def folders(tmp_path, monkeypatch) -> list[Path]:
    """The folders of three runs, of which one fails; a job only says that it was resumed."""
    monkeypatch.setattr(launching, "job", lambda script, folder: [sys.executable, "-c", RESUMES, "--resume", str(folder)])
    made = [tmp_path / name for name in ("one", "bad", "two")]
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.parametrize(
    "where",
    ["local:1", "local:3", pytest.param("debug", marks=pytest.mark.skipif(not find_spec("submitit"), reason="no submitit"))],
)
def test_jobs_are_resumed_and_those_that_fail_are_told(folders, where):
    told: dict[str, int] = {}
    failed = launch(where, "train.py", folders, lambda folder, status: told.update({folder.name: status}))
    assert failed == [folders[1]] and told == {"one": 0, "bad": 3, "two": 0}
    assert all((folder / LOG).read_text() == f"resumed {folder}\n" for folder in folders)


def test_jobs_are_told_where_the_data_are(folders):
    launch("local:3", "train.py", folders, lambda folder, status: None, ["--data.path", "there"])
    assert all((folder / LOG).read_text() == "resumed there\n" for folder in folders)


@pytest.mark.parametrize("where", ["local", "local:0", "local:x", "moon:2", ""])
def test_no_such_place(folders, where):
    with pytest.raises(UserError, match="--launch is local:NUMBER"):
        launch(where, "train.py", folders, lambda folder, status: None)


def test_submitit_says_how_it_is_installed(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"metacl\[cluster\]"):
        launch("slurm", "train.py", folders, lambda folder, status: None)


def test_a_grid_is_every_combination():
    words = ["--steps", "5", "--grid.learner.width", "8", "16", "--grid.optimiser.rate", "1e-3", "3e-3", "--seeds", "0", "1"]
    asked = parse_train(["sine", "alpaca", *words])
    found = {name: (config.learner.width, config.optimiser.rate, config.seed) for name, config in asked.configs.items()}
    assert len(found) == 8 and found["learner.width-16,optimiser.rate-3e-3,seed-1"] == (16, 3e-3, 1)
    assert {config.steps for config in asked.configs.values()} == {5}


@pytest.mark.parametrize("words", [["--grid.learner.width"], ["--grid.seed", "1", "1"]])
def test_a_grid_without_values(words):
    with pytest.raises(UserError, match="needs values, each once"):
        take_grid(words)


def test_a_grid_of_options_that_are_not_there():
    with pytest.raises(SystemExit):
        parse_train(["sine", "alpaca", "--grid.learner.depth", "1", "2"])


@pytest.mark.parametrize("words", [["--grid.data.size", "8", "16"], ["--grid.seeds", "0", "1"], ["--grid.run", "a", "b"]])
def test_what_is_no_grid(words):
    with pytest.raises(UserError, match="A grid is of runs on one data set"):
        take_grid(words)


def test_runs_of_a_grid_are_told_apart(cli, unrendered):
    """Their results are not averaged as those of seeds are."""
    words = ["sine", "alpaca", "--steps", "2", "--batch-size", "2", "--validation.episodes", "2", "--learner.width", "8"]
    assert cli(train_main, *words, "--grid.optimiser.rate", "1e-3", "3e-3", "--run", "mine")[0] == 0
    status, text = cli(evaluate_main, "mine", "--episodes", "2", "--tasks", "2")
    assert status == 0 and "alpaca (width 8) [optimiser.rate-1e-3]" in text and "[optimiser.rate-3e-3]" in text


@pytest.mark.slow
def test_jobs_come_to_what_one_process_comes_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["sine", "alpaca", "--steps", "4", "--batch-size", "2", "--validation.episodes", "2", "--learner.width", "8"]
    for run, launched in (("here", []), ("jobs", ["--launch", "local:2"])):
        train_main([*words, "--seeds", "0", "1", *launched, "--run", run])
        evaluate_main([run, "--episodes", "4", "--tasks", "2", *launched])
    (both,) = {result.learner for result in read_results(Path("jobs") / "results")}
    assert "[" not in both
    here, jobs = (read_results(Path(run) / "results") for run in ("here", "jobs"))
    assert [result.measures for result in here] == [result.measures for result in jobs]
