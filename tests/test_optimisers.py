"""Optimisers around others: what all of them owe, and what each of them does."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from episodes.data.backbones.vit import VisionTransformer, VitConfig
from metacl.optimisers.around import Around
from metacl.optimisers.arrow import Arrow
from metacl.optimisers.blocks import blocks_of
from metacl.optimisers.muon import Together, muon
from metacl.optimisers.normalise_project import NormaliseProject
from metacl.optimisers.pulls import L2, L2Init, ShrinkPerturb
from metacl.optimisers.spectral import Parseval, Spectral
from metacl.optimisers.state import blank_state, leaves_of, load_tensors, tensors_of
from metacl.optimisers.trac import Trac, erfi


def network() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(VitConfig(8, 4, 12, 3, 2, 24))


def adamw(model):
    return torch.optim.AdamW(model.parameters(), 1e-3)


def rest(model):
    return torch.optim.AdamW([part for part in model.parameters() if part.ndim != 2], 1e-3)


def matrices(model):
    return [part for part in model.parameters() if part.ndim == 2]


MAKE: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "amsgrad": lambda model: torch.optim.AdamW(model.parameters(), 1e-3, amsgrad=True),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "plain sgd": lambda model: torch.optim.SGD(model.parameters(), 0.01),
    "muon": lambda model: torch.optim.Muon(matrices(model), 0.01),
    "muon and adamw": lambda model: muon(model.parameters(), 0.01, 0.1, other=matrices(model)[:1]),
    "together": lambda model: Around(Together([L2(MAKE["muon"](model), 0.1), rest(model)])),
    "l2": lambda model: L2(adamw(model), 0.01),
    "l2-init": lambda model: L2Init(MAKE["sgd"](model), 0.01),
    "shrink": lambda model: ShrinkPerturb(adamw(model), 0.01, 0.1, seed=3, every=2),
    "trac": lambda model: Trac(adamw(model), start=0.1),
    "trac around": lambda model: Trac(L2(adamw(model), 0.1)),
    "normalise": lambda model: NormaliseProject(adamw(model)),
    "spectral": lambda model: Spectral(adamw(model), 0.1),
    "parseval": lambda model: Parseval(adamw(model), 0.1),
    "nothing around": lambda model: Around(adamw(model)),
    "arrow": lambda model: Arrow(adamw(model), blocks_of(model, ["blocks.2.attn"]), 3),
    "arrow around": lambda model: Around(Arrow(MAKE["sgd"](model), blocks_of(model, ["blocks.*.attn"]), 3)),
}
"""Optimisers of a whole network by name."""


def trained(model, optimiser, steps, first=0):
    for i in range(first, first + steps):
        x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(i))
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", MAKE)
def test_the_whole_state_is_one_dictionary_of_tensors(name):
    """Complete before the first step, of the same names and shapes ever after; a fresh one goes on from it bit for bit."""
    whole, model = network(), network()
    optimiser = MAKE[name](model)
    shapes = {key: (value.shape, value.dtype) for key, value in tensors_of(optimiser).items()}
    assert equal(model, network()) and all(part.grad is None for part in model.parameters())
    trained(whole, MAKE[name](whole), 7)
    trained(model, optimiser, 4)
    kept = tensors_of(optimiser)
    assert {key: (value.shape, value.dtype) for key, value in kept.items()} == shapes
    other = network()
    other.load_state_dict(model.state_dict())
    fresh = MAKE[name](other)
    load_tensors(fresh, {key: value.clone() for key, value in kept.items()})
    trained(other, fresh, 3, 4)
    assert equal(other, whole)


@pytest.mark.parametrize("name", MAKE)
def test_state_dict(name):
    """As torch's: a fresh optimiser goes on from it, and a schedule still reaches the base."""
    whole, model, other = network(), network(), network()
    optimiser = MAKE[name](whole)
    trained(whole, optimiser, 6)
    first = MAKE[name](model)
    trained(model, first, 4)
    other.load_state_dict(model.state_dict())
    fresh = MAKE[name](other)
    fresh.load_state_dict(first.state_dict())
    trained(other, fresh, 2, 4)
    assert equal(other, whole)
    for group in fresh.param_groups:
        group["lr"] = 0.125
    assert all(group["lr"] == 0.125 for leaf in leaves_of(fresh) for group in leaf.param_groups)


