"""How far features have moved: against a loop, along streams and episodes, from a folder, and drawn."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from making import small_pool
from test_evaluate import results
from tiny import stopped_in_task
from tiny_vit import TINY, tiny  # noqa: F401
from torch.testing import assert_close

from episodes import SeededStream, UserError
from episodes.tasks.regression import SlowlyChangingRegression
from episodes.tasks.splits import Splits
from metacl.cli import evaluate_main
from metacl.evaluation.curves import curves
from metacl.evaluation.drift import moved
from metacl.evaluation.follow import followed
from metacl.evaluation.questions import Questions
from metacl.evaluation.result import drift_fields
from metacl.learners.trained.backprop import BackpropConfig
from metacl.learners.vision.ease import EaseConfig
from metacl.learners.vision.lora import LoraConfig
from metacl.report.results import read_results
from metacl.runs.features import FeatureFiles
from metacl.runs.following import plain

DRIFT = Questions(forward=False, asked=0, lags=(), drift=True, most_held_out=5)


def test_it_is_a_loop():
    then, now = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    found = moved(then, now)
    for b in range(2):
        far = [float((now[b, m] - then[b, m]).norm()) for m in range(4)]
        assert float(found["distance"][b]) == pytest.approx(sum(far) / 4, rel=1e-5)
        own = sum(d / float(then[b, m].norm()) for m, d in enumerate(far)) / 4
        assert float(found["relative"][b]) == pytest.approx(own, rel=1e-5)


@pytest.fixture
def stream():
    return SlowlyChangingRegression(train=20, held_out=8)


def test_along_a_stream_each_task_is_compared_with_just_after_it(stream):
    """Two seeds, three tasks, with the states of the same learner at each end of a task."""
    learner, seeds = BackpropConfig(rate=1e-2).build(stream.spec), (3, 4)
    _, records = followed(learner, SeededStream(stream, seeds), DRIFT, state=learner.start(seeds), tasks=3)
    states = [learner.start(seeds)]
    for i in range(3):
        source = SeededStream(stream, seeds)
        states.append(
            followed(learner, source, replace(DRIFT, drift=False, at_end=True), state=states[-1], first=i, tasks=i + 1)[0]
        )
    assert "drift" not in records[0] and records[2]["drift"]["distance"].shape == (2, 2)
    for t in (1, 2):
        for i in range(t):
            x = SeededStream(stream, seeds).task(i).held_out[0:5].x
            then, now = (learner.features(states[end + 1], x) for end in (i, t))
            for name, wanted in moved(then, now).items():
                assert float(wanted.min()) > 0
                assert_close(records[t]["drift"][name][:, i], wanted)


def test_it_is_summed_up_and_survives_a_file(stream):
    learner = BackpropConfig(rate=1e-2).build(stream.spec)
    _, records = followed(learner, SeededStream(stream, (0, 1)), DRIFT, state=learner.start((0, 1)), tasks=3)
    for own in (records, json.loads(json.dumps(plain(records)))):
        found = drift_fields(own)["drift"]
        assert found["distance"][0] == [None] * 3 and found["distance"][2][2] is None
        assert found["relative"][2][1] == pytest.approx(float(records[2]["drift"]["relative"][:, 1].mean()))
        tasks, values = curves(own)["drift relative"]
        assert tasks.tolist() == [1, 2]
        assert values[1].tolist() == pytest.approx(records[2]["drift"]["relative"].mean(1).tolist())
    assert drift_fields([{"task": 0}]) == {}


@pytest.mark.usefixtures("tiny")
def test_who_changes_no_features_is_not_asked():
    pictures = Splits("pictures", small_pool((9,) * 4, (3, 8, 8)), small_pool((4,) * 4, (3, 8, 8), seed=1))
    learner = EaseConfig(rank=2, trunk=TINY).build(pictures.spec)
    with pytest.raises(UserError, match="has no features that learning changes: leave --drift out"):
        followed(learner, SeededStream(pictures, (0,)), DRIFT, tasks=2)
    learner = LoraConfig(epochs=1, rank=2, trunk=TINY).build(pictures.spec)
    _, records = followed(learner, SeededStream(pictures, (0,)), DRIFT, state=learner.start((0,)), tasks=2)
    assert float(records[1]["drift"]["relative"]) > 0


@pytest.mark.usefixtures("tiny")
def test_answers_and_features_are_had_in_one_pass(monkeypatch):
    """Drift beside the matrix costs no second pass of the held-out images, and tells what either tells alone."""
    pictures = Splits("pictures", small_pool((9,) * 4, (3, 8, 8)), small_pool((4,) * 4, (3, 8, 8), seed=1))
    learner, seeds = LoraConfig(epochs=1, rank=2, trunk=TINY).build(pictures.spec), (0, 1)
    passed, own = [], type(learner).features_row
    monkeypatch.setattr(type(learner), "features_row", lambda *given: passed.append(len(given[2])) or own(*given))
    found = {}
    for drift, matrix in ((True, True), (True, False), (False, True)):
        asked, passed[:] = replace(DRIFT, drift=drift, matrix=matrix), []
        _, records = followed(learner, SeededStream(pictures, seeds), asked, state=learner.start(seeds), tasks=2)
        found[drift, matrix] = records[1], list(passed)
    both = found[True, True]
    assert both[1] == found[False, True][1] == found[True, False][1]
    assert_close(both[0]["matrix"], found[False, True][0]["matrix"], rtol=0, atol=0)
    assert_close(both[0]["drift"], found[True, False][0]["drift"], rtol=0, atol=0)


def test_files_of_features(tmp_path):
    files = FeatureFiles(tmp_path / "features")
    assert list(files) == []
    files[3] = features = torch.randn(2, 3, 4)
    files[0] = features[:, :1]
    assert torch.equal(files[3], features) and list(files) == [0, 3] and len(files) == 2
    del files[0]
    with pytest.raises(UserError, match="without the features of task 0 just after it"):
        files[0]


WORDS = [
    "slowly-changing-regression",
    "bp",
    "--stream.train",
    "40",
    "--stream.held-out",
    "10",
    "--tasks",
    "4",
    "--lags",
    "--drift",
    "--save-every",
    "1",
]


def test_a_run_that_was_stopped_tells_the_same_and_draws_it(cli, monkeypatch):
    assert cli(evaluate_main, *WORDS, "--out", "whole")[0] == 0

    with stopped_in_task(monkeypatch, 2):
        assert cli(evaluate_main, *WORDS, "--out", "part")[0] == 130
    assert cli(evaluate_main, "--resume", "part")[0] == 0
    (found,) = results("part")["results"]
    assert found["drift"] == results("whole")["results"][0]["drift"]
    assert len(found["drift"]["relative"]) == 4 and found["drift"]["relative"][3][0] > 0
    assert Path("part/drift.png").is_file() and len(FeatureFiles(Path("part/features"))) == 4
    assert read_results(Path("part"))[0].drift == found["drift"]


def test_along_episodes_too(cli):
    words = "sine bp --tasks 3 --shots 2 --episodes 2 --batch-size 2 --queries 2 --rates 0.01 --drift --out mine"
    status, text = cli(evaluate_main, *words.split())
    assert status == 0, text
    assert results("mine")["results"][0]["curves"]["drift relative"]["tasks"] == [1, 2]


def test_who_has_none_is_told_before_any_other_begins(cli):
    words = "slowly-changing-regression bp knn --stream.train 20 --stream.held-out 5 --tasks 2 --lags --drift --out mine"
    status, text = cli(evaluate_main, *words.split())
    assert status == 2 and "knn has no features that learning changes: leave --drift out, or leave knn out" in text
    assert not Path("mine/bp/metrics.jsonl").exists()
