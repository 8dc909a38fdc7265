"""OML: its promises, its meta-gradients, and the errors a user can make."""

import dataclasses

import pytest
import torch
from meta_gradients import assert_meta_gradient, episode_in_float64, meta_gradient
from tiny import ENCODER, IMAGES, SHAPE, VECTORS, image_benchmark, train, train_config
from torch.testing import assert_close

from episodes import EpisodeSpec, UserError
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners import query_loss, state_bytes
from metacl.learners.gradient.inner_loop import sgd
from metacl.learners.gradient.oml import OML, OMLConfig
from metacl.learners.losses import mean_loss
from metacl.nets.fast import predict_batch
from metacl.recipes.config import OptimiserConfig

LABELLED = EpisodeSpec("vector", (6,), "cross_entropy", symbols=4)
MATRICES = EpisodeSpec("vector", (4,), "mse", y_shape=(2, 3))
OPTIONS = [
    {},
    {"order": 1},
    {"rates": "tensor", "layers": 4},
    {"layers": 1},
    {"truncate": 5, "rematerialise": 3},
    {"distributed": "random"},
]


def oml(spec: EpisodeSpec = IMAGES, **options) -> OML:
    """A tiny one in eval mode, with an inner rate at which much happens."""
    torch.manual_seed(0)
    return OMLConfig(**{"rate": 0.3, "width": 12, "hidden": 16, "encoder": ENCODER, **options}).build(spec).eval()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("spec", [IMAGES, VECTORS], ids=["images", "regression"])
def test_it_keeps_its_promises(spec, options):
    check_learner(oml(spec, **options), spec)


@pytest.mark.parametrize("spec", [LABELLED, MATRICES], ids=["labelled", "matrices"])
def test_it_takes_any_kind_of_example(spec):
    check_learner(oml(spec), spec)


@pytest.mark.parametrize("options", [{}, {"rates": "tensor", "layers": 3}, {"rematerialise": 4}], ids=str)
@pytest.mark.parametrize("spec", [IMAGES, VECTORS], ids=["images", "regression"])
def test_meta_gradients_against_finite_differences(spec, options):
    assert_meta_gradient(oml(spec, rate=0.1, **options), spec)


def test_first_order_is_not_second_order():
    episode = episode_in_float64(IMAGES)
    first, second = (meta_gradient(oml(order=order).double(), episode) for order in (1, 2))
    for name in ("head.0.weight", "head.2.weight", "encoder.linear.weight", "rates.log"):
        assert (first[name] - second[name]).norm() > 0.01 * second[name].norm(), name


@pytest.mark.parametrize("spec", [IMAGES, VECTORS], ids=["images", "regression"])
def test_the_meta_loss_is_that_of_the_plain_inner_loop(spec):
    """In training mode too, with the encoder's statistics over stream and queries together."""
    learner, episode = oml(spec).double().train(), episode_in_float64(spec)
    z_stream, z_query = learner.encode_episode(episode)

    def loss(weights, z_D, y):
        return mean_loss(torch.func.functional_call(learner.head, weights, (z_D,)), y, spec)

    end = sgd(loss, learner.init_state(2), learner.rates(), z_stream, episode.stream, learner.config)
    prediction = predict_batch(learner.head, end, z_query).reshape(2, 12, *(spec.y_shape or (spec.symbols,)))
    expected = query_loss(prediction, episode.queries.y, spec).loss
    assert_close(learner.meta_loss(episode).loss, expected)
    named = dict(learner.named_parameters())
    gradients = torch.autograd.grad(expected, list(named.values()))
    assert_close(list(meta_gradient(learner, episode).values()), list(gradients))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:.*should not be instantiated")  # the compiler's own doing
def test_eager_equals_compiled():
    learner, episode = oml().double(), episode_in_float64(IMAGES, tasks=1)
    eager = learner.meta_loss(episode).loss
    compiled = torch.compile(lambda: learner.meta_loss(episode).loss, backend="aot_eager")()
    assert_close(compiled, eager)
    parameters = list(learner.parameters())
    assert_close(torch.autograd.grad(compiled, parameters), torch.autograd.grad(eager, parameters))


def test_the_state_is_the_head():
    assert state_bytes(oml().init_state(3)) == 4 * (12 * 16 + 16 + 16 * 8 + 8)


def test_under_autocast_the_inner_loop_stays_in_full_precision():
    learner, episode = oml(), random_episode(IMAGES, 0)
    with torch.autocast("cpu", torch.bfloat16):
        z = learner.encode(episode.stream.x)
        state = learner.learn_features(learner.init_state(2), z, episode.stream)
        learner.meta_loss(episode).loss.backward()
    expected = learner.learn_features(learner.init_state(2), z, episode.stream)
    assert all(torch.equal(state[name], expected[name]) and state[name].dtype == torch.float32 for name in state)
    assert all(p.grad.isfinite().all() for p in learner.parameters())


def test_an_inner_rate_that_diverges():
    with pytest.raises(UserError, match=r"inner step \d+ of 12, with an inner learning rate of 1e\+30"):
        oml(VECTORS, rate=1e30).meta_loss(random_episode(VECTORS, 0))


def test_more_symbols_than_it_has():
    learner, episode = oml(dataclasses.replace(IMAGES, symbols=3)), random_episode(IMAGES, 1)
    with pytest.raises(UserError, match="this learner has 3 symbols"):
        learner.learn(learner.init_state(2), episode.stream)
    with pytest.raises(UserError, match="this learner has 3 symbols"):
        learner.meta_loss(episode)


@pytest.mark.parametrize("options", [{"layers": 0}, {"truncate": -1}, {"rate": 0.0}], ids=str)
def test_options_out_of_range(options):
    with pytest.raises(UserError, match=f"learner.{next(iter(options))} must be"):
        oml(**options)


def test_it_meta_trains_and_is_loaded_for_its_own_symbols_only(tmp_path):
    config = dataclasses.replace(OMLConfig(width=12, hidden=16, encoder=ENCODER), rates="tensor", distributed="random")
    optimiser = OptimiserConfig(rate=3e-3, warmup=5, weight_decay=0.0)
    run = train(tmp_path / "run", train_config(config, learner_name="oml", optimiser=optimiser), image_benchmark())
    learner = run.load_learner(IMAGES)
    assert learner.rates.log.abs().min() > 0, "no inner rate was left where it started"
    with pytest.raises(UserError, match=r"head\.2\.\w+ is \(8,.* there and \(9,"):
        run.load_learner(dataclasses.replace(IMAGES, symbols=9))
    assert SHAPE.symbols == 8
