"""ARROW against dense solves; its window; what it owes as an optimiser."""

import io

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from episodes.data.backbones.vit import VisionTransformer, VitConfig
from metacl.optimisers.arrow import Arrow, blocks_of


def single(d=64, window=7, **options):
    """One block of d numbers, with SGD at a rate of 1, and gradients for it."""
    part = nn.Parameter(torch.zeros(d))
    options = {"relative": False, "scale": "raw"} | options
    return part, Arrow(torch.optim.SGD([part], 1.0), {"all": [part]}, window, **options)


def stepped(part, arrow, gradient):
    """How far a step moves, with its sign turned."""
    before = part.detach().clone()
    part.grad = gradient.clone()
    arrow.step()
    return before - part.detach()


def gradients(number, d=64, seed=0):
    return torch.randn(number, d, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.1, 2, d)


@pytest.mark.parametrize("number", [1, 3, 7, 12])
def test_a_dense_solve(number):
    """Before the window is full, when it is, and after the ring has come round."""
    part, arrow = single(beta=0.7, damping=0.3)
    rows = gradients(number)
    for row in rows:
        moved = stepped(part, arrow, row)
    latest = rows[-7:].double()
    C = latest.T @ latest / len(latest)
    expected = torch.linalg.solve(0.3 * torch.eye(64, dtype=torch.float64) + 0.7 * C, rows[-1].double())
    assert_close(moved.double(), expected, rtol=1e-4, atol=1e-5)
    own = arrow.windows["all"]
    fresh = (own.gradients @ own.gradients.T).double()[: own.count, : own.count]
    assert_close(own.gram[: own.count, : own.count], fresh, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("damping", [1.0, 0.01, 1e-4])
def test_relative_damping_against_a_dense_solve(damping):
    """With products in float32 and, where damping is small, in float64; also of a gradient in another order of memory."""
    parts = [nn.Parameter(torch.zeros(4, 5, 3, 3).to(memory_format=torch.channels_last)), nn.Parameter(torch.zeros(44))]
    arrow = Arrow(torch.optim.SGD(parts, 1.0), {"all": parts}, 7, damping=damping)
    assert arrow.windows["all"].rough == (damping >= 0.01)
    rows = gradients(9, 224) + gradients(1, 224, seed=1)
    for row in rows:
        parts[0].grad, parts[1].grad = torch.empty_like(parts[0]).copy_(row[:180].view(4, 5, 3, 3)), row[180:].clone()
        arrow.step()
    latest = rows[-7:].double()
    C = latest.T @ latest / 7
    alpha = damping * float(C.trace()) / 7
    expected = alpha * torch.linalg.solve(alpha * torch.eye(224, dtype=torch.float64) + C, latest[-1])
    found = torch.cat([part.grad.flatten() for part in parts]).double()
    assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert parts[0].grad.is_contiguous(memory_format=torch.channels_last)


def test_closed_forms():
    g = gradients(1)[0]
    part, arrow = single(beta=0.0, damping=0.5)
    assert_close(stepped(part, arrow, g), g / 0.5)
    part, arrow = single(window=1, beta=2.0, damping=0.5)
    assert_close(stepped(part, arrow, g), g / (0.5 + 2 * g.square().sum()))
    part, arrow = single(window=4, beta=2.0, damping=0.5)
    for _ in range(4):
        moved = stepped(part, arrow, g)
    assert_close(moved, g / (0.5 + 2 * g.square().sum()))
    new = torch.zeros(64)
    new[0] = 3.0
    part, arrow = single(window=4, beta=2.0, damping=0.5)
    for row in gradients(3):
        row[0] = 0
        stepped(part, arrow, row)
    assert_close(stepped(part, arrow, new), new / (0.5 + 2 * 9 / 4))


def test_scales():
    """At beta = 0 the default is the gradient, whatever the damping; grafting keeps its length."""
    rows = gradients(5)
    part, arrow = single(beta=0.0, relative=True, scale="alpha")
    assert all(torch.allclose(stepped(part, arrow, row), row, rtol=1e-5) for row in rows)
    part, arrow = single(relative=True, scale="gradient")
    for row in rows:
        moved = stepped(part, arrow, row)
        assert float(moved.norm()) == pytest.approx(float(row.norm()), rel=1e-4)
    assert not torch.allclose(moved, rows[-1], rtol=1e-2)


def test_relative_damping_does_not_depend_on_the_size_of_gradients():
    moved = []
    for size in (1.0, 100.0):
        part, arrow = single(relative=True, scale="alpha", damping=0.5)
        for row in gradients(5):
            found = stepped(part, arrow, size * row)
        moved.append(found / size)
    assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-5)


