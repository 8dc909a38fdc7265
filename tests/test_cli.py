"""`train.py`, and `evaluate.py` on what it made, as a user meets them: end to end, every error in words, and help."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch
from making import labelled_folder
from tiny import without_learn2learn

from episodes import BENCHMARKS
from metacl.cli import evaluate_main, train_main
from metacl.commands.parse_train import parse_train
from metacl.learners import PrototypesConfig
from metacl.recipes.config import TrainConfig
from metacl.recipes.presets import LEARNERS, META_TRAINED
from metacl.report.display import TrainingDisplay
from metacl.runs.folder import Run

ROOT = Path(__file__).parents[1]
FEW = ["--steps", "10", "--batch-size", "2", "--validation.every", "5", "--validation.episodes", "2", "--precision", "fp32"]
SHAPE = ["--episodes.tasks", "2", "--episodes.shots", "2", "--episodes.queries", "2"]
NARROW = ["--learner.width", "16", "--learner.layers", "1", "--learner.heads", "2", "--learner.hidden", "16"]
SMALL_ENCODER = ["--learner.encoder.channels", "4", "4", "--learner.encoder.strides", "2", "2"]
TINY = [*FEW, *SHAPE, *NARROW]


@pytest.fixture
def pictures(tmp_path, cache) -> str:
    """Six classes to meta-train, two to validate, two to test; four images each."""
    return labelled_folder(tmp_path / "pictures", classes=10, each=4)


def results(folder: str) -> dict:
    return json.loads((Path(folder) / "results" / "results.json").read_text())


@pytest.mark.parametrize("learner", ["transformer", "linear-transformer"])
def test_sine_end_to_end(cli, learner):
    status, text = cli(train_main, "sine", learner, *TINY, "--run", "mine")
    assert status == 0 and "evaluate.py mine" in text and "validation" in text
    run = Run.open(Path("mine"))
    assert run.config.learner_name == learner and run.config.learner.width == 16 and run.config.data.name == "sine"
    about = json.loads(Path("mine/environment.json").read_text())
    assert {"packages", "commit", "data_fingerprint", "device", "command"} <= about.keys()
    assert about["packages"]["torch"] == metadata.version("torch") and about["data_fingerprint"]
    assert run.last() == 10 and [r["step"] for r in run.metrics() if "loss" in r] == [5, 10]
    status, text = cli(evaluate_main, "mine", "--tasks", "2", "5", "--episodes", "6")
    assert status == 0 and "2 x 2" in text and "5 x 2" in text and "results.json" in text
    found = results("mine")
    assert [r["episodes"]["tasks"] for r in found["results"]] == [2, 5] and found["run"] == "mine"
    assert {r["episodes"]["number"] for r in found["results"]} == {6} and found["checkpoint"] == run.best()
    assert sorted(p.name for p in Path("mine/results").glob("*.png")) == [
        f"{plot}-{tasks}-tasks.png" for plot in ("matrix", "positions") for tasks in (2, 5)
    ]


@pytest.mark.parametrize("learner", [name for name in META_TRAINED if LEARNERS[name].only != "regression"])
def test_a_folder_of_images_end_to_end(cli, unrendered, pictures, learner):
    without_learn2learn(learner)
    options = [*FEW, *SHAPE, *SMALL_ENCODER, "--learner.width", "16"]
    assert cli(train_main, pictures, learner, *options, "--run", "mine")[0] == 0
    status, text = cli(evaluate_main, "mine", "--episodes", "4", "--split", "train", "--tasks", "5", "--shots", "1")
    assert status == 0 and "5 x 1" in text
    found = results("mine")["results"][0]
    assert found["score"] == "accuracy" and found["episodes"]["address"] == f"pictures/train/{2**32}"
    assert 0 <= found["measures"]["final"]["mean"] <= 1


def test_classes_that_were_meta_trained_are_never_held_out(cli, tmp_path, cache):
    """Other classes in the folder, another cut: a run of the old one is not tested on what it was trained on."""
    folder = labelled_folder(tmp_path / "pictures", classes=10, each=4)
    options = [*FEW, *SHAPE, *SMALL_ENCODER, "--learner.width", "16", "--run", "mine"]
    assert cli(train_main, folder, "pn", *options)[0] == 0
    shutil.rmtree(folder)
    labelled_folder(tmp_path / "pictures", classes=9, each=4)
    status, text = cli(evaluate_main, "mine", "--episodes", "4")
    assert status == 2 and re.search(
        r"The data have changed: meta-[a-z]+ has \d+ classes that this run was meta-trained on", text
    )


def test_the_same_evaluation_twice_is_the_same(cli, unrendered):
    cli(train_main, "sine", "transformer", *TINY, "--run", "mine")
    found = []
    for seed in "0", "0", "1":
        cli(evaluate_main, "mine", "--episodes", "4", "--seeds", seed)
        found.append(results("mine")["results"])
    assert found[0] == found[1] != found[2]
    cli(evaluate_main, "mine", "--episodes", "4", "--batch-size", "3")
    assert results("mine")["results"][0]["measures"]["final"]["mean"] == pytest.approx(found[0][0]["measures"]["final"]["mean"])


def test_a_checkpoint_may_be_named(cli, tmp_path):
    cli(train_main, "sine", "transformer", *TINY, "--run", "mine")
    last = Run.open(Path("mine")).last()
    assert cli(evaluate_main, "mine", "--episodes", "2", "--checkpoint", str(last))[0] == 0
    assert results("mine")["checkpoint"] == last
    status, text = cli(evaluate_main, "mine", "--episodes", "2", "--checkpoint", "7")
    assert status == 2 and "step-00000007" in text


def test_without_a_name_a_run_gets_one_of_its_own(cli):
    assert cli(train_main, "sine", "transformer", *TINY)[0] == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("sine-transformer-") and Run.open(folder).last() == 10


def configs_of(words: list[str]) -> list[TrainConfig]:
    return list(parse_train(words).configs.values())


def test_recipes_and_options():
    (config,) = configs_of(["glyphs", "linear-transformer", "--recipe", "published", "--learner.width", "64", "--seeds", "3"])
    assert (config.learner.attention, config.learner.layout, config.learner.norm) == ("linear", "interleaved", False)
    assert (config.learner.width, config.seed, config.episodes.tasks, config.steps) == (64, 3, 20, 50_000)
    (paper,) = configs_of(["glyphs", "pn", "--recipe=paper"])
    assert paper == LEARNERS["pn"].meta["paper"](config.data, "pn")
    (default,) = configs_of(["glyphs", "pn"])
    assert isinstance(default.learner, PrototypesConfig) and default.data.name == "glyphs"
    encoder = configs_of(["glyphs", "transformer", *SMALL_ENCODER])[0].learner.encoder
    assert (encoder.channels, encoder.strides) == ((4, 4), (2, 2))


# Errors: exit status 2, words and no traceback, and nothing left behind.

BAD = {
    "data set": ("glyfs transformer", "Unknown data set 'glyfs'.*glyphs"),
    "learner": ("sine transfomer", "Unknown learner that is meta-trained 'transfomer'.*'transformer'"),
    "recipe": ("sine transformer --recipe smal", "'smal'.*'small'"),
    "recipe without a name": ("sine transformer --recipe", "--recipe needs a value"),
    "option": ("sine transformer --stepz 3", "--stepz.*--steps"),
    "nested option": ("sine transformer --learner.widht 3", "--learner.widht.*--learner.width"),
    "another learner's option": ("glyphs pn --learner.heads 3", "--learner.heads"),
    "no number": ("sine transformer --steps many", "--steps.*many"),
    "no such choice": ("sine transformer --learner.attention soft", "soft.*linear"),
    "no learner": ("sine", "DATA"),
    "an option for DATA": ("--steps 3", "DATA"),
    "an option for LEARNER": ("sine --steps 3", "LEARNER"),
    "missing path": ("./missing transformer", "missing"),
    "missing copy": ("omniglot transformer --data.path missing", "The data path missing is no folder"),
    "meaningless option": ("sine transformer --data.size 3", "--data.size"),
    "hub name offline": ("someone/pictures transformer", "someone/pictures.*network"),
    "pn on regression": ("sine pn", "classification"),
    "gemcl on regression": ("sine gemcl-map", "GeMCL is for classification"),
    "alpaca on classification": ("glyphs alpaca", "ALPaCA is for regression"),
    "heads and width": ("sine transformer --learner.heads 3", "heads"),
    "no steps": ("sine transformer --steps 0", "steps must be at least 1"),
    "no tasks": ("sine transformer --episodes.tasks 0", "tasks must be at least 1"),
    "no batch": ("sine transformer --batch-size 0", "batch-size must be at least 1"),
    "no run": ("--resume missing", "missing does not exist"),
    "nothing to resume": ("--resume", "--resume RUN"),
    "resume with more words": ("--resume mine --steps 3", "--resume RUN"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_of_train(cli, tmp_path, case):
    words, expected = BAD[case]
    status, text = cli(train_main, *words.split())
    assert status == 2 and re.search(expected, text), text
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_every_name_there_is_stands_in_the_error(cli):
    assert all(name in cli(train_main, "glyfs", "transformer")[1] for name in BENCHMARKS)
    assert all(name in cli(train_main, "sine", "trans")[1] for name in META_TRAINED)
    recipes = LEARNERS["transformer"].meta
    assert all(name in cli(train_main, "sine", "transformer", "--recipe", "x")[1] for name in recipes)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--data.label lable", "Unknown label column 'lable'.*'label'"),
        ("--data.image imgae", "Unknown image column 'imgae'.*'image'"),
        ("--data.label image", "image.*not categorical"),
        ("--episodes.tasks 7", "7 tasks are asked.* has 6 classes"),
        ("--episodes.tasks 2", r"5 shots \+ 5 queries = 10 images that are asked: pictures/\d+ \(4\)"),
    ],
)
def test_data_that_does_not_do(cli, pictures, options, expected):
    status, text = cli(train_main, pictures, "pn", *options.split(), "--run", "mine")
    assert status == 2 and re.search(expected, text), text


def test_episodes_that_cannot_be_drawn_leave_no_run_behind(cli, pictures):
    assert cli(train_main, pictures, "pn", "--episodes.tasks", "7", "--run", "mine")[0] == 2
    assert not Path("mine").exists()


def test_streams_are_shorter_where_there_are_fewer_classes_to_validate(cli, pictures):
    """Three tasks fit the six classes of meta-train, not the two of meta-validation."""
    options = [
        *FEW,
        *SMALL_ENCODER,
        "--episodes.tasks",
        "3",
        "--episodes.shots",
        "2",
        "--episodes.queries",
        "2",
        "--steps",
        "1",
    ]
    status, text = cli(train_main, pictures, "pn", *options, "--run", "mine")
    assert status == 0 and "Meta-validation has 2 classes" in text
    fewer = "Meta-test has classes for 2 tasks, not for 3: its streams have 2."
    assert fewer in text.split("Done.")[0]
    status, text = cli(evaluate_main, "mine", "--episodes", "2")
    assert status == 0 and text.count(fewer) == 1 and "2 x 2" in text
    status, text = cli(evaluate_main, "mine", "--episodes", "2", "--tasks", "3")
    assert status == 2 and "3 tasks are asked, but pictures, meta-test has 2 classes" in text and fewer not in text


def test_nobody_says_how_many_tasks_and_there_are_fewer_classes(cli, pictures):
    words = [pictures, "knn", "--shots", "2", "--queries", "2", "--episodes", "2"]
    status, text = cli(evaluate_main, *words, "--out", "usual")
    assert status == 0 and text.count("Meta-test has classes for 2 tasks, not for 5: its streams have 2.") == 1
    status, text = cli(evaluate_main, *words, "--schedule.classes", "3", "--out", "none")
    assert status == 2 and "Ask for 2 classes or fewer" in text and "Meta-test has" not in text


def test_a_truncated_image_names_its_row(cli, tmp_path, cache):
    import datasets
    from making import hf_folder, noise, png

    images = [png(noise(i, 20, 1)) for i in range(12)]
    images[7] = images[7][:100]
    columns = {"image": images, "label": [i // 2 for i in range(12)]}
    where = hf_folder(tmp_path / "set", {"image": datasets.Image(), "label": datasets.Value("int64")}, train=columns)
    status, text = cli(train_main, where, "pn")
    assert status == 2 and "row 7" in text


def test_a_run_folder_is_never_overwritten(cli):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    status, text = cli(train_main, "sine", "transformer", *TINY, "--run", "mine")
    assert status == 2 and "mine exists" in text and "--run" in text
    assert [p.name for p in Path("mine").iterdir()] == ["notes.txt"]


def test_a_loss_that_is_not_finite(cli):
    options = [*TINY, "--learner.no-norm", "--optimiser.rate", "1e18", "--optimiser.warmup", "0", "--optimiser.clip", "0"]
    status, text = cli(train_main, "sine", "transformer", *options, "--run", "mine")
    assert status == 2 and re.search(r"not finite at step \d+", text)
    assert all("NaN" not in json.dumps(record) for record in Run.open(Path("mine")).metrics())


@pytest.fixture
def trained(cli, pictures) -> str:
    cli(train_main, pictures, "pn", *FEW, *SHAPE, *SMALL_ENCODER, "--learner.width", "16", "--run", "mine")
    return "mine"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--tasks 3", "3 tasks are asked.* has 2 classes"),
        ("--shots 3", r"3 shots \+ 2 queries = 5 images that are asked: pictures/\d+ \(4\)"),
        ("--tasks 0", "--tasks needs at least one length"),
        ("--split tset", "tset.*test"),
        ("--episods 3", "--episods.*--episodes"),
        ("--data.path missing", "missing|--data.path"),
    ],
)
def test_errors_of_evaluate(cli, trained, options, expected):
    status, text = cli(evaluate_main, trained, *options.split())
    assert status == 2 and re.search(expected, text), text
    assert not Path("mine/results").exists()


def test_folders_that_are_no_runs(cli, tmp_path):
    for folder in ("missing", str(tmp_path)):
        status, text = cli(evaluate_main, folder)
        assert status == 2 and re.search("is no run", text)
    status, text = cli(evaluate_main, "--seeds", "3")
    assert status == 2 and "First RUN, DATA or STREAM" in text


def test_a_damaged_run(cli):
    cli(train_main, "sine", "transformer", *TINY, "--run", "mine")
    for path in Path("mine/checkpoints").rglob("learner.safetensors"):
        path.write_bytes(path.read_bytes()[:-10])
    for main, words in ((evaluate_main, ["mine"]), (train_main, ["--resume", "mine"])):
        status, text = cli(main, *words)
        assert status == 2 and "damaged" in text
    Path("mine/config.json").write_text("{")
    assert cli(evaluate_main, "mine")[0] == 2


NOT_YET = {
    "validation.episodes 0": ("sine transformer --validation.episodes 0 --steps 1 --batch-size 1", "validation.episodes"),
    "heads 0": ("sine transformer --learner.heads 0", "heads"),
    "width 0": ("sine transformer --learner.width 0", "width"),
    "negative workers": ("sine transformer --workers -1 --steps 1", "workers"),
    "halve-every 0": ("sine transformer --optimiser.schedule halving --optimiser.halve-every 0 --steps 1", "halve-every"),
}


@pytest.mark.parametrize("case", NOT_YET)
def test_impossible_values_of_train(cli, case):
    words, expected = NOT_YET[case]
    status, text = cli(train_main, *words.split())
    assert status == 2 and re.search(expected, text), text


@pytest.mark.parametrize("options", ["--episodes 0", "--batch-size 0", "--shots 0"])
def test_impossible_values_of_evaluate(cli, trained, options):
    status, text = cli(evaluate_main, trained, *options.split())
    assert status == 2 and options.split()[0].strip("-") in text, text


def test_names_with_brackets_are_said_in_full(cli):
    status, text = cli(train_main, "sine", "[/bold]transformer")
    assert status == 2 and "[/bold]transformer" in text


def test_folders_with_brackets_are_said_in_full(cli):
    status, text = cli(train_main, "sine", "transformer", *TINY, "--run", "[b]mine")
    assert status == 0 and "evaluate.py [b]mine" in text


# Ctrl-C.


def test_ctrl_c_says_how_to_go_on_and_going_on_ends_the_same(cli, monkeypatch):
    options = [*TINY, "--steps", "30", "--validation.every", "10"]
    cli(train_main, "sine", "transformer", *options, "--run", "whole")
    plain = TrainingDisplay.update

    def update(self, record):
        plain(self, record)
        if record["step"] == 10 and "loss" in record:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "update", update)
        status, text = cli(train_main, "sine", "transformer", *options, "--run", "mine")
    assert status in (0, 130) and "--resume mine" in text
    assert 10 <= Run.open(Path("mine")).last() < 30
    assert cli(train_main, "--resume", "mine")[0] == 0
    from safetensors.torch import load_file

    ends = [load_file(f"{run}/checkpoints/step-00000030/learner.safetensors") for run in ("whole", "mine")]
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_ctrl_c_in_a_process_of_its_own(tmp_path):
    """The signal that a terminal sends, between two steps or within one."""
    folder = tmp_path / "mine"
    command = [sys.executable, "train.py", "sine", "transformer", *TINY, "--steps", "100000", "--run", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not list(folder.glob("checkpoints/step-????????")):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in text and f"--resume {folder}" in re.sub(r"\s+", " ", text), text
    assert process.returncode in (0, 130)
    run = Run.open(folder)
    assert run.last() - 10 < run.metrics()[-1]["step"] <= run.last() and f"step {run.last()}" in text


# Help.


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_first_page_of_train(cli, words):
    status, text = cli(train_main, *words)
    assert status == 0
    for name in (
        *BENCHMARKS,
        *META_TRAINED,
        *LEARNERS["transformer"].meta,
        "--resume",
        "--data.path",
        "DATA LEARNER",
        "[options]",
    ):
        assert name in text, name


@pytest.mark.parametrize("learner", META_TRAINED)
def test_the_page_of_a_learner(cli, learner):
    status, text = cli(train_main, "omniglot", learner, "--help")
    assert status == 0
    expected = [
        "--steps",
        "--run",
        "--seeds",
        "--data.path",
        "--episodes.tasks",
        "--optimiser.rate",
        "--validation.every",
    ]
    expected += ["--learner.width", *LEARNERS[learner].meta, "(default: 1000)"]
    for name in expected:
        assert name in text, name
    assert ("--learner.attention" in text) == ("transformer" in learner)


def test_the_page_shows_the_defaults_of_the_recipe(cli):
    assert (
        "--learner.width INT Width of a token (D). (default: 512)"
        in cli(train_main, "omniglot", "transformer", "--recipe", "paper", "--help")[1]
    )


def test_the_page_of_evaluate(cli, trained):
    status, text = cli(evaluate_main, trained, "--help")
    assert status == 0
    for name in ("--tasks", "--shots", "--episodes", "--seeds", "--split", "--checkpoint", "1024", "--lags", "--data.path"):
        assert name in text, name
    assert "--rates" not in text and "--learner.width" not in text and "--data.name" not in text


def test_seeds_that_were_not_begun_are_begun_on_a_resume(cli, monkeypatch):
    """Killed between the first seed and the second: what is there is not done again."""
    options = [*TINY, "--seeds", "0", "1", "--run"]
    assert cli(train_main, "sine", "transformer", *options, "whole")[0] == 0
    from metacl.commands import train

    meta_train = train.meta_train

    def stop(run, *rest, **more):
        if run.config.seed == 1:
            raise KeyboardInterrupt
        return meta_train(run, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(train, "meta_train", stop)
        assert cli(train_main, "sine", "transformer", *options, "part")[0] == 130
    first = Path("part/seed-0/metrics.jsonl").read_bytes()
    status, text = cli(evaluate_main, "part")
    assert status == 2 and "seed-1 of part is not trained yet" in text and "train.py --resume part" in text
    for _ in range(2):  # also where nothing is left to do
        status, text = cli(train_main, "--resume", "part")
        assert status == 0 and "All 2 runs are done. Now: python evaluate.py part" in text
    assert Path("part/seed-0/metrics.jsonl").read_bytes() == first
    digests = [
        json.loads(Path(f"{folder}/seed-1/checkpoints/step-00000010/checkpoint.json").read_text())
        for folder in ("whole", "part")
    ]
    assert digests[0] == digests[1]
