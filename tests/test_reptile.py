"""Reptile: its promises, and interpolation as a gradient for plain SGD."""

import dataclasses

import pytest
import torch
from meta_gradients import episode_in_float64
from tiny import ENCODER, IMAGES, VECTORS, image_benchmark, train, train_config
from torch.testing import assert_close

from episodes import EpisodeSpec, UserError
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners.gradient.reptile import Reptile, ReptileConfig
from metacl.recipes.config import OptimiserConfig
from metacl.training.meta_training import make_optimiser

pytestmark = pytest.mark.usefixtures("float64")

CONFIG = ReptileConfig(rate=0.1, width=12, encoder=ENCODER)


def reptile(spec: EpisodeSpec = IMAGES, **options) -> Reptile:
    torch.manual_seed(0)
    return dataclasses.replace(CONFIG, **options).build(spec).eval()


@pytest.mark.parametrize("spec", [IMAGES, VECTORS], ids=["images", "regression"])
def test_it_keeps_its_promises(spec):
    check_learner(reptile(spec), spec)


@pytest.mark.parametrize("spec", [IMAGES, VECTORS], ids=["images", "regression"])
def test_the_outer_step_is_interpolation(spec):
    learner, episode = reptile(spec).double(), episode_in_float64(spec)
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    end = learner.learn(learner.init_state(2), episode.stream)
    expected = {name: 0.9 * before[name] + 0.1 * end[name].detach().mean(0) for name in before}
    optimiser = make_optimiser(learner, OptimiserConfig(rate=0.1))
    result, plain = learner.train().meta_loss(episode), learner.eval().meta_loss(episode)
    assert_close(result.loss, plain.loss)
    assert_close(result.metrics, plain.metrics)
    result.loss.backward()
    optimiser.step()
    for name, p in learner.network.named_parameters():
        assert_close(p.detach(), expected[name])
        assert (p - before[name]).any()


def test_a_killed_run_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    """Plain SGD has no state to save."""
    config = train_config(CONFIG, learner_name="reptile", optimiser=OptimiserConfig(rate=0.1, warmup=0, clip=0.0), steps=20)
    whole = train(tmp_path / "whole", config, image_benchmark())
    plain = Reptile.forward

    def killed(self, episode):
        if self.step == 17:
            raise RuntimeError("power cut")
        return plain(self, episode)

    monkeypatch.setattr(Reptile, "forward", killed)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "killed", config, image_benchmark())
    monkeypatch.undo()
    resumed = train(tmp_path / "killed", config, image_benchmark(), resume=True)
    weights = [run.load_learner(IMAGES, 20).state_dict() for run in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_inner_rate_that_diverges():
    with pytest.raises(UserError, match=r"inner step \d+ of 12, with an inner learning rate of 1e\+20"):
        reptile(VECTORS, rate=1e20).train().meta_loss(random_episode(VECTORS, 0))


def test_more_symbols_than_it_has():
    learner, episode = reptile(dataclasses.replace(IMAGES, symbols=3)), random_episode(IMAGES, 1)
    with pytest.raises(UserError, match="this learner has 3 symbols"):
        learner.learn(learner.init_state(2), episode.stream)
