"""Query-only attention online: against a plain loop with torch.optim, and what may not leak."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny import IMAGES, VECTORS
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import EpisodeSpec, Examples, UserError
from metacl.evaluation.check import check_learner
from metacl.evaluation.curvature import estimated_rank
from metacl.evaluation.plasticity import diagnose
from metacl.learners.similarity.online_query_only import OnlineQueryOnly, OnlineQueryOnlyConfig
from metacl.learners.similarity.pairwise import ScoreConfig
from metacl.learners.trained.online_state import Work

pytestmark = pytest.mark.usefixtures("float64")

LABELLED = EpisodeSpec("vector", (6,), "cross_entropy", symbols=3)
PICTURES = EpisodeSpec("image", (1, 10, 10), "cross_entropy", symbols=3)
SPECS = {"regression": VECTORS, "labelled": LABELLED, "images": PICTURES}
SCORE = ScoreConfig(hidden=8, depth=3, label=True)
SMALL = OnlineQueryOnlyConfig(rate=1e-2, block=2, support=5, buffer=8, score=SCORE)


def learner(spec=LABELLED, **options) -> OnlineQueryOnly:
    torch.manual_seed(0)
    return replace(SMALL, **options).build(spec).eval()


def stream(spec, N: int = 30, B: int = 2, seed: int = 0) -> Examples:
    rng = torch.Generator().manual_seed(seed)
    if spec.x_kind == "image":
        x = torch.randint(0, 256, (B, N, *spec.x_shape), generator=rng, dtype=torch.uint8)
    else:
        x = torch.randn(B, N, *spec.x_shape, generator=rng)
    y = (
        torch.randint(0, spec.symbols, (B, N), generator=rng)
        if spec.classification
        else torch.randn(B, N, *spec.y_shape, generator=rng)
    )
    return Examples(x, y, torch.zeros(B, N, dtype=torch.long))


def naive_answer(network, config, spec, x, x_s, y_s):
    """One pair at a time: y = sum_j d_j y_j."""
    targets = F.one_hot(y_s, spec.symbols).double() if spec.classification else y_s
    q, s = network.encoder(x), network.encoder(x_s)
    answers = []
    for i in range(len(q)):
        d = []
        for j in range(len(s)):
            h = torch.cat([s[j], q[i], *([targets[j]] if config.score.label else [])])
            for k, layer in enumerate(network.score.layers):
                h = layer(h.relu() if k else h)
            d.append(h[0])
        w = torch.stack(d).softmax(0) if config.score.normalise == "softmax" else torch.stack(d)
        y = sum(w[j] * targets[j] for j in range(len(s)))
        answers.append((y + 1e-6).log() if config.score.normalise == "softmax" and spec.classification else y)
    return torch.stack(answers)


def naive(made: OnlineQueryOnly, examples: Examples, b: int, seed: int):
    """The network and the prequential predictions of one learner that takes each block as queries."""
    config, spec, x, y = made.config, made.spec, examples.x[b], examples.y[b]
    torch.manual_seed(seed)
    network = made.make()
    optimiser = torch.optim.Adam(network.parameters(), config.rate)
    answers = []
    for start in range(0, len(x), config.block):
        block = slice(start, start + config.block)
        if not start:
            answers.append(torch.zeros(config.block, *(y.shape[1:] or (spec.symbols,))))
            continue
        past = slice(max(0, start - config.support), start)
        answer = naive_answer(network, config, spec, x[block], x[past], y[past])
        loss = F.cross_entropy(answer, y[block]) if spec.classification else F.mse_loss(answer, y[block])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        answers.append(answer.detach())
    return network, torch.cat(answers)


@pytest.mark.parametrize("queries", ["block", "one"])
@pytest.mark.parametrize("spec", SPECS)
def test_promises(spec, queries):
    """At the published rate: Adam's first steps are signs, so a large one makes much of the last bit of a convolution."""
    for options in ({}, {"block": 1, "score": ScoreConfig(8, normalise="softmax")}):
        check_learner(learner(SPECS[spec], queries=queries, rate=1e-4, **options), SPECS[spec])


