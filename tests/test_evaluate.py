"""`evaluate.py` as a user meets it: every kind of source and learner end to end, going on, errors in words, and help."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from making import labelled_folder, noise, png
from tiny import stopped_in_task

from episodes import BENCHMARKS, STREAMS
from episodes.freeze import freeze
from metacl.cli import evaluate_main, train_main
from metacl.commands import on_episodes
from metacl.commands.parse_evaluate import parse_evaluate
from metacl.evaluation.result import Result
from metacl.recipes.presets import LEARNERS, META_TRAINED, TRAINED
from metacl.report.results import read_results
from metacl.runs.files import read_json, write_json
from metacl.runs.folder import Run
from metacl.runs.following import Following, plain

REGRESSION = "slowly-changing-regression"
FEW = ["--shots", "2", "--queries", "2", "--episodes", "4"]
SHORT = ["--stream.train", "20", "--stream.held-out", "5", "--tasks", "4", "--lags", "1"]
SUPPORT = ["--learner.support", "6", "--learner.buffer", "6"]
ENCODER = ["--learner.encoder.channels", "4", "4", "--learner.encoder.strides", "2", "2"]
TRAIN = "--steps 2 --batch-size 2 --validation.every 1 --validation.episodes 2 --precision fp32 --episodes.tasks 2"
TRAIN += " --episodes.shots 2 --episodes.queries 2"


def results(folder: str) -> dict:
    return json.loads((Path(folder) / "results.json").read_text())


def records(folder: str) -> list[dict]:
    return Following.open(Path(folder)).records()


# Learners without meta-training on episodes.


@pytest.mark.parametrize("learner", ["online", "replay", "offline"])
def test_a_folder_of_images(cli, tmp_path, cache, learner):
    pictures = labelled_folder(tmp_path / "pictures", classes=10, each=4)
    own = ["--learner.width", "8", *ENCODER] + (["--learner.epochs", "2"] if learner == "offline" else [])
    rates = ["--rates", "0.01", "0.001", "--rate-episodes", "2"]
    options = [*FEW, *own, "--split", "train", "--tasks", "2", "5", *rates]
    status, text = cli(evaluate_main, pictures, learner, *options, "--out", "mine")
    assert status == 0 and "5 x 2" in text and re.search(r"Learning rate for 2 tasks: 0\.0?01, the best of 0.001, 0.01", text)
    found = results("mine")
    assert found["config"]["learner_name"] == learner and found["config"]["learner"]["mode"] == learner
    assert [r["tasks"] for r in found["results"]] == [2, 5]
    assert set(found["results"][0]["rates"]["scores"]) == {"0.01", "0.001"}
    assert found["results"][0]["episodes"]["address"] == f"pictures/train/{2**32}"
    assert len(list(Path("mine").glob("*.png"))) == 4 and found["environment"] and found["data_fingerprint"]


@pytest.mark.parametrize("learner", [name for name in TRAINED if LEARNERS[name].only != "classification"])
def test_every_learner_on_sine(cli, unrendered, learner):
    rates = ["--rates", "0.001"] if LEARNERS[learner].rates else []
    status, text = cli(evaluate_main, "sine", learner, *FEW, "--tasks", "2", *rates, "--out", "mine")
    assert status == 0 and "mean squared error" in text and "Learning rate" not in text, text
    (result,) = results("mine")["results"]
    assert result["learner"] == learner and result["rows"] == "episodes" and len(result["matrix"]) == 2


def test_several_learners_beside_each_other(cli):
    status, text = cli(evaluate_main, "sine", "bp", "er", "knn", *FEW, "--tasks", "2", "--rates", "1e-3", "--out", "mine")
    assert status == 0 and all(re.search(rf"{name} +2 x 2", text) for name in ("bp", "er", "knn")), text
    assert read_json(Path("mine/runs.json")) == {"runs": ["bp", "er", "knn"]}
    assert [result.learner for result in read_results(Path("mine"))] == ["bp", "er", "knn"]
    assert results("mine/er")["results"] == [r for r in results("mine")["results"] if r["learner"] == "er"]
    assert Path("mine/positions-2-tasks.png").is_file() and Path("mine/bp/matrix-2-tasks.png").is_file()


def test_a_folder_of_its_own_and_seeds(cli, unrendered):
    options = [*FEW, "--tasks", "2", "--rates", "0.01"]
    assert cli(evaluate_main, "sine", "replay", *options, "--seeds", "0", "1", "2")[0] == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("sine-replay-")
    found = results(str(folder))["results"]
    assert [result["seed"] for result in found] == [0, 1, 2]
    assert len({result["measures"]["final"]["mean"] for result in found}) == 3
    alone = cli(evaluate_main, "sine", "replay", *options, "--seeds", "1", "--out", "alone")
    assert alone[0] == 0 and results("alone")["results"] == [found[1]]


def test_every_question_on_episodes(cli):
    words = ["sine", "bp", *FEW, "--tasks", "3", "--rates", "0.01", "--out", "mine"]
    status, text = cli(evaluate_main, *words, "--forward", "--lags", "1", "--asked", "1")
    assert status == 0, text
    (result,) = results("mine")["results"]
    expected = {"prequential loss", "forward loss", "backward 1 loss", "backward 1 with support loss"}
    assert set(result["curves"]) == expected and result["curves"]["forward loss"]["tasks"] == [0, 1, 2]
    for t in range(3):
        assert result["curves"]["forward loss"]["mean"][t] == pytest.approx(result["matrix"][t][t], rel=1e-5)


def test_questions_without_a_matrix_on_episodes(cli):
    words = ["sine", "knn", *FEW, "--tasks", "3", "--no-matrix"]
    assert cli(evaluate_main, *words, "--forward", "--out", "forward")[0] == 0
    (result,) = results("forward")["results"]
    assert result["measures"] == {} and result["matrix"] is None and len(result["curves"]["forward loss"]["mean"]) == 3
    assert cli(evaluate_main, *words, "--at-end", "--out", "end")[0] == 0
    (result,) = results("end")["results"]
    assert list(result["measures"]) == ["final"] and result["matrix"][0] == [None] * 3 and None not in result["matrix"][2]
    assert cli(evaluate_main, "sine", "knn", *FEW, "--tasks", "3", "--out", "matrix")[0] == 0
    assert results("matrix")["results"][0]["measures"]["final"] == result["measures"]["final"]


def test_a_rate_that_is_given_is_taken(cli):
    """Without a try, also along a stream."""
    words = ["sine", "online", *FEW, "--tasks", "2", "--learner.rate", "0.02"]
    stream = [REGRESSION, "bp", *SHORT, "--learner.rate", "0.02"]
    for folder, asked in (("mine", words), ("along", stream), ("one", [*stream[:-2], "--rates", "0.02"])):
        status, text = cli(evaluate_main, *asked, "--out", folder)
        assert status == 0 and "the best of" not in text and not Path(folder, "rates.json").exists()
        assert results(folder)["results"][0]["rates"] == {"rate": 0.02, "measure": "", "scores": {}}
    status, text = cli(evaluate_main, *words, "--rates", "0.1")
    assert status == 2 and "not both" in text
    (config,) = parse_evaluate([REGRESSION, "bp", "--learner.rate", "0.02"]).configs
    assert config.learner.rate == 0.02


def test_one_episode_has_no_interval(cli):
    status, text = cli(evaluate_main, "sine", "knn", *FEW, "--tasks", "2", "--episodes", "1", "--out", "mine")
    assert status == 0 and "nan" not in text and "mean over 1 episode" in text


def test_meta_test_does_not_choose(cli, monkeypatch):
    """The rate is chosen before any held-out stream is drawn."""
    from episodes import Benchmark

    asked, plain_generator = [], Benchmark.generator
    checked = on_episodes.check_episodes
    monkeypatch.setattr(
        Benchmark, "generator", lambda self, split, *rest: asked.append(split) or plain_generator(self, split, *rest)
    )
    monkeypatch.setattr("metacl.commands.evaluate.check_episodes", lambda config: (checked(config), asked.clear())[0])
    options = [*FEW, "--tasks", "2", "--rates", "0.01", "0.1", "--rate-episodes", "1"]
    assert cli(evaluate_main, "sine", "online", *options, "--out", "mine")[0] == 0
    assert asked == ["validation", "test"]


def test_going_on_with_episodes(cli, unrendered, monkeypatch):
    """What is finished is not done again: each length, and each learner of several."""
    options = [*FEW, "--tasks", "2", "3", "--rates", "0.01", "0.1", "--rate-episodes", "1"]
    assert cli(evaluate_main, "sine", "bp", "online", *options, "--out", "whole")[0] == 0
    done = []

    def stop(run, config, tasks, seed, followed=on_episodes._followed):
        done.append((config.learner_name, tasks))
        if len(done) == 4:
            raise KeyboardInterrupt
        return followed(run, config, tasks, seed)

    with monkeypatch.context() as patched:
        patched.setattr(on_episodes, "_followed", stop)
        status, text = cli(evaluate_main, "sine", "bp", "online", *options, "--out", "part")
        assert status == 130 and "evaluate.py --resume part" in text
        assert cli(evaluate_main, "--resume", "part")[0] == 0
    assert done[3:] == [("online", 3), ("online", 3)]
    assert results("part")["results"] == results("whole")["results"]


# Meta-trained learners.


@pytest.fixture
def trained(cli) -> str:
    """A transformer and the stream that it has met in small."""
    assert cli(train_main, REGRESSION, "linear-transformer", *TRAIN.split(), "--run", "mine")[0] == 0
    return "mine"


def test_a_run_along_a_stream(cli, trained):
    words = [trained, REGRESSION, *SHORT, "--seeds", "0", "1", "--matrix", "--out", "along"]
    status, text = cli(evaluate_main, *words)
    assert status == 0 and "backward 1 with support loss" in text and "linear-transformer" in text, text
    (result,) = results("along")["results"]
    assert result["rows"] == "seeds" and result["number"] == 2 and len(result["matrix"]) == 4
    assert len(records("along")) == 4 and results("along")["run"] == "mine"
    status, text = cli(evaluate_main, trained, "permuted-mnits")
    assert status == 2 and "Unknown data set or stream 'permuted-mnits'" in text
    status, text = cli(evaluate_main, trained, REGRESSION, "--help")
    assert status == 0 and "--rates" not in text and "--learner.width" not in text and "--sweep-tasks" not in text


def test_a_stream_whose_examples_it_cannot_read(cli):
    assert cli(train_main, "sine", "alpaca", *TRAIN.split(), "--run", "mine")[0] == 0
    status, text = cli(evaluate_main, "mine", REGRESSION, *SHORT, "--out", "along")
    assert status == 2 and "is of another learner" in text and not Path("along").exists()


def test_a_run_on_another_data_set(cli, tmp_path, cache, monkeypatch):
    """Its images become of the size and channels of those in meta-training."""
    monkeypatch.setattr("episodes.data.glyphs.glyph_letters", lambda: ["A", "b", "Ω", "Ψ", "Ж", "Ա", "ა"])
    pictures = labelled_folder(tmp_path / "pictures", classes=10, each=4)
    for i in range(10):
        (tmp_path / "others" / f"c{i}").mkdir(parents=True)
        for j in range(4):
            (tmp_path / "others" / f"c{i}" / f"{j}.png").write_bytes(png(noise(100 + 4 * i + j, 17, 3)))
    words = ["pn", *TRAIN.split(), "--learner.width", "8", *ENCODER, "--run", "mine"]
    assert cli(train_main, pictures, *words)[0] == 0
    status, text = cli(evaluate_main, "mine", str(tmp_path / "others"), *FEW, "--tasks", "2", "--out", "elsewhere")
    assert status == 0 and "on others" in text and "others is not the data that the run was started on" in text, text
    data = results("elsewhere")["config"]["data"]
    assert (data["size"], data["channels"]) == (10, 1) and data["name"].endswith("others")
    assert results("elsewhere")["results"][0]["episodes"]["address"] == "others/test/0"
    status, text = cli(evaluate_main, "mine", "glyphs", *FEW, "--tasks", "2", "--out", "letters")
    assert status == 0 and results("letters")["config"]["data"]["size"] == 10, text
    assert cli(evaluate_main, "mine", "glyfs")[0] == 2 and cli(evaluate_main, "mine", "pn")[0] == 2


def test_several_seeds_of_meta_training(cli, unrendered):
    words = [REGRESSION, "alpaca", *TRAIN.split(), "--learner.width", "8"]
    status, text = cli(train_main, *words, "--seeds", "0", "3", "--run", "mine")
    assert status == 0 and "python evaluate.py mine" in text
    assert cli(train_main, *words, "--seeds", "3", "--run", "alone")[0] == 0
    both = [
        [{k: v for k, v in record.items() if k != "episodes_per_second"} for record in Run.open(folder).metrics()]
        for folder in ("mine/seed-3", "alone")
    ]
    assert both[0] == both[1]
    status, text = cli(evaluate_main, "mine", *FEW)
    assert status == 0 and "2 seeds" in text and "between seeds" in text, text
    assert [result["run_seed"] for result in results("mine/results")["results"]] == [0, 3]
    status, text = cli(evaluate_main, "mine", REGRESSION, *SHORT, "--matrix", "--out", "along")
    assert status == 0 and [len(records(f"along/{name}")) for name in ("seed-0", "seed-3")] == [4, 4]
    assert "alpaca (width 8), run 0" in text and "alpaca (width 8), run 3" in text
    pictures = {path.name for path in Path("along").glob("*.png")}
    assert {"loss-4-tasks-run-0.png", "loss-4-tasks-run-3.png", "matrix-4-tasks-run-3.png"} <= pictures
    for _ in range(2):  # one of them alone, again and again; it touches nothing of the others
        assert cli(evaluate_main, "mine/seed-0", *FEW)[0] == 0
    assert len(results("mine/results")["results"]) == 2 and len(results("mine/seed-0/results")["results"]) == 1
    assert cli(evaluate_main, "mine/seed-0", *FEW, "--out", "mine/results")[0] == 2


def test_a_group_is_never_written_into(cli):
    words = ["sine", "alpaca", *TRAIN.split(), "--learner.width", "8", "--seeds"]
    assert cli(train_main, *words, "0", "1", "--run", "mine")[0] == 0
    status, text = cli(train_main, *words, "0", "8", "--run", "mine")
    assert status == 2 and "mine exists" in text and read_json(Path("mine/runs.json")) == {"runs": ["seed-0", "seed-1"]}
    status, text = cli(train_main, "glyfs", "pn", "--seeds", "0", "1", "--run", "other")
    assert status == 2 and not Path("other").exists()


def test_the_results_of_a_run_are_replaced_as_a_whole(cli, unrendered, trained):
    """Nothing of the earlier ones is gone on from."""
    assert cli(evaluate_main, trained, *FEW, "--tasks", "2")[0] == 0
    Path("mine/results/checkpoints").mkdir()
    assert cli(evaluate_main, trained, *FEW, "--tasks", "3")[0] == 0
    assert [result["tasks"] for result in results("mine/results")["results"]] == [3]
    assert not Path("mine/results/checkpoints").exists()


def test_data_that_have_changed_are_not_gone_on_with(cli):
    assert cli(evaluate_main, "sine", "knn", *FEW, "--tasks", "2", "--out", "mine")[0] == 0
    path = Path("mine/environment.json")
    write_json(path, read_json(path) | {"data_fingerprint": "other"})
    status, text = cli(evaluate_main, "--resume", "mine")
    assert status == 2 and "The data have changed since mine was begun" in text


def test_one_learner_that_diverges_does_not_keep_the_others(cli):
    options = [*FEW, "--tasks", "2", "--rates", "1e30", "--out", "mine"]
    status, text = cli(evaluate_main, "sine", "online", "knn", *options)
    assert status == 2 and "online: Learning from the stream diverged" in text and "online in mine did not come" in text
    assert [result["learner"] for result in results("mine")["results"]] == ["knn"]


# Along streams.


def test_a_stream(cli):
    words = [REGRESSION, "query-only", *SHORT, *SUPPORT, "--seeds", "0", "1", "--diagnose-every", "2"]
    status, text = cli(evaluate_main, *words, "--rates", "1e-3", "1e-2", "--sweep-tasks", "2", "--out", "mine")
    assert status == 0, text
    assert re.search(r"Learning rate: 0\.0?01, the best of 0.001, 0.01", text) and "backward 1 with support loss" in text
    found = results("mine")
    (result,) = found["results"]
    assert found["config"]["learner_name"] == "query-only" and result["rates"]["rate"] in (1e-3, 1e-2)
    scores = {f"{c} loss" for c in ("prequential", "forward", "backward 1", "backward 1 with support")}
    assert {name for name in result["curves"] if not name.startswith("diagnostics")} == scores
    assert "diagnostics last_layer_rank" in result["curves"] and len(records("mine")) == 4
    assert {file.name for file in Path("mine").glob("*.png")} == {"loss.png", "diagnostics.png"}
    values = [record["forward"]["loss"] for record in records("mine")]
    assert result["curves"]["forward loss"]["last"]["mean"] == pytest.approx(sum(values[3]) / 2)
    status, text = cli(evaluate_main, *words, "--out", "mine")
    assert status == 2 and "mine exists" in text and "--resume mine" in text


@pytest.mark.parametrize("learner", [name for name in TRAINED if LEARNERS[name].only != "classification"])
def test_every_learner_along_a_stream(cli, unrendered, learner):
    own = {"full-attention": ["--learner.support", "5"], "query-only": SUPPORT}.get(learner, [])
    status, text = cli(evaluate_main, REGRESSION, learner, *SHORT, "--tasks", "2", *own, "--matrix", "--out", "mine")
    assert status == 0, text
    (result,) = results("mine")["results"]
    assert result["learner"].startswith(learner) and len(result["matrix"]) == 2


def test_several_learners_along_a_stream(cli):
    words = [REGRESSION, "bp", "knn", *SHORT, "--seeds", "0", "1"]
    status, text = cli(evaluate_main, *words, "--rates", "1e-3", "1e-2", "--sweep-tasks", "1", "--out", "mine")
    assert status == 0 and re.search(r"knn +forward loss", text) and Path("mine/learners.png").is_file(), text
    both = read_results(Path("mine"))
    assert [result.learner for result in both] == ["bp", "knn"]
    assert both[0].rates is not None and both[1].rates is None, "knn has no rate to choose"


@pytest.mark.parametrize("done", [1, 3])
def test_a_stream_goes_on_where_it_stopped(cli, unrendered, monkeypatch, done):
    words = [REGRESSION, "query-only", *SHORT, *SUPPORT, "--save-every", "1"]
    assert cli(evaluate_main, *words, "--out", "whole")[0] == 0

    with stopped_in_task(monkeypatch, done):
        status, text = cli(evaluate_main, *words, "--out", "part")
        assert status == 130 and "evaluate.py --resume part" in text
    with Path("part/metrics.jsonl").open("a") as file:
        file.write('{"task": 3, "cut off')
    status, text = cli(evaluate_main, "--resume", "part")
    assert status == 0 and f"{done} tasks are done" in text
    ours, theirs = (replace(read_results(Path(name))[0], seconds_a_task=None) for name in ("part", "whole"))
    assert ours == theirs
    for a, b in zip(records("whole"), records("part"), strict=True):
        assert a["forward"] == b["forward"] and a["prequential"] == b["prequential"]


def test_a_stream_that_ends_is_followed_to_its_end(cli, tmp_path, cache):
    """Where nobody says how many tasks; an endless one has no end, so it is followed for a hundred."""
    pictures = labelled_folder(tmp_path / "pictures", classes=6, each=6)
    words = ["class-incremental", "knn", "--stream.data.name", pictures, "--stream.classes", "2"]
    status, text = cli(evaluate_main, *words, "--out", "mine")
    assert status == 0 and "knn on class-incremental of pictures, 3 tasks" in text, text
    assert (
        results("mine")["config"]["tasks"] == 3 and results("mine")["results"][0]["source"] == "class-incremental of pictures"
    )
    assert cli(evaluate_main, *words, "--tasks", "2", "--out", "two")[0] == 0 and len(records("two")) == 2
    status, text = cli(evaluate_main, *words, "--tasks", "4", "--out", "four")
    assert status == 2 and "it has 3 tasks, not 4. Ask for --tasks 3 or fewer" in text
    (endless,) = parse_evaluate([REGRESSION, "knn"]).configs
    assert endless.tasks is None and endless.length(None) == 100 and endless.length(7) == 7


def test_results_come_before_what_may_fail(cli, monkeypatch):
    """A table or a picture that cannot be made loses nothing that was found."""

    def fail(*args):
        raise RuntimeError("no picture")

    monkeypatch.setattr("metacl.report.results.draw", fail)
    with pytest.raises(RuntimeError, match="no picture"):
        cli(evaluate_main, "sine", "knn", *FEW, "--tasks", "2", "--out", "mine")
    assert [Result(**values).tasks for values in results("mine")["results"]] == [2]


def test_recipes_and_options():
    asked = parse_evaluate(["glyphs", "replay", "--recipe", "paper", "--learner.buffer", "7", "--seeds", "3"])
    (config,), folder = asked.configs, asked.folder
    assert (config.learner.buffer, config.learner.width, config.seeds, config.tasks) == (7, 512, (3,), (20,))
    assert folder.name.startswith("glyphs-replay-") and len(config.rates) == 6
    words = ["permuted-mnist", "query-only", "--learner.support", "100", "--tasks", "7", "--seeds", "20", "30"]
    asked = parse_evaluate(words)
    (config,), folder = asked.configs, asked.folder
    assert (config.learner.support, config.learner.score.depth, config.tasks, config.seeds) == (100, 11, 7, (20, 30))
    assert (config.questions.asked, config.questions.most_held_out, config.rates) == (1, 500, ())
    assert folder.name.startswith("permuted-mnist-query-only-")


BAD = {
    "data set": ("glyfs online", "Unknown data set or stream 'glyfs'. Did you mean 'glyphs'"),
    "learner": ("sine onlin", "Unknown learner without meta-training 'onlin'.*'online'"),
    "one of several": ("sine bp onlin", "Unknown learner without meta-training 'onlin'"),
    "a learner twice": ("sine bp bp", "named twice: bp bp"),
    "a learner with meta-training": ("sine transformer", "transformer is meta-trained first: python train.py DATA transformer"),
    "the same along a stream": ("permuted-mnist alpaca", "alpaca is meta-trained first.*evaluate.py RUN permuted-mnist"),
    "recipe": ("sine online --recipe smal", "'smal'.*'small'"),
    "option": ("sine online --learner.widht 3", "--learner.widht.*--learner.width"),
    "name": ("sine online --data.name glyphs", "--data.name"),
    "rates": ("sine online --rates 0", "--rates must be above 0, and finite, not 0"),
    "no tasks": ("sine online --tasks 0", "--tasks needs at least one length, each from 1"),
    "no buffer": ("sine replay --learner.buffer 0", "buffer must be at least 1"),
    "no epochs": ("sine offline --learner.epochs 0", "epochs must be at least 1"),
    "too many tasks": ("glyphs online --tasks 5000", "5000 tasks are asked"),
    "an option that several learners do not share": ("sine bp er --learner.l2 1", "--learner.l2"),
    "a rate of what has none": ("sine knn --rates 0.1", "--rates"),
    "stream": (
        "permuted-mnits query-only --tasks 3",
        "Unknown data set or stream 'permuted-mnits'. Did you mean 'permuted-mnist'",
    ),
    "learner of a stream": (f"{REGRESSION} qury-only", "'qury-only'. Did you mean 'query-only'"),
    "no learner": ("permuted-mnist --tasks 3", "is followed by the names of learners.*query-only"),
    "option of a stream": (f"{REGRESSION} query-only --learner.suport 3", "--learner.suport.*--learner.support"),
    "another stream's option": (f"{REGRESSION} bp --stream.classes 3", "--stream.classes"),
    "stream name": (f"{REGRESSION} query-only --stream.name permuted-mnist", "--stream.name"),
    "buffer": (f"{REGRESSION} query-only --learner.buffer 50", "buffer 50 is smaller than learner.support 100"),
    "rate": (f"{REGRESSION} query-only --learner.rate 0", "learner.rate must be above 0"),
    "seeds": (f"{REGRESSION} query-only --seeds 1 1", "--seeds needs one number or more.*each once"),
    "no question": (f"{REGRESSION} knn --lags --asked 0 --no-forward", "No question is asked"),
    "lag": (f"{REGRESSION} query-only --lags 0", "--lags counts tasks back"),
    "resume": ("--resume nowhere", "nowhere does not exist"),
    "resume more": ("--resume nowhere --tasks 3", "takes a run's folder, and where its data are now"),
    "diverges": (" ".join([REGRESSION, "bp", *SHORT, "--learner.rate 1e30 --out mine"]), "diverged"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(cli, tmp_path, case):
    words, expected = BAD[case]
    status, text = cli(evaluate_main, *words.split())
    assert status == 2 and re.search(expected, text), text
    assert case == "diverges" or not list(tmp_path.iterdir()), "something was left behind"


def test_results_are_never_overwritten(cli):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    status, text = cli(evaluate_main, "sine", "online", *FEW, "--out", "mine")
    assert status == 2 and "mine exists" in text and "--out" in text


@pytest.mark.parametrize("learner", [name for name in TRAINED if name not in META_TRAINED])
def test_train_sends_to_evaluate(cli, learner):
    status, text = cli(train_main, "sine", learner)
    assert status == 2 and f"python evaluate.py sine {learner}" in text


def test_the_page(cli):
    for words in ([], ["--help"], ["-h"]):
        status, page = cli(evaluate_main, *words)
        assert status == 0
        for name in (*BENCHMARKS, *STREAMS, *TRAINED, "RUN STREAM", "DATA LEARNER", "STREAM LEARNER", "--resume FOLDER"):
            assert name in page, name


PAGES = {
    "glyphs offline": ("--tasks --shots --learner.epochs --rates --rate-episodes --out --seeds small paper", "--checkpoint"),
    "glyphs knn": ("--learner.nearest --lags --matrix --held-out --most-held-out", "--rates --rate-episodes"),
    "glyphs bp er": ("--rates --seeds", "--learner.l2 --checkpoint"),
    "permuted-mnist query-only": ("--tasks --seeds --rates --lags --learner.support", "--stream.bits --stream.classes"),
    f"{REGRESSION} bp": ("--stream.bits --stream.train --most-held-out", "--stream.data.name --stream.classes --held-out"),
    "datasets knn": (
        "--stream.sets --stream.data.size --schedule.blur",
        "--stream.data.also --stream.data.target --stream.images",
    ),
    "incremental-cifar100 bp": ("--stream.classes --stream.no-cumulative --stream.data.path", "--stream.bits --stream.train"),
}


@pytest.mark.parametrize("words", PAGES)
def test_only_options_that_mean_something_are_offered(cli, words):
    status, page = cli(evaluate_main, *words.split(), "--help")
    there, absent = (text.split() for text in PAGES[words])
    assert status == 0 and "Default:" not in page
    for option in there:
        assert option in page, option
    for option in absent:
        assert f"{option} " not in page, option


def test_numbers_that_json_does_not_have():
    import torch

    assert plain({"a": torch.tensor([1.0, float("nan")]), "b": [float("inf"), 2]}) == {"a": [1.0, None], "b": [None, 2]}


def test_on_episodes_of_a_file(cli, unrendered, tmp_path, cache):
    """The file says which episodes; other data, another vocabulary or another wish are refused before anything is done."""
    pictures = labelled_folder(tmp_path / "pictures", classes=10, each=6)
    freeze(
        [pictures, "--tasks", "2", "--shots", "3", "--queries", "2", "--episodes", "4", "--seed", "5", "-o", "held-out.json"]
    )
    words = ["pn", *TRAIN.split(), "--learner.width", "8", *ENCODER]
    assert cli(train_main, pictures, *words, "--run", "mine")[0] == 0
    status, text = cli(evaluate_main, "mine", "--held-out", "held-out.json")
    assert status == 0 and "2 x 3" in text, text
    found = results("mine/results")
    assert found["results"][0]["episodes"]["address"] == "pictures/test/5" and found["config"]["episodes"] == 4
    status, text = cli(evaluate_main, pictures, "knn", "--held-out", "held-out.json", "--out", "knn")
    assert status == 0 and results("knn")["results"][0]["episodes"]["address"] == "pictures/test/5"
    others = labelled_folder(tmp_path / "others" / "pictures", classes=10, each=7)
    assert cli(train_main, pictures, *words, "--episodes.vocabulary", "9", "--run", "small")[0] == 0
    for asked, expected in (
        (["mine", "--tasks", "3"], "says what --tasks says"),
        (["mine", "--schedule.blur", "1"], "says what --schedule says"),
        (["mine", "--data.path", others], "is not what the held-out episodes were made of"),
        (["glyphs", "knn"], "has episodes of .*pictures, not of glyphs"),
        (["small"], "has labels from 64 symbols, and the learner was meta-trained with 9"),
    ):
        status, text = cli(evaluate_main, *asked, "--held-out", "held-out.json", "--out", "refused")
        assert status == 2 and re.search(expected, text.replace("\n", " ")) and not Path("refused").exists(), text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("glyphs knn --run mine", "no --run: its results go to the folder that --out names"),
        ("glyphs knn bp --learner.rate 1", r"--learner\.rate is an option of one learner, and 2 are named"),
    ],
)
def test_options_that_belong_elsewhere(cli, words, said):
    status, text = cli(evaluate_main, *words.split())
    assert status == 2 and re.search(said, " ".join(text.split())), text
