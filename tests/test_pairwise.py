"""The factorised score against one row for each pair, and against loops over the paper's equation 6."""

import time
from dataclasses import replace

import pytest
import torch
from tiny import VECTORS
from torch.testing import assert_close

from episodes import EpisodeSpec, UserError
from metacl.benchmarking.measure import peak_bytes
from metacl.learners.similarity import pairwise
from metacl.learners.similarity.pairwise import PairNetwork, ScoreConfig, pair_scores, read_out

LABELS = EpisodeSpec("vector", (5,), "cross_entropy", symbols=3)
FORMS = {
    "plain": ScoreConfig(hidden=6),
    "label": ScoreConfig(hidden=6, depth=4, label=True),
    "difference": ScoreConfig(hidden=7, depth=3, label=True, pair="difference"),
}


def networks(config: ScoreConfig, B: int = 2) -> list[PairNetwork]:
    torch.manual_seed(0)
    made = [PairNetwork(config, 5, 3 * config.label) for _ in range(B)]
    for network in made:
        for p in network.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
    return [network.double() for network in made]


def inputs(B: int = 2, M: int = 4, N: int = 7):
    rng = torch.Generator().manual_seed(1)
    q, s, y = (torch.randn(B, n, a, generator=rng, dtype=torch.float64) for n, a in ((M, 5), (N, 5), (N, 3)))
    return q, s, y


def stacked(made: list[PairNetwork]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([dict(n.named_parameters())[name] for n in made]) for name, _ in made[0].named_parameters()}


@pytest.mark.parametrize("few", [2**19, 1])
@pytest.mark.parametrize("form", FORMS)
def test_the_factorised_score_and_its_gradients(form, few, monkeypatch):
    """Together, and query by query (`few`), in each way that memory is saved."""
    monkeypatch.setattr(pairwise, "FEW", few)
    monkeypatch.setattr(pairwise, "MANY", few)
    config, made = FORMS[form], networks(FORMS[form])
    q, s, y = (t.requires_grad_() for t in inputs())
    label = y if config.label else None
    naive = torch.cat([n(q[b : b + 1], s[b : b + 1], None if label is None else label[b : b + 1]) for b, n in enumerate(made)])
    fast = pair_scores(stacked(made), q, s, label, config.pair)
    assert_close(fast, naive)
    with torch.no_grad():
        assert_close(pair_scores(stacked(made), q, s, label, config.pair), naive)
    wanted = [q, s, *(p for n in made for p in n.parameters())]
    weight = torch.randn_like(naive)
    for a, b in zip(*(torch.autograd.grad((d * weight).sum(), wanted) for d in (fast, naive)), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("form", FORMS)
def test_one_pair_at_a_time(form):
    """The plain form itself, from its definition."""
    config, (network,) = FORMS[form], networks(FORMS[form], 1)
    q, s, y = inputs(1)
    scores = network(q, s, y if config.label else None)
    for i, j in ((0, 0), (3, 6), (2, 1)):
        h = torch.cat([s[0, j], q[0, i]])
        if config.pair == "difference":
            h = torch.cat([h, (s[0, j] - q[0, i]).abs()])
        h = torch.cat([h, y[0, j]]) if config.label else h
        for k, layer in enumerate(network.layers):
            h = layer(h if k == 0 else h.clamp_min(0))
        assert_close(scores[0, i, j], h[0])


def test_one_network_for_all_rows():
    (network,) = networks(FORMS["plain"], 1)
    q, s, _ = inputs(3)
    assert_close(pair_scores(stacked([network]), q, s, None), network(q, s))


@pytest.mark.parametrize("normalise", ["none", "softmax"])
@pytest.mark.parametrize("spec", [LABELS, VECTORS], ids=["classes", "regression"])
def test_the_answer_against_a_loop(spec, normalise):
    config, d = ScoreConfig(normalise=normalise), torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    y = torch.eye(3)[torch.randint(0, 3, (2, 7))] if spec.classification else torch.randn(2, 7, 3)
    valid = torch.rand(2, 7) < 0.6
    valid[:, 0] = True
    for kept in (None, valid):
        answer = read_out(d, y, kept, config, spec)
        for b in range(2):
            own = torch.ones(7, dtype=torch.bool) if kept is None else kept[b]
            for m in range(4):
                w = d[b, m, own] if normalise == "none" else d[b, m, own].exp() / d[b, m, own].exp().sum()
                expected = sum(w[j] * y[b, own][j] for j in range(int(own.sum())))
                logarithm = normalise == "softmax" and spec.classification
                assert_close(answer[b, m], (expected + 1e-6).log() if logarithm else expected)


@pytest.mark.parametrize("normalise", ["none", "softmax"])
def test_an_empty_support_and_one_without_the_class(normalise):
    config = ScoreConfig(normalise=normalise)
    nothing = read_out(torch.zeros(2, 4, 0), torch.zeros(2, 0, 3), None, config, LABELS)
    masked = read_out(torch.randn(2, 4, 5), torch.ones(2, 5, 3), torch.zeros(2, 5, dtype=torch.bool), config, LABELS)
    for answer in (nothing, masked):
        assert answer.isfinite().all()
        assert_close(answer, answer[:1, :1, :1].expand_as(answer))
    lacks = read_out(torch.randn(2, 4, 5).abs(), torch.eye(3)[[0, 0, 1, 1, 0]].expand(2, -1, -1), None, config, LABELS)
    assert lacks.isfinite().all() and (lacks.argmax(-1) != 2).all()
    assert pair_scores(stacked(networks(FORMS["plain"])), *inputs(N=0)[:2], None).shape == (2, 4, 0)


def multiply_adds(config: ScoreConfig, width: int, label_width: int, queries: int, support: int) -> int:
    """Of the scores of `queries` against `support` examples: linear in the support."""
    first = (queries + support) * width * config.hidden + support * label_width * config.hidden
    pairs = (config.depth - 2) * config.hidden**2 + config.hidden + (config.pair == "difference") * width * config.hidden
    return first + queries * support * pairs


def test_multiply_adds_are_those_of_the_products():
    from torch.utils.flop_counter import FlopCounterMode

    for config in FORMS.values():
        q, s, y = inputs(1)
        with FlopCounterMode(display=False) as counter:
            pair_scores(stacked(networks(config, 1)), q, s, y if config.label else None, config.pair)
        assert counter.get_total_flops() == 2 * multiply_adds(config, 5, 3 * config.label, 4, 7)


def test_memory_and_speed_of_a_thousand_queries_against_a_thousand_supports():
    """No more than 20 MB, where one row for each pair takes gigabytes; and at least five times faster, on a part of it."""
    q, s = torch.randn(2, 1, 1_000, 128, generator=torch.Generator().manual_seed(0)).unbind()
    network = PairNetwork(ScoreConfig(hidden=128), 128, 0).requires_grad_(False)
    weights = {name: p[None] for name, p in network.named_parameters()}
    assert peak_bytes(lambda: pair_scores(weights, q, s, None), torch.device("cpu")) < 20e6
    few, seconds = q[:, :50], []
    assert peak_bytes(lambda: network(few, s), torch.device("cpu")) > 0.05 * 1e9
    for form in (lambda: network(few, s), lambda: pair_scores(weights, few, s, None)):
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            form()
            times.append(time.perf_counter() - begun)
        seconds.append(min(times))
    assert seconds[0] > 5 * seconds[1]


@pytest.mark.parametrize(("name", "value"), [("hidden", 0), ("depth", 1)])
def test_bad_sizes(name, value):
    with pytest.raises(UserError, match=rf"learner.score.{name} must be at least"):
        replace(ScoreConfig(), **{name: value})
