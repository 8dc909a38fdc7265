"""`follow`: every question against plain loops, for streams and for episodes, and what every learner can be asked."""

from dataclasses import replace

import pytest
import torch
from making import small_pool
from tiny import SHAPE, image_benchmark, prototypes, sequence, sine
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import STREAMS, EpisodeSource, EpisodeSpec, Examples, Schedule, SeededStream, Task, UserError
from episodes.tasks.regression import SlowlyChangingRegression
from episodes.tasks.splits import Incremental, Splits
from metacl.evaluation.check import check_learner
from metacl.evaluation.cost import compute
from metacl.evaluation.encoded import encoded_once
from metacl.evaluation.follow import check_length, follow, followed
from metacl.evaluation.questions import END, EVERYTHING, Questions
from metacl.evaluation.rates import along_stream
from metacl.learners import Learner
from metacl.learners.protocol import DivergedError
from metacl.learners.similarity.online_query_only import OnlineQueryOnlyConfig
from metacl.learners.similarity.pairwise import ScoreConfig
from metacl.recipes.presets import trained_for
from metacl.recipes.settings import along

LEARNER = OnlineQueryOnlyConfig(rate=1e-3, support=6, buffer=6, score=ScoreConfig(4, normalise="softmax"))
OVERFLOWS = replace(LEARNER, score=ScoreConfig(4))
"""Without softmax, under which scores that are all as large answer as ever: at a rate of 1e30 nothing stays finite."""
SEEDS = (3, 4)
ASKED = Questions(lags=(1, 2))


def pictures() -> Splits:
    return Splits("pictures", small_pool((9,) * 5, (1, 10, 10)), small_pool((4,) * 5, (1, 10, 10), seed=1))


def along_its_tasks(stream, learner=LEARNER, questions=ASKED, seeds=SEEDS, tasks=3):
    """The learner, its state at the end, and the records."""
    made = learner.build(stream.spec)
    return made, *followed(made, SeededStream(stream, seeds), questions, state=made.start(seeds), tasks=tasks)


def published(learner: str, stream: str):
    return trained_for(learner, None, along(STREAMS[stream]))


STREAM = {"regression": SlowlyChangingRegression(train=20, held_out=5), "classes": pictures()}


class InDoubles(SlowlyChangingRegression):
    """The same numbers in float64."""

    def task(self, seed, index):
        task = super().task(seed, index)
        return Task(*(replace(half[:], x=half[:].x.double(), y=half[:].y.double()) for half in (task.train, task.held_out)))


def naive_score(prediction, y, spec):
    if not spec.classification:
        return {"loss": (prediction - y).square().mean()}
    return {"loss": F.cross_entropy(prediction, y), "accuracy": (prediction.argmax(-1) == y).float().mean()}


