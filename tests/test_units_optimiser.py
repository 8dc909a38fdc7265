"""Hidden units that start anew: which, when, and what of the network and of the base optimiser changes."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from episodes.data.backbones.vit import Added, VisionTransformer, VitConfig
from metacl.optimisers.around import Around
from metacl.optimisers.state import load_tensors, moments_of, tensors_of
from metacl.optimisers.units import ContinualBackprop, ReDo, SelfNormalisedResets, hidden_of

CBP = {"replacement_rate": 0.05, "maturity": 2, "decay": 0.5}


def vit(seed=0):
    torch.manual_seed(seed)
    return VisionTransformer(VitConfig(8, 4, 12, 2, 2, 24))


def step(model, optimiser, i, observe=True):
    """A training step, with the hidden units of each block handed over as a learner with taps does."""
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(i))

    def tap(layer):
        return Added(tap=lambda name, part: optimiser.observe(layer, part) if observe and name == "mlp hidden" else None)

    optimiser.zero_grad()
    model(x, [tap(layer) for layer in range(2)]).square().mean().backward()
    optimiser.step()


class Small(nn.Module):
    def __init__(self, activation=torch.relu):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
        self.activation = activation

    def forward(self, x):
        self.h = self.activation(self.mlp[0](x))
        return self.mlp[1](self.h)


def small(method, base="adam", **options):
    torch.manual_seed(0)
    model = Small()
    make = {
        "adam": lambda: torch.optim.AdamW(model.parameters(), 1e-3),
        "sgd": lambda: torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9),
        "none": lambda: torch.optim.SGD(model.parameters(), 0.0),
    }
    return model, method(make[base](), hidden_of(model, ["mlp"]), 0, **options)


def small_step(model, optimiser, i=0):
    x = torch.randn(32, 5, generator=torch.Generator().manual_seed(i))
    optimiser.zero_grad()
    out = model(x)
    optimiser.observe(0, model.h)
    out.square().mean().backward()
    optimiser.step()


class Deaf(Around):
    """Does nothing, and hears nothing."""

    def observe(self, i, h):
        pass


def kill(model, unit):
    with torch.no_grad():
        model.mlp[0].weight[unit] = 0
        model.mlp[0].bias[unit] = -1


METHODS = {
    "continual": (ContinualBackprop, CBP),
    "redo": (ReDo, {"tau": 0.9, "every": 2}),
    "resets": (SelfNormalisedResets, {"threshold": 2, "every": 3, "above": 0.02, "share": 0.5}),
}


@pytest.mark.parametrize("name", METHODS)
def test_it_goes_on_from_its_tensors(name):
    """Bit for bit, with units that start anew before and after."""
    method, options = METHODS[name]

    def made(model):
        return method(torch.optim.AdamW(model.parameters(), 1e-3), hidden_of(model), 5, **options)

    whole, model, other = vit(), vit(), vit(1)
    optimiser, first = made(whole), made(model)
    for i in range(9):
        step(whole, optimiser, i)
    for i in range(5):
        step(model, first, i)
    other.load_state_dict(model.state_dict())
    fresh = made(other)
    load_tensors(fresh, {key: value.clone() for key, value in tensors_of(first).items()})
    for i in range(5, 9):
        step(other, fresh, i)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))
    plain = vit()
    base = torch.optim.AdamW(plain.parameters(), 1e-3)
    for i in range(9):
        x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(i))
        base.zero_grad()
        plain(x).square().mean().backward()
        base.step()
    assert not torch.equal(plain.blocks[1].mlp.fc1.weight, whole.blocks[1].mlp.fc1.weight)


@pytest.mark.parametrize("base", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("method", "options", "steps"),
    [
        (ContinualBackprop, {"replacement_rate": 1 / 64, "maturity": 3, "decay": 0.5}, 11),
        (ReDo, {"tau": 0.0, "every": 4}, 4),
        (SelfNormalisedResets, {"threshold": 4, "every": 100}, 4),
    ],
)
def test_a_dead_unit_comes_back_and_no_other_changes(method, options, steps, base):
    """It has new incoming weights, as strong as those of its layer were; only its own moments are forgotten."""
    model, optimiser = small(method, base, **options)
    twin, other = small(method, base, **options)  # the same without resets
    spread = float(model.mlp[0].weight.detach().std(correction=0))
    kill(model, 3)
    kill(twin, 3)
    for i in range(steps):
        dead = not bool(model.mlp[0].weight[3].abs().max() > 1e-2)
        assert dead, i
        small_step(model, optimiser, i)
        small_step(twin, Deaf(other.base), i)
    weight = model.mlp[0].weight.detach()
    assert 0.1 * spread < float(weight[3].norm()) / 5**0.5 < 3 * spread
    assert float(model.mlp[0].bias[3].detach()) == 0 and not bool(model.mlp[1].weight[:, 3].any())
    live = [0, 1, 2, 4, 5, 6, 7]
    columns = (slice(None), 3), (slice(None), live)
    for name, own, others in [("0.weight", 3, live), ("0.bias", 3, live), ("1.weight", *columns), ("1.bias", [], ...)]:
        part, plain = model.mlp.get_parameter(name), twin.mlp.get_parameter(name)
        assert torch.equal(part[others], plain[others])
        moments, untouched = moments_of(optimiser, part), moments_of(other, plain)
        assert len(moments) == len(untouched) == (2 if base == "adam" else 1)
        for moment, old in zip(moments, untouched, strict=True):
            assert torch.equal(moment[others], old[others]) and not bool(moment[own].any()) and bool(old[others].any())
    before = model.mlp[0].weight[3].detach().clone()
    small_step(model, optimiser, 99)
    small_step(model, optimiser, 100)
    assert not torch.equal(model.mlp[0].weight[3], before) and bool(model.mlp[1].weight[:, 3].any())


def test_the_output_stays_where_the_unit_was_constant():
    """Continual backpropagation moves what the unit gave on average into the next bias; resets take it away."""
    for method, options, stays in [
        (ContinualBackprop, {"replacement_rate": 1 / 8, "maturity": 0}, True),
        (ReDo, {"tau": 0.3}, False),
    ]:
        model, optimiser = small(method, "none", **options | ({} if stays else {"every": 3}))
        with torch.no_grad():
            model.mlp[0].weight[3], model.mlp[0].bias[3] = 0, 0.1
            model.mlp[0].bias[[0, 1, 2, 4, 5, 6, 7]] += 3
            model.mlp[1].weight[:, 3] *= 0.1 if stays else 1
        x = torch.randn(16, 5)
        before, part = model(x).detach(), 0.1 * model.mlp[1].weight[:, 3].detach()
        for i in range(1 if stays else 3):
            small_step(model, optimiser, i)
        assert not bool(model.mlp[1].weight[:, 3].any())
        assert_close(model(x).detach(), before if stays else before - part, rtol=1e-5, atol=1e-6)


def test_utility_is_what_the_paper_says():
    model, optimiser = small(ContinualBackprop, "none", replacement_rate=0.0, decay=0.9)
    expected = torch.zeros(8)
    for i in range(4):
        small_step(model, optimiser, i)
        expected = 0.9 * expected + 0.1 * model.h.abs().mean(0).detach() * model.mlp[1].weight.abs().mean(0).detach()
    assert_close(optimiser.own["utility.0"], expected)
    assert optimiser.own["age.0"].tolist() == [4.0] * 8


def test_so_many_units_are_replaced():
    """Shares add up: 8 mature units at 0.05 are two units in five steps; immature ones do not count."""
    model, optimiser = small(ContinualBackprop, "none", replacement_rate=0.05, maturity=3)
    new = []
    for i in range(8):
        small_step(model, optimiser, i)
        new.append(int((optimiser.own["age.0"] == 0).sum()))
    assert new == [0, 0, 0, 0, 0, 1, 0, 0]  # 0.4, 0.8, 1.2 from the fourth step on, then 0.2 + 0.35 each
    assert float(optimiser.own["due.0"]) == pytest.approx(3 * 0.4 - 1 + 2 * 0.35)


def test_a_threshold_is_a_percentile_of_the_units_own_times():
    """A unit that fires in one step of three is given -log(0.1) * 3 steps; the mean begins with one time of 1."""
    model, optimiser = small(SelfNormalisedResets, "none", percentile=0.9, threshold=9, every=30)
    alive = torch.ones(1, 8)
    for i in range(1, 31):
        h = alive.clone()
        h[:, 2] = float(i % 3 == 0)
        optimiser.observe(0, h)
        optimiser.step()
    assert optimiser.own["threshold.0"].tolist() == [3.0, 3.0, 7.0] + [3.0] * 5  # 2.30 and 2.30 * 31 / 11 = 6.49, rounded up
    weight = model.mlp[0].weight.detach().clone()
    for _ in range(7):
        assert torch.equal(model.mlp[0].weight, weight)
        h[:, 2] = 0
        optimiser.observe(0, h)
        optimiser.step()
    changed = (model.mlp[0].weight != weight).any(1)
    assert changed.tolist() == [False, False, True] + [False] * 5 and float(optimiser.own["age.0"][2]) == 0
    low = SelfNormalisedResets(optimiser.base, optimiser.hidden, 0, percentile=0.9, threshold=2, every=1)
    low.observe(0, alive)
    low.step()
    assert low.own["threshold.0"].tolist() == [4.0] * 8  # not above 2.30: doubled


def test_what_fires():
    _, optimiser = small(SelfNormalisedResets, "none", above=0.5, share=0.25)
    h = torch.zeros(2, 4, 8)
    h[..., 1], h[0, :2, 2], h[0, :3, 3] = 0.4, 1.0, 1.0
    optimiser.observe(0, h[:1])
    optimiser.observe(0, h[1:])  # in two pieces
    optimiser.step()
    assert (optimiser.own["age.0"] == 0).tolist() == [False, False, False, True, False, False, False, False]


def test_new_weights_repeat_by_the_seed():
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(drawn))  # of no matter
        model, optimiser = small(ReDo, "none", tau=10.0, every=1)
        optimiser.seed = seed
        small_step(model, optimiser)
        drawn.append(model.mlp[0].weight.detach())
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2])


def test_bad_input():
    model = vit()
    layers = hidden_of(model)
    assert [layer.name for layer in layers] == ["blocks.0.mlp", "blocks.1.mlp"] and layers[0].units == 24
    optimiser = ReDo(torch.optim.SGD(model.parameters(), 0.1), layers, 0)
    with pytest.raises(ValueError, match=r"activations of blocks\.0\.mlp, blocks\.1\.mlp were not observed"):
        step(model, optimiser, 0, observe=False)
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp has 24 units, not 12"):
        optimiser.observe(1, torch.ones(3, 12))
    step(model, optimiser, 0)
    model.norm.bias.grad[0] = torch.nan
    optimiser.observe(0, torch.full((1, 24), torch.nan))
    with pytest.raises(FloatingPointError, match="is not finite"):
        optimiser.step()
    assert not optimiser._seen and int(optimiser.own["count"]) == 1
    with pytest.raises(ValueError, match=r"blocks\.0\.attn must have two linear layers, .*, not 12 -> 36, 12 -> 12"):
        hidden_of(model, ["blocks.*.attn"])
    with pytest.raises(ValueError, match=r"a parameter of blocks\.0\.mlp is none of the base optimiser's"):
        ReDo(torch.optim.SGD([model.norm.weight], 0.1), layers, 0)
    with pytest.raises(ValueError, match="it needs hidden layers"):
        ReDo(torch.optim.SGD(model.parameters(), 0.1), [], 0)
    with pytest.raises(ValueError, match=r"percentile must lie in \(0, 1\)"):
        SelfNormalisedResets(torch.optim.SGD(model.parameters(), 0.1), layers, 0, percentile=1.0)
