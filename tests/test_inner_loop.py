"""The inner loop against a Python loop over episodes and examples, and the form without weights against both."""

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny import IMAGES, VECTORS
from torch import Tensor
from torch.func import functional_call
from torch.testing import assert_close

from episodes import EpisodeSpec, Examples, UserError
from metacl.benchmarking import peak_bytes
from metacl.learners.gradient import fast_mlp
from metacl.learners.gradient.inner_loop import (
    Fast,
    InnerConfig,
    InnerRates,
    initial_fast,
    rematerialised,
    segments,
    sgd,
)
from metacl.learners.losses import mean_loss
from metacl.nets.fast import mlp, predict_batch

WIDTH = 5
ROUNDING: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10}
FLAT = dataclasses.replace(VECTORS, y_shape=(3,))
SPECS = {"classification": IMAGES, "regression": FLAT}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"order": 1},
    {"rates": "tensor"},
    {"truncate": 3},
    {"rematerialise": 4},
    {"truncate": 3, "rematerialise": 4, "rates": "tensor"},
    {"order": 1, "truncate": 3, "rematerialise": 4, "rates": "tensor"},
]


class Case:
    """An MLP, its rates and a stream of random features, some of them padding, in float64."""

    def __init__(self, spec: EpisodeSpec = IMAGES, steps: int = 10, layers: int = 2, hidden: int = 7, **options):
        rng = torch.Generator().manual_seed(steps)
        torch.manual_seed(0)
        self.spec, self.config = spec, InnerConfig(**{"rate": 0.3, **options})
        self.head = mlp([WIDTH, *[hidden] * (layers - 1), spec.outputs]).double()
        self.rates = InnerRates(self.config, [name for name, _ in self.head.named_parameters()]).double()
        with torch.no_grad():
            self.rates.log.add_(torch.randn(self.rates.log.shape, generator=rng), alpha=0.3)
        self.z = torch.randn(2, steps, WIDTH, generator=rng, dtype=torch.float64, requires_grad=True)
        self.queries = torch.randn(2, 4, WIDTH, generator=rng, dtype=torch.float64)
        nothing = torch.zeros(2, steps, dtype=torch.long)
        y = torch.randint(0, 8, (2, steps), generator=rng)
        if not spec.classification:
            y = torch.randn(2, steps, 3, generator=rng, dtype=torch.float64)
        self.stream = Examples(nothing, y, nothing, torch.rand(2, steps, generator=rng) < 0.8)

    def loss(self, weights: Fast, z_D: Tensor, y: Tensor) -> Tensor:
        return mean_loss(functional_call(self.head, weights, (z_D,)), y, self.spec)

    def start(self) -> Fast:
        return initial_fast(self.head, 2)

    def by(self, form) -> tuple[Fast, list[Tensor]]:
        """The fast weights by one form, and the gradients of what they answer to queries."""
        return self.of(form(self))

    def of(self, fast: Fast) -> tuple[Fast, list[Tensor]]:
        return fast, self.gradients(predict_batch(self.head, fast, self.queries))

    def gradients(self, prediction: Tensor) -> list[Tensor]:
        leaves = [*self.head.parameters(), *self.rates.parameters(), self.z]
        return list(torch.autograd.grad(prediction.sin().sum(), leaves, allow_unused=True, materialize_grads=True))


def naive(case: Case) -> Fast:
    """One episode, one example at a time, with torch.autograd."""
    ends, rates, config = [], case.rates(), case.config
    for b in range(2):
        start = dict(case.head.named_parameters())
        fast = {name: w.clone() for name, w in start.items()}
        for i in range(len(case.stream)):
            if config.truncate and i % config.truncate == 0:
                fast = {name: start[name] + (w - start[name]).detach() for name, w in fast.items()}
            if case.stream.valid is None or case.stream.valid[b, i]:
                loss = case.loss(fast, case.z[b, i], case.stream.y[b, i])
                exact = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                found = [g.detach() if config.order == 1 else g for g in exact]
                fast = {name: w - rates[name] * g for (name, w), g in zip(fast.items(), found, strict=True)}
        ends.append(fast)
    return {name: torch.stack([end[name] for end in ends]) for name in ends[0]}


