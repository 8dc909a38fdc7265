"""Bounded supports: against lists, and by what they promise."""

import pytest
import torch

from episodes import Examples
from metacl.learners.lots import lots
from metacl.learners.similarity.supports import Support, add

R, V = 6, 4


def empty(B: int, bound: str) -> Support:
    nothing = torch.zeros(B, dtype=torch.long)
    places = 0 if bound == "all" else R
    z, y = torch.zeros(B, places, 1), torch.zeros(B, places, dtype=torch.long)
    return Support(
        z, y, torch.zeros(B, places, dtype=torch.bool), nothing, torch.zeros(B, V * (bound == "balanced"), dtype=torch.long)
    )


def stream(y_BN: torch.Tensor) -> Examples:
    """Example n has the feature n."""
    B, N = y_BN.shape
    return Examples(torch.arange(N).float().expand(B, N)[..., None], y_BN, torch.zeros_like(y_BN))


def kept(support: Support, b: int = 0) -> list[int]:
    return sorted(support.z[b, support.kept[b], 0].int().tolist())


def labels(N: int, B: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, (B, N), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("N", [0, 3, 6, 7, 20])
def test_all_and_the_latest(N):
    examples = stream(labels(N))
    assert kept(add(empty(1, "all"), examples.x, examples, "all")) == list(range(N))
    assert kept(add(empty(1, "fifo"), examples.x, examples, "fifo")) == list(range(max(0, N - R), N))


def test_the_reservoir_against_a_list():
    examples, held = stream(labels(40)), []
    for n in range(40):
        place = n if n < R else int(lots(torch.tensor(n)) * (n + 1))
        if place < R:
            held[place : place + 1] = [n]
    assert kept(add(empty(1, "reservoir"), examples.x, examples, "reservoir")) == sorted(held) != list(range(34, 40))


@pytest.mark.parametrize("bound", ["reservoir", "balanced"])
def test_a_uniform_sample(bound, monkeypatch):
    """Of 24 examples of two classes each is kept equally often, over 4 000 episodes with lots of their own."""
    rng = torch.Generator().manual_seed(0)
    monkeypatch.setattr(
        "metacl.learners.similarity.supports.lots", lambda place: torch.rand(place.shape, generator=rng, dtype=torch.float64)
    )
    y = (torch.arange(24) % 2).expand(4_000, -1)
    support = add(empty(4_000, bound), stream(y).x, stream(y), bound)
    assert support.kept.all() and (support.z[..., 0].sort(1).values.diff(dim=1) > 0).all()
    share = torch.histc(support.z[..., 0], 24, 0, 23) / (4_000 * R / 24)
    assert (share - 1).abs().max() < 0.15


def test_balanced_holds_as_many_of_each_class():
    """Also where one class comes first and most often."""
    y = torch.tensor([[0] * 20 + [1] * 2 + [0] * 10 + [2] * 9 + [0] * 5])
    support = add(empty(1, "balanced"), stream(y).x, stream(y), "balanced")
    assert support.y[0].bincount().tolist() == [2, 2, 2] and support.counts.tolist() == [[35, 2, 9, 0]]
    assert torch.equal(support.y[0], y[0, support.z[0, :, 0].long()]), "labels stay with their examples"
    plain = add(empty(1, "reservoir"), stream(y).x, stream(y), "reservoir")
    assert plain.y[0].bincount(minlength=3)[0] > 2


def test_balanced_with_more_classes_than_places():
    y = torch.arange(40)[None] % V
    support = add(empty(1, "balanced"), stream(y).x, stream(y), "balanced")
    assert sorted(support.y[0].bincount(minlength=V).tolist()) == [1, 1, 2, 2] and support.kept.all()


@pytest.mark.parametrize("bound", ["fifo", "reservoir", "balanced"])
def test_chunks_padding_and_gradients(bound):
    y = labels(30, B=3)
    examples = stream(y)
    z = examples.x.clone().requires_grad_()
    whole, pieces = add(empty(3, bound), z, examples, bound), empty(3, bound)
    for part in (slice(0, 4), slice(4, 5), slice(5, 30)):
        pieces = add(pieces, examples.x[:, part], examples[part], bound)
    for a, b in zip(whole, pieces, strict=True):
        assert torch.equal(a, b)
    whole.z.sum().backward()
    assert z.grad is not None and z.grad.sum() == 3 * R and set(z.grad.unique().tolist()) == {0.0, 1.0}
    spread = torch.full((3, 60), 99)
    spread[:, ::2], valid = torch.arange(30), (torch.arange(60) % 2 == 0).expand(3, -1)
    padded = Examples(spread.float()[..., None], y.repeat_interleave(2, 1), torch.zeros_like(spread), valid)
    with_padding = add(empty(3, bound), padded.x, padded, bound)
    assert [kept(with_padding, b) for b in range(3)] == [kept(whole, b) for b in range(3)]