def test_a_plain_warm_up_and_a_new_task():
    part, arrow = single(window=3, warm_up="plain", beta=5.0)
    rows = gradients(4)
    assert torch.equal(stepped(part, arrow, rows[0]), rows[0]) and torch.equal(
        stepped(part, arrow, rows[1]).round(decimals=4), rows[1].round(decimals=4)
    )
    assert not torch.allclose(stepped(part, arrow, rows[2]), rows[2], rtol=1e-2)
    arrow.task_begins()
    assert arrow.windows["all"].count == 0
    assert torch.allclose(stepped(part, arrow, rows[3]), rows[3], atol=1e-5)


def network():
    torch.manual_seed(0)
    return VisionTransformer(VitConfig(8, 4, 12, 3, 2, 24))


def trained(model, optimiser, steps, first=0):
    for i in range(first, first + steps):
        x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(i))
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
    return model


def arrow_of(model, **options):
    blocks = blocks_of(model, ["blocks.1.attn", "blocks.2.attn"])
    return Arrow(torch.optim.AdamW(model.parameters(), 1e-3), blocks, 4, **options)


def test_other_parameters_are_the_bases_and_the_blocks_are_not():
    plain, model = network(), network()
    trained(plain, torch.optim.AdamW(plain.parameters(), 1e-3), 1)
    trained(model, arrow_of(model), 1)
    for name, part in model.named_parameters():
        same = torch.equal(part, plain.get_parameter(name))
        assert same or ".attn" in name  # one gradient in the window: Adam's first step does not see its length
    trained(plain, torch.optim.AdamW(plain.parameters(), 1e-3), 3)
    arrow = arrow_of(model)
    trained(model, arrow, 3)
    assert not torch.equal(model.blocks[2].attn.qkv.weight, plain.blocks[2].attn.qkv.weight)
    assert arrow.windows["blocks.1.attn"].gradients.shape == (4, sum(p.numel() for p in model.blocks[1].attn.parameters()))


def test_a_real_network_against_a_dense_solve():
    """In float64, at the end of some steps."""
    model, rows = network(), []
    arrow = arrow_of(model, relative=False, damping=0.1, scale="raw")
    arrow.base = torch.optim.SGD(model.parameters(), 0.0)
    for i in range(6):
        trained(model, torch.optim.SGD(model.parameters(), 0.1), 1, i)
        rows.append(torch.cat([p.grad.flatten() for p in model.blocks[2].attn.parameters()]).double())
        arrow.step()
    found = torch.cat([p.grad.flatten() for p in model.blocks[2].attn.parameters()])
    latest = torch.stack(rows[-4:])
    C = latest.T @ latest / 4
    expected = torch.linalg.solve(0.1 * torch.eye(len(C), dtype=torch.float64) + C, rows[-1])
    assert_close(found.double(), expected, rtol=1e-3, atol=1e-7)


