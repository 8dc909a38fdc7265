"""Elastic weight consolidation: Fisher information and penalty against loops."""

from dataclasses import replace

import pytest
import torch
from online_learners import LABELLED, NET, SPECS, noise
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from episodes import UserError
from metacl.evaluation.check import check_learner
from metacl.learners.trained.backprop import BackpropConfig
from metacl.learners.trained.ewc import EWCConfig
from metacl.learners.trained.online_state import Work

pytestmark = pytest.mark.usefixtures("float64")

CONFIG = EWCConfig(rate=1e-2, block=2, network=NET, stiffness=3.0, tasks=2, fisher_examples=6)


def flat(state) -> torch.Tensor:
    return torch.cat([w.flatten(1) for w in state.weights.values()], 1)


@pytest.mark.parametrize("spec", SPECS)
def test_promises(spec):
    check_learner(CONFIG.build(SPECS[spec]), SPECS[spec])


@pytest.mark.parametrize("name", SPECS)
def test_fisher_information_is_the_mean_over_single_examples(name, monkeypatch):
    """Of the six newest examples: the mean of the squared gradient of each one's loss. Some of them are found together."""
    monkeypatch.setattr("metacl.learners.trained.ewc.AT_ONCE", 4)
    spec = SPECS[name]
    learner, stream = CONFIG.build(spec), noise(spec, 10)
    state = learner.learn_predict(learner.start([0, 1]), stream)[0]
    got = learner.named(learner.fisher(state))
    for b in range(2):
        own = {name: w[b].clone().requires_grad_() for name, w in state.weights.items()}
        squares = []
        for n in range(4, 10):
            answer = learner.network({w: v[None] for w, v in own.items()}, stream.x[b : b + 1, n : n + 1])[0][0, 0]
            loss = F.cross_entropy(answer, stream.y[b, n]) if spec.classification else F.mse_loss(answer, stream.y[b, n])
            squares.append([g.square() for g in torch.autograd.grad(loss, list(own.values()))])
        for i, w in enumerate(own):
            assert_close(got[w][b], torch.stack([parts[i] for parts in squares]).mean(0), rtol=1e-4, atol=1e-9, msg=w)


def test_the_gradient_of_the_penalty_over_the_last_tasks():
    learner, state, past = CONFIG.build(LABELLED), CONFIG.build(LABELLED).start([0, 1]), []
    for task in range(3):  # of which two are remembered
        state = learner.learn_predict(state, noise(LABELLED, 8, seed=task))[0]
        past.append((learner.fisher(state), flat(state)))
        state = learner.task_ends(state)
    work = Work(flat(state) + 0.1, *state[1:])
    at = work.flat.clone().requires_grad_()
    penalty = sum((1.5 * fisher * (at - then).square()).sum() for fisher, then in past[1:])
    assert isinstance(penalty, torch.Tensor)
    penalty.backward()
    assert_close(learner.regularised(work, torch.zeros_like(work.flat)), at.grad, rtol=1e-3, atol=1e-5)


def test_it_is_plain_backpropagation_until_a_task_ends():
    learner, plain = CONFIG.build(LABELLED), BackpropConfig(rate=1e-2, block=2, network=NET).build(LABELLED)
    stream = noise(LABELLED, 8)
    state, other = learner.learn_predict(learner.start([0, 1]), stream)[0], plain.learn_predict(plain.start([0, 1]), stream)[0]
    assert_close(state.weights, other.weights)
    ended = learner.task_ends(state)
    assert (state.memory["sums"]["stiff"] == 0).all()
    far = replace(CONFIG, stiffness=1e4).build(LABELLED)
    clones = [pytree.tree_map(torch.clone, ended) for _ in range(2)]
    moved = [flat(one.learn_predict(own, stream)[0]) - flat(state) for one, own in zip((learner, far), clones, strict=True)]
    needed = learner.fisher(state) > learner.fisher(state).mean()
    assert moved[1][needed].abs().mean() < 0.5 * moved[0][needed].abs().mean()


def test_a_task_without_examples_is_not_remembered():
    learner = CONFIG.build(LABELLED)
    state = learner.task_ends(learner.start([0]))
    assert (state.memory["sums"]["stiff"] == 0).all()


def test_wrong_options():
    for name in ("tasks", "fisher_examples"):
        with pytest.raises(UserError, match="must be at least 1"):
            replace(CONFIG, **{name: 0})
