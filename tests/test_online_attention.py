"""Full attention online: against a loop over queries, layers and tokens."""

from dataclasses import replace

import pytest
import torch
from online_learners import IMAGES, LABELLED, REGRESSION, SPECS, noise, row
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import UserError
from metacl.evaluation.check import check_learner
from metacl.evaluation.plasticity import diagnose
from metacl.learners.similarity.full_attention import FullAttention, FullAttentionConfig

pytestmark = pytest.mark.usefixtures("float64")

CONFIG = FullAttentionConfig(rate=1e-2, block=3, layers=2, support=4, width=7)


def naive(learner: FullAttention, w: dict[str, torch.Tensor], x, near, y):
    """One learner, one query, token after token. `w` as B = 1."""
    spec = learner.spec
    near, x = learner.features(w, near[None])[0], learner.features(w, x[None, None])[0]
    outputs = spec.symbols if spec.classification else spec.y_shape[0]
    of = F.one_hot(y, outputs).double() if spec.classification else y
    z = [torch.cat([a, b]) for a, b in zip(near, of, strict=True)] + [torch.cat([x[0], torch.zeros(outputs)])]
    for layer in range(learner.config.layers):
        maps = {n: (w[f"layers.{layer}.{n}.weight"][0], w[f"layers.{layer}.{n}.bias"][0]) for n in ("query", "key", "value")}
        q, k, v = ([m @ t + c for t in z] for m, c in maps.values())
        new = []
        for i, token in enumerate(z):
            a = torch.softmax(torch.stack([q[i] @ k[j] for j in range(len(z))]) / len(token) ** 0.5, 0)
            new.append(token + sum(a[j] * v[j] for j in range(len(z))))
        z = new
    return z[-1][-outputs:]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("block", [1, 3])
def test_promises(spec, block):
    """In float64: a bias of the keys changes nothing, so its gradient is rounding, of which Adam makes steps."""
    check_learner(replace(CONFIG, block=block).build(SPECS[spec]).double(), SPECS[spec])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("seen", [2, 9])
def test_answers_by_a_loop(spec, seen, monkeypatch):
    """With a support that is not full, and queries in parts."""
    monkeypatch.setattr("metacl.learners.similarity.full_attention.NUMBERS", 200)
    spec = SPECS[spec]
    learner, stream, x = CONFIG.build(spec), noise(spec, seen), noise(spec, 3, seed=1).x
    state = learner.learn_predict(learner.start([0, 1]), stream)[0]
    told = learner.predict(state, x)
    for b in range(2):
        own = {name: w[b : b + 1] for name, w in state.weights.items()}
        for m in range(3):
            assert_close(told[b, m], naive(learner, own, x[b, m], stream.x[b, -4:], stream.y[b, -4:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["labelled", "regression"])
def test_updates_by_a_loop(spec):
    """One step of torch.optim a block, on its last example with the four before it; none before there are five."""
    spec = SPECS[spec]
    learner, stream = CONFIG.build(spec), noise(spec, 12, 1)
    start = learner.start([3])
    own = {name: w.clone().requires_grad_() for name, w in start.weights.items()}
    optimiser = torch.optim.Adam(own.values(), 1e-2)
    for last in (5, 8, 11):
        support = slice(last - 4, last)
        answer = naive(learner, own, stream.x[0, last], stream.x[0, support], stream.y[0, support])
        y = stream.y[0, last]
        loss = F.cross_entropy(answer, y) if spec.classification else F.mse_loss(answer, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    state = learner.learn_predict(start, stream)[0]
    for name, w in own.items():
        if not name.endswith("key.bias"):  # its gradient is rounding
            assert_close(state.weights[name], w.detach(), rtol=1e-3, atol=1e-4, msg=name)
    assert (int(state.seen), int(state.used)) == (12, 3)


def test_a_given_support_takes_the_place_of_the_own():
    learner, support, x = CONFIG.build(IMAGES), noise(IMAGES, 4), noise(IMAGES, 3, seed=1).x
    state = learner.start([0, 1])
    given = learner.predict_with(state, support, x)
    with torch.no_grad():
        learnt = learner.learn(state, support)
    assert_close(given, learner.predict(learnt, x))
    order = torch.tensor([2, 0, 3, 1])
    assert_close(learner.predict_with(state, support[order], x), given)
    with pytest.raises(UserError, match="support set is empty"):
        learner.predict_with(state, support[:0], x)


def test_predictions_come_before_the_labels():
    learner, stream = CONFIG.build(LABELLED), noise(LABELLED, 9)
    other = replace(stream, y=torch.cat([stream.y[:, :3], (stream.y[:, 3:] + 1) % 4], 1))
    told, changed = (learner.learn_predict(learner.start([0, 1]), s)[1] for s in (stream, other))
    assert torch.equal(told[:, :6], changed[:, :6]) and not torch.equal(told[:, 6:], changed[:, 6:])
    assert_close(told[1:], learner.learn_predict(learner.start([1]), row(stream, 1))[1])


def test_diagnosis():
    """The block of the last layer is the last row and bias of its query map, as in the paper's code."""
    learner = CONFIG.build(REGRESSION)
    state = learner.learn_predict(learner.start([0, 1]), noise(REGRESSION, 9))[0]
    queries = noise(REGRESSION, 5, seed=1)
    attention = learner.attention_weights(state, queries.x)
    assert [a.shape for a in attention] == [(2, 5, 5)] * 2
    assert_close(torch.stack(attention).sum(-1), torch.ones(2, 2, 5))
    found = diagnose(learner, state, queries)
    assert (found["attention_entropy"] > 0).all() and (found["last_layer_rank"] <= 9.01).all()


def test_wrong_options():
    for name in ("layers", "support", "width"):
        with pytest.raises(UserError, match="must be at least 1"):
            replace(CONFIG, **{name: 0})
