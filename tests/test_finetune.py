"""Networks trained from scratch on a stream: against plain loops with torch.optim, one episode at a time."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from tiny import ENCODER, IMAGES, VECTORS
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import EpisodeSpec, Examples, UserError
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners import state_bytes
from metacl.learners.lots import lots, shuffled
from metacl.learners.protocol import DivergedError
from metacl.learners.trained.adam import adam_
from metacl.learners.trained.finetune import Finetune, FinetuneConfig

pytestmark = pytest.mark.usefixtures("float64")

LABELLED_VECTORS = EpisodeSpec("vector", (6,), "cross_entropy", symbols=4)
SPECS = {"images": IMAGES, "labelled": LABELLED_VECTORS, "regression": VECTORS}
MODES = ("online", "replay", "offline")
OPTIMISERS: dict[str, Any] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def finetune(spec: EpisodeSpec = IMAGES, mode="online", **options) -> Finetune:
    torch.manual_seed(0)
    small = FinetuneConfig(mode, 1e-2, "adam", width=10, epochs=3, batch_size=5, buffer=4, replayed=3, encoder=ENCODER)
    return dataclasses.replace(small, **options).build(spec).eval()


def naive_loss(network: nn.Module, x, y, spec: EpisodeSpec) -> torch.Tensor:
    return F.cross_entropy(network(x), y) if spec.classification else F.mse_loss(network(x), y)


def naive_step(network: nn.Module, optimiser: torch.optim.Optimizer, x, y, spec: EpisodeSpec, replay: bool) -> None:
    """In replay the first example weighs as much as all others together."""
    x = x.double() / 127.5 - 1 if spec.x_kind == "image" else x
    loss = naive_loss(network, x[:1], y[:1], spec)
    if replay and len(x) > 1:
        loss = (loss + naive_loss(network, x[1:], y[1:], spec)) / 2
    elif not replay:
        loss = naive_loss(network, x, y, spec)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def naive(learner: Finetune, stream: Examples, b: int) -> nn.Module:
    """The network of episode b after the stream, by torch.optim."""
    config, spec, x, y = learner.config, learner.spec, stream.x[b], stream.y[b]
    network = copy.deepcopy(learner.network)
    optimiser = OPTIMISERS[config.optimiser](network.parameters(), learner.config.rate)
    if config.mode == "offline":
        for epoch in range(config.epochs):
            order = shuffled(torch.ones(1, len(x), dtype=torch.bool), epoch)[0]
            for part in order.split(config.batch_size):
                naive_step(network, optimiser, x[part], y[part], spec, replay=False)
        return network
    buffer: list[int] = []
    for n in range(len(x)):
        first = n * (config.replayed + 1)
        drawn = [int(lots(torch.tensor(first + i)) * len(buffer)) for i in range(1, config.replayed + 1)] if buffer else []
        part = [n, *(buffer[i] for i in drawn)]
        naive_step(network, optimiser, x[part], y[part], spec, replay=config.mode == "replay")
        if config.mode == "replay":
            place = n if n < config.buffer else int(lots(torch.tensor(first)) * (n + 1))
            buffer[place : place + 1] = [n] if place < config.buffer else buffer[place : place + 1]
    return network


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("mode", MODES)
def test_promises(spec, mode):
    check_learner(finetune(SPECS[spec], mode), SPECS[spec])


@pytest.mark.parametrize("mode", MODES)
def test_promises_with_sgd(mode):
    check_learner(finetune(mode=mode, optimiser="sgd"), IMAGES)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("mode", MODES)
def test_all_episodes_at_once_is_one_after_another(mode, spec, optimiser):
    learner, episode = finetune(SPECS[spec], mode, optimiser=optimiser), random_episode(SPECS[spec], 0)
    with torch.no_grad():
        state = learner.learn(learner.init_state(2), episode.stream)
    for b in range(2):
        for name, weight in naive(learner, episode.stream, b).named_parameters():
            assert_close(state.weights[name][b], weight.detach(), rtol=1e-3, atol=1e-4)
        assert not torch.equal(state.weights["answer.weight"][b], learner.network.answer.weight)


def test_the_reservoir_is_a_uniform_sample(monkeypatch):
    """Of 30 examples each is among the 4 kept equally often, over 4 000 streams with lots of their own."""
    rng = torch.Generator().manual_seed(0)
    monkeypatch.setattr("metacl.learners.trained.finetune.lots", lambda place: torch.rand(place.shape, generator=rng))
    learner, everyone = finetune(VECTORS, "replay"), torch.ones(4_000, dtype=torch.bool)
    empty = learner.init_state(4_000)
    for n in range(30):
        x = torch.full((4_000, 5), float(n))
        learner._keep(empty._replace(seen=torch.full((4_000,), n)), x, x[:, :3], everyone)
    assert empty.kept.all() and torch.equal(empty.x[..., 0], empty.y[..., 0])
    assert (empty.x[:, :, 0].sort(1).values.diff(dim=1) > 0).all(), "an example is kept twice"
    share = torch.histc(empty.x[:, :, 0], 30, 0, 29) / (4_000 * 4 / 30)
    assert (share - 1).abs().max() < 0.2


def test_lots_are_uniform_and_fixed():
    some = lots(torch.arange(100_000))
    assert ((some >= 0) & (some < 1)).all()
    counts = torch.histc(some.float(), 20, 0, 1) / 5_000
    assert (counts - 1).abs().max() < 0.06
    assert abs(torch.corrcoef(torch.stack([some[:-1], some[1:]]))[0, 1]) < 0.02
    assert lots(torch.tensor([0, 7]))[1] == lots(torch.tensor(7)) == lots(torch.tensor([[7]]))[0, 0]
    assert lots(torch.tensor(0)) == (0xE220A8397B1DCDAF >> 11) * 2.0**-53  # the first number of splitmix64 from 0


def test_shuffled():
    kept = torch.tensor([[True] * 6, [True, False, True, True, False, True]])
    orders = torch.stack([shuffled(kept, epoch) for epoch in range(8)])
    assert (orders[:, 0].sort().values == torch.arange(6)).all()
    assert (orders[:, 1, :4].sort().values == torch.tensor([0, 2, 3, 5])).all()
    assert len({tuple(order.tolist()) for order in orders[:, 0]}) > 4


@pytest.mark.parametrize("mode", MODES)
def test_streams_of_different_lengths(mode):
    """A stream that ends early is learnt as if it were alone."""
    learner, episode = finetune(mode=mode), random_episode(IMAGES, 0)
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1, 7:] = False
    with torch.no_grad():
        both = learner.learn(learner.init_state(2), dataclasses.replace(episode.stream, valid=valid))
        alone = learner.learn(
            learner.init_state(1), Examples(*(t[1:, :7] for t in vars(episode.stream).values() if t is not None))
        )
    assert both.seen.tolist() == [12, 7]
    for name, weight in alone.weights.items():
        assert_close(both.weights[name][1:], weight, rtol=1e-3, atol=1e-5)


def test_offline_does_not_forget_and_online_does():
    """Three tasks around centres of their own, each with one symbol."""
    rng = torch.Generator().manual_seed(0)
    centre = 3 * torch.randn(1, 3, 1, 6, generator=rng)
    x = (centre + torch.randn(1, 3, 40, 6, generator=rng)).flatten(1, 2)
    y = torch.arange(3).repeat_interleave(40)[None]
    stream, scores = Examples(x, y, y), {}
    for mode in MODES:
        learner = finetune(LABELLED_VECTORS, mode, width=32, buffer=20, epochs=5)
        with torch.no_grad():
            answer = learner.predict(learner.learn(learner.init_state(1), stream), x)
        scores[mode] = float((answer.argmax(-1) == y)[:, :40].float().mean())
    assert scores["offline"] > 0.9 and scores["replay"] > 0.9 and scores["online"] < 0.5


def test_gradients_count_the_steps_as_constants():
    learner, episode = finetune(LABELLED_VECTORS), random_episode(LABELLED_VECTORS, 0)
    learner.meta_loss(episode).loss.backward()
    with torch.no_grad():
        state = learner.learn(learner.init_state(2), episode.stream)
    weights = {name: w.clone().requires_grad_() for name, w in state.weights.items()}
    answer = learner.predict(state._replace(weights=weights), episode.queries.x)
    F.cross_entropy(answer.flatten(0, 1), episode.queries.y.flatten()).backward()
    for name, parameter in learner.network.named_parameters():
        assert_close(parameter.grad, weights[name].grad.sum(0), rtol=1e-4, atol=1e-6)


def test_states():
    """Weights, two moments of each and a counter; the buffer of replay; no moments but the stream of offline."""
    sizes = {mode: state_bytes(finetune(mode=mode).init_state(3)) for mode in MODES}
    weights = 8 * sum(p.numel() for p in finetune().parameters())
    assert sizes["online"] == 3 * weights + 24
    assert sizes["replay"] == sizes["online"] + 4 * (64 + 8 + 1)
    assert sizes["offline"] == weights + 24
    assert state_bytes(finetune(optimiser="sgd").init_state(1)) == weights + 24
    learner, episode = finetune(mode="offline"), random_episode(IMAGES, 0)
    with torch.no_grad():
        assert state_bytes(learner.learn(learner.init_state(2), episode.stream)) == sizes["offline"] + 12 * (64 + 8 + 1)
    assert not learner.constant_state


def test_every_example_is_on_its_own():
    """No BatchNorm is left."""
    for spec in SPECS.values():
        network = finetune(spec).network
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
        assert sum(isinstance(m, nn.GroupNorm) for m in network.modules()) == (2 if spec.x_kind == "image" else 3)


@pytest.mark.parametrize("mode", MODES)
def test_a_rate_that_diverges(mode):
    learner, episode = finetune(VECTORS, mode, rate=1e20, optimiser="sgd"), random_episode(VECTORS, 0)
    with pytest.raises(DivergedError, match=r"diverged at step \d+.*1e\+20.*--rates"), torch.no_grad():
        learner.learn(learner.init_state(2), episode.stream)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_rates_that_cannot_be(rate):
    with pytest.raises(UserError, match=r"learner.rate must be above 0, and finite"):
        finetune(rate=rate)


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_are_started_with_seeds_and_rates_are_learners_of_their_own(mode):
    """Initial weights are a function of the seed, `offline` starts from them again, and each row has its own rate."""
    learner, stream = finetune(VECTORS, mode, optimiser="sgd"), random_episode(VECTORS, 0).stream
    with torch.no_grad():
        both = learner.learn(learner.learn(learner.start([3, 4], [1e-2, 1e-3]), stream[:5]), stream[5:])
        for b, (seed, rate) in enumerate(((3, 1e-2), (4, 1e-3))):
            own = learner.start([seed], [rate])
            own = learner.learn(learner.learn(own, stream.row(b)[:5]), stream.row(b)[5:])
            for name, weight in own.weights.items():
                torch.testing.assert_close(both.weights[name][b : b + 1], weight)
    assert any(not torch.equal(w[0], w[1]) for w in learner.start([3, 4]).weights.values())
    assert all(torch.equal(w[0], w[1]) for w in learner.start([3, 4], alike=True).weights.values())


def test_offline_trains_once_a_task_and_is_asked_before():
    learner, stream = finetune(VECTORS, "offline"), random_episode(VECTORS, 0).stream
    asked = []
    state = learner.learn_task(learner.start([0, 1], alike=True), stream, 2, 1, lambda x, y: asked.append((x, y)))
    (examples, answers), before = asked[0], learner.init_state(2)
    assert torch.equal(examples.x, stream.x[:, ::2]) and len(asked) == 1
    with torch.no_grad():
        torch.testing.assert_close(answers, learner.predict(before, stream.x[:, ::2]))
        whole = learner.learn(before, stream)
    assert all(torch.equal(w, state.weights[name]) for name, w in whole.weights.items())


def test_adam_with_a_rate_for_each_row():
    rng = torch.Generator().manual_seed(0)
    gradient = {"w": torch.randn(2, 3, generator=rng)}
    steps = torch.tensor([1, 4])

    def stepped(rate, rows=slice(None)):
        weights = {"w": torch.ones(2, 3)[rows]}
        adam_(
            weights,
            ({"w": torch.ones(2, 3)[rows]}, {"w": torch.ones(2, 3)[rows]}),
            {"w": gradient["w"][rows]},
            steps[rows],
            rate,
        )
        return weights["w"]

    together = stepped(torch.tensor([0.1, 0.3]))
    assert_close(together, torch.cat([stepped(0.1, slice(0, 1)), stepped(0.3, slice(1, 2))]))