def test_a_state_of_something_else_is_refused():
    model = network()
    optimiser = MAKE["arrow"](model)
    kept = {key: value.clone() for key, value in tensors_of(optimiser).items()}
    assert {"base.0.exp_avg", "base.0.step", "own.blocks.2.attn.gram"} <= kept.keys()
    with pytest.raises(ValueError, match=r"the state has 4 tensors that are not known here, own\.blocks\.2\.attn\.count first"):
        load_tensors(Around(adamw(model)), kept)
    del kept["base.3.exp_avg"]
    with pytest.raises(ValueError, match=r"the state lacks 1 of \d+ tensors, base\.3\.exp_avg first"):
        load_tensors(optimiser, kept)


def test_states_that_do_not_start_at_zero():
    part = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="prev, step_size of Rprop need not start at 0"):
        blank_state(torch.optim.Rprop([part]))
    with pytest.raises(ValueError, match="SGD with dampening"):
        blank_state(torch.optim.SGD([part], 0.1, momentum=0.9, dampening=0.5))
    assert torch.equal(part, torch.ones(2)) and part.grad is None


def test_a_blank_state_leaves_what_is_there():
    model = network()
    optimiser = adamw(model)
    trained(model, optimiser, 2)
    before = {key: value.clone() for key, value in tensors_of(optimiser).items()}
    gradients = [part.grad.clone() for part in model.parameters()]
    blank_state(optimiser)
    assert all(torch.equal(value, before[key]) for key, value in tensors_of(optimiser).items())
    assert all(torch.equal(part.grad, old) for part, old in zip(model.parameters(), gradients, strict=True))


class Counting(Around):
    def __init__(self, base):
        super().__init__(base)
        self.own = {"count": torch.zeros((), dtype=torch.int64)}
        self.tasks = 0

    def before(self):
        self.own["count"] += 1

    def task_begins(self):
        super().task_begins()
        self.tasks += 1


def test_gradients_that_are_not_finite_are_named_and_nothing_is_done():
    model = network()
    bases = {"norm.weight": torch.optim.AdamW(model.named_parameters()), r"parameter 40 \(12,\)": adamw(model)}
    for name, base in bases.items():
        optimiser = Counting(base)
        trained(model, optimiser, 1)
        before = {key: value.clone() for key, value in tensors_of(optimiser).items()}
        start = [part.detach().clone() for part in model.parameters()]
        model.norm.weight.grad[3] = torch.nan
        with pytest.raises(FloatingPointError, match=f"the gradient of {name} is not finite; nothing was stored"):
            optimiser.step()
        assert all(torch.equal(value, before[key]) for key, value in tensors_of(optimiser).items())
        assert all(torch.equal(part, old) for part, old in zip(model.parameters(), start, strict=True))
        model.norm.bias.grad[0] = -torch.inf
        with pytest.raises(FloatingPointError, match=rf"{name} is not finite \(nor those of 1 more\)"):
            optimiser.step()


def test_half_precision_is_refused():
    part = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"parameter 0 \(3,\) is torch.bfloat16: Counting makes changes that"):
        Counting(torch.optim.SGD([part], 0.1))


def test_tasks_are_told_through_all_of_them_and_a_closure_is_called():
    model = network()
    inside = Counting(adamw(model))
    outside = Counting(Around(inside))
    outside.task_begins()
    assert (inside.tasks, outside.tasks) == (1, 1)

    def closure():
        loss = model(torch.ones(1, 3, 8, 8)).square().mean()
        loss.backward()
        return float(loss.detach())

    assert outside.step(closure) > 0
    assert int(inside.own["count"]) == int(outside.own["count"]) == 1


