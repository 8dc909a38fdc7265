"""What all online learners share, and networks trained by backpropagation: against torch.nn and torch.optim, one at a time."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from online_learners import IMAGES, LABELLED, NET, REGRESSION, SPECS, noise, row
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from episodes import Examples, UserError
from metacl.evaluation.check import check_learner
from metacl.learners.protocol import DivergedError
from metacl.learners.trained.backprop import Backprop, BackpropConfig
from metacl.learners.trained.online_state import OnlineState, Work
from metacl.nets.side_by_side import NetworkConfig

pytestmark = pytest.mark.usefixtures("float64")

CONFIG = BackpropConfig(rate=1e-2, block=3, network=NET)
VARIANTS: dict[str, BackpropConfig] = {
    "bp": CONFIG,
    "one by one": replace(CONFIG, block=1),
    "l2": replace(CONFIG, l2=0.1),
    "l2-init": replace(CONFIG, l2_init=0.1),
    "shrink-perturb": replace(CONFIG, shrink=0.1, perturb=0.05),
    "crelu": replace(CONFIG, network=NetworkConfig((8, 6), "crelu")),
    "layernorm": replace(CONFIG, network=NetworkConfig((8, 6), normalise=True, initial="xavier")),
    "one of a block": replace(CONFIG, one=True),
}


def naive_network(learner: Backprop, weights: dict[str, Any]) -> Any:
    """x (N, ...) -> answers (N, F), in plain torch.nn.functional on nn.Parameters."""
    config, depth = learner.network.config, learner.network.depth

    def forward(x):
        x = x.double() / 255 if learner.spec.x_kind == "image" else x
        for i, layer in enumerate(learner.network.layers):
            w, bias = weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]
            x = F.conv2d(x, w, bias, padding=1) if isinstance(layer, nn.Conv2d) else F.linear(x.flatten(1), w, bias)
            if i < depth and config.normalise:
                scale, shift = weights[f"scales.{i}"], weights[f"shifts.{i}"]
                affine = scale.view(-1, *[1] * (x.ndim - 2)), shift.view(-1, *[1] * (x.ndim - 2))
                x = F.layer_norm(x, x.shape[1:]) * affine[0] + affine[1]
            if i < depth:
                x = torch.cat([F.relu(x), F.relu(-x)], 1) if config.activation == "crelu" else F.relu(x)
            x = F.max_pool2d(x, 2) if isinstance(layer, nn.Conv2d) else x
        return x

    return forward


def naive(learner: Backprop, start: dict[str, torch.Tensor], rate: float, stream: Examples) -> tuple[dict, torch.Tensor]:
    """One learner by torch.optim: its weights after the stream, and its predictions of each block before it was learnt."""
    weights = {name: nn.Parameter(w.clone()) for name, w in start.items()}
    config, forward = learner.config, naive_network(learner, weights)
    optimiser, told = torch.optim.Adam(weights.values(), rate), []
    for x, y in zip(stream.x[0].split(config.block), stream.y[0].split(config.block), strict=True):
        answers = forward(x)
        told.append(answers.detach())
        loss = F.cross_entropy(answers, y) if learner.spec.classification else F.mse_loss(answers, y)
        for name, w in weights.items():
            loss = loss + config.l2 * w.square().sum() + config.l2_init * (w - start[name]).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: w.detach() for name, w in weights.items()}, torch.cat(told)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_promises(variant, spec):
    check_learner(VARIANTS[variant].build(SPECS[spec]), SPECS[spec])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("variant", ["bp", "l2", "l2-init", "crelu", "layernorm"])
def test_side_by_side_is_one_after_another(variant, spec):
    learner, stream, rates = VARIANTS[variant].build(SPECS[spec]), noise(SPECS[spec], 10), (1e-2, 3e-3)
    start = learner.start([5, 6], rates)
    state, told = learner.learn_predict(pytree.tree_map(torch.clone, start), stream)
    for b in range(2):
        own = {name: w[b] for name, w in start.weights.items()}
        weights, answers = naive(learner, own, rates[b], row(stream, b))
        assert_close(told[b], answers, rtol=1e-3, atol=1e-4)
        for name, w in weights.items():
            assert_close(state.weights[name][b], w, rtol=1e-3, atol=1e-4, msg=name)
        assert not torch.equal(state.weights["layers.0.weight"][b], start.weights["layers.0.weight"][b])
    assert state.seen.tolist() == state.used.tolist() == [10, 10]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_learner_does_not_notice_the_others(variant):
    learner, stream = VARIANTS[variant].build(LABELLED), noise(LABELLED, 9)
    both, told = learner.learn_predict(learner.start([3, 4], [1e-2, 1e-3]), stream)
    for b, (seed, rate) in enumerate([(3, 1e-2), (4, 1e-3)]):
        alone, own = learner.learn_predict(learner.start([seed], [rate]), row(stream, b))
        assert_close(told[b : b + 1], own)
        for name, w in alone.weights.items():
            assert_close(both.weights[name][b : b + 1], w, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_learn_is_learn_predict_without_the_predictions(variant):
    learner, stream = VARIANTS[variant].build(LABELLED), noise(LABELLED, 9)
    with torch.no_grad():
        pure = learner.learn(learner.start([3, 4]), stream)
    handed = learner.learn_predict(learner.start([3, 4]), stream)[0]
    for left, right in zip(pytree.tree_leaves(pure), pytree.tree_leaves(handed), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("variant", VARIANTS)
def test_predictions_come_before_the_labels(variant):
    """Other labels in a block change no prediction of it, and some of the next."""
    learner, stream = VARIANTS[variant].build(LABELLED), noise(LABELLED, 6)
    other = replace(stream, y=torch.cat([(stream.y[:, :3] + 1) % 4, stream.y[:, 3:]], 1))
    told, changed = (learner.learn_predict(learner.start([0, 1]), s)[1] for s in (stream, other))
    block = learner.config.block
    assert torch.equal(told[:, :block], changed[:, :block]) and not torch.equal(told[:, 3:], changed[:, 3:])


@pytest.mark.parametrize("asked", [1, 2, None])
@pytest.mark.parametrize("variant", ["bp", "one of a block"])
def test_only_the_first_of_each_block_are_asked(variant, asked):
    learner, stream = VARIANTS[variant].build(REGRESSION), noise(REGRESSION, 9)
    state, told = learner.learn_predict(learner.start([0, 1]), stream, asked=asked)
    every = learner.learn_predict(learner.start([0, 1]), stream)[1]
    places = [n for n in range(9) if asked is None or n % 3 < asked]
    assert told.shape == (2, len(places), 3)
    assert_close(told, every[:, places])
    assert_close(learner.learn_predict(learner.start([0, 1]), stream, asked=0)[0].weights, state.weights)


def test_a_learner_that_diverges_leaves_the_others_alone():
    learner, stream = replace(CONFIG, rate=1e-3).build(REGRESSION), noise(REGRESSION, 12)
    state, told = learner.learn_predict(learner.start([0, 1], [1e300, 1e-3]), stream)
    alone = learner.learn_predict(learner.start([1], [1e-3]), row(stream, 1))
    assert not told[0].isfinite().all() and not state.weights["layers.0.weight"][0].isfinite().all()
    assert_close(told[1:], alone[1])
    with pytest.raises(DivergedError, match=r"learning rate .*lower --learner.rate"):
        learner.learn_predict(learner.start([0, 1], [1e300, 1e300]), stream)


def test_l2_init_draws_to_the_initial_weights_and_l2_to_zero():
    start = CONFIG.build(LABELLED).start([0])
    flat = torch.cat([w.flatten() for w in start.weights.values()])
    distance = {}
    for name in ("bp", "l2", "l2-init"):
        state = VARIANTS[name].build(LABELLED).learn_predict(start, noise(LABELLED, 90, 1))[0]
        end = torch.cat([w.flatten() for w in state.weights.values()])
        distance[name] = (end - flat).norm(), end.norm()
        start = CONFIG.build(LABELLED).start([0])
        start = VARIANTS["l2-init"].build(LABELLED).start([0]) if name == "l2" else start
    assert distance["l2-init"][0] < distance["bp"][0] and distance["l2"][1] < distance["bp"][1]


@pytest.mark.parametrize("variant", ["bp", "xavier", "layernorm", "images"])
def test_shrink_and_perturb_is_a_step_towards_a_new_network(variant):
    """Without a gradient: 0.9 w + 0.05 w' with w' spread as in networks drawn anew; other noise each time and seed."""
    spec = IMAGES if variant == "images" else LABELLED
    net = {"xavier": NetworkConfig((40, 30), initial="xavier"), "layernorm": NetworkConfig((40, 30), normalise=True)}
    learner = replace(CONFIG, shrink=0.1, perturb=0.05, network=net.get(variant, NetworkConfig((40, 30)))).build(spec)
    work, noises = _work(learner.start([0, 1])), []
    for _ in range(20):
        was = {name: w.clone() for name, w in learner.named(work.flat).items()}
        learner.perturbed(work)
        kept = {name: 0.9 if name.startswith("layers") else 1.0 for name in was}
        noises.append({name: (w - kept[name] * was[name]) / 0.05 for name, w in learner.named(work.flat).items()})
        work.seen += 1
    drawn = [learner.drawn_weights(seed) for seed in range(40)]
    for name in was:
        new, initial = torch.cat([noise[name] for noise in noises]), torch.stack([own[name] for own in drawn])
        assert_close(new.std(), initial.std(), rtol=0.06, atol=1e-12, msg=name)
        assert new.abs().max() <= initial.abs().max() * 1.05 + 1e-12 or initial.std() == 0
    rows = torch.cat([noise["layers.0.weight"].flatten(1) for noise in noises])
    assert len(rows.unique(dim=0)) == 40


def _work(state: OnlineState) -> Work:
    return Work(torch.cat([w.flatten(1) for w in state.weights.values()], 1), *state[1:])


def test_one_of_a_block_draws_labels_uniformly():
    learner = replace(CONFIG, one=True, block=20).build(LABELLED)
    work = _work(learner.start([7]))
    y = torch.tensor([[0] * 17 + [1, 1, 3]])
    x = torch.arange(20.0).view(1, 20, 1).expand(1, 20, 6)
    drawn = []
    for _ in range(600):
        x_one, y_one = learner.chosen(work, x, y)
        assert y_one[0, 0] == y[0, int(x_one[0, 0, 0])]
        drawn.append(int(x_one[0, 0, 0]))
        work.seen += 1
    shares = torch.tensor(drawn).bincount(minlength=20) / 600
    assert_close(torch.stack([shares[:17].sum(), shares[17:19].sum(), shares[19]]), torch.full((3,), 1 / 3), atol=0.06, rtol=0)
    assert (shares > 0).all()


def test_one_of_a_block_counts_one_gradient_example():
    state = replace(CONFIG, one=True).build(LABELLED).learn_predict(CONFIG.build(LABELLED).start([0]), noise(LABELLED, 9, 1))[0]
    assert (int(state.seen), int(state.used)) == (9, 3)


def test_reinit_starts_anew_where_a_task_ends():
    learner = replace(CONFIG, reinit=True).build(LABELLED)
    state = learner.learn_predict(learner.start([0, 1]), noise(LABELLED, 9))[0]
    new, again = learner.task_ends(state), learner.task_ends(state)
    assert not torch.equal(new.weights["layers.0.weight"], state.weights["layers.0.weight"])
    assert torch.equal(new.weights["layers.0.weight"], again.weights["layers.0.weight"])
    assert not torch.equal(new.weights["layers.0.weight"][0], new.weights["layers.0.weight"][1])
    assert (new.steps == 0).all() and (new.first == 0).all() and torch.equal(new.seen, state.seen)
    later = learner.task_ends(learner.learn_predict(new, noise(LABELLED, 3))[0])
    assert not torch.equal(new.weights["layers.0.weight"], later.weights["layers.0.weight"])
    assert CONFIG.build(LABELLED).task_ends(state) is state


@pytest.mark.parametrize("use", ["tune", "knn"])
@pytest.mark.parametrize("spec", SPECS)
def test_support_helps_a_network_that_has_forgotten(use, spec):
    """Asked about the support itself it does better with it, and its weights stay as they are."""
    learner = replace(CONFIG, support=6, use=use, tune_rate=1e-3, tune_steps=600, neighbours=1).build(SPECS[spec])
    state, support = learner.start([0, 1]), noise(SPECS[spec], 6)
    before = pytree.tree_map(torch.clone, state)
    told = learner.predict_with(state, support, support.x)
    assert told.shape == learner.predict(state, support.x).shape
    if SPECS[spec].classification:
        right, before_it = ((p.argmax(-1) == support.y).float().mean(1) for p in (told, learner.predict(state, support.x)))
        assert (right > before_it).all() and right.max() == 1
    else:
        assert F.mse_loss(told, support.y) < 0.6 * F.mse_loss(learner.predict(state, support.x), support.y)
    for left, right in zip(pytree.tree_leaves(before), pytree.tree_leaves(state), strict=True):
        assert torch.equal(left, right)
    with pytest.raises(UserError, match="support set is empty"):
        learner.predict_with(state, support[:0], support.x)


def test_without_support_a_network_predicts_as_ever():
    learner, support = CONFIG.build(LABELLED), noise(LABELLED, 6)
    state = learner.start([0, 1])
    assert torch.equal(learner.predict_with(state, support, support.x), learner.predict(state, support.x))


def test_seeds_draw_initial_weights_of_their_own():
    learner = CONFIG.build(IMAGES)
    weights = learner.start([4, 5, 4]).weights["layers.0.weight"]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": 0.0}, "learner.rate must be above 0"),
        ({"rate": float("inf")}, "learner.rate must be above 0, and finite"),
        ({"block": 0}, "learner.block must be at least 1"),
        ({"l2": -1.0}, "learner.l2 must be at least 0"),
        ({"shrink": 1.0}, "learner.shrink must be below 1"),
    ],
)
def test_wrong_options(options, said):
    with pytest.raises(UserError, match=said):
        replace(CONFIG, **options)


def test_wrong_networks_and_seeds():
    with pytest.raises(UserError, match="even for crelu"):
        NetworkConfig((3,), "crelu")
    with pytest.raises(UserError, match="as many seeds as learning rates"):
        CONFIG.build(LABELLED).start([0, 1], [1e-2])
