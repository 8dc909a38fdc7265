"""Continual backpropagation and ReDo: utilities and replacement counts against cases worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from online_learners import IMAGES, LABELLED, NET, SPECS, noise, row
from torch.testing import assert_close

from episodes import UserError
from metacl.evaluation.check import check_learner
from metacl.learners.trained.backprop import Backprop, BackpropConfig
from metacl.learners.trained.online_state import Work
from metacl.learners.trained.units import ContinualConfig, RedoConfig, replace_units
from metacl.nets.side_by_side import NetworkConfig, over_examples

pytestmark = pytest.mark.usefixtures("float64")

CBP = ContinualConfig(rate=1e-3, block=2, network=NET, maturity=2, replacement_rate=0.1)
REDO = RedoConfig(rate=1e-3, block=2, network=NET, every=3, threshold=0.3)


def work_of(learner: Backprop, seeds=(0,)) -> Work:
    state = learner.start(list(seeds))
    return Work(torch.cat([w.flatten(1) for w in state.weights.values()], 1), *state[1:])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("config", [CBP, REDO, replace(CBP, block=1), replace(REDO, block=1)])
def test_promises(config, spec):
    check_learner(config.build(SPECS[spec]), SPECS[spec])


@pytest.mark.parametrize("config", [CBP, REDO])
def test_a_learner_does_not_notice_the_others(config):
    learner, stream = config.build(LABELLED), noise(LABELLED, 30)
    both, told = learner.learn_predict(learner.start([3, 4]), stream)
    for b in range(2):
        alone, own = learner.learn_predict(learner.start([3 + b]), row(stream, b))
        assert_close(told[b : b + 1], own)
        assert_close(both.weights["layers.0.weight"][b : b + 1], alone.weights["layers.0.weight"])


def test_utilities_by_hand():
    """Two units, two updates; layer 0 has incoming weights of mean size 1 and 2, outgoing ones of 3 and 0.5."""
    learner = replace(CBP, network=NetworkConfig((2,)), maturity=100).build(LABELLED)
    work = work_of(learner)
    weights = learner.named(work.flat)
    weights["layers.0.weight"][0] = torch.tensor([[1.0, -1, 1, -1, 1, -1], [2.0, -2, 2, -2, 0, 4]])
    weights["layers.1.weight"][0] = torch.tensor([[3.0, 0.5], [-3.0, 0.5], [3.0, -0.5], [-3.0, 0.5]])
    h = torch.tensor([[[1.0, 4.0], [3.0, 0.0]]])
    learner._watch(work, 0, h)
    units = work.memory["units"][0]
    assert_close(units["mean"], 0.01 * torch.tensor([[2.0, 2.0]]))  # divided by 1 - 0.99: 2 and 2
    first = torch.tensor([[1.0 * 3 / 1, 2.0 * 0.5 / 2]])
    assert_close(units["utility"], 0.01 * first)
    learner._watch(work, 0, torch.zeros(1, 2, 2))
    mean = 0.99 * 0.01 * 2 / (1 - 0.99**2)  # of both units, after an update of zeros
    second = torch.tensor([[mean * 3, mean * 0.25]])
    assert_close(units["utility"], 0.99 * 0.01 * first + 0.01 * second)
    assert units["age"].tolist() == [[2, 2]]


def test_contribution_utilities_by_hand():
    """|h| times outgoing weights, averaged with what was; the mean of h and incoming weights have no part (Nature 2024)."""
    learner = replace(CBP, network=NetworkConfig((2,)), utility="contribution").build(LABELLED)
    work = work_of(learner)
    learner.named(work.flat)["layers.1.weight"][0] = torch.tensor([[3.0, 0.5], [-3.0, 0.5], [3.0, -0.5], [-3.0, 0.5]])
    for h in (torch.tensor([[[1.0, 4.0], [3.0, 0.0]]]), torch.ones(1, 2, 2)):
        learner._watch(work, 0, h)
    assert_close(
        work.memory["units"][0]["utility"], 0.99 * 0.01 * torch.tensor([[6.0, 1.0]]) + 0.01 * torch.tensor([[3.0, 0.5]])
    )


def test_replacement_counts_by_hand():
    """10 units, maturity 4, rate 0.08: from the fifth update on 0.8 units are due at each, and less as young ones come in."""
    learner = replace(CBP, network=NetworkConfig((10,)), maturity=4, replacement_rate=0.08).build(LABELLED)
    work, due, replaced = work_of(learner), [], []
    for _ in range(8):
        ages = work.memory["units"][0]["age"].clone()
        learner.after(work, *[torch.empty(0)] * 3, [torch.rand(1, 5, 10, generator=torch.Generator().manual_seed(0))])
        replaced.append(int((work.memory["units"][0]["age"] < ages + 1).sum()))
        due.append(round(float(work.memory["due"][0, 0]), 4))
    # Mature: 10, 10, 9, 8 from the fifth on. Due: 0.8, 1.6, 0.6 + 0.72, 0.32 + 0.64.
    assert replaced == [0, 0, 0, 0, 0, 1, 1, 0]
    assert due == [0, 0, 0, 0, 0.8, 0.6, 0.32, 0.96]


def test_the_mature_unit_of_least_utility_is_replaced():
    learner = replace(CBP, network=NetworkConfig((4,)), maturity=5, replacement_rate=0.5).build(LABELLED)
    work = work_of(learner, (0, 1))
    units = work.memory["units"][0]
    units["age"][:] = torch.tensor([[9.0, 9, 9, 1], [9.0, 9, 1, 1]])
    units["utility"][:] = torch.tensor([[0.5, 0.1, 0.2, 0.0], [0.3, 0.4, 0.0, 0.0]])
    before = {name: w.clone() for name, w in learner.named(work.flat).items()}
    learner.after(work, *[torch.empty(0)] * 3, [torch.zeros(2, 5, 4)])
    assert units["age"].tolist() == [[10, 0, 10, 2], [0, 10, 2, 2]]  # 1.5 and 1 are due
    assert_close(work.memory["due"], torch.tensor([[0.5], [0.0]]))
    after = learner.named(work.flat)
    changed = (after["layers.0.weight"] != before["layers.0.weight"]).all(-1)
    assert changed.tolist() == [[False, True, False, False], [True, False, False, False]]


@pytest.mark.parametrize("spec", ["labelled", "images"])
@pytest.mark.parametrize("i", [0, -1])
def test_a_new_unit(spec, i):
    """Its incoming weights are drawn anew, the outgoing ones are 0 and what the next layer had of it on average is kept."""
    learner = CBP.build(SPECS[spec])
    i = i % learner.network.depth
    work = work_of(learner, (0, 1))
    for part in (work.first, work.second, work.steps):
        part += 7
    old = work.flat.clone()
    replace_units(learner, work, i, 1, torch.tensor([2, 0]), np.random.default_rng(0), torch.tensor([0.5, 0.25]))
    assert torch.equal(work.flat[0], old[0]) and (work.first[0] == 7).all()
    new, was, width = learner.named(work.flat), learner.named(old), learner.network.units[i]
    bound = learner.network.bound(i)
    assert (new[f"layers.{i}.weight"][1, [0, 2]].abs() <= bound).all()
    assert (new[f"layers.{i}.weight"][1, [0, 2]] != was[f"layers.{i}.weight"][1, [0, 2]]).all()
    assert torch.equal(new[f"layers.{i}.weight"][1, 1], was[f"layers.{i}.weight"][1, 1])
    assert (new[f"layers.{i}.bias"][1, [0, 2]] == 0).all()
    after = was[f"layers.{i + 1}.weight"][1].flatten(1).unflatten(1, (width, -1)).sum(-1)
    lost = 0.5 * after[:, 2] + 0.25 * after[:, 0]
    assert_close(new[f"layers.{i + 1}.bias"][1], was[f"layers.{i + 1}.bias"][1] + lost)
    out = new[f"layers.{i + 1}.weight"][1].flatten(1).unflatten(1, (width, -1))
    assert (out[:, [0, 2]] == 0).all() and (out[:, 1] != 0).all()
    for part in (work.first, work.second, work.steps):
        forgotten = learner.named(part[1:] == 0)
        assert forgotten[f"layers.{i}.weight"][0].flatten(1).all(1).sum() == forgotten[f"layers.{i}.bias"][0].sum() == 2
        assert not forgotten[f"layers.{i + 1}.bias"].any()


def test_a_replaced_unit_that_was_constant_changes_no_answer():
    """The bias takes over what it gave, so that the network computes the same."""
    learner = CBP.build(LABELLED)
    work, x = work_of(learner), noise(LABELLED, 4, 1).x
    weights = learner.named(work.flat)
    weights["layers.0.weight"][0, 3], weights["layers.0.bias"][0, 3] = 0, 0.7
    before = learner.network(weights, x)[0]
    replace_units(learner, work, 0, 0, torch.tensor([3]), np.random.default_rng(0), torch.tensor([0.7]))
    assert_close(learner.network(learner.named(work.flat), x)[0], before)


def test_a_replaced_channel_that_was_constant_once_pooled_changes_no_answer():
    """What the next layer sees of it is the maximum of each window."""
    learner = CBP.build(IMAGES)
    work, x = work_of(learner), noise(IMAGES, 4, 1).x
    x[:, :, 0] = 255 * (torch.arange(12)[:, None] + torch.arange(12)).remainder(2)  # one in each window, and one nothing
    weights = learner.named(work.flat)
    weights["layers.0.weight"][0, 3], weights["layers.0.bias"][0, 3] = 0, 0
    weights["layers.0.weight"][0, 3, 0, 2, 2] = 0.7
    hidden = learner.network(weights, x)[1]
    mean = over_examples(hidden[0]).mean(1)[0, 3:4]
    replace_units(learner, work, 0, 0, torch.tensor([3]), np.random.default_rng(0), mean)
    after = learner.network(learner.named(work.flat), x)[1][1]
    inner = (..., 1, 1)  # elsewhere the next convolution sees zeros beyond the edge as well
    assert_close(after[inner], hidden[1][inner])


def test_each_weight_counts_its_own_steps():
    learner = replace(CBP, replacement_rate=0.4, maturity=1).build(LABELLED)
    state = learner.learn_predict(learner.start([0]), noise(LABELLED, 20, 1))[0]
    steps = learner.named(state.steps)
    assert steps["layers.2.bias"].tolist() == [[10.0] * 4] and (steps["layers.0.bias"] < 10).any()


def test_redo_replaces_dormant_units_when_it_looks():
    learner = replace(REDO, network=NetworkConfig((8,))).build(LABELLED)
    start = learner.start([0])
    start.weights["layers.0.weight"][0, 5] = 0
    start.weights["layers.0.bias"][0, 5] = -1
    two = learner.learn_predict(start, noise(LABELLED, 4, 1))[0]
    assert (two.weights["layers.0.weight"][0, 5] == 0).all()
    three = learner.learn_predict(two, noise(LABELLED, 2, 1, seed=1))[0]
    assert (three.weights["layers.0.weight"][0, 5] != 0).all() and three.weights["layers.0.bias"][0, 5] == 0
    assert (three.weights["layers.1.weight"][0, :, 5] == 0).all() and (three.weights["layers.1.weight"][0, :, 4] != 0).any()


@pytest.mark.parametrize("spec", SPECS)
def test_redo_judges_the_newest_examples_as_the_network_is_now(spec):
    """One example a block: what its units did at the examples one by one, and before, does not count."""
    learner = replace(REDO, block=1, every=5, examples=4, threshold=0.6).build(SPECS[spec])
    stream = noise(SPECS[spec], 5)
    state = replace(REDO, block=1, every=100).build(SPECS[spec]).learn_predict(learner.start([0, 1]), stream)[0]
    hidden = learner.network(state.weights, stream.x[:, 1:])[1]
    found = learner.learn_predict(learner.start([0, 1]), stream)[0].weights
    number = 0
    for i, h in enumerate(hidden):
        score = over_examples(h).abs().mean(1)
        dormant = score / score.mean(1, keepdim=True) <= 0.6
        same = (found[f"layers.{i}.weight"] == state.weights[f"layers.{i}.weight"]).flatten(2)
        assert torch.equal((~same).all(2), dormant)
        out = found[f"layers.{i + 1}.weight"].flatten(2).unflatten(2, (h.shape[2], -1))
        assert (out.movedim(1, 2)[dormant] == 0).all()
        number += int(dormant.sum())
    assert number > 3


def test_without_replacement_it_is_plain_backpropagation():
    stream = noise(IMAGES, 8)
    plain = BackpropConfig(rate=1e-3, block=2, network=NET).build(IMAGES)
    expected = plain.learn_predict(plain.start([0, 1]), stream)[0].weights
    for config in (replace(CBP, replacement_rate=0), replace(REDO, every=100)):
        learner = config.build(IMAGES)
        got = learner.learn_predict(learner.start([0, 1]), stream)[0].weights
        for name, w in expected.items():
            assert_close(got[name], w, msg=name)


def test_wrong_options():
    with pytest.raises(UserError, match="relu only"):
        replace(CBP, network=NetworkConfig((4,), "crelu"))
    with pytest.raises(UserError, match="replacement-rate must be at least 0"):
        replace(CBP, replacement_rate=-1)
    with pytest.raises(UserError, match="every must be at least 1"):
        replace(REDO, every=0)