def plain(case: Case) -> Fast:
    return sgd(case.loss, case.start(), case.rates(), case.z, case.stream, case.config)


def fast_form(case: Case) -> Fast:
    return fast_mlp.learn(case.start(), case.rates(), case.z, case.stream, case.config)


def assert_alike(case: Case, form, oracle) -> None:
    (weights, gradients), (expected, expected_gradients) = case.by(form), case.by(oracle)
    assert weights.keys() == expected.keys()
    for name in weights:
        assert_close(weights[name], expected[name], **ROUNDING)
    assert any(g.any() for g in expected_gradients)
    assert_close(gradients, expected_gradients, **ROUNDING)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_the_plain_form_is_sgd_one_example_at_a_time(spec, options):
    assert_alike(Case(SPECS[spec], **options), plain, naive)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_the_fast_form_is_the_plain_one(spec, options):
    assert_alike(Case(SPECS[spec], **options), fast_form, plain)


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 35])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_fast_form_at_any_length_and_depth(steps, layers):
    assert_alike(Case(steps=steps, layers=layers), fast_form, plain)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_long_streams_are_learnt_in_pieces(options, monkeypatch):
    monkeypatch.setattr(fast_mlp, "PIECE", 6)
    assert_alike(Case(steps=20, **options), fast_form, plain)


@pytest.mark.parametrize("options", [options for options in OPTIONS if "truncate" not in options], ids=str)
def test_weights_that_are_never_built_answer_alike(options):
    case = Case(**options)
    layers = fast_mlp.as_layers(dict(case.head.named_parameters()), case.rates())
    updates = fast_mlp.run(layers, case.rates(), case.z, case.stream, case.config)
    answer = fast_mlp.forward(layers, updates, case.queries)
    expected = predict_batch(case.head, plain(case), case.queries)
    assert_close(answer, expected, **ROUNDING)
    assert_close(case.gradients(answer), case.gradients(expected), **ROUNDING)


@pytest.mark.parametrize("form", [plain, fast_form])
def test_without_grad_the_steps_are_the_same(form):
    case = Case()
    with_grad = form(case)
    with torch.no_grad():
        without = form(case)
    for name in with_grad:
        assert not without[name].requires_grad
        assert_close(without[name], with_grad[name].detach())


@pytest.mark.parametrize("form", [plain, fast_form])
def test_first_order_is_not_second_order(form):
    (first, first_gradients), (second, second_gradients) = Case(order=1).by(form), Case().by(form)
    assert_close(list(first.values()), list(second.values()))
    differences = [(a - b).norm() / b.norm() for a, b in zip(first_gradients[:-1], second_gradients[:-1], strict=True)]
    assert min(differences) > 1e-2
    assert not first_gradients[-1].any() and second_gradients[-1].any(), "the features of the stream have no first-order part"


@pytest.mark.parametrize("form", [plain, fast_form])
def test_truncation_stops_the_gradient_and_nothing_else(form):
    case, whole = Case(truncate=4), Case()
    weights, gradients = case.by(form)
    expected, full = whole.by(form)
    assert_close(list(weights.values()), list(expected.values()))
    assert not gradients[-1][:, :8].any() and gradients[-1][:, 8:].any()
    assert full[-1][:, :8].any()
    assert all(g.any() for g in gradients[:-1]), "the initial weights and the rate still have a gradient"


def test_memory_of_the_meta_gradient():
    """Rematerialising bounds that of the plain form; the fast form takes less without it."""

    def held(form, **options) -> int:
        case = Case(steps=32, hidden=64, layers=3, **options)
        return peak_bytes(lambda: case.by(form), torch.device("cpu"))

    whole = held(plain)
    assert held(plain, rematerialise=8) < 0.4 * whole
    assert held(fast_form) < 0.25 * whole