@pytest.mark.parametrize("spec", SPECS)
def test_learners_side_by_side_are_loops(spec):
    """Predictions and weights after a stream, each of two seeds for itself."""
    made, examples = learner(SPECS[spec], buffer=5, rate=1e-3), stream(SPECS[spec], 12)
    state, answers = made.learn_predict(made.start([3, 4]), examples)
    for b, seed in enumerate([3, 4]):
        network, expected = naive(made, examples, b, seed)
        assert_close(answers[b], expected, rtol=1e-3, atol=1e-4)
        for name, p in network.named_parameters():
            assert_close(state.weights[name][b], p.detach(), rtol=1e-3, atol=1e-4)
    assert state.used.tolist() == [10, 10] and state.seen.tolist() == [12, 12]


def test_regression_as_published_is_a_sliding_window():
    """Softmax over the 100 samples before, one update a sample (here 5)."""
    made = learner(VECTORS, block=1, buffer=5, rate=1e-3, score=ScoreConfig(8, normalise="softmax"))
    examples = stream(VECTORS, 12)
    _, answers = made.learn_predict(made.start([0, 1]), examples)
    assert_close(answers[1], naive(made, examples, 1, 1)[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("queries", ["block", "one"])
@pytest.mark.parametrize("spec", SPECS)
def test_no_label_leaks_into_its_own_prediction(spec, queries):
    """Other labels of a block leave the predictions of that block as they are, and change those of the next."""
    made, examples = learner(SPECS[spec], queries=queries, block=10), stream(SPECS[spec], 30)
    changed = examples.y.clone()
    changed[:, 10:20] = examples.y[:, 10:20].roll(1, 1)
    answers = [made.learn_predict(made.start([0, 1]), replace(examples, y=y))[1] for y in (examples.y, changed)]
    assert torch.equal(answers[0][:, :20], answers[1][:, :20]) and not torch.equal(answers[0][:, 20:], answers[1][:, 20:])


@pytest.mark.parametrize("spec", SPECS)
def test_the_query_is_never_in_its_own_support(spec):
    """In 300 windows: the query is set aside with the first of each label, which has another in the support."""
    made, examples = learner(SPECS[spec], queries="one"), stream(SPECS[spec], 8, B=3)
    state = made.learn(made.start([0, 1, 2]), examples)
    work = Work(torch.zeros(3, 1), *state[1:])
    starts, queried = set(), []
    for seen in range(100):
        work.seen = torch.full((3,), seen)
        places, query, aside = made.window(work)
        for b in range(3):
            assert aside[b, query[b]] and len(set(places[b].tolist())) == 5
            oldest = int(work.memory["count"][0]) % 8
            starts.add((int(places[b, 0]) - oldest) % 8)
            assert places[b].tolist() == [(int(places[b, 0]) + i) % 8 for i in range(5)]
            if made.spec.classification:
                y = work.memory["y"][b, places[b]].tolist()
                assert [i for i in range(5) if aside[b, i]] == sorted({y.index(label) for label in y})
                assert y.count(y[query[b]]) > 1 or max(map(y.count, y)) == 1
                queried.append(y[query[b]])
            else:
                assert aside[b].sum() == 1
                queried.append(int(query[b]))
    assert starts == {0, 1, 2, 3} and len(set(queried)) == (3 if made.spec.classification else 5)


def test_one_query_a_block_against_a_loop():
    """The window that was drawn, asked about plainly."""
    made, examples = learner(queries="one", block=4), stream(LABELLED, 16, B=1)
    state, network = made.start([7]), None
    for start in range(0, 16, 4):
        before, state = state, made.learn(state, examples[start : start + 4])
        if start + 4 < made.config.buffer:
            assert all(torch.equal(w, before.weights[name]) for name, w in state.weights.items())
            continue
        work = Work(torch.zeros(1, 1), *before[1:-1], state.memory)
        places, query, aside = made.window(work)
        if network is None:
            network = copy.deepcopy(made.network)
            network.load_state_dict({name: w[0] for name, w in before.weights.items()})
            optimiser = torch.optim.Adam(network.parameters(), made.config.rate)
        x, y = state.memory["x"][0, places[0]], state.memory["y"][0, places[0]]
        support = ~aside[0]
        answer = naive_answer(network, made.config, LABELLED, x[query], x[support], y[support])
        optimiser.zero_grad()
        F.cross_entropy(answer, y[query]).backward()
        optimiser.step()
        for name, p in network.named_parameters():
            assert_close(state.weights[name][0], p.detach(), rtol=1e-3, atol=1e-4)
    assert state.used.tolist() == [3]


@pytest.mark.parametrize("normalise", ["none", "softmax"])
def test_the_order_of_the_support_does_not_matter(normalise):
    made, examples = learner(score=replace(SCORE, normalise=normalise)), stream(LABELLED, 20)
    state = made.learn(made.start([0, 1]), examples)
    support, order = examples[:9], torch.randperm(9, generator=torch.Generator().manual_seed(0))
    plain, shuffled = (made.predict_with(state, s, examples.x[:, 9:]) for s in (support, support[order]))
    assert_close(plain, shuffled)
    assert not torch.allclose(plain, made.predict_with(state, examples[9:18], examples.x[:, 9:]))


def test_predicting_with_the_newest_of_the_buffer_is_predicting():
    made, examples = learner(), stream(LABELLED, 20)
    state = made.learn(made.start([0, 1]), examples)
    assert_close(made.predict(state, examples.x), made.predict_with(state, examples[15:], examples.x))


def test_a_support_that_is_empty_or_lacks_the_class():
    made = learner(score=replace(SCORE, normalise="softmax"), block=5)
    state, examples = made.start([0]), stream(LABELLED, 10, B=1)
    alike = made.predict(state, examples.x)
    assert_close(alike, alike[:1, :1, :1].expand_as(alike))
    only = replace(examples, y=torch.tensor([[0] * 5 + [2] * 5]))
    state, answers = made.learn_predict(state, only)
    assert answers.isfinite().all() and all(w.isfinite().all() for w in state.weights.values())
    assert answers[0, 5:].argmax(-1).eq(0).all()


def test_asking_for_less_learns_the_same():
    examples = stream(LABELLED, 20)
    for queries in ("block", "one"):
        made = learner(queries=queries, block=4)
        whole, some, none = (made.learn_predict(made.start([0, 1]), examples, asked=asked) for asked in (None, 1, 0))
        assert_close(whole[1][:, ::4], some[1])
        assert none[1].shape == (2, 0, 3)
        assert torch.equal(whole[0].weights["score.layers.0.weight"], none[0].weights["score.layers.0.weight"])


def test_learning_rates_side_by_side_and_one_that_diverges():
    made, examples = learner(VECTORS), stream(VECTORS, 20, B=2)
    examples = Examples(*(t[:1].expand(2, *t.shape[1:]) for t in (examples.x, examples.y, examples.task)))
    with_bad = made.learn_predict(made.start([0, 0], [1e-3, 1e300]), examples)
    alone = made.learn_predict(made.start([0], [1e-3]), Examples(examples.x[:1], examples.y[:1], examples.task[:1]))
    assert_close(with_bad[1][:1], alone[1])
    assert not with_bad[1][1].isfinite().all()


def test_bad_input():
    with pytest.raises(UserError, match=r"learner.buffer 3 is smaller than learner.support 5"):
        replace(SMALL, buffer=3)
    with pytest.raises(UserError, match=r"learner.support must be at least 1"):
        replace(SMALL, support=0)
    with pytest.raises(UserError, match="8 x 8 are too small"):
        SMALL.build(IMAGES)


@pytest.mark.parametrize("spec", SPECS)
def test_hidden_units_and_plasticity(spec, monkeypatch):
    """A row for each pair, from which the scores follow; and all of the diagnostics can be had."""
    made, examples = learner(SPECS[spec]), stream(SPECS[spec], 20)
    state = made.learn_predict(made.start([0, 1]), examples, asked=0)[0]
    layers = made.hidden(state, examples.x)
    assert [h.shape for h in layers] == [(2, 20 * 5, 8)] * 2 and all((h >= 0).all() for h in layers)
    weights = {name: w for name, w in state.weights.items() if name.startswith("score.layers.2")}
    d = torch.einsum("bxh,bh->bx", layers[-1], weights["score.layers.2.weight"][:, 0]) + weights["score.layers.2.bias"]
    answer = torch.einsum("bmn,bnf->bmf", d.view(2, 20, 5), made.targets(examples.y[:, 15:]))
    assert_close(made.shaped(answer), made.predict(state, examples.x), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr("metacl.learners.similarity.online_query_only.PAIRS", 12)
    assert made.hidden(state, examples.x)[0].shape == (2, 2 * 5, 8)
    if spec == "images":  # with so many weights that the usual 64 steps for each probe are half a minute
        monkeypatch.setattr("metacl.evaluation.plasticity.estimated_rank", partial(estimated_rank, steps=6))
    found = diagnose(made, state, examples[:10])
    assert all(value.shape == (2,) for value in found.values()) and found["last_layer_rank"].isfinite().all()
    assert found["last_layer_rank"].max() <= 9
