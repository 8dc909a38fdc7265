"""Running class statistics: against plain means and variances in float64, in any order, after many examples."""

import pytest
import torch
from torch.testing import assert_close

from metacl.learners.statistics.running import add_to_means, add_to_moments, no_means, no_moments, seen_symbols

V, D = 4, 3


def examples(number: int, offset: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(2, N, D) features `offset` from zero and the symbols (2, N) of three of four classes."""
    rng = torch.Generator().manual_seed(seed)
    return offset + torch.randn(2, number, D, generator=rng), torch.randint(0, V - 1, (2, number), generator=rng)


def naive(z: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Counts, means and squares in float64, class by class."""
    counts, means, squares = torch.zeros(2, V).double(), torch.zeros(2, V, D).double(), torch.zeros(2, V, D).double()
    for b in range(2):
        for v in range(V):
            if len(members := z[b][y[b] == v].double()):
                counts[b, v], means[b, v] = len(members), members.mean(0)
                squares[b, v] = (members - members.mean(0)).square().sum(0)
    return counts, means, squares


def learnt(z: torch.Tensor, y: torch.Tensor, chunk: int):
    state = no_moments(z, 2, V, D)
    for first in range(0, z.shape[1], chunk):
        state = add_to_moments(state, z[:, first : first + chunk], y[:, first : first + chunk], None)
    return state


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_in_float32_after_10_000_examples(chunk, offset):
    """Features of variance 1 around 1000: sums of their squares would have lost it."""
    z, y = examples(10_000, offset)
    state, (counts, means, squares) = learnt(z, y, chunk), naive(z, y)
    assert state.means.dtype == torch.float32
    assert_close(state.counts.double(), counts)
    assert_close(state.means.double(), means, rtol=2e-6, atol=1e-5)
    assert_close(state.squares.double(), squares, rtol=1e-4, atol=0)


def test_the_naive_sum_of_squares_would_not_do():
    z, y = examples(10_000, 1000.0)
    members = z[0][y[0] == 0]
    lossy = members.square().sum(0) - members.sum(0) ** 2 / len(members)
    assert not torch.allclose(lossy.double(), naive(z, y)[2][0, 0], rtol=1e-2)


def test_the_order_does_not_matter():
    z, y = examples(10_000, 10.0)
    backwards = torch.arange(9_999, -1, -1)
    assert_close(learnt(z, y, 50), learnt(z[:, backwards], y[:, backwards], 999), rtol=1e-5, atol=1e-5)


def test_a_chunk_is_as_good_as_its_examples_one_by_one_in_gradients_too():
    z, y = examples(20)
    z, weight = z.double().requires_grad_(), torch.randn(2, V, D, dtype=torch.float64)
    gradients = []
    for chunk in (1, 6, 20):
        state = learnt(z, y, chunk)
        loss = (weight * state.means * state.squares.log1p()).sum()
        gradients.append(torch.autograd.grad(loss, z)[0])
    assert_close(gradients[0], gradients[1])
    assert_close(gradients[0], gradients[2])


def test_padding_adds_nothing():
    z, y = examples(9)
    valid = torch.rand(2, 9, generator=torch.Generator().manual_seed(1)) > 0.4
    state = add_to_moments(no_moments(z, 2, V, D), z, y, valid)
    for b in range(2):
        kept = valid[b].nonzero()[:, 0]
        alone = add_to_moments(no_moments(z, 1, V, D), z[b : b + 1, kept], y[b : b + 1, kept], None)
        assert_close(state.squares[b], alone.squares[0])
        assert_close(state.means[b], alone.means[0])
        assert torch.equal(state.counts[b], alone.counts[0])


def test_means_are_those_of_the_moments():
    z, y = examples(11)
    means, moments = add_to_means(no_means(z, 2, V, D), z, y, None), learnt(z, y, 11)
    assert torch.equal(means.means, moments.means) and torch.equal(means.counts, moments.counts)


def test_the_state_that_was_given_stays():
    z, y = examples(5)
    state = learnt(z, y, 5)
    before = [part.clone() for part in state]
    add_to_moments(state, z, y, None)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


def test_seen_symbols():
    counts = torch.tensor([[0.0, 2, 0, 1], [0, 0, 0, 3]])
    assert seen_symbols(counts)[0].tolist() == [1, 3] and seen_symbols(counts)[1, 0] == 3
    assert seen_symbols(torch.zeros(2, 4)).shape == (2, 0)