@pytest.mark.parametrize("form", [plain, fast_form])
@pytest.mark.parametrize("spec", SPECS)
def test_padding_may_hold_anything(form, spec):
    """Not a number in what is not valid reaches neither weights nor gradients."""
    case = Case(SPECS[spec])
    weights, gradients = case.by(form)
    padding = ~case.stream.valid
    dirty = Case(SPECS[spec])
    with torch.no_grad():
        dirty.z[padding] = torch.nan
    if not case.spec.classification:
        dirty.stream.y[padding] = torch.nan
    found, found_gradients = dirty.by(form)
    assert_close(list(found.values()), list(weights.values()))
    assert_close(found_gradients, gradients)


@pytest.mark.parametrize("form", [plain, fast_form])
def test_divergence_names_the_step_and_the_rate(form):
    case = Case(FLAT, steps=40, rate=1e60)
    case.stream.valid[:] = True
    with pytest.raises(UserError, match=r"diverged.* inner step \d+ of 40, with an inner learning rate of .*e\+60") as caught:
        form(case)
    step = int(str(caught.value).split("inner step ")[1].split(" ")[0])
    assert 1 < step < 12
    with torch.no_grad():
        short = Case(FLAT, steps=40, rate=1e60)
        short.z, short.stream = case.z[:, : step - 3], dataclasses.replace(case.stream[: step - 3])
        assert all(w.isfinite().all() for w in naive_values(short).values())


def naive_values(case: Case) -> Fast:
    with torch.enable_grad():
        return naive(case)


@pytest.mark.parametrize("form", [plain, fast_form])
def test_features_that_are_not_finite_are_not_blamed_on_the_rate(form):
    case = Case()
    with torch.no_grad():
        case.z[0, 0] = torch.inf
    case.stream.valid[0, 0] = True
    assert not all(w.isfinite().all() for w in form(case).values())


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:.*should not be instantiated")  # the compiler's own doing
@pytest.mark.parametrize(("form", "steps"), [(plain, 1), (fast_form, 2)])
def test_eager_equals_compiled(form, steps):
    """torch.compile over torch.autograd.grad would silently drop the second order."""
    case = Case(steps=steps)
    case.stream.valid[:] = True
    z = case.z

    def answer(z: Tensor) -> Tensor:
        case.z = z
        return predict_batch(case.head, form(case), case.queries)

    compiled = torch.compile(answer, backend="aot_eager")(z)
    eager = answer(z)
    assert_close(compiled, eager)
    assert_close(case.gradients(compiled), case.gradients(eager))


def test_rates_start_where_they_are_told():
    names = ["a.weight", "a.bias"]
    for rates in ("one", "tensor"):
        own = InnerRates(InnerConfig(rate=0.03, rates=rates), names)
        assert {name: r.item() for name, r in own().items()} == pytest.approx(dict.fromkeys(names, 0.03))
        assert own.log.numel() == (1 if rates == "one" else 2)
    with torch.no_grad():
        own.log[1] = -torch.tensor(2.0).log()
    assert own()["a.bias"].item() == pytest.approx(0.015)


def test_segments():
    def lengths(*numbers: int) -> list[int]:
        parts = list(segments(*numbers))
        assert all(a.stop == b.start for a, b in pairwise(parts))
        return [part.stop - part.start for part in parts]

    assert lengths(10) == [10]
    assert lengths(10, 4) == [4, 4, 2]
    assert lengths(10, 4, 0, 5) == [4, 1, 3, 2]
    assert lengths(0, 4) == []


def test_rematerialised_trees_and_what_needs_no_gradient():
    def function(tree: dict, factor: Tensor) -> tuple[Tensor, dict]:
        return tree["a"] * factor, {"whole": tree["n"] + 1}

    a = torch.randn(3, requires_grad=True)
    product, rest = rematerialised(function)({"a": a, "n": torch.tensor([2])}, torch.tensor(3.0))
    assert rest["whole"].tolist() == [3] and not rest["whole"].requires_grad
    assert torch.autograd.grad(product.sum(), a)[0].tolist() == [3, 3, 3]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none(rate):
    with pytest.raises(UserError, match=r"learner\.rate must be above 0"):
        InnerConfig(rate=rate)


def test_negative_lengths():
    with pytest.raises(UserError, match=r"learner\.truncate must be at least 0"):
        InnerConfig(truncate=-1)
