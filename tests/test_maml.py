"""MAML, Meta-SGD and ANIL: learn2learn's algorithms against the inner loop of torch.func, and life without the library."""

import dataclasses
import importlib.util
import sys

import pytest
import torch
from meta_gradients import assert_meta_gradient, episode_in_float64, meta_gradient
from tiny import ENCODER, IMAGES, VECTORS
from torch.func import functional_call
from torch.testing import assert_close

from episodes import EpisodeSpec, UserError
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners import query_loss
from metacl.learners.gradient.inner_loop import InnerConfig, sgd
from metacl.learners.gradient.maml import MAML, MAMLConfig
from metacl.learners.losses import mean_loss

ALGORITHMS = ("maml", "meta-sgd", "anil")
SPECS = {"images": IMAGES, "regression": VECTORS}
installed = pytest.mark.skipif(importlib.util.find_spec("learn2learn") is None, reason="learn2learn is not installed")


def maml(algorithm: str = "maml", spec: EpisodeSpec = IMAGES, **options) -> MAML:
    """A tiny one in eval mode, with an inner rate at which much happens."""
    torch.manual_seed(0)
    return MAMLConfig(**{"algorithm": algorithm, "rate": 0.1, "width": 12, "encoder": ENCODER, **options}).build(spec).eval()


@installed
@pytest.mark.parametrize("inner", ["sequential", "batched"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_they_keep_their_promises(algorithm, spec, inner):
    check_learner(maml(algorithm, SPECS[spec], inner=inner), SPECS[spec])


@installed
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learn2learn_agrees_with_the_inner_loop_of_torch_func(algorithm, spec, order):
    """Weights, meta-loss and every meta-gradient. A rate for every weight is a tensor of rates."""
    spec = SPECS[spec]
    learner, episode = maml(algorithm, spec, order=order).double(), episode_in_float64(spec)
    z_stream, z_query = learner.encode_episode(episode)
    names = [name for name, _ in learner.network.named_parameters()]
    rates = dict(zip(names, learner.algorithm.lrs, strict=True)) if algorithm == "meta-sgd" else None
    rates = rates or dict.fromkeys(names, learner.config.rate * learner.log_rate.exp())

    def loss(weights, z_D, y):
        return mean_loss(functional_call(learner.network, weights, (z_D,)), y, spec)

    end = sgd(loss, learner.init_state(2), rates, z_stream, episode.stream, InnerConfig(order=order))
    state = learner.learn_features(learner.init_state(2), z_stream, episode.stream)
    assert_close(state, end)
    expected = query_loss(learner.predict_features(end, z_query), episode.queries.y, spec).loss
    assert_close(learner.meta_loss(episode).loss, expected)
    gradients = torch.autograd.grad(expected, list(learner.parameters()))
    for (name, found), gradient in zip(meta_gradient(learner, episode).items(), gradients, strict=True):
        assert gradient.any(), name
        assert_close(found, gradient)


@installed
@pytest.mark.parametrize("inner", ["sequential", "batched"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_meta_gradients_against_finite_differences(algorithm, inner):
    assert_meta_gradient(maml(algorithm, inner=inner, batch=3), IMAGES, tasks=2, shots=3)


@installed
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_first_order_is_not_second_order(algorithm):
    episode = episode_in_float64(IMAGES)
    first, second = (meta_gradient(maml(algorithm, order=order).double(), episode) for order in (1, 2))
    changed = [name for name in first if (first[name] - second[name]).norm() > 0.01 * second[name].norm()]
    assert len(changed) > len(first) / 2


@installed
def test_a_batched_step_is_the_gradient_of_the_mean():
    learner, episode = maml(inner="batched", batch=5).double(), episode_in_float64(IMAGES)
    network, stream = learner.network, episode.stream[:5]
    named = dict(network.named_parameters())
    loss = torch.nn.functional.cross_entropy(network(learner.encode(stream.x)[1]), stream.y[1])
    gradients = torch.autograd.grad(loss, list(named.values()))
    state = learner.learn(learner.init_state(2), stream)
    for (name, p), gradient in zip(named.items(), gradients, strict=True):
        assert_close(state[name][1], p - 0.1 * gradient)
    assert not learner.chunkable and maml().chunkable


@installed
def test_only_the_last_layer_of_anil_is_fast():
    assert set(maml("anil").init_state(1)) == {"0.weight", "0.bias"}
    assert len(maml("maml").init_state(1)) == len(dict(maml().network.named_parameters())) == 6


@installed
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_inner_rate_that_diverges(algorithm):
    with pytest.raises(UserError, match=r"inner step \d+ of 12, with an inner learning rate of 1e\+30"):
        maml(algorithm, VECTORS, rate=1e30).meta_loss(random_episode(VECTORS, 0))


@installed
def test_more_symbols_than_it_has():
    learner, episode = maml(spec=dataclasses.replace(IMAGES, symbols=3)), random_episode(IMAGES, 1)
    with pytest.raises(UserError, match="this learner has 3 symbols"):
        learner.learn(learner.init_state(2), episode.stream)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_learn2learn_it_says_what_to_run(algorithm, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "learn2learn" else find(name, *rest))
    for name in [name for name in sys.modules if name.partition(".")[0] == "learn2learn"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"need learn2learn.*make setup.*build_ext learn2learn==0\.2\.0"):
        maml(algorithm)


def test_options_out_of_range():
    with pytest.raises(UserError, match=r"learner\.batch must be at least 1"):
        MAMLConfig(batch=0)
    with pytest.raises(UserError, match=r"learner\.rate must be above 0"):
        MAMLConfig(rate=0)