@pytest.mark.parametrize("asked", [None, 1, 3])
@pytest.mark.parametrize("name", STREAM)
@pytest.mark.usefixtures("float64")
def test_every_measure_against_a_plain_loop(name, asked):
    """Seed by seed, block by block: predict, then learn; at the end of a task ask about it and those before it."""
    stream, block = InDoubles(train=20, held_out=5) if name == "regression" else STREAM[name], 4
    questions = Questions(asked=asked, most_held_out=4, lags=(1, 2), matrix=True)
    wide = replace(LEARNER, block=block, score=ScoreConfig(16, normalise="softmax"))  # of 4 units all may be dead: labels tie
    learner, _, found = along_its_tasks(stream, wide, questions)
    spec = stream.spec
    for b, seed in enumerate(SEEDS):
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
            for i in range(index + 1):
                part = stream.task(seed, i).held_out[:4]
                expected[f"matrix {i}"] = naive_score(learner.predict(own, part.x)[0], part.y[0], spec)
            for part, scores in expected.items():
                part, _, lag = part.partition(" ")
                got = record[part] if not lag or part == "matrix" else record[part][lag]
                assert got.keys() - {"accuracy_known"} == scores.keys()
                for measure, value in scores.items():
                    row = got[measure][b, int(lag)] if part == "matrix" else got[measure][b]
                    assert_close(row, value.detach(), rtol=1e-3, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.usefixtures("float64")
def test_the_matrix_among_the_labels_known_then(cumulative):
    """Against the plain loop, with classes that arrive two at a time; the stream is entered in the middle, too."""
    stream = Incremental("growing", small_pool((9,) * 6, (1, 10, 10)), small_pool((4,) * 6, (1, 10, 10), seed=1), 2, cumulative)
    source, questions = SeededStream(stream, SEEDS), Questions(matrix=True, lags=())
    learner = published("knn", "incremental-cifar100").build(stream.spec)
    states = list(follow(learner, source, questions, state=learner.start(SEEDS), tasks=3))
    (state, record), known = states[-1], set[int]()
    assert [own["classes"].tolist() for _, own in states] == [[2, 2], [4, 4], [6, 6]]
    for i in range(3):
        known |= set(source.task(i).train[:].y[0].tolist())
        held_out = source.task(i).held_out[:]
        logits = learner.predict(state, held_out.x)[0][:, sorted(known)]
        right = torch.tensor(sorted(known))[logits.argmax(-1)] == held_out.y[0]
        assert_close(record["matrix"]["accuracy_known"][0, i], right.float().mean(), check_dtype=False)
    assert (record["matrix"]["accuracy_known"] >= record["matrix"]["accuracy"]).all()
    before = followed(learner, source, questions, state=learner.start(SEEDS), tasks=2)[0]
    ((_, entered),) = follow(learner, source, questions, state=before, first=2, tasks=3)
    assert torch.equal(entered["matrix"]["accuracy_known"], record["matrix"]["accuracy_known"])


@pytest.mark.parametrize("learner", ["bp", "knn"])
def test_answers_among_the_labels_so_far_or_among_all(learner):
    """Every accuracy against a plain loop; losses, and what is learnt, are the same either way."""
    stream = Incremental("growing", small_pool((9,) * 6, (1, 10, 10)), small_pool((4,) * 6, (1, 10, 10), seed=1), 2, False)
    source, made = SeededStream(stream, SEEDS), published(learner, "split-cifar100").build(stream.spec)
    found, states = {}, {}
    for among in ("seen", "all"):
        asked = Questions(matrix=True, lags=(1,), among=among)
        states[among], found[among] = followed(made, source, asked, state=made.start(SEEDS), tasks=2)
    rows = [*found["seen"][1]["together"]["accuracy"].tolist(), *found["all"][1]["together"]["accuracy"].tolist()]
    for b, seed in enumerate(SEEDS):
        own = states["seen"]
        held_out = [stream.task(seed, i).held_out[:] for i in range(2)]
        x, y = torch.cat([part.x for part in held_out], 1), torch.cat([part.y for part in held_out], 1)[0]
        logits = made.predict(own, x.expand(2, *x.shape[1:]))[b]
        for among, labels in (("seen", 4), ("all", 6)):  # labels come in the order of their tasks
            right = (logits[:, :labels].argmax(-1) == y).float()
            last = found[among][1]
            assert_close(last["matrix"]["accuracy"][b], right.view(2, 8).mean(1), check_dtype=False)
            assert_close(last["together"]["accuracy"][b], right.mean(), check_dtype=False)
            assert_close(last["forward"]["accuracy"][b], right[8:].mean(), check_dtype=False)
            assert_close(last["backward"]["1"]["accuracy"][b], right[:8].mean(), check_dtype=False)
    for seen, every in zip(found["seen"], found["all"], strict=True):
        for part in ("prequential", "forward", "together"):
            assert torch.equal(seen[part]["loss"], every[part]["loss"])
            assert (seen[part]["accuracy"] >= every[part]["accuracy"]).all()
    assert learner == "knn" or rows[:2] != rows[2:], "a network that knows little names labels that are still to come"


def test_where_labels_recur_forgetting_is_interference():
    records = along_its_tasks(pictures(), questions=Questions(matrix=True, lags=()))[2]
    assert torch.equal(records[2]["matrix"]["accuracy_known"], records[2]["matrix"]["accuracy"])


def test_labels_of_a_block_do_not_show_in_its_score():
    """The labels of the last block, shuffled, change the losses but not one prediction."""
    predictions = []
    for shuffled in (False, True):
        learner = replace(LEARNER, block=6).build(pictures().spec)
        train = SeededStream(pictures(), SEEDS).task(0).train
        examples = train[0 : len(train)]
        y = torch.cat([examples.y[:, :12], examples.y[:, 12:].flip(1)], 1) if shuffled else examples.y
        found = []
        told = lambda examples, answers, found=found: found.append(answers)  # noqa: E731
        learner.learn_task(learner.start(SEEDS), replace(examples, y=y), asked=None, told=told)
        predictions.append(torch.cat(found, 1))
    assert torch.equal(*predictions)


def test_backward_every_and_tasks_of_unequal_size():
    unequal = Splits("unequal", small_pool((9, 7, 8, 5), (1, 10, 10)), small_pool((3, 2, 1, 4), (1, 10, 10)))
    questions = Questions(backward_every=2, lags=(1,))
    records = along_its_tasks(unequal, replace(LEARNER, block=4), questions, tasks=4)[2]
    assert ["backward" in record for record in records] == [False, True, False, True]


def test_tasks_of_unequal_size_with_fewer_examples_than_support():
    unequal = Splits("unequal", small_pool((3, 1, 2, 1), (1, 10, 10)), small_pool((3, 2, 1, 4), (1, 10, 10)))
    records = along_its_tasks(unequal, questions=Questions(lags=(1,)), tasks=4)[2]
    assert records[-1]["backward_with_support"]["1"]["loss"].shape == (2,)


def test_what_is_not_asked_is_not_answered():
    nothing = Questions(forward=False, asked=0, lags=())
    records = along_its_tasks(STREAM["regression"], questions=nothing)[2]
    assert all(record.keys() == {"task", "seconds", "seconds_in_all"} for record in records)
    records = along_its_tasks(STREAM["regression"], questions=END)[2]
    assert ["matrix" in record for record in records] == [False, False, True]
    assert records[-1]["matrix"]["loss"].shape == (2, 3)


def test_it_goes_on_from_a_state():
    stream, made = STREAM["regression"], LEARNER.build(STREAM["regression"].spec)
    source, end = SeededStream(stream, SEEDS), along_its_tasks(stream, tasks=4)
    half = followed(end[0], source, ASKED, state=end[0].start(SEEDS), tasks=2)
    state, records = followed(end[0], source, ASKED, state=half[0], first=2, tasks=4)
    assert [record["task"] for record in records] == [2, 3] and made.spec == stream.spec
    assert torch.equal(records[-1]["forward"]["loss"], end[2][-1]["forward"]["loss"])
    assert all(torch.equal(w, end[1].weights[name]) for name, w in state.weights.items())


# Every learner along every kind of source.


class Grows(Learner):
    """Frozen features, shared by all rows, and a small tensor of its own for each task: nothing is flat, nothing is copied."""

    encodes, constant_state, chunkable = True, False, True
    needs_spec = EpisodeSpec("vector", (6,), "cross_entropy", symbols=8)

    def __init__(self, spec: EpisodeSpec = needs_spec):
        super().__init__(spec)
        self.frozen = nn.Linear(6, 4).requires_grad_(False)

    def encode(self, x):
        return self.frozen(x)

    def init_state(self, batch_size):
        return {"sums": torch.zeros(batch_size, self.spec.symbols, 4), "tasks": []}

    def learn_features(self, state, z_BND, examples):
        weight_BN = torch.ones(z_BND.shape[:2]) if examples.valid is None else examples.valid.float()
        index = examples.y[..., None].expand_as(z_BND)
        return state | {"sums": state["sums"].scatter_add(1, index, z_BND * weight_BN[..., None])}

    def task_ends(self, state):
        return state | {"tasks": [*state["tasks"], {"mean": state["sums"].mean(1)}]}

    def predict_features(self, state, z_BMD):
        return z_BMD @ state["sums"].mT


def test_a_state_that_grows_by_task_and_frozen_modules_fit(tmp_path):
    from metacl import load_state, save_state

    check_learner(Grows(), Grows.needs_spec)
    learner = Grows()
    rows = torch.arange(8).repeat(2, 1)
    state = learner.task_ends(learner.learn(learner.init_state(2), Examples(torch.randn(2, 8, 6), rows, rows * 0)))
    state = learner.task_ends(state)
    save_state(tmp_path / "state", state)
    loaded = load_state(tmp_path / "state", learner)
    assert len(loaded["tasks"]) == 2 and torch.equal(loaded["tasks"][1]["mean"], state["tasks"][1]["mean"])


@pytest.mark.parametrize("attention", ["softmax", "linear"])
def test_a_transformer_is_followed_along_a_stream(attention):
    """Against learn and predict, an example at a time."""
    stream = SlowlyChangingRegression(train=6, held_out=4)
    learner = sequence(stream.spec, attention=attention)
    records = followed(learner, SeededStream(stream, SEEDS), Questions(matrix=True, lags=(1,)), tasks=3)[1]
    own = learner.init_state(1)
    with torch.no_grad():
        for index in range(3):
            train, losses = stream.task(SEEDS[1], index).train, []
            for n in range(len(train)):
                example = train[n : n + 1]
                losses.append((learner.predict(own, example.x) - example.y).square().mean())
                own = learner.learn(own, example)
            assert_close(records[index]["prequential"]["loss"][1], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
            held_out = stream.task(SEEDS[1], index).held_out
            expected = (learner.predict(own, held_out[0:4].x) - held_out[0:4].y).square().mean()
            assert_close(records[index]["forward"]["loss"][1], expected, rtol=1e-4, atol=1e-5)
            assert_close(records[index]["matrix"]["loss"][1, index], expected, rtol=1e-4, atol=1e-5)
        support = stream.task(SEEDS[1], 1).train[0:6]
        x, y = stream.task(SEEDS[1], 1).held_out[0:4].x, stream.task(SEEDS[1], 1).held_out[0:4].y
        expected = (learner.predict(learner.learn(own, support), x) - y).square().mean()
        assert_close(records[2]["backward_with_support"]["1"]["loss"][1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["bp", "er", "ewc", "knn", "online", "replay", "offline", "query-only", "online-maml"])
def test_learners_without_meta_training_are_followed_on_episodes(name):
    """Row by row against learn and predict; what a row draws does not depend on its place in the batch."""
    from metacl.recipes.settings import EPISODES

    benchmark = image_benchmark()
    generator = benchmark.generator("train", replace(SHAPE, tasks=3), 0)
    config = trained_for(name, None, replace(EPISODES, support=4, buffer=4))
    learner = config.build(EpisodeSpec("vector", (64,), "cross_entropy", symbols=8)).eval()

    def episode(numbers):
        drawn = generator.batch(numbers)
        parts = (Examples(p.x.flatten(2).double() / 255, p.y, p.task) for p in (drawn.stream, drawn.queries))
        return replace(drawn, stream=next(parts), queries=next(parts), spec=learner.spec)

    numbers, questions = [5, 6, 7], replace(END, matrix=True)
    both = followed(learner, EpisodeSource(episode(numbers)), questions, state=learner.start(numbers, alike=True))[1]
    for b, number in enumerate(numbers):
        alone, source = learner.start([number], alike=True), EpisodeSource(episode([number]))
        for t in range(3):
            task = source.task(t)
            with torch.no_grad():
                alone = learner.task_ends(learner.learn(alone, task.train))
                answers = learner.predict(alone, task.held_out.x)
            right = (answers.argmax(-1) == task.held_out.y).float().mean()
            assert_close(both[t]["matrix"]["accuracy"][b, t], right)


def test_inputs_of_episodes_are_encoded_once(monkeypatch):
    learner, episode = prototypes(), image_benchmark().generator("test", SHAPE, 0).batch(range(2))
    calls = []
    plain = learner.encode
    monkeypatch.setattr(learner, "encode", lambda x: calls.append(x.shape[1]) or plain(x))
    followed(learner, EpisodeSource(episode), Questions(matrix=True, lags=(1,), asked=1), schedule=Schedule(2))
    assert calls == [len(episode.stream) + len(episode.queries)]


def test_an_encoder_that_learns_is_not_kept():
    learner = published("bp", "online-cifar100").build(EpisodeSpec("image", (3, 12, 12), "cross_entropy", symbols=8))
    source = EpisodeSource(image_benchmark().generator("test", SHAPE, 0).batch(range(2)))
    assert encoded_once(learner, source) == (learner, source)


@pytest.mark.parametrize("kind", ["endless", "short"])
def test_every_question_at_once(kind):
    stream = SlowlyChangingRegression(train=6, held_out=4)
    learner = published("bp", "slowly-changing-regression").build(stream.spec)
    if kind == "endless":
        source, state = SeededStream(stream, SEEDS), learner.start(SEEDS)
        with pytest.raises(UserError, match="is endless: say how many tasks"):
            next(follow(learner, source, EVERYTHING))
    else:
        learner = published("bp", "slowly-changing-regression").build(sine().test.spec)
        source, state = EpisodeSource(sine().generator("test", SHAPE, 0).batch(range(2))), learner.start([0, 1])
    records = followed(learner, source, EVERYTHING, state=state, tasks=3)[1]
    assert {"prequential", "forward", "matrix", "backward", "backward_with_support"} <= records[2].keys()
    assert "diagnostics" in records[1]


# What a task costs.


def cost(stream, learner, tasks: int = 1, seeds=SEEDS) -> dict[str, float]:
    made, state, _ = along_its_tasks(stream, learner, seeds=seeds, tasks=tasks)
    return compute(made, state, SeededStream(stream, seeds), 1)


def test_compute_of_a_method_that_does_not_learn_from_every_example():
    config = replace(published("online-maml", "slowly-changing-regression"), support=2, queries=2, regions=2)
    assert cost(SlowlyChangingRegression(train=200, held_out=5), replace(config, buffer=10, updates=0.01))[
        "multiply_adds_to_learn"
    ]


def test_compute_is_of_whole_blocks(monkeypatch):
    """Of 4 blocks of 3 though 13 examples are counted; each block is one update, from one query."""
    per_block, stream = {}, SlowlyChangingRegression(train=30, held_out=5)
    for counted in (3, 13):
        monkeypatch.setattr("metacl.learners.protocol.Learner.counted", counted)
        per_block[counted] = cost(stream, replace(LEARNER, block=3, queries="one"))
    assert per_block[3] == per_block[13]
    assert per_block[3]["gradient_examples"] == pytest.approx(1 / 3, rel=0.1)


def test_compute_is_of_one_learner_however_many_there_are():
    for seeds in ((3,), (3, 4, 5)):
        found = cost(pictures(), published("bp", "split-tiny-imagenet"), seeds=seeds)
        learn, predict = found["multiply_adds_to_learn"], found["multiply_adds_to_predict"]
        assert 2 * predict < learn < 3 * predict  # no gradient of the input


def test_compute_is_linear_in_the_support():
    totals = []
    for support in (10, 20, 40):
        learner = replace(LEARNER, support=support, buffer=support)
        totals.append(cost(SlowlyChangingRegression(train=50, held_out=5), learner)["multiply_adds_to_predict"])
    assert totals[2] - totals[1] == 2 * (totals[1] - totals[0]) > 0


# Learning rates along a stream.


def chosen_along(stream, learner, rates, tasks: int = 2):
    return along_stream(learner.build(stream.spec), rates, stream, 3, tasks, ASKED, Schedule())


def test_rates_are_not_compared_where_nothing_is_learnt():
    learner = published("online-maml", "slowly-changing-regression")
    with pytest.raises(UserError, match=r"No update was made in 2 tasks.*Raise --sweep-tasks"):
        chosen_along(STREAM["regression"], learner, (1e-3, 1e-2))


def test_the_best_rate_is_found_side_by_side():
    stream = STREAM["regression"]
    choice = chosen_along(stream, OVERFLOWS, (1e-4, 1e30, 1e-2))
    assert list(choice.scores) == ["0.0001", "0.01", "1e+30"] and choice.scores["1e+30"] is None
    for rate in (1e-4, 1e-2):
        records = along_its_tasks(stream, replace(OVERFLOWS, rate=rate), seeds=(3 + 2**32,), tasks=2)[2]
        expected = records[1]["prequential"]["loss"][0].item()
        assert choice.scores[f"{rate:g}"] == pytest.approx(expected, rel=1e-4)
    assert choice.scores[f"{choice.rate:g}"] == min(score for score in choice.scores.values() if score is not None)


def test_one_rate_that_diverges_does_not_take_the_others_with_it():
    """`online` stops at the first row that is not finite: then each rate is tried alone."""
    learner = published("online", "slowly-changing-regression")
    choice = chosen_along(SlowlyChangingRegression(train=8, held_out=2), replace(learner, width=8), (1e-3, 1e20))
    assert choice.rate == 1e-3 and choice.scores["1e+20"] is None


def test_a_rate_that_diverges_is_said():
    with pytest.raises(DivergedError, match=r"diverged.*learning rate 1e\+30. Give a lower --learner.rate"):
        along_its_tasks(STREAM["regression"], replace(OVERFLOWS, rate=1e30))


def test_streams_that_end():
    source = SeededStream(Incremental("three", *(small_pool((4,) * 6, (1, 10, 10)),) * 2, 2), SEEDS)
    check_length(source, 3)
    with pytest.raises(UserError, match=r"three runs out of data: it has 3 tasks, not 4.*--tasks 3"):
        check_length(source, 4)