def test_it_goes_on_from_its_state():
    def run(parts):
        model = network()
        arrow, done = arrow_of(model), 0
        for steps in parts:
            trained(model, arrow, steps, done)
            done += steps
            buffer = io.BytesIO()
            torch.save({"arrow": arrow.state_dict(), "model": model.state_dict()}, buffer)
            saved = torch.load(io.BytesIO(buffer.getvalue()))
            model = network()
            model.load_state_dict(saved["model"])
            arrow = arrow_of(model)
            arrow.load_state_dict(saved["arrow"])
        return model

    whole, pieces = run([9]), run([2, 4, 3])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), pieces.parameters(), strict=True))
    state = arrow_of(network()).state_dict()
    with pytest.raises(ValueError, match=r"the state lacks 8 of 8 tensors, blocks\.1\.attn\.count first"):
        arrow_of(network()).load_state_dict(state | {"own": {}})
    wrong = state["own"] | {"blocks.1.attn.gradients": torch.zeros(5, 624)}
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.gradients of the state is \(5, 624\), here \(4, 624\)"):
        arrow_of(network()).load_state_dict(state | {"own": wrong})


def test_schedules_of_the_rate_reach_the_base():
    model = network()
    arrow = arrow_of(model)
    schedule = torch.optim.lr_scheduler.StepLR(arrow, 1)
    trained(model, arrow, 1)
    schedule.step()
    assert arrow.base.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_bad_input():
    part, arrow = single()
    stepped(part, arrow, gradients(1)[0])
    before = part.detach().clone()
    with pytest.raises(FloatingPointError, match="the gradient of all is not finite"):
        stepped(part, arrow, torch.full((64,), torch.nan))
    assert arrow.windows["all"].count == 1 and torch.equal(part, before)
    with pytest.raises(ValueError, match="window must be 1 or more, not 0"):
        single(window=0)
    with pytest.raises(ValueError, match=r"beta must be 0 or more and damping above 0, not 1 and 0"):
        single(damping=0.0)
    with pytest.raises(ValueError, match=r"'blocks\.7\.attn' matches no module .* blocks\.\*\.attn, "):
        blocks_of(network(), ["blocks.7.attn"])
    with pytest.raises(ValueError, match=r"'layer' matches no module with parameters; there are 0, 2$"):
        blocks_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), ["layer"])
    with pytest.raises(TypeError, match=r"a list of names, not one alone: \['0'\]"):
        blocks_of(nn.Sequential(nn.Linear(2, 2)), "0")
    plain = nn.Linear(2, 2)
    for blocks in (plain.parameters(), {"w": plain.weight}):
        with pytest.raises(TypeError, match=r"blocks are \{name: \[parameters\]\}"):
            Arrow(torch.optim.SGD(plain.parameters(), 0.1), blocks)
    with pytest.raises(ValueError, match="the blocks none have no parameters"):
        Arrow(torch.optim.SGD([part], 1.0), {"none": []})
    part.grad = None
    arrow.step()
    assert arrow.windows["all"].count == 1


def test_nearly_equal_gradients_and_little_damping():
    """The Gram matrix is exact enough for a system that is nearly singular."""
    part, arrow = single(d=1000, window=8, damping=1e-6)
    row = gradients(1, 1000)[0]
    for step in range(10):
        assert bool(stepped(part, arrow, row * (1 + 1e-6 * step)).isfinite().all())


def test_blocks_do_not_overlap():
    model = network()
    assert list(blocks_of(model, ["blocks.*"])) == ["blocks.0", "blocks.1", "blocks.2"]
    with pytest.raises(ValueError, match=r"blocks\.1 and blocks\.1\.attn have a parameter in common"):
        Arrow(torch.optim.SGD(model.parameters(), 0.1), blocks_of(model, ["blocks.1", "blocks.1.attn"]))
    with pytest.raises(ValueError, match="a parameter of x is none of the base optimiser's"):
        Arrow(torch.optim.SGD(model.parameters(), 0.1), {"x": [nn.Parameter(torch.ones(1))]})


def test_half_precision_and_parts_without_gradients():
    parts = [nn.Parameter(torch.ones(3, dtype=torch.bfloat16)), nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]
    arrow = Arrow(torch.optim.SGD(parts, 0.1), {"all": parts}, 2)
    parts[0].grad = torch.ones(3, dtype=torch.bfloat16)
    arrow.step()
    assert arrow.windows["all"].gradients.dtype == torch.float32 and bool((parts[0] < 1).all())
    assert torch.equal(parts[1], torch.ones(2, dtype=torch.bfloat16)) and parts[1].grad is None