def penalised(name, penalty, strength=0.3):
    """The gradients that a method leaves, and those of the loss with an exact penalty, by autograd."""
    found, expected = network(), network()
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for model in (found, expected):
        for part in model.parameters():  # so that w_0 is not where the gradient is taken
            part.data.mul_(2.0)
    optimiser = name(torch.optim.SGD(found.parameters(), 0.0))
    for model in (found, expected):
        for part in model.parameters():
            part.data.mul_(1.5)
    found(x).square().mean().backward()
    optimiser.step()
    (expected(x).square().mean() + strength * penalty(expected)).backward()
    for (key, part), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert_close(part.grad, other.grad, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def weights(model):
    return [part.flatten(1) for part in model.parameters() if part.ndim in (2, 4)]


def test_pulls_are_penalties():
    penalised(lambda base: L2(base, 0.3), lambda model: sum(part.square().sum() for part in model.parameters()))
    starts = [2 * part.detach() for part in network().parameters()]

    def from_start(model):
        return sum((part - start).square().sum() for part, start in zip(model.parameters(), starts, strict=True))

    penalised(lambda base: L2Init(base, 0.3), from_start)


@pytest.mark.parametrize("power", [1, 2])
def test_spectral_is_its_penalty(power):
    """Also where the largest singular value has moved on."""

    def exact(model):
        return sum((torch.linalg.matrix_norm(part, 2) ** power - 1) ** 2 for part in weights(model))

    penalised(lambda base: Spectral(base, 0.3, power, iterations=200), exact)
    part = nn.Parameter(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
    optimiser = Spectral(torch.optim.SGD([part], 0.0), 1.0, power)
    part.data[0, 0] = 0.5
    part.data[1:, 1:] += 0.01
    part.data[0, 1:] = 0.01
    for _ in range(40):
        part.grad = torch.zeros(3, 3)
        optimiser.step()
    sigma = torch.linalg.matrix_norm(part.detach(), 2)
    assert_close(part.grad.norm(), (2 * power * (sigma**power - 1) * sigma ** (power - 1)).abs())


def test_spectral_begins_near_the_largest_singular_value():
    """With one iteration at the first step; and it gets away from a matrix of zeros."""
    parts = [nn.Parameter(torch.randn(30, 20, generator=torch.Generator().manual_seed(0))), nn.Parameter(torch.zeros(4, 3))]
    optimiser = Spectral(torch.optim.SGD(parts, 0.0), 1.0, power=1)
    parts[0].grad, parts[1].grad = torch.zeros(30, 20), torch.zeros(4, 3)
    optimiser.step()
    sigma = torch.linalg.matrix_norm(parts[0].detach(), 2)
    assert float(parts[0].grad.norm()) == pytest.approx(2 * float(sigma - 1), rel=0.05)
    parts[1].data.copy_(torch.arange(12.0).view(4, 3))
    for _ in range(5):
        parts[1].grad.zero_()
        optimiser.step()
    expected = 2 * float(torch.linalg.matrix_norm(parts[1].detach(), 2) - 1)
    assert float(parts[1].grad.norm()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_parseval_is_its_penalty(scale):
    def exact(model):
        return sum((part @ part.T - scale * torch.eye(len(part))).square().sum() for part in weights(model))

    penalised(lambda base: Parseval(base, 0.3, scale), exact)


def test_penalties_of_some_weights():
    model = network()
    chosen = [model.blocks[0].mlp.fc1.weight, model.patch_embed.weight]
    optimiser = Parseval(torch.optim.SGD(model.parameters(), 0.0), 0.3, weights=chosen)
    for part in model.parameters():
        part.grad = torch.zeros_like(part)
    optimiser.step()
    assert [part.shape for part in model.parameters() if bool(part.grad.any())] == [chosen[1].shape, chosen[0].shape]
    with pytest.raises(ValueError, match=r"a parameter \(12,\) is no weight matrix of this optimiser"):
        Spectral(adamw(model), 0.1, weights=[model.norm.weight])
    with pytest.raises(ValueError, match=r"power and iterations 1, not 0\.1, 2, 0"):
        Spectral(adamw(model), 0.1, iterations=0)


def test_shrink_and_perturb():
    """Noise is as strong as the matrix was; each time another, and of another seed another."""
    parts = [nn.Parameter(0.5 * torch.randn(200, 200, generator=torch.Generator().manual_seed(0))), nn.Parameter(torch.ones(5))]
    moved = {}
    for seed in (0, 1):
        parts[0].data.copy_(0.5 * torch.randn(200, 200, generator=torch.Generator().manual_seed(0)))
        optimiser = ShrinkPerturb(torch.optim.SGD(parts, 0.0), 0.25, 0.1, seed, every=2)
        for step in range(4):
            before = parts[0].detach().clone()
            optimiser.step()
            moved[seed, step] = parts[0].detach() - 0.75 * before
            if step % 2 == 0:
                assert torch.equal(parts[0], before)
    assert float(moved[0, 1].std()) == pytest.approx(0.05, rel=0.02) and abs(float(moved[0, 1].mean())) < 1e-3
    assert not torch.allclose(moved[0, 1], moved[0, 3]) and not torch.allclose(moved[0, 1], moved[1, 1])
    assert torch.equal(parts[1], torch.ones(5))
    with pytest.raises(ValueError, match="shrink must be 0 or more, not -1"):
        ShrinkPerturb(torch.optim.SGD(parts, 0.1), -1, 0.1, 0)


def test_norms_are_kept():
    model = network()
    torch.nn.init.zeros_(model.blocks[0].mlp.fc2.weight)
    norms = {name: part.detach().norm() for name, part in model.named_parameters()}
    optimiser = NormaliseProject(torch.optim.AdamW(model.parameters(), 0.01))
    trained(model, optimiser, 3)
    for name, part in model.named_parameters():
        kept = part.ndim in (2, 4) and name != "blocks.0.mlp.fc2.weight"
        assert torch.allclose(part.norm(), norms[name], rtol=1e-5) == kept, name


def test_muon_takes_the_matrices():
    model = network()
    head = model.blocks[2].mlp.fc2.weight
    optimiser = muon(model.parameters(), 0.01, other=[head])
    shapes = [[part.ndim for part in group["params"]] for group in optimiser.param_groups]
    assert set(shapes[0]) == {2} and shapes[1].count(2) == 1 and sum(map(len, shapes)) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="more than one parameter group"):
        Together([adamw(model), adamw(model)])
    with pytest.raises(ValueError, match="the state is of 1 optimisers, not of 2"):
        optimiser.load_state_dict({"parts": [{}]})
    with pytest.raises(ValueError, match="no optimisers"):
        Together([])


def test_erfi():
    """Against Gauss's rule, on both sides of the place where its series change."""
    node, weight = np.polynomial.legendre.leggauss(200)
    for x in [0.0, 1e-9, 0.3, math.sqrt(0.5), 1, 3.7, 5.99, 6.01, 9, 20, -2.5, -8]:
        t = x * (node + 1) / 2
        expected = 2 / math.sqrt(math.pi) * (weight * np.exp(t**2)).sum() * x / 2
        assert float(erfi(torch.tensor([x], dtype=torch.float64))) == pytest.approx(expected, rel=1e-11), x


def test_trac_against_its_equations():
    """A step after another in plain numbers, with one parameter and AdamW's steps as they come."""
    part, plain = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64)), None
    optimiser = Trac(torch.optim.Adam([part], 0.1), betas=(0.9, 0.99), start=0.05)
    reference, s = part.detach().clone(), torch.zeros(2, dtype=torch.float64)
    v, sigma, betas = torch.zeros_like(s), torch.full_like(s, 1e-8), torch.tensor([0.9, 0.99], dtype=torch.float64)
    plain = nn.Parameter(part.detach().clone())
    base, delta = torch.optim.Adam([plain], 0.1), torch.zeros_like(s)
    for step in range(8):
        gradient = torch.tensor([1.0, 0.5 - 0.1 * step], dtype=torch.float64)
        part.grad, plain.grad = gradient.clone(), gradient.clone()
        old = part.detach().clone()
        plain.data.copy_(old)
        base.step()
        h = gradient @ delta
        delta = delta + plain.detach() - old
        v, sigma = betas**2 * v + h**2, betas * sigma - h
        ratio = erfi(sigma / ((2 * v).sqrt() + 1e-8)) / erfi(torch.tensor(0.5, dtype=torch.float64).sqrt())
        s = 0.05 * ratio
        optimiser.step()
        assert_close(part.detach(), reference + delta * max(float(s.sum()), 0))
    assert float(s.sum()) > 0.2 and not torch.equal(part, reference)


def test_trac_comes_back_from_scales_below_zero():
    """Weights as large as a network's: what moves them at first is far below their rounding."""
    part = nn.Parameter(torch.full((3,), 2.0))
    optimiser = Trac(torch.optim.SGD([part], 0.1))
    for step in range(400):
        part.grad = (part.detach() - 1) * (-1 if step == 1 else 1)
        optimiser.step()
        if step == 1:
            assert float(optimiser.own["scale"].sum()) < 0 and part.tolist() == [2.0] * 3
    assert float(part.detach()[0]) < 1.5


def test_trac_grows_from_nothing_and_says_where_it_overflows():
    part = nn.Parameter(torch.zeros(3))
    optimiser = Trac(torch.optim.SGD([part], 0.1))
    for _ in range(80):
        part.grad = torch.ones(3)
        optimiser.step()
    assert float(part.detach()[0]) < -1e-4
    optimiser.own["sigma"].fill_(1e9)
    with pytest.raises(FloatingPointError, match="the scales of TRAC overflow"):
        optimiser.step()
    with pytest.raises(ValueError, match=r"betas must lie in \(0, 1\]"):
        Trac(torch.optim.SGD([part], 0.1), betas=(1.5,))
