"""Experience replay, dark experience replay and the same buffer as query-only attention: against loops."""

from dataclasses import replace

import pytest
import torch
from online_learners import LABELLED, NET, REGRESSION, SPECS, noise, row
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import UserError
from metacl.evaluation.check import check_learner
from metacl.learners.buffers import empty_buffer, reservoir_, sampled
from metacl.learners.trained.backprop import KEPT, REPLAY, BackpropConfig
from metacl.learners.trained.online_state import random_numbers
from metacl.learners.trained.replay import DarkReplayConfig, ReplayConfig, SameBufferConfig

pytestmark = pytest.mark.usefixtures("float64")

ER = ReplayConfig(rate=1e-2, block=2, network=NET, buffer=5, replayed=3)
DER = DarkReplayConfig(rate=1e-2, block=2, network=NET, buffer=5, replayed=3, answers=0.4)
DERPP = replace(DER, labels=0.7)
SAME = SameBufferConfig(rate=1e-2, block=2, network=NET, buffer=5, replayed=4)
ALL = {"er": ER, "der": DER, "derpp": DERPP, "same-buffer": SAME}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ALL)
def test_promises(name, spec):
    check_learner(ALL[name].build(SPECS[spec]), SPECS[spec])


@pytest.mark.parametrize("spec", ["labelled", "regression"])
@pytest.mark.parametrize("name", ["er", "der", "derpp"])
def test_replay_by_a_loop(name, spec):
    """The buffer and what is drawn from it by the same random numbers; loss and step by torch.optim.

    ER: one mini-batch of block and replay (Chaudhry 2019, algorithm 1). DER: no label is replayed (Buzzega 2020).
    DER++: the labels are those of a draw of their own.
    """
    config, spec = ALL[name], SPECS[spec]
    learner, stream, key = config.build(spec), noise(spec, 12, 1), 5
    start = learner.start([key])
    own = {w: v[0].clone().requires_grad_() for w, v in start.weights.items()}
    optimiser, buffer = torch.optim.Adam(own.values(), config.rate), empty_buffer(spec, torch.zeros(1), 1, 5)
    buffer["answers"] = torch.zeros(1, 5, 4 if spec.classification else 3)

    def loss_of(answers, y):
        return F.cross_entropy(answers, y) if spec.classification else F.mse_loss(answers, y)

    for seen in range(0, 12, 2):
        x, y = stream.x[:, seen : seen + 2], stream.y[:, seen : seen + 2]
        answers = learner.network({w: v[None] for w, v in own.items()}, x)[0][0]
        loss = loss_of(answers, y[0])
        if seen:
            draws = 2 if name == "derpp" else 1
            old = sampled(buffer, [random_numbers(key, seen, REPLAY)], 3 * draws)
            again = learner.network({w: v[None] for w, v in own.items()}, old["x"])[0][0]
            if name == "er":
                loss = loss_of(torch.cat([answers, again]), torch.cat([y[0], old["y"][0]]))
            else:
                loss = loss + 0.4 * F.mse_loss(again[:3], old["answers"][0, :3])
            if name == "derpp":
                loss = loss + 0.7 * loss_of(again[3:], old["y"][0, 3:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        reservoir_(buffer, [random_numbers(key, seen, KEPT)], x=x, y=y, answers=answers.detach()[None])
    state, told = learner.learn_predict(start, stream)
    for w, value in own.items():
        assert_close(state.weights[w][0], value.detach(), rtol=1e-3, atol=1e-4, msg=w)
    assert torch.equal(state.memory["buffer"]["x"], buffer["x"]) and told.shape[1] == 12
    assert (int(state.seen), int(state.used)) == (12, 12 + 5 * 3 * (2 if name == "derpp" else 1))


def test_updates_on_the_same_buffer_are_updates_on_what_was_drawn_from_the_newest():
    learner, stream = SAME.build(REGRESSION), noise(REGRESSION, 8, 1)
    state = learner.learn_predict(learner.start([5]), stream)[0]
    plain = BackpropConfig(rate=1e-2, block=4, network=NET).build(REGRESSION)
    expected = plain.start([5])
    for seen in range(2, 9, 2):
        kept = list(range(max(0, seen - 5), seen))
        places = {n % 5: n for n in kept}  # a ring
        drawn = [places[int(p)] for p in random_numbers(5, seen - 2, REPLAY).integers(len(kept), size=4)]
        expected = plain.learn_predict(expected, stream[torch.tensor(drawn)])[0]
    assert_close(state.weights, expected.weights)
    assert (int(state.seen), int(state.used)) == (8, 16)


@pytest.mark.parametrize("name", ALL)
def test_a_learner_does_not_notice_the_others(name):
    learner, stream = ALL[name].build(LABELLED), noise(LABELLED, 12)
    told = learner.learn_predict(learner.start([3, 4]), stream)[1]
    for b in range(2):
        assert_close(told[b : b + 1], learner.learn_predict(learner.start([3 + b]), row(stream, b))[1])


@pytest.mark.parametrize("name", ALL)
def test_predictions_come_before_the_labels(name):
    learner, stream = ALL[name].build(LABELLED), noise(LABELLED, 6)
    other = replace(stream, y=torch.cat([stream.y[:, :2], (stream.y[:, 2:] + 1) % 4], 1))
    told, changed = (learner.learn_predict(learner.start([0, 1]), s)[1] for s in (stream, other))
    assert torch.equal(told[:, :4], changed[:, :4]) and not torch.equal(told[:, 4:], changed[:, 4:])


def test_wrong_options():
    for wrong in ({"buffer": 0}, {"replayed": 0}, {"labels": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            replace(DER, **wrong)
