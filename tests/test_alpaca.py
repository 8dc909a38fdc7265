"""ALPaCA: the promises of a learner; ridge regression and rank-1 updates as its plain forms."""

import pytest
import torch
from meta_gradients import slope_by_difference
from tiny import IMAGES, VECTORS
from torch.testing import assert_close

from episodes import Episode, EpisodeSpec, Examples, UserError
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners import state_bytes
from metacl.learners.statistics.alpaca import Alpaca, AlpacaConfig

MATRICES = EpisodeSpec("vector", (4,), "mse", y_shape=(2, 3))
WIDTH = 6


def alpaca(spec: EpisodeSpec = VECTORS) -> Alpaca:
    """With a prior as meta-training may leave it."""
    torch.manual_seed(0)
    learner = AlpacaConfig(width=WIDTH).build(spec).eval()
    with torch.no_grad():
        for parameter in (learner.root_below_DD, learner.root_log_diagonal_D, learner.prior_mean_DF):
            parameter.normal_(std=0.5)
    return learner


def in_float64(learner: Alpaca, tasks: int = 3) -> tuple[Alpaca, Episode]:
    episode = random_episode(VECTORS, 0, tasks=tasks)

    def wide(part: Examples) -> Examples:
        return Examples(part.x.double(), part.y.double(), part.task)

    return learner.double(), Episode(wide(episode.stream), wide(episode.queries), VECTORS)


def prior(learner: Alpaca) -> tuple[torch.Tensor, torch.Tensor]:
    root = learner.root_below_DD.tril(-1) + torch.diag(learner.root_log_diagonal_D.exp())
    return root @ root.T, learner.prior_mean_DF


@pytest.mark.parametrize("spec", [VECTORS, MATRICES], ids=["vectors", "matrices"])
def test_promises(spec):
    check_learner(alpaca(spec), spec)


def test_ridge_regression_in_closed_form():
    """argmin_K sum |y - K^T z|^2 + (K - K_0)^T Lambda_0 (K - K_0), as least squares with the prior as further rows."""
    learner, episode = in_float64(alpaca())
    state = learner.learn(learner.init_state(2), episode.stream)
    with torch.no_grad():
        z, queries = learner.encode(episode.stream.x), learner.encode(episode.queries.x)
        precision, mean = prior(learner)
        root = torch.linalg.cholesky(precision).T
        got = learner.predict(state, episode.queries.x)
        for b in range(2):
            rows, targets = torch.cat([z[b], root]), torch.cat([episode.stream.y[b], root @ mean])
            expected = queries[b] @ torch.linalg.lstsq(rows, targets).solution
            assert_close(got[b], expected)


def test_rank_1_updates():
    """The recursive form: Sherman-Morrison on the inverse of the precision, one example after another."""
    learner, episode = in_float64(alpaca())
    with torch.no_grad():
        got = learner.predict(learner.learn(learner.init_state(2), episode.stream), episode.queries.x)
        z, queries = learner.encode(episode.stream.x), learner.encode(episode.queries.x)
        precision, mean = prior(learner)
        for b in range(2):
            inverse, weights = torch.linalg.inv(precision), mean
            for z_D, y_F in zip(z[b], episode.stream.y[b], strict=True):
                gain = inverse @ z_D / (1 + z_D @ inverse @ z_D)
                weights = weights + gain[:, None] * (y_F - z_D @ weights)
                inverse = inverse - torch.outer(gain, z_D @ inverse)
            assert_close(got[b], queries[b] @ weights)


def test_float32_after_10_000_examples_in_any_order():
    learner = alpaca()
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(1, 10_000, 5, generator=rng), torch.randn(1, 10_000, 3, generator=rng)
    task = torch.zeros(1, 10_000, dtype=torch.long)
    stream, queries = Examples(x, y, task), torch.randn(1, 20, 5, generator=rng)
    with torch.no_grad():
        answers = []
        for order in (torch.arange(10_000), torch.arange(9_999, -1, -1)):
            state = learner.init_state(1)
            for part in order.split(77):
                state = learner.learn(state, stream[part])
            answers.append(learner.predict(state, queries))
        assert_close(answers[0], answers[1], rtol=1e-3, atol=1e-5)
        learner.double()
        wide = learner.learn(learner.init_state(1), Examples(x.double(), y.double(), task))
        assert_close(answers[0].double(), learner.predict(wide, queries.double()), rtol=1e-3, atol=1e-5)


def test_before_it_has_learnt_it_answers_by_its_prior():
    learner, episode = in_float64(alpaca())
    expected = learner.encode(episode.queries.x) @ learner.prior_mean_DF
    assert_close(learner.predict(learner.init_state(2), episode.queries.x), expected)


def test_meta_gradients_reach_the_prior():
    """Float64, central differences."""
    learner, episode = in_float64(alpaca())
    parameters = [learner.root_below_DD, learner.root_log_diagonal_D, learner.prior_mean_DF]
    gradients = torch.autograd.grad(learner.meta_loss(episode).loss, parameters)
    rng = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        name = next(name for name, p in learner.named_parameters() if p is parameter)
        difference = slope_by_difference(learner, episode, {name: direction}, 1e-6)
        assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-8)


def test_the_state_is_constant():
    assert state_bytes(alpaca().init_state(2)) == (WIDTH * WIDTH + WIDTH * 3) * 4


def test_alpaca_is_for_regression():
    with pytest.raises(UserError, match="ALPaCA is for regression"):
        alpaca(IMAGES)
