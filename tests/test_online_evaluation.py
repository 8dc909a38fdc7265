"""`evaluate.py STREAM LEARNER`: what is measured, against plain loops, and the command line end to end."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from making import small_pool
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import STREAMS, StreamConfig, UserError, load_stream
from episodes.tasks.regression import SlowlyChangingRegression
from episodes.tasks.splits import Incremental, Splits
from metacl.cli import evaluate_main
from metacl.commands.online_run import plain, records
from metacl.commands.parsing import parse_follow
from metacl.evaluation.streams import Follower, check_length, sweep
from metacl.learners import ONLINE
from metacl.learners.protocol import DivergedError
from metacl.learners.similarity.online_query_only import OnlineQueryOnlyConfig
from metacl.learners.similarity.pairwise import ScoreConfig
from metacl.recipes.online_recipes import ONLINE_RECIPES, FollowConfig, online_recipe_for

LEARNER = OnlineQueryOnlyConfig(rate=1e-3, support=6, buffer=6, score=ScoreConfig(4, normalise="softmax"))
SMALL = ["--stream.train", "20", "--stream.held-out", "5", "--learner.support", "6", "--learner.buffer", "6"]


def config(**options) -> FollowConfig:
    small = FollowConfig(StreamConfig(train=20, held_out=5), "query-only", LEARNER, tasks=3, seeds=(3, 4), lags=(1, 2))
    return replace(small, **options)


def pictures() -> Splits:
    return Splits("pictures", small_pool((9,) * 5, (1, 10, 10)), small_pool((4,) * 5, (1, 10, 10), seed=1))


def follower(stream, **options) -> Follower:
    made = config(**options)
    return Follower(made, stream, made.learner.build(stream.spec), made.seeds)


STREAM = {"regression": SlowlyChangingRegression(train=20, held_out=5), "classes": pictures()}


def naive_score(prediction, y, spec):
    if not spec.classification:
        return {"loss": (prediction - y).square().mean()}
    return {"loss": F.cross_entropy(prediction, y), "accuracy": (prediction.argmax(-1) == y).float().mean()}


@pytest.mark.parametrize("asked", [None, 1, 3])
@pytest.mark.parametrize("name", STREAM)
def test_every_measure_against_a_plain_loop(name, asked):
    """Seed by seed, block by block: predict, then learn; at the end of a task ask about it and those before it."""
    stream, block = STREAM[name], 4
    run = follower(stream, asked=asked, held_out=4, learner=replace(LEARNER, block=block))
    state, found = run.learner.start(run.seeds), []
    for index in range(3):
        state, record = run.task(state, index)
        found.append(record)
    learner, spec = run.learner, stream.spec
    for b, seed in enumerate(run.seeds):
        own = learner.start([seed])
        for index in range(3):
            train, predictions, targets = stream.task(seed, index).train, [], []
            for start in range(0, len(train), block):
                examples = train[start : start + block]
                predictions.append(learner.predict(own, examples.x)[0, :asked].detach())
                targets.append(examples.y[0, :asked])
                own = learner.learn(own, examples)
            own = own._replace(weights={name: w.detach() for name, w in own.weights.items()})
            expected = {"prequential": naive_score(torch.cat(predictions), torch.cat(targets), spec)}
            held_out = stream.task(seed, index).held_out[:4]
            expected["forward"] = naive_score(learner.predict(own, held_out.x)[0], held_out.y[0], spec)
            record = found[index]
            assert record["task"] == index and 0 < record["seconds"] <= record["seconds_in_all"]
            for lag in (1, 2):
                assert (str(lag) in record.get("backward", {})) == (lag <= index)
                if lag <= index:
                    old = stream.task(seed, index - lag)
                    x, y, support = old.held_out[:4].x, old.held_out[:4].y[0], old.train[-6:]
                    expected[f"backward {lag}"] = naive_score(learner.predict(own, x)[0], y, spec)
                    expected[f"backward_with_support {lag}"] = naive_score(learner.predict_with(own, support, x)[0], y, spec)
            for part, scores in expected.items():
                part, _, lag = part.partition(" ")
                got = record[part][lag] if lag else record[part]
                assert got.keys() == scores.keys()
                for measure, value in scores.items():
                    assert_close(got[measure][b], value.detach(), rtol=1e-3, atol=1e-4)


def test_labels_of_a_block_do_not_show_in_its_score(monkeypatch):
    """The labels of the last block, shuffled, change the losses but not one prediction."""
    predictions = []
    for shuffled in (False, True):
        run = follower(pictures(), learner=replace(LEARNER, block=6), asked=None)
        plain_learn = run.learner.learn_predict

        def learn(state, examples, asked, shuffled=shuffled, plain_learn=plain_learn):
            y = torch.cat([examples.y[:, :12], examples.y[:, 12:].flip(1)], 1) if shuffled else examples.y
            state, found = plain_learn(state, replace(examples, y=y), asked)
            predictions.append(found)
            return state, found

        monkeypatch.setattr(run.learner, "learn_predict", learn)
        run.learn(run.learner.start(run.seeds), run.tasks(0))
    assert torch.equal(*predictions)


def test_backward_every_and_tasks_of_unequal_size():
    unequal = Splits("unequal", small_pool((9, 7, 8, 5), (1, 10, 10)), small_pool((3, 2, 1, 4), (1, 10, 10)))
    run = follower(unequal, backward_every=2, lags=(1,), learner=replace(LEARNER, block=4))
    state = run.learner.start(run.seeds)
    for index in range(4):
        state, record = run.task(state, index)
        assert ("backward" in record) == (index % 2 == 1)


def test_tasks_of_unequal_size_with_fewer_examples_than_support():
    unequal = Splits("unequal", small_pool((3, 1, 2, 1), (1, 10, 10)), small_pool((3, 2, 1, 4), (1, 10, 10)))
    run = follower(unequal, lags=(1,))
    state = run.learner.start(run.seeds)
    for index in range(4):
        state, record = run.task(state, index)
    assert record["backward_with_support"]["1"]["loss"].shape == (2,)


def test_compute_of_a_method_that_does_not_learn_from_every_example():
    learner = replace(online_recipe_for("online-maml", "slowly-changing-regression").learner, support=2, queries=2, regions=2)
    run = follower(SlowlyChangingRegression(train=200, held_out=5), learner=replace(learner, buffer=10, updates=0.01))
    state = run.learn(run.learner.start(run.seeds), run.tasks(0))[0]
    assert run.compute(state)["multiply_adds_to_learn"] > 0


def test_compute_is_of_whole_blocks(monkeypatch):
    """Of 4 blocks of 3 though 13 examples are counted; each block is one update, from one query."""
    monkeypatch.setattr("metacl.evaluation.streams.COUNTED", 3)
    per_block, stream = {}, SlowlyChangingRegression(train=30, held_out=5)
    for counted in (3, 13):
        monkeypatch.setattr("metacl.evaluation.streams.COUNTED", counted)
        run = follower(stream, learner=replace(LEARNER, block=3, queries="one"))
        state = run.learn(run.learner.start(run.seeds), run.tasks(0))[0]
        per_block[counted] = run.compute(state)
    assert per_block[3] == per_block[13]
    assert per_block[3]["gradient_examples"] == pytest.approx(1 / 3, rel=0.1)


def test_compute_is_of_one_learner_however_many_there_are():
    learner = online_recipe_for("bp", "split-tiny-imagenet").learner
    for seeds in ((3,), (3, 4, 5)):
        run = follower(pictures(), learner=learner, seeds=seeds)
        compute = run.compute(run.learner.start(run.seeds))
        learn, predict = compute["multiply_adds_to_learn"], compute["multiply_adds_to_predict"]
        assert 2 * predict < learn < 3 * predict  # no gradient of the input


def test_rates_are_not_compared_where_nothing_is_learnt():
    learner = online_recipe_for("online-maml", "slowly-changing-regression").learner
    with pytest.raises(UserError, match=r"No update was made in 2 tasks.*Raise --sweep-tasks"):
        sweep(config(learner=learner, rates=(1e-3, 1e-2), sweep_tasks=2), STREAM["regression"], "cpu", lambda: None)


def test_compute_is_linear_in_the_support():
    totals = []
    for support in (10, 20, 40):
        learner = replace(LEARNER, support=support, buffer=support)
        run = follower(SlowlyChangingRegression(train=50, held_out=5), learner=learner)
        state = run.learner.start(run.seeds)
        state, _ = run.learn(state, run.tasks(0))
        totals.append(run.compute(state)["multiply_adds_to_predict"])
    assert totals[2] - totals[1] == 2 * (totals[1] - totals[0]) > 0


def test_the_best_rate_is_found_side_by_side():
    options, stream = config(rates=(1e-4, 1e-2, 1e30), sweep_tasks=2), STREAM["regression"]
    found = sweep(options, stream, "cpu", lambda: None)
    assert list(found) == [1e-4, 1e-2, 1e30] and found[1e30] is None
    for rate in (1e-4, 1e-2):
        run = follower(stream, learner=replace(LEARNER, rate=rate), seeds=(3 + 2**32,))
        state, _ = run.learn(run.learner.start(run.seeds), run.tasks(0))
        assert_close(torch.tensor(found[rate]), run.learn(state, run.tasks(1))[1]["loss"][0], rtol=1e-4, atol=1e-5)


def test_a_rate_that_diverges_is_said():
    run = follower(STREAM["regression"], learner=replace(LEARNER, rate=1e30))
    with pytest.raises(DivergedError, match=r"diverged.*learning rate 1e\+30. Give a lower --learner.rate"):
        run.task(run.learner.start(run.seeds), 0)


def test_streams_that_end():
    stream = Incremental("three", *(small_pool((4,) * 6, (1, 10, 10)),) * 2, 2)
    check_length(config(tasks=3), stream)
    with pytest.raises(UserError, match=r"three runs out of data: it has 3 tasks, not 4.*--tasks 3"):
        check_length(config(tasks=4), stream)


def results(folder: str) -> dict:
    return json.loads((Path(folder) / "results.json").read_text())


def test_the_command_end_to_end(cli):
    words = ["slowly-changing-regression", "query-only", *SMALL, "--tasks", "4", "--seeds", "0", "1", "--lags", "1"]
    words += ["--diagnose-every", "2"]
    status, text = cli(evaluate_main, *words, "--rates", "1e-3", "1e-2", "--sweep-tasks", "2", "--out", "mine")
    assert status == 0, text
    assert re.search(r"Learning rate: 0\.0?01, the best of 0.001, 0.01", text) and "backward 1 with support loss" in text
    found = results("mine")
    assert found["config"]["learner_name"] == "query-only" and found["config"]["learner"]["rate"] in (1e-3, 1e-2)
    scores = {f"{c} loss" for c in ("prequential", "forward", "backward 1", "backward 1 with support")}
    assert {name for name in found["curves"] if not name.startswith("diagnostics")} == scores
    assert "diagnostics last_layer_rank" in found["curves"] and len(records(Path("mine"))) == 4
    assert {file.name for file in Path("mine").glob("*.png")} == {"loss.png", "diagnostics.png"}
    values = [record["forward"]["loss"] for record in records(Path("mine"))]
    assert found["curves"]["forward loss"]["last"]["mean"] == pytest.approx(sum(values[3]) / 2)
    status, text = cli(evaluate_main, *words, "--out", "mine")
    assert status == 2 and "mine exists" in text and "--resume mine" in text


@pytest.mark.parametrize("done", [1, 3])
def test_a_run_goes_on_where_it_stopped(cli, monkeypatch, done):
    words = ["slowly-changing-regression", "query-only", *SMALL, "--tasks", "4", "--lags", "1", "--save-every", "1"]
    assert cli(evaluate_main, *words, "--out", "whole")[0] == 0

    def stop(self, state, index, task=Follower.task):
        if index == done:
            raise KeyboardInterrupt
        return task(self, state, index)

    with monkeypatch.context() as patched:
        patched.setattr(Follower, "task", stop)
        status, text = cli(evaluate_main, *words, "--out", "part")
        assert status == 130 and "evaluate.py --resume part" in text
    with Path("part/metrics.jsonl").open("a") as file:
        file.write('{"task": 3, "cut off')
    status, text = cli(evaluate_main, "--resume", "part")
    assert status == 0 and f"{done} tasks are done" in text
    assert results("part")["curves"] == results("whole")["curves"]
    for a, b in zip(records(Path("whole")), records(Path("part")), strict=True):
        assert a["forward"] == b["forward"] and a["prequential"] == b["prequential"]


def test_recipes():
    for stream in ("slowly-changing-regression", "permuted-mnist", "split-tiny-imagenet", "online-cifar100"):
        for learner in ONLINE_RECIPES:
            made = online_recipe_for(learner, stream)
            assert made.stream.name == stream and made.learner_name == learner
    made, folder = parse_follow(
        ["permuted-mnist", "query-only", "--learner.support", "100", "--tasks", "7", "--seeds", "20", "30"]
    )
    assert (made.learner.support, made.learner.score.depth, made.tasks, made.seeds) == (100, 11, 7, (20, 30))
    assert folder.name.startswith("permuted-mnist-query-only-")
    spec = load_stream(StreamConfig()).spec
    score = online_recipe_for("query-only", "slowly-changing-regression").learner.build(spec).network.score
    assert sum(p.numel() for p in score.parameters()) == 841, "as counted in the paper"


BAD = {
    "stream": ("permuted-mnits query-only --tasks 3", "permuted-mnits is no stream .*permuted-mnist.* meta-train query-only"),
    "learner": ("slowly-changing-regression qury-only", "Unknown online learner 'qury-only'. Did you mean 'query-only'"),
    "regression learner on classes": ("permuted-mnist alpaca", "alpaca is meta-trained, on episodes.*Along a stream go bp, "),
    "no learner": ("permuted-mnist --tasks 3", "After permuted-mnist comes the name of a learner.*query-only"),
    "option": ("slowly-changing-regression query-only --learner.suport 3", "--learner.suport.*--learner.support"),
    "name": ("slowly-changing-regression query-only --stream.name permuted-mnist", "Leave --stream.name out"),
    "buffer": ("slowly-changing-regression query-only --learner.buffer 50", "buffer 50 is smaller than learner.support 100"),
    "rate": ("slowly-changing-regression query-only --learner.rate 0", "learner.rate must be above 0"),
    "seeds": ("slowly-changing-regression query-only --seeds 1 1", "--seeds needs one number or more.*each once"),
    "lag": ("slowly-changing-regression query-only --lags 0", "--lags counts tasks back"),
    "resume": ("--resume nowhere", "nowhere is no run"),
    "resume more": ("--resume nowhere --tasks 3", "takes a folder and nothing else"),
    "diverges": (" ".join(["slowly-changing-regression query-only", *SMALL, "--learner.rate 1e30 --out mine"]), "diverged"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(cli, tmp_path, case):
    words, expected = BAD[case]
    status, text = cli(evaluate_main, *words.split())
    assert status == 2 and re.search(expected, text), text
    assert case == "diverges" or not list(tmp_path.iterdir()), "something was left behind"


def test_the_page(cli):
    page = cli(evaluate_main, "--help")[1]
    assert "evaluate.py STREAM LEARNER" in page and all(name in page for name in [*STREAMS, *ONLINE])
    status, page = cli(evaluate_main, "permuted-mnist", "query-only", "--help")
    assert status == 0 and all(option in page for option in ("--tasks", "--seeds", "--rates", "--lags", "--learner.support"))


def test_numbers_that_json_does_not_have():
    assert plain({"a": torch.tensor([1.0, float("nan")]), "b": [float("inf"), 2]}) == {"a": [1.0, None], "b": [None, 2]}
