"""SB-MCL: the promises of a learner, and its posterior against the product of Gaussians."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import ENCODER, IMAGES, VECTORS
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import DataConfig, EpisodeSpec
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners import state_bytes
from metacl.learners.statistics.bayes import BayesConfig, BayesState, SequentialBayes, divergence, product
from metacl.recipes.presets import recipe_for

LABELLED_VECTORS = EpisodeSpec("vector", (6,), "cross_entropy", symbols=4)
SPECS = {"images": IMAGES, "labelled": LABELLED_VECTORS, "regression": VECTORS}


def bayes(spec: EpisodeSpec = IMAGES, **options) -> SequentialBayes:
    torch.manual_seed(0)
    return dataclasses.replace(BayesConfig(width=10, hidden=14, encoder=ENCODER), **options).build(spec).eval()


def gaussians(number: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return 3 + torch.randn(2, number, 4, generator=rng), torch.randn(2, number, 4, generator=rng).exp()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("samples", [0, 1, 5])
def test_promises(spec, samples):
    check_learner(bayes(SPECS[spec], samples=samples), SPECS[spec])


@pytest.mark.parametrize("spec", SPECS)
def test_promises_without_aids(spec):
    check_learner(bayes(SPECS[spec], bypass=False, bind=False), SPECS[spec])


def test_the_paper_recipe_has_the_mlps_of_the_paper_alone():
    """What is told of an example is what the MLP makes of it, and its precision starts near 1; the decoder is an MLP too."""
    config = recipe_for("sb-mcl", "paper", DataConfig("sine")).learner
    torch.manual_seed(0)
    learner, episode = replace(config, encoder=ENCODER).build(LABELLED_VECTORS).eval(), random_episode(LABELLED_VECTORS, 0)
    one, latent = episode.stream[:1], torch.randn(2, 1, 512)
    pair = torch.cat([learner.encode(one.x), learner.symbols.embed(one.y)], -1)
    mean, log_precision = learner.recognise(pair)[:, 0].chunk(2, -1)
    assert_close(
        learner.learn(learner.init_state(2), one), product(learner.init_state(2), mean[:, None], log_precision.exp()[:, None])
    )
    assert log_precision.abs().max() < 1
    z = learner.encode(episode.queries.x)
    answers = learner.symbols.logits(learner.decode(learner.decode_x(z) + learner.decode_latent(latent)))
    assert_close(learner._decode(z, latent)[:, 0], answers)


def test_the_posterior_is_the_product_of_gaussians():
    """Float64: the logarithm of the product of all densities, on a grid, is that of the posterior but for a constant."""
    mean, precision = (t.double() for t in gaussians(5))
    prior = BayesState(torch.full((2, 4), 0.3).double(), torch.full((2, 4), 2.0).double())
    state = product(prior, mean, precision)
    assert_close(state.precision, 2 + precision.sum(1))
    assert_close(state.mean, (0.6 + (mean * precision).sum(1)) / state.precision)
    grid = torch.linspace(-3, 6, 200, dtype=torch.float64)[:, None, None]
    logs = Normal(prior.mean, prior.precision.rsqrt()).log_prob(grid)
    logs = logs + sum(Normal(mean[:, n], precision[:, n].rsqrt()).log_prob(grid) for n in range(5))
    rest = logs - Normal(state.mean, state.precision.rsqrt()).log_prob(grid)
    assert_close(rest, rest[:1].expand_as(rest), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("chunk", [1, 64, 10_000])
def test_in_float32_after_10_000_examples_in_any_order(chunk):
    mean, precision = gaussians(10_000)
    total = 1 + precision.double().sum(1)
    expected = (mean.double() * precision.double()).sum(1) / total
    for order in (torch.arange(10_000), torch.arange(9_999, -1, -1)):
        state = BayesState(torch.zeros(2, 4), torch.ones(2, 4))
        for part in order.split(chunk):
            state = product(state, mean[:, part], precision[:, part])
        assert_close(state.precision.double(), total, rtol=1e-5, atol=0)
        assert_close(state.mean.double(), expected, rtol=1e-5, atol=0)


def test_divergence():
    posterior, prior = (BayesState(*(t[:, 0].double() for t in gaussians(1, seed))) for seed in (0, 1))
    expected = kl_divergence(*(Normal(s.mean, s.precision.rsqrt()) for s in (posterior, prior))).sum(-1)
    assert_close(divergence(posterior, prior), expected)
    assert_close(divergence(prior, prior), torch.zeros(2).double())


def test_samples_are_averaged_as_probabilities():
    learner, episode = bayes(samples=3), random_episode(IMAGES, 0)
    state = learner.learn(learner.init_state(2), episode.stream)
    mixed = 0
    for noise in learner.noise_SD:
        sample = BayesState(state.mean + noise / state.precision.sqrt(), state.precision)
        learner.config = dataclasses.replace(learner.config, samples=0)
        mixed = mixed + learner.predict(sample, episode.queries.x).softmax(-1) / 3
        learner.config = dataclasses.replace(learner.config, samples=3)
    assert_close(learner.predict(state, episode.queries.x).exp(), mixed)


def test_samples_are_part_of_the_checkpoint():
    learner, other = bayes(), BayesConfig(width=10, hidden=14, encoder=ENCODER).build(IMAGES).eval()
    episode = random_episode(IMAGES, 0)
    other.load_state_dict(learner.state_dict())
    predictions = [m.predict(m.learn(m.init_state(2), episode.stream), episode.queries.x) for m in (learner, other)]
    assert torch.equal(*predictions)


@pytest.mark.parametrize("spec", [LABELLED_VECTORS, VECTORS], ids=["classification", "regression"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_meta_loss_of_training(spec, padded):
    """The evidence bound for one of N + M examples, written out example by example with the same sample."""
    learner, episode = bayes(spec, kl_weight=0.5), random_episode(spec, 0)
    episode = dataclasses.replace(episode, queries=episode.queries[:5])
    valid = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)) > 0.3 if padded else None
    episode = dataclasses.replace(episode, stream=dataclasses.replace(episode.stream, valid=valid))
    learner.training = True  # the BatchNorms stay in eval mode
    torch.manual_seed(5)
    result = learner.meta_loss(episode)
    state = learner.learn(learner.init_state(2), episode.stream)
    torch.manual_seed(5)
    learner.config = dataclasses.replace(learner.config, samples=0)
    sample = BayesState(state.mean + torch.randn_like(state.mean) / state.precision.sqrt(), state.precision)
    keep = torch.ones(2, 12, dtype=torch.bool) if valid is None else valid
    losses = []
    for told, target in (
        (learner.predict(sample, episode.stream.x)[keep], episode.stream.y[keep]),
        (learner.predict(sample, episode.queries.x).flatten(0, 1), episode.queries.y.flatten(0, 1)),
    ):
        each = F.cross_entropy if spec.classification else F.mse_loss
        losses += [each(a, b) for a, b in zip(told, target, strict=True)]
    kl = divergence(state, learner.init_state(2)).sum() / len(losses) / (1 if spec.classification else 3)
    assert_close(result.loss, torch.stack(losses).mean() + 0.5 * kl)
    assert_close(result.metrics["kl"], kl.detach())
    assert math.isfinite(result.metrics["stream"]) and kl > 0


def test_the_order_of_the_stream_does_not_matter():
    learner, episode = bayes(), random_episode(IMAGES, 0)
    shuffled = episode.stream[torch.as_tensor(np.random.default_rng(0).permutation(12))]
    assert_close(*(learner.learn(learner.init_state(2), stream) for stream in (episode.stream, shuffled)))


def test_the_state_is_two_vectors():
    assert state_bytes(bayes().init_state(2)) == 2 * 10 * 4
