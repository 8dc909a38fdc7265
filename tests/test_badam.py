"""BAdam against a plain loop, as an optimiser and as a learner."""

import io
import math
from dataclasses import replace

import pytest
import torch
from online_learners import LABELLED, NET, SPECS, noise
from torch.testing import assert_close

from episodes import UserError
from metacl.evaluation.check import check_learner
from metacl.learners.trained.backprop import Backprop, BackpropConfig
from metacl.learners.trained.badam import BadamConfig
from metacl.learners.trained.online_state import random_numbers
from metacl.optimisers.badam import BAdam, badam_step_

CONFIG = BadamConfig(network=NET, samples=3, block=2)


def plain(mean, deviation, first, second, gradients, draws, step, rate):
    """One weight, from the paper's equations."""
    gradient = sum(gradients) / len(gradients)
    product = sum(g * eps for g, eps in zip(gradients, draws, strict=True)) / len(gradients)
    first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    alpha = rate * deviation**2 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    mean -= alpha * first / (math.sqrt(second) + 1e-10)
    deviation = deviation * math.sqrt(1 + (deviation * product / 2) ** 2) - deviation**2 * product / 2
    return mean, deviation, first, second


def test_weights_are_the_means_again_where_a_closure_is_stopped():
    part = torch.nn.Parameter(torch.zeros(3))

    def closure():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BAdam([part]).step(closure)
    assert part.tolist() == [0.0] * 3


def test_the_step_is_the_papers():
    rng = torch.Generator().manual_seed(0)
    state = [torch.randn(4, generator=rng, dtype=torch.float64), torch.full((4,), 0.3, dtype=torch.float64)]
    state += [torch.zeros(4, dtype=torch.float64) for _ in range(2)]
    loops = [tuple(float(part[i]) for part in state) for i in range(4)]
    for step in range(1, 5):
        gradients, draws = (torch.randn(6, 4, generator=rng, dtype=torch.float64) for _ in range(2))
        badam_step_(*state, gradients.mean(0), (gradients * draws).mean(0), torch.tensor(float(step)).double(), 0.7)
        for i in range(4):
            loops[i] = plain(*loops[i], gradients[:, i].tolist(), draws[:, i].tolist(), step, 0.7)
    for j, part in enumerate(state):
        assert_close(part, torch.tensor([own[j] for own in loops], dtype=torch.float64))


def fitted(steps, parts=None, saved=None, **options):
    """Some steps on the squared distance of a weight to 1, as the sum over 20 examples; of a second weight nothing is known."""
    parts = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))] if parts is None else parts
    optimiser = BAdam(parts, **{"lr": 3.0, "samples": 4} | options)
    if saved:
        optimiser.load_state_dict(torch.load(io.BytesIO(saved)))

    def closure():
        optimiser.zero_grad()
        loss = 10 * (parts[0] - 1).square().sum() + 0 * parts[1].sum()
        loss.backward()
        return loss

    for _ in range(steps):
        optimiser.step(closure)
    buffer = io.BytesIO()
    torch.save(optimiser.state_dict(), buffer)
    return optimiser, parts, buffer.getvalue()


def test_what_examples_speak_of_becomes_certain_and_the_rest_stays():
    optimiser, (known, unknown), _ = fitted(150)
    assert float((known.detach() - 1).abs().max()) < 0.5 and torch.equal(unknown, torch.zeros(2))
    assert float(optimiser.state[known]["deviation"].max()) < 0.05
    assert torch.equal(optimiser.state[unknown]["deviation"], torch.full((2,), 0.06))


def test_it_goes_on_from_its_state_bit_for_bit():
    whole, (half, saved) = fitted(6)[1], fitted(3)[1:]
    assert torch.equal(whole[0], fitted(3, half, saved)[1][0])
    assert not torch.equal(whole[0], fitted(6, seed=1)[1][0])


def test_the_deviation_is_driven_by_curvature():
    """Of a quadratic c/2 w^2, E[g eps] is c sigma: the precision grows by c a step, as by Bayes' rule."""
    deviation, c = torch.tensor([0.5], dtype=torch.float64), 1e-4
    zero = torch.zeros(1, dtype=torch.float64)
    for step in range(1, 101):
        badam_step_(zero.clone(), deviation, zero.clone(), zero.clone(), zero, c * deviation, torch.tensor(float(step)), 0.0)
    assert float(deviation**-2) == pytest.approx(4 + 100 * c, rel=1e-6)


def test_what_is_refused():
    part = [torch.nn.Parameter(torch.zeros(1))]
    for wrong in ({"deviation": 0.0}, {"samples": 0}, {"betas": (1.0, 0.9)}, {"lr": -1.0}):
        with pytest.raises(ValueError, match=r"samples .* 1 or more"):
            BAdam(part, **wrong)
    with pytest.raises(ValueError, match=r"give `step` a closure"):
        BAdam(part).step()
    with pytest.raises(UserError, match=r"learner\.samples"):
        replace(CONFIG, samples=0)
    with pytest.raises(UserError, match=r"learner\.deviation"):
        replace(CONFIG, deviation=0.0)


@pytest.mark.parametrize("spec", SPECS)
def test_what_a_learner_owes(spec):
    check_learner(replace(CONFIG, samples=1).build(SPECS[spec]), SPECS[spec])


def test_an_update_of_a_learner_is_a_loop():
    learner, x = CONFIG.build(LABELLED), noise(LABELLED, 2, 1)
    before = learner.start([7])
    after = learner.learn(before, x)
    work = learner.working(before)
    mean, draws = work.flat.clone(), random_numbers(7, 0, 6).standard_normal((3, work.flat.shape[1]), dtype="float32")
    gradients = []
    for eps in torch.from_numpy(draws):
        flat = (mean + 0.06 * eps).requires_grad_()
        answers = learner.network(learner.named(flat), x.x)[0][0]
        gradients.append(torch.autograd.grad(torch.nn.functional.cross_entropy(answers, x.y[0], reduction="sum"), flat)[0][0])
    for i in (0, 20, work.flat.shape[1] - 1):
        wanted = plain(float(mean[0, i]), 0.06, 0.0, 0.0, [float(g[i]) for g in gradients], draws[:, i].tolist(), 1, 0.1)
        found = learner.working(after)
        assert float(found.flat[0, i]) == pytest.approx(wanted[0], abs=1e-5)
        assert float(found.memory["deviation"][0, i]) == pytest.approx(wanted[1], rel=1e-4)


def test_it_learns_and_is_asked_by_its_mean():
    learner, x = replace(CONFIG, rate=3.0).build(LABELLED), noise(LABELLED, 8, 1)
    state = learner.start([0])
    first = torch.nn.functional.cross_entropy(learner.predict(state, x.x)[0], x.y[0])
    for _ in range(60):
        state = learner.learn(state, x)
    assert torch.nn.functional.cross_entropy(learner.predict(state, x.x)[0], x.y[0]) < 0.5 * first
    same = Backprop(BackpropConfig(network=NET), LABELLED)
    assert torch.equal(learner.predict(state, x.x), same.predict(state, x.x))
