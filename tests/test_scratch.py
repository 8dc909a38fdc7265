"""`evaluate.py DATA LEARNER`: learners without meta-training, end to end, and how their learning rate is chosen."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from making import labelled_folder
from tiny import ENCODER, accelerator, image_benchmark, sine

from episodes import DataConfig, UserError
from metacl.cli import evaluate_main, train_main
from metacl.commands.parsing import parse_scratch
from metacl.commands.scratch import SCRATCH_RECIPES, ScratchConfig, choose_rate, evaluate_length
from metacl.evaluation.episodes import evaluate, held_out
from metacl.learners import FROM_SCRATCH
from metacl.learners.protocol import DivergedError
from metacl.learners.trained.finetune import Finetune, FinetuneConfig
from metacl.recipes.recipes import RECIPES

TINY = ["--learner.width", "8", "--shots", "2", "--queries", "2", "--episodes", "4", "--validation-episodes", "2"]
SMALL_ENCODER = ["--learner.encoder.channels", "4", "4", "--learner.encoder.strides", "2", "2"]


def config(data: str = "sine", mode="online", **options) -> ScratchConfig:
    learner = FinetuneConfig(mode, (1e-3, 1e-1), width=8, epochs=2, batch_size=4, encoder=ENCODER)
    small = ScratchConfig(DataConfig(data), mode, learner, (3,), 2, 2, episodes=6, validation_episodes=4, batch_size=4)
    return replace(small, **options)


def results(folder: str) -> dict:
    return json.loads((Path(folder) / "results.json").read_text())


@pytest.mark.parametrize("learner", FROM_SCRATCH)
def test_a_folder_of_images_end_to_end(cli, tmp_path, cache, learner):
    pictures = labelled_folder(tmp_path / "pictures", classes=10, each=4)
    epochs = ["--learner.epochs", "2"] if learner == "offline" else []
    options = [*TINY, *SMALL_ENCODER, *epochs, "--split", "train", "--tasks", "2", "5", "--learner.rates", "0.01", "0.001"]
    status, text = cli(evaluate_main, pictures, learner, *options, "--out", "mine")
    assert status == 0 and "5 x 2" in text and re.search(r"Learning rate for 2 tasks: 0\.0?01, the best of 0.001, 0.01", text)
    found = results("mine")
    assert found["config"]["learner_name"] == learner and found["config"]["learner"]["mode"] == learner
    assert [r["tasks"] for r in found["rates"]] == [2, 5] and set(found["rates"][0]["scores"]) == {"0.01", "0.001"}
    assert [r["episodes"]["tasks"] for r in found["results"]] == [2, 5]
    assert found["results"][0]["episodes"]["address"] == f"pictures/train/{2**32}"
    assert len(list(Path("mine").glob("*.png"))) == 4 and found["environment"] and found["data_fingerprint"]


def test_sine_without_a_name_for_the_folder(cli):
    status, text = cli(evaluate_main, "sine", "replay", *TINY, "--tasks", "2", "--learner.rates", "0.01")
    assert status == 0 and "mean squared error" in text and "Learning rate" not in text
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("sine-replay-") and results(str(folder))["rates"] == [
        {"tasks": 2, "rate": 0.01, "scores": {}}
    ]


def test_the_same_again_is_the_same(cli):
    for out, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert cli(evaluate_main, "sine", "online", *TINY, "--tasks", "2", "--seed", seed, "--out", out)[0] == 0
    a, b, c = (results(out)["results"] for out in "abc")
    assert a == b != c


@pytest.mark.parametrize(("benchmark", "better"), [(image_benchmark(), max), (sine(), min)], ids=["accuracy", "mse"])
def test_the_best_rate_on_meta_validation_is_chosen(benchmark, better):
    options = config(learner=FinetuneConfig("online", (1e-4, 1e-2, 3e-1), width=8, encoder=ENCODER))
    choice = choose_rate(options, benchmark, 3, accelerator())
    scores = {}
    for rate in (1e-4, 1e-2, 3e-1):
        torch.manual_seed(0)
        learner = replace(options.learner, rates=(rate,)).build(benchmark.train.spec)
        generator = held_out(benchmark, "validation", options.shape(3), 0)
        scores[rate] = evaluate(learner, generator, 4).measures["final"].mean
        assert choice.scores[f"{rate:g}"] == pytest.approx(scores[rate], rel=1e-4)
    assert choice.rate == better(scores, key=lambda rate: scores[rate]) and len(set(scores.values())) > 1


def test_meta_test_does_not_choose(monkeypatch):
    """The rate is chosen before any held-out stream is drawn."""
    asked = []
    benchmark = image_benchmark()
    plain = type(benchmark).generator
    monkeypatch.setattr(
        type(benchmark), "generator", lambda self, split, *rest: asked.append(split) or plain(self, split, *rest)
    )
    choose_rate(config(), benchmark, 3, accelerator())
    assert asked == ["validation"]


def test_streams_are_shorter_where_meta_validation_has_fewer_classes():
    assert choose_rate(config(), image_benchmark(), 6, accelerator()).tasks == 6  # it has four


def test_rates_that_diverge_are_not_taken():
    huge = FinetuneConfig("online", (1e-3, 1e20), width=8, encoder=ENCODER)
    choice = choose_rate(config(learner=huge), sine(), 3, accelerator())
    assert choice.rate == 1e-3 and choice.scores["1e+20"] is None
    with pytest.raises(UserError, match=r"every one of the rates 1e\+20, 1e\+21. Give lower"):
        choose_rate(config(learner=replace(huge, rates=(1e20, 1e21))), sine(), 3, accelerator())


def test_an_evaluation_at_its_rate():
    options = config()
    choice = choose_rate(options, sine(), 3, accelerator())
    evaluation = evaluate_length(options, sine(), replace(choice, rate=1e-3), accelerator())
    assert evaluation.scores_ETT.shape == (6, 3, 3) and evaluation.shape.tasks == 3
    with pytest.raises(DivergedError, match=r"1e\+20"):
        evaluate_length(options, sine(), replace(choice, rate=1e20), accelerator())


def test_recipes():
    assert SCRATCH_RECIPES.keys() == FROM_SCRATCH.keys() and not SCRATCH_RECIPES.keys() & RECIPES.keys()
    for name, recipes in SCRATCH_RECIPES.items():
        for recipe in recipes.values():
            made = recipe(DataConfig("glyphs"))
            assert made.learner_name == made.learner.mode == name and isinstance(made.learner, FROM_SCRATCH[name])
            assert made.learner.optimiser == ("adam" if name == "offline" else "sgd")
    chosen, folder = parse_scratch(["glyphs", "replay", "--recipe", "paper", "--learner.buffer", "7", "--seed", "3"])
    assert (chosen.learner.buffer, chosen.learner.width, chosen.seed, chosen.tasks) == (7, 512, 3, (20,))
    assert folder.name.startswith("glyphs-replay-") and isinstance(chosen.learner.build(SPEC), Finetune)


SPEC = image_benchmark().test.spec
BAD = {
    "data set": ("glyfs online", "Unknown data set 'glyfs'.*glyphs"),
    "learner": ("sine onlin", "Unknown learner without meta-training 'onlin'.*'online'"),
    "a learner with meta-training": ("sine transformer", "meta-trained first: python train.py sine transformer"),
    "recipe": ("sine online --recipe smal", "'smal'.*'small'"),
    "option": ("sine online --learner.widht 3", "--learner.widht.*--learner.width"),
    "name": ("sine online --data.name glyphs", "Leave --data.name out"),
    "rates": ("sine online --learner.rates 0", "learner.rates must be above 0, and finite, not 0"),
    "no tasks": ("sine online --tasks 0", "tasks must be at least 1"),
    "no buffer": ("sine replay --learner.buffer 0", "buffer must be at least 1"),
    "no epochs": ("sine offline --learner.epochs 0", "epochs must be at least 1"),
    "too many tasks": ("glyphs online --tasks 5000", "5000 tasks are asked"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(cli, tmp_path, case):
    words, expected = BAD[case]
    status, text = cli(evaluate_main, *words.split())
    assert status == 2 and re.search(expected, text), text
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_results_are_never_overwritten(cli):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    status, text = cli(evaluate_main, "sine", "online", *TINY, "--out", "mine")
    assert status == 2 and "mine exists" in text and "--out" in text


@pytest.mark.parametrize("learner", FROM_SCRATCH)
def test_train_sends_to_evaluate(cli, learner):
    status, text = cli(train_main, "sine", learner)
    assert status == 2 and f"python evaluate.py sine {learner}" in text


def test_the_page(cli):
    status, text = cli(evaluate_main, "glyphs", "offline", "--help")
    assert status == 0
    for name in (
        "--tasks",
        "--learner.epochs",
        "--learner.rates",
        "--validation-episodes",
        "--out",
        "meta-validation",
        "small",
    ):
        assert name in text, name
    for page in (cli(evaluate_main, "--help")[1], cli(train_main)[1]):
        assert "evaluate.py DATA online|offline|replay" in page
