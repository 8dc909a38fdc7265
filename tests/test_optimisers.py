"""Optimisers around others: what all of them owe, and what each of them does."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from episodes.data.backbones.vit import VisionTransformer, VitConfig
from metacl.optimisers.around import Around
from metacl.optimisers.arrow import Arrow
from metacl.optimisers.blocks import blocks_of
from metacl.optimisers.state import blank_state, load_tensors, tensors_of


def network() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(VitConfig(8, 4, 12, 3, 2, 24))


def adamw(model):
    return torch.optim.AdamW(model.parameters(), 1e-3)


def matrices(model):
    return [part for part in model.parameters() if part.ndim == 2]


MAKE: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "amsgrad": lambda model: torch.optim.AdamW(model.parameters(), 1e-3, amsgrad=True),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "plain sgd": lambda model: torch.optim.SGD(model.parameters(), 0.01),
    "muon": lambda model: torch.optim.Muon(matrices(model), 0.01),
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
    fresh.param_groups[0]["lr"] = 0.0
    leaf = fresh
    while isinstance(leaf, Around):
        leaf = leaf.base
    assert leaf.param_groups[0]["lr"] == 0.0


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
