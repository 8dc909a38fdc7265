"""Adam-NSCL: the null space is the published one, and what is trained stays in it."""

from dataclasses import replace

import pytest
import torch
from tiny_vit import SPEC, TINY, after, examples, only, tiny  # noqa: F401
from torch.testing import assert_close

from episodes import UserError
from metacl.evaluation.check import check_learner
from metacl.learners.vision.adam_nscl import AdamNsclConfig
from metacl.learners.vision.second_moments import moments_at, nearly_null
from metacl.nets.vit import Added

CONFIG = AdamNsclConfig(epochs=2, batch_size=4, rate=1e-3, times=100.0, trunk=TINY)
pytestmark = pytest.mark.usefixtures("tiny")


def test_what_a_learner_owes():
    check_learner(CONFIG.build(SPEC), SPEC)


def test_the_null_space_is_the_published_rule():
    """Eigenvalues at most a times the smallest: the published code takes singular values, in falling order."""
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) * 2.0 ** torch.arange(8)
    moment = rows.T @ rows / 200
    _, values, vectors = torch.linalg.svd(moment.double())
    for times in (1.0, 10.0, 1000.0, 1e9):
        wanted = vectors[values <= values[-1] * times].T.float()
        found = nearly_null(moment, times)
        assert found.shape == wanted.shape and found.shape[1] >= 1
        assert_close(found @ found.T, wanted @ wanted.T, rtol=1e-3, atol=1e-4)


def test_of_directions_that_never_occur_all_are_null():
    rows = torch.randn(50, 8) * torch.tensor([1.0] * 5 + [0.0] * 3)
    assert nearly_null(rows.T @ rows, 10.0).shape == (8, 3)


def test_the_direction_that_a_layer_norm_leaves_constant_does_not_count():
    """By the rule as it is, it would be the whole null space."""
    scale, shift = torch.rand(12) + 0.5, 0.01 * torch.randn(12)
    rows = torch.nn.functional.layer_norm(torch.randn(500, 12), (12,), scale, shift)
    moment, forced = rows.T @ rows / 500, torch.nn.functional.normalize(1 / scale, dim=0)
    alone, others = nearly_null(moment, 10.0), nearly_null(moment, 10.0, 1)
    assert alone.shape[1] == 1 and abs(float(alone[:, 0] @ forced)) > 0.99
    assert others.shape[1] > 3 and float((others.T @ forced).norm()) > 0.99


def test_the_moments_are_the_mean_over_the_tokens_of_all_tasks():
    """Of weights as they were when a task ended; tasks of unequal size."""
    learner = CONFIG.build(SPEC)
    tasks, states = [examples([0, 1]), examples([2], 1)], [learner.init_state(1)]
    for task in tasks:
        states.append(learner.learn(states[-1], task))
    rows = {"attention in": [], "heads": []}
    for task, state in zip(tasks, states[1:], strict=True):
        seen = {}
        taps = [Added(), Added(tap=seen.__setitem__)]
        with torch.no_grad():
            learner.trunk(learner.trunk.view(task.x[0]), taps, weights=only(state).weights)
        for name, found in rows.items():
            found.append(seen[name].flatten(0, 1))
    for name, found in rows.items():
        whole = torch.cat(found)
        assert_close(only(states[-1]).moments[name][1], whole.T @ whole / len(whole), rtol=1e-4, atol=1e-5)
    assert int(states[-1].images) == 18


def test_weights_move_in_the_null_space_alone_and_keep_what_was_answered_better():
    """The inputs of the first task hardly see what the second has changed; without a projection they do."""
    learner = replace(CONFIG, normalise=False).build(SPEC)
    first, new = after(learner, [0, 1]), examples([2, 3], 1)
    second = learner.learn(first, new)
    for name, right in learner.projections(only(first)).items():
        moved = only(second).weights[name] - only(first).weights[name]
        assert float(moved.abs().max()) > 1e-4
        assert_close(moved @ right, moved, rtol=1e-3, atol=1e-5)
    free = replace(CONFIG, normalise=False, times=1e30).build(SPEC)
    other = free.learn(first, new)
    x = examples([0, 1], 3).x[0]
    before = learner.features_row(only(first), x)
    drift = [float((learner.features_row(only(state), x) - before).norm()) for state in (second, other)]
    assert drift[0] < 0.5 * drift[1]


def test_the_projection_is_divided_by_its_norm_where_asked():
    learner = CONFIG.build(SPEC)
    state = only(after(learner, [0, 1]))
    found = learner.projections(state)
    assert set(found) == set(state.weights) and len(found) == 6
    assert all(float(right.norm()) == pytest.approx(1, rel=1e-4) for right in found.values())
    assert learner.projections(only(learner.init_state(1))) == {}


def test_moments_at_several_places_are_of_one_pass(monkeypatch):
    learner, passes = CONFIG.build(SPEC), []
    forward = type(learner.trunk).__call__
    monkeypatch.setattr(type(learner.trunk), "__call__", lambda *args, **more: passes.append(1) or forward(*args, **more))
    found = moments_at(learner.trunk, examples([0, 1]).x[0], ("attention in", "heads"))
    assert len(passes) == 1 and found["heads"].shape == (3, 24, 24)


def test_what_is_refused():
    with pytest.raises(UserError, match=r"learner\.times is 1 or more, not 0\.5"):
        replace(CONFIG, times=0.5)
