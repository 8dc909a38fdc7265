"""A vision transformer all of whose weights are trained."""

from dataclasses import replace

import pytest
import torch
from tiny_vit import SPEC, TINY, examples, task, tiny  # noqa: F401
from torch.testing import assert_close

from episodes import Examples, UserError
from metacl.evaluation.check import check_learner
from metacl.learners.protocol import DivergedError
from metacl.learners.vision.tuned import TunedConfig

CONFIG = TunedConfig(rate=1e-3, epochs=2, batch_size=4, trunk=TINY)
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize("mode", ["sequential", "joint"])
def test_what_a_learner_owes(mode):
    check_learner(replace(CONFIG, mode=mode).build(SPEC), SPEC)


def test_joint_training_starts_anew_from_all_images():
    """It does not matter in which tasks they came, but for the order within; sequential training forgets."""
    joint = replace(CONFIG, mode="joint", epochs=20).build(SPEC)
    first, second = examples([0, 1]), examples([2, 3], 1)
    state = joint.learn(joint.learn(joint.init_state(1), first), second)
    assert torch.equal(state.x[0], torch.cat([first.x[0], second.x[0]])) and int(state.number) == 24
    at_once = joint.learn(joint.init_state(1), Examples.concatenate([first, second]))
    assert_close(state.weights, at_once.weights)
    x, y = task([0, 1, 2, 3], seed=5)
    sequential = replace(CONFIG, epochs=20).build(SPEC)
    other = sequential.learn(sequential.learn(sequential.init_state(1), first), second)
    right = [(learner.predict(own, x).argmax(-1) == y).float().mean() for learner, own in ((joint, state), (sequential, other))]
    assert right[0] > 0.9 and right[1] < right[0]
    assert other.x.numel() == 0


def test_the_learner_itself_stays_as_it_is():
    learner = CONFIG.build(SPEC)
    before = [part.clone() for part in learner.parameters()]
    state = learner.learn(learner.init_state(1), examples([0, 1]))
    assert all(torch.equal(old, new) for old, new in zip(before, learner.parameters(), strict=True))
    assert not torch.equal(state.weights["norm.weight"][0], learner.trunk.network.norm.weight)


def test_divergence_is_told():
    learner = CONFIG.build(SPEC)
    with pytest.raises((DivergedError, UserError), match=r"not finite at the learning rate .*Give a lower --learner\.rate"):
        learner.learn(learner.start([0], [1e30]), examples([0, 1]))


def test_in_mixed_precision_each_step_sees_the_weights_of_the_last():
    """Casts of weights that are trained must not be kept from step to step."""
    learner = replace(CONFIG, trunk=replace(TINY, precision="bf16")).build(SPEC)
    weights = {name: part.detach().clone().requires_grad_() for name, part in learner.trunk.network.named_parameters()}
    x = torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", enabled=False):
        first = learner.trunk(x, weights=weights)
        with torch.no_grad():
            for part in weights.values():
                part += 0.5
        second = learner.trunk(x, weights=weights)
    fresh = learner.trunk(x, weights={name: part.detach().clone() for name, part in weights.items()})
    assert torch.equal(second, fresh) and not torch.equal(first, second)


def test_a_rate_without_a_fraction():
    assert CONFIG.build(SPEC).start([0], [1]).head["weight"].dtype == torch.float32


def test_the_head_of_other_tasks_does_not_decay():
    learner = replace(CONFIG, weight_decay=10.0).build(SPEC)
    before = learner.learn(learner.init_state(1), examples([0, 1]))
    after = learner.learn(before, examples([2, 3], 1))
    assert torch.equal(before.head["weight"][0, :2], after.head["weight"][0, :2])
