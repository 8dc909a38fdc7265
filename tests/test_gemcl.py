"""GeMCL: the promises of a learner, and its densities against scipy's closed forms."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from meta_gradients import slope_by_difference
from tiny import ENCODER, IMAGES, VECTORS
from torch.testing import assert_close

from episodes import EpisodeSpec, UserError
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners import state_bytes
from metacl.learners.statistics.gemcl import Gemcl, GemclConfig

LABELLED_VECTORS = EpisodeSpec("vector", (6,), "cross_entropy", symbols=4)
FORMS: list[dict[str, Any]] = [{}, {"predictive": "gaussian"}, {"official": True}]


def gemcl(spec: EpisodeSpec = IMAGES, **options) -> Gemcl:
    torch.manual_seed(0)
    return replace(GemclConfig(width=12, alpha=1.5, beta=0.7, encoder=ENCODER), **options).build(spec).eval()


def answers(learner: Gemcl, spec: EpisodeSpec = IMAGES, tasks: int = 3):
    """The prediction in float64, the features behind it and the labels of the stream, as numpy arrays."""
    learner, episode = learner.double(), random_episode(spec, 0, tasks=tasks)
    with torch.no_grad():
        z, queries = learner.encode(episode.stream.x), learner.encode(episode.queries.x)
        logits = learner.predict(learner.learn(learner.init_state(2), episode.stream), episode.queries.x)
    return logits.numpy(), z.numpy(), queries.numpy(), episode.stream.y.numpy()


def by_class(z, y, symbols: int):
    """b, v, count, mean and squares of every class with examples."""
    for b in range(len(z)):
        for v in range(symbols):
            if len(members := z[b][y[b] == v]):
                yield b, v, len(members), members.mean(0), np.square(members - members.mean(0)).sum(0)


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("spec", [IMAGES, LABELLED_VECTORS], ids=["images", "vectors"])
def test_promises(options, spec):
    check_learner(gemcl(spec, **options), spec)


def test_student_t_against_scipy():
    logits, z, queries, y = answers(gemcl())
    for b, v, n, mean, squares in by_class(z, y, 8):
        alpha, beta = 1.5 + n / 2, 0.7 + squares / 2
        scale = np.sqrt(beta / alpha * (1 + 1 / n))
        expected = scipy.stats.t.logpdf(queries[b], df=2 * alpha, loc=mean, scale=scale).sum(-1)
        np.testing.assert_allclose(logits[b, :, v], expected, rtol=1e-9)


def test_gaussian_against_scipy():
    logits, z, queries, y = answers(gemcl(predictive="gaussian"))
    for b, v, n, mean, squares in by_class(z, y, 8):
        variance = (0.7 + squares / 2) / (1.5 + n / 2 - 0.5)
        expected = scipy.stats.norm.logpdf(queries[b], mean, np.sqrt(variance)).sum(-1)
        np.testing.assert_allclose(logits[b, :, v], expected, rtol=1e-9)


def test_the_official_form():
    """log v where the density has half of it, written out."""
    logits, z, queries, y = answers(gemcl(official=True))
    for b, v, n, mean, squares in by_class(z, y, 8):
        alpha, beta = 1.5 + n / 2, 0.7 + squares / 2
        spread = beta / alpha * (1 + 1 / n)
        expected = -((alpha + 0.5) * np.log(1 + np.square(queries[b] - mean) / (2 * alpha * spread)) + np.log(spread)).sum(-1)
        np.testing.assert_allclose(logits[b, :, v], expected, rtol=1e-9)


def test_what_was_not_seen_is_not_answered():
    learner, episode = gemcl(), random_episode(IMAGES, 0)
    state = learner.learn(learner.init_state(2), episode.stream)
    logits = learner.predict(state, episode.queries.x)
    assert torch.equal((logits < -1e8).any(1), state.counts == 0)
    assert (learner.predict(learner.init_state(2), episode.queries.x) < -1e8).all()


def test_the_order_of_the_stream_does_not_matter():
    learner, episode = gemcl(), random_episode(IMAGES, 0)
    shuffled = episode.stream[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    assert_close(*(learner.learn(learner.init_state(2), stream) for stream in (episode.stream, shuffled)))


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_meta_gradients_against_finite_differences(options):
    """Of the prior and of the last layer of the encoder, in float64."""
    learner, episode = gemcl(**options).double(), random_episode(IMAGES, 0)
    parameters = [learner.log_alpha_change, learner.log_beta_change, learner.encoder.linear.weight]
    gradients = torch.autograd.grad(learner.meta_loss(episode).loss, parameters)
    rng = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        name = next(name for name, p in learner.named_parameters() if p is parameter)
        difference = slope_by_difference(learner, episode, {name: direction}, 1e-6)
        assert gradient.abs().sum() > 0
        assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-8)


def test_the_state_is_constant_and_the_prior_positive():
    learner = gemcl()
    assert state_bytes(learner.init_state(2)) == 8 * (1 + 12 + 12) * 4
    with torch.no_grad():
        learner.log_alpha_change -= 50
    assert learner.alpha > 0


def test_what_cannot_be():
    with pytest.raises(UserError, match="GeMCL is for classification"):
        gemcl(VECTORS)
    with pytest.raises(UserError, match=r"learner.beta 0.* above 0"):
        gemcl(beta=0.0)
    with pytest.raises(UserError, match="official is a form of the Student-t"):
        gemcl(official=True, predictive="gaussian")
