"""ANML: its promises, its meta-gradients and its gate."""

import dataclasses

import pytest
import torch
from meta_gradients import assert_meta_gradient, episode_in_float64, meta_gradient
from tiny import ENCODER, IMAGES, VECTORS
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import EpisodeSpec, UserError
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners.gradient.anml import ANML, ANMLConfig

COLOUR = EpisodeSpec("image", (3, 9, 7), "cross_entropy", symbols=5)
MATRICES = EpisodeSpec("vector", (4,), "mse", y_shape=(2, 3))


def anml(spec: EpisodeSpec = IMAGES, **options) -> ANML:
    """A tiny one in eval mode, with an inner rate at which much happens."""
    torch.manual_seed(0)
    return ANMLConfig(**{"rate": 0.1, "width": 12, "encoder": ENCODER, **options}).build(spec).eval()


@pytest.mark.parametrize("spec", [IMAGES, VECTORS, COLOUR, MATRICES], ids=["images", "regression", "colour", "matrices"])
def test_it_keeps_its_promises(spec):
    check_learner(anml(spec), spec)


@pytest.mark.parametrize("options", [{"order": 1}, {"rates": "tensor", "rematerialise": 5}, {"truncate": 4}], ids=str)
def test_it_keeps_them_whatever_the_inner_loop(options):
    check_learner(anml(**options), IMAGES)


@pytest.mark.parametrize("options", [{}, {"rates": "tensor", "rematerialise": 3}], ids=str)
@pytest.mark.parametrize("spec", [IMAGES, VECTORS], ids=["images", "regression"])
def test_meta_gradients_against_finite_differences(spec, options):
    assert_meta_gradient(anml(spec, **options), spec, tasks=2, shots=3)


def test_first_order_is_not_second_order():
    episode = episode_in_float64(IMAGES)
    first, second = (meta_gradient(anml(order=order).double(), episode) for order in (1, 2))
    for name in ("network.layers.0.weight", "network.answer.weight", "modulator.linear.weight", "rates.log"):
        assert (first[name] - second[name]).norm() > 0.01 * second[name].norm(), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:.*should not be instantiated")  # the compiler's own doing
def test_eager_equals_compiled():
    learner, episode = anml().double(), episode_in_float64(IMAGES, tasks=1, shots=2)
    eager = learner.meta_loss(episode).loss
    compiled = torch.compile(lambda: learner.meta_loss(episode).loss, backend="aot_eager")()
    parameters = list(learner.parameters())
    assert_close(compiled, eager)
    assert_close(torch.autograd.grad(compiled, parameters), torch.autograd.grad(eager, parameters))


def test_one_step_by_hand():
    """All weights of the prediction network move, along the gradient of the loss of gated features."""
    learner, episode = anml().double(), episode_in_float64(IMAGES)
    network, image = learner.network, episode.stream.x[:1, 0].double() / 127.5 - 1
    h = image
    for layer in network.layers:
        h = layer(h).relu()
    gate = learner.modulator(episode.stream.x[:1, :1])[0].sigmoid()
    logits = network.answer(h.flatten(1) * gate)
    named = dict(network.named_parameters())
    gradients = torch.autograd.grad(F.cross_entropy(logits, episode.stream.y[0, :1]), list(named.values()))
    state = learner.learn(learner.init_state(2), episode.stream[:1])
    for (name, p), gradient in zip(named.items(), gradients, strict=True):
        assert gradient.any(), name
        assert_close(state[name][0], p - 0.1 * gradient)
    z = learner.encode(episode.stream.x)
    assert z.shape[-1] == 64 + 24 and (z[..., 64:] > 0).all() and (z[..., 64:] < 1).all()


def test_an_inner_rate_that_diverges():
    with pytest.raises(UserError, match=r"inner step \d+ of 12, with an inner learning rate of 1e\+20"):
        anml(VECTORS, rate=1e20).meta_loss(random_episode(VECTORS, 0))


def test_more_symbols_than_it_has():
    learner, episode = anml(dataclasses.replace(IMAGES, symbols=3)), random_episode(IMAGES, 1)
    with pytest.raises(UserError, match="this learner has 3 symbols"):
        learner.learn(learner.init_state(2), episode.stream)
