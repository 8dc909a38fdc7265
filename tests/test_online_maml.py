"""MAML online: inner steps, outer gradient and regions against loops."""

from dataclasses import replace

import pytest
import torch
from online_learners import LABELLED, NET, REGRESSION, SPECS, noise, row
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import UserError
from metacl.evaluation.check import check_learner
from metacl.learners.trained.online_maml import OnlineMAML, OnlineMAMLConfig
from metacl.learners.trained.online_state import Work
from metacl.nets.side_by_side import NetworkConfig

pytestmark = pytest.mark.usefixtures("float64")

CONFIG = OnlineMAMLConfig(
    rate=1e-2, block=2, network=NET, inner_rate=0.1, inner_steps=3, support=2, queries=1, regions=2, buffer=8
)


def work_of(state) -> Work:
    return Work(torch.cat([w.flatten(1) for w in state.weights.values()], 1), *state[1:])


@pytest.mark.parametrize("spec", SPECS)
def test_promises(spec):
    check_learner(CONFIG.build(SPECS[spec]), SPECS[spec])


@pytest.mark.parametrize("spec", SPECS)
def test_answers_come_after_steps_of_sgd_on_the_support(spec):
    spec = SPECS[spec]
    learner, support, x = CONFIG.build(spec), noise(spec, 2), noise(spec, 4, seed=1).x
    state = learner.start([0, 1])
    told = learner.predict_with(state, support, x)
    for b in range(2):
        own = {name: nn.Parameter(w[b : b + 1].clone()) for name, w in state.weights.items()}
        optimiser = torch.optim.SGD(own.values(), 0.1)
        for _ in range(3):
            answers = learner.network(own, support.x[b : b + 1])[0][0]
            loss = F.cross_entropy(answers, support.y[b]) if spec.classification else F.mse_loss(answers, support.y[b])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert_close(told[b], learner.network(own, x[b : b + 1])[0][0].detach(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert_close(learner.predict_with(state, support, x), told)
        assert_close(learner.predict(learner.learn(state, support), x), told)


def test_without_examples_the_weights_answer():
    learner, x = CONFIG.build(LABELLED), noise(LABELLED, 4).x
    state = learner.start([0, 1])
    assert_close(learner.predict(state, x), learner.network(state.weights, x)[0])


def test_the_outer_gradient_against_finite_differences():
    """Second order, in float64."""
    learner = replace(CONFIG, network=NetworkConfig((3,)), inner_rate=0.5).build(REGRESSION).double()
    some = noise(REGRESSION, 6, batch_size=2)
    x, y = some.x.double().unflatten(1, (2, 3)), some.y.double().unflatten(1, (2, 3))
    flat = work_of(learner.start([0, 1])).flat

    def loss(flat_BP):
        total = 0.0
        for t in range(2):
            with torch.no_grad():
                adapted = learner.adapted(flat_BP, x[:, t, :2], y[:, t, :2])
            answers = learner.network(learner.named(adapted), x[:, t, 2:])[0]
            total = total + learner.losses(answers, y[:, t, 2:]).mean(1) / 2
        return total

    got = learner.outer_gradient(flat, x, y)
    for p in range(0, flat.shape[1], 3):
        shift = torch.zeros_like(flat)
        shift[:, p] = 1e-6
        assert_close(got[:, p], (loss(flat + shift) - loss(flat - shift)) / 2e-6, rtol=1e-4, atol=1e-6)


def test_regions_are_runs_by_age():
    """Examples hold their numbers: after 21 the buffer has 13 to 20, in two regions of four."""
    learner, starts = CONFIG.build(REGRESSION), set()
    stream = replace(noise(REGRESSION, 21), x=torch.arange(21.0).view(1, 21, 1).expand(2, 21, 5))
    work = work_of(learner.learn_predict(learner.start([0, 1]), stream)[0])
    for number in range(40):
        x = learner.regions(work, number)[0][..., 0]
        assert (x.diff(dim=-1) == 1).all()
        starts |= set(x[..., 0].flatten().tolist())
        assert ((x[:, 0] >= 13) & (x[:, 0] <= 16)).all() and ((x[:, 1] >= 17) & (x[:, 1] <= 20)).all()
    assert starts == {13, 14, 17, 18}


@pytest.mark.parametrize(("updates", "keep_every", "expected"), [(1.0, 1, 7), (0.5, 1, 4), (2.0, 1, 14), (1.0, 2, 3)])
def test_updates_begin_when_the_buffer_is_full(updates, keep_every, expected):
    """After 8 examples, or 15 where every other one is kept: block 4 of 10, or block 8."""
    learner = replace(CONFIG, updates=updates, keep_every=keep_every).build(LABELLED)
    state = learner.learn_predict(learner.start([0, 1]), noise(LABELLED, 20))[0]
    assert int(state.steps[0]) == expected
    assert state.used.tolist() == [expected * 2 * 3] * 2


def test_predictions_come_before_the_labels():
    learner: OnlineMAML = CONFIG.build(LABELLED)
    stream = noise(LABELLED, 14)
    other = replace(stream, y=torch.cat([stream.y[:, :10], (stream.y[:, 10:] + 1) % 4], 1))
    told, changed = (learner.learn_predict(learner.start([0, 1]), s)[1] for s in (stream, other))
    assert torch.equal(told[:, :12], changed[:, :12]) and not torch.equal(told[:, 12:], changed[:, 12:])
    assert_close(told[1:], learner.learn_predict(learner.start([1]), row(stream, 1))[1])


def test_wrong_options():
    with pytest.raises(UserError, match=r"buffer 5 is too small.*6 in all"):
        replace(CONFIG, buffer=5)
    with pytest.raises(UserError, match="must be above 0"):
        replace(CONFIG, inner_rate=0.0)
