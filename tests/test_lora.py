"""Low-rank weights task after task and LoRA-DRS: the checks of the method, each against a plain form."""

import copy
import io
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_vit import SPEC, TINY, after, examples, only, task, tiny  # noqa: F401
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from episodes import UserError
from episodes.errors import Notice
from metacl.evaluation.check import check_learner
from metacl.learners.vision.fitting import fit
from metacl.learners.vision.inf_lora import InfLoraConfig, remembered
from metacl.learners.vision.lora import LoraConfig
from metacl.learners.vision.pairs import merged, new_pair
from metacl.learners.vision.second_moments import principal, second_moments
from metacl.learners.vision.triplet import augmented_triplet_loss
from metacl.nets.vit import Added
from metacl.optimisers.projected import ProjectedAdam

LORA = LoraConfig(epochs=2, batch_size=4, rank=2, rate=0.01, trunk=TINY)
DRS = replace(LORA, space="subtracted", triplet=0.1, share=0.9)
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize("config", [LORA, replace(LORA, joint=True), DRS], ids=["sequential", "joint", "drs"])
def test_what_a_learner_owes(config):
    check_learner(config.build(SPEC), SPEC)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_merged_weights_are_those_of_the_keys_and_values_with_every_pair(sign):
    """Spec, check 1: queries, projection and feed-forward layers are left alone."""
    learner = LORA.build(SPEC)
    state = only(after(learner, [0, 1], [2, 3]))
    plain = copy.deepcopy(learner.trunk.network)
    with torch.no_grad():
        for i, block in enumerate(plain.blocks):
            for own in state.pairs[:, i]:
                for place, (A, Bt) in ((1, own[0]), (2, own[1])):
                    block.attn.qkv.weight[24 * place : 24 * (place + 1)] += sign * Bt.T @ A
    x = learner.trunk.view(examples([0, 1]).x[0])
    weights = merged(learner.trunk, state.pairs, sign)
    assert set(weights) == {f"blocks.{i}.attn.qkv.weight" for i in range(3)}
    assert_close(learner.trunk(x, weights=weights), plain(x), rtol=1e-4, atol=1e-5)


def test_second_moments_are_those_of_all_tokens_at_once():
    """Spec, check 2; images in several batches."""
    learner = LORA.build(SPEC)
    x = torch.randint(0, 255, (70, 3, 8, 8), dtype=torch.uint8)
    seen = {}
    taps = [Added(tap=lambda name, part, i=i: seen.setdefault((i, name), part)) for i in range(3)]
    with torch.no_grad():
        learner.trunk(learner.trunk.view(x), taps)
    rows = seen[1, "attention in"].flatten(0, 1)
    rows = rows.double()
    assert_close(second_moments(learner.trunk, x)[1], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)


def test_second_moments_are_exact_in_mixed_precision_too():
    """Of what comes into attention, in whatever precision, the products are not rounded."""
    learner = replace(LORA, trunk=replace(TINY, precision="bf16")).build(SPEC)
    moments = second_moments(learner.trunk, examples([0, 1]).x[0])
    assert moments.dtype == torch.float64 and float(torch.linalg.eigvalsh(moments).min()) > -1e-9


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_projections(share):
    """Spec, check 3: idempotent, of rank and trace k; as few directions as make up the share."""
    rows = torch.randn(50, 12) * torch.arange(1, 13)
    basis = principal(rows.T @ rows, share)
    projection, k = basis @ basis.T, basis.shape[1]
    assert_close(projection @ projection, projection, rtol=1e-4, atol=1e-5)
    assert float(projection.trace()) == pytest.approx(k, rel=1e-4)
    values = torch.linalg.svdvals((rows.T @ rows).double())
    reached = (values.cumsum(0) / values.sum())[k - 1]
    assert reached >= share - 1e-6 and (k == 1 or (values[: k - 1].sum() / values.sum()) < share)


def test_the_learners_projection_is_divided_by_its_norm_where_asked():
    for normalise in (True, False):
        learner = replace(DRS, normalise=normalise).build(SPEC)
        state = only(after(learner, [0, 1]))
        right = learner.projections(state, examples([2, 3]).x[0])
        norms = torch.linalg.matrix_norm(right)
        assert_close(norms, torch.ones(3)) if normalise else assert_close(norms.square(), right.diagonal(dim1=1, dim2=2).sum(1))
    assert DRS.build(SPEC).projections(only(after(DRS.build(SPEC))), examples([0]).x[0]) is None


@pytest.mark.parametrize("project", ["update", "gradient"])
def test_a_new_pair_moves_in_the_space_alone(project):
    """Spec, check 4: what training adds to it, not what it starts from."""
    learner = replace(DRS, share=0.6, project=project, normalise=False).build(SPEC)
    state = only(after(learner, [0, 1]))
    new = examples([2, 3], 1)
    right = learner.projections(state, new.x[0])
    trained = learner._trained(state, new.x[0], new.y[0])
    moved = trained - new_pair(learner.pair_shape, learner.draws(state, "train"))
    inside = torch.einsum("pkjrd,pde->pkjre", moved, right)
    assert float(moved.abs().amax()) > 1e-3
    if project == "update":
        assert_close(inside, moved, rtol=1e-3, atol=1e-5)
    else:  # Adam divides each number by its own size, which leads out of the space: the paper's form and the code's differ
        assert float((inside - moved).norm() / moved.norm()) > 0.05


def test_old_pairs_stay_bit_for_bit_and_the_first_task_is_free():
    """Spec, checks 5 and 7."""
    plain, drs = (replace(config, triplet=0.0).build(SPEC) for config in (LORA, DRS))
    first, second = after(drs, [0, 1]), after(drs, [0, 1], [2, 3])
    assert torch.equal(first.pairs[0, 0], second.pairs[0, 0]) and torch.equal(first.pairs, after(plain, [0, 1]).pairs)
    assert torch.equal(first.prototypes[0, :2], second.prototypes[0, :2])
    assert not torch.equal(after(plain, [0, 1], [2, 3]).pairs, second.pairs)


@pytest.mark.parametrize("old", [0, 3])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2], [1, 1, 1, 1, 1], [0, 1, 2, 3, 4]])
def test_the_triplet_loss_is_a_loop(old, labels):
    """Spec, check 6."""
    generator = torch.Generator().manual_seed(0)
    h, prototypes = torch.randn(5, 4, generator=generator), torch.randn(old, 4, generator=generator)
    y, margin = torch.tensor(labels), 0.7
    unit = [row / row.norm() for row in h]
    losses = []
    for i in range(5):
        farthest = max(float((unit[i] - unit[j]).norm()) for j in range(5) if labels[j] == labels[i])
        nearest = min(
            (float((unit[i] - unit[j]).norm()) for j in range(5) if labels[j] != labels[i]), default=farthest + margin
        )
        nearest = min([nearest, *(float((unit[i] - p / p.norm()).norm()) for p in prototypes)])
        losses.append(max(0.0, farthest - nearest + margin))
    assert float(augmented_triplet_loss(h, y, prototypes, margin)) == pytest.approx(sum(losses) / 5, abs=1e-4)


def test_the_triplet_loss_of_classes_far_apart_is_zero_and_has_gradients_elsewhere():
    h = torch.tensor([[1.0, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 1, 0.01]], requires_grad=True)
    assert float(augmented_triplet_loss(h.detach(), torch.tensor([0, 0, 1, 1]), torch.zeros(0, 3), 1.0)) == 0
    augmented_triplet_loss(h, torch.tensor([0, 1, 1, 0]), torch.zeros(0, 3), 1.0).backward()
    assert h.grad is not None and bool(h.grad.isfinite().all()) and bool(h.grad.any())


def test_a_control_takes_smaller_steps_without_a_projection():
    learner = replace(DRS, space="none", shrink=True).build(SPEC)
    right = learner.projections(only(after(learner, [0, 1])), examples([2, 3]).x[0])
    assert all(torch.equal(own, own[0, 0] * torch.eye(24)) and 24**-0.5 <= own[0, 0] < 1 for own in right)


def test_projected_adam_without_a_matrix_is_adam_and_goes_on_from_its_state():
    def run(optimiser_of, steps, state=None):
        parts = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(3))]
        optimiser = optimiser_of(parts)
        if state:
            parts[0].data, parts[1].data = state[0]
            optimiser.load_state_dict(torch.load(io.BytesIO(state[1])))
        for _ in range(steps):
            optimiser.zero_grad()
            (parts[0].square().sum() + (parts[0] @ parts[1]).sum()).backward()
            optimiser.step()
        buffer = io.BytesIO()
        torch.save(optimiser.state_dict(), buffer)
        return [p.detach().clone() for p in parts], buffer.getvalue()

    ours, theirs = run(lambda p: ProjectedAdam(p, 0.1), 4)[0], run(lambda p: torch.optim.Adam(p, 0.1), 4)[0]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    half = torch.diag(torch.tensor([1.0, 0.0, 0.5]))

    def with_matrix(parts):
        return ProjectedAdam([{"params": parts[:1], "right": half}, {"params": parts[1:], "lr": 0.01}], 0.1)

    whole, (parts, saved) = run(with_matrix, 4)[0], run(with_matrix, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole, run(with_matrix, 2, (parts, saved))[0], strict=True))
    assert torch.equal(whole[0][:, 1], torch.ones(2)) and not torch.equal(whole[0][:, 0], torch.ones(2))
    with pytest.raises(ValueError, match=r"right is \(3, 3\); the parameters of its group have last axes \[4\]"):
        ProjectedAdam([{"params": [torch.nn.Parameter(torch.ones(4))], "right": half}])


def test_a_quarter_of_a_cosine():
    part, seen = torch.nn.Parameter(torch.zeros(1)), []
    optimiser = torch.optim.SGD([part], 2.0)
    fit(optimiser, lambda places: part.sum(), 1, 3, 1, np.random.default_rng(0), "quarter", begins=lambda: None)
    seen.append(float(part.detach()))
    expected = -2 * sum(np.cos(0.495 * np.pi * e / 2) for e in range(3))
    assert seen[0] == pytest.approx(expected, rel=1e-5)


def test_what_is_kept_and_what_is_refused():
    state = after(DRS.build(SPEC), [0, 1], [2])
    assert state.x.numel() == 0 and {leaf.dtype for leaf in pytree.tree_leaves(state)} == {
        torch.float32,
        torch.int64,
        torch.bool,
        torch.uint8,
    }
    with pytest.raises(UserError, match=r"learner\.rank 25 is more than the width of the transformer, 24"):
        replace(LORA, rank=25).build(SPEC)
    with pytest.raises(UserError, match=r"learner\.shrink means nothing where gradients are projected"):
        replace(LORA, shrink=True, project="gradient")
    with pytest.raises(UserError, match=r"learner\.rank 25 is more than the width of the transformer, 24"):
        InfLoraConfig(rank=25, trunk=TINY).build(SPEC)
    for share in (0.0, 1.5):
        with pytest.raises(UserError, match=r"learner\.share is above 0 and at most 1"):
            replace(LORA, share=share)


def test_a_class_that_comes_back_is_not_kept_away_from_itself(monkeypatch):
    """Its own prototype is not among those of earlier classes."""
    seen = []

    def spied(h_ND, y_N, old_SD, margin):
        seen.append(len(old_SD))
        return augmented_triplet_loss(h_ND, y_N, old_SD, margin)

    monkeypatch.setattr("metacl.learners.vision.lora.augmented_triplet_loss", spied)
    after(DRS.build(SPEC), [0, 1], [1, 2])
    assert set(seen) == {0, 1}


def test_odd_tasks():
    """One image, and a class that comes back: its mean is that of its latest examples."""
    learner = DRS.build(SPEC)
    state = after(learner, [0], [1, 2])
    state = learner.learn(learner.learn(state, examples([3], 4, number=1)), examples([1], 5))
    row = only(state)
    assert_close(row.prototypes[1], learner.features_row(row, examples([1], 5).x[0]).mean(0))
    assert row.seen.tolist() == [True] * 4 + [False] * 2
    assert bool(learner.predict(state, examples([0, 1, 2, 3]).x).isfinite().all())


@pytest.mark.parametrize("images", [1, 12])
def test_inf_lora_fills_no_direction_up_that_its_images_do_not_have(images):
    """Five tokens an image; and when all is known nothing is left to be learnt, and what was learnt stays."""
    learner = replace(INF, rank=8).build(SPEC)
    with pytest.warns(Notice, match=r"Of 24 directions .* have 9 too few") if images == 1 else nullcontext():
        state = learner.learn(learner.init_state(1), examples([0], number=images))
    used = only(state).pairs[0, :, 0, 0].any(-1).sum(1)
    assert used.tolist() == [5 if images == 1 else 8] * 3
    known = state._replace(known=torch.eye(24).expand_as(state.known))
    with pytest.warns(Notice, match="have 24 too few"):
        after_all = learner.learn(known, examples([1], 1))
    assert not after_all.pairs[0, 1].any()


INF = InfLoraConfig(epochs=2, batch_size=4, rank=2, rate=0.01, tasks=3, trunk=TINY)


def test_inf_lora_is_a_learner():
    check_learner(INF.build(SPEC), SPEC)


def as_published(memory, mode, moment, share):
    """Dual gradient projection memory with a basis of what is known ("remove") or of what is left ("retain")."""
    D = len(moment)
    if memory is None:
        vectors, values, _ = np.linalg.svd(moment)
        ratio = np.cumsum(values**2) / (values**2).sum()
        memory, mode = vectors[:, : max(1, int((ratio < share).sum()))], "remove"
    elif mode == "remove":
        vectors, values, _ = np.linalg.svd(moment - memory @ memory.T @ moment)
        whole = (np.linalg.svd(moment)[1] ** 2).sum()
        covered, number = (whole - (values**2).sum()) / whole, 0
        while covered < share and number < D - memory.shape[1]:
            covered, number = covered + values[number] ** 2 / whole, number + 1
        memory = np.hstack([memory, vectors[:, :number]])
    else:
        vectors, values, _ = np.linalg.svd(memory @ memory.T @ moment)
        whole = (np.linalg.svd(moment)[1] ** 2).sum()
        left, number = (values**2).sum() / whole, 0
        while left > 1 - share and number < memory.shape[1]:
            left, number = left - values[number] ** 2 / whole, number + 1
        left_over = memory @ memory.T - vectors[:, :number] @ vectors[:, :number].T
        memory = np.linalg.svd(left_over)[0][:, : memory.shape[1] - number]
    if mode == "remove" and memory.shape[1] > D / 2:
        memory, mode = np.linalg.svd(np.eye(D) - memory @ memory.T)[0][:, : D - memory.shape[1]], "retain"
    return memory, mode


def test_the_memory_is_that_of_the_published_code_in_both_modes():
    generator, known, memory, mode, modes = np.random.default_rng(0), torch.zeros(8, 8), None, "", []
    for share in (0.9, 0.97, 0.995, 0.999, 0.9999):
        rows = generator.standard_normal((60, 8)) * generator.permutation(2.0 ** -np.arange(8))
        moment = rows.T @ rows / 60
        known = remembered(known, torch.from_numpy(moment), share)
        memory, mode = as_published(memory, mode, moment, share)
        modes.append(mode)
        expected = memory @ memory.T if mode == "remove" else np.eye(8) - memory @ memory.T
        assert_close(known, torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-4)
    assert set(modes) == {"remove", "retain"}


def test_the_memory_stays_a_projection_when_all_is_to_be_known():
    known = torch.zeros(16, 16)
    for seed in range(6):
        rows = torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))
        known = remembered(known, rows.T @ rows / 8, 1.0)
        assert_close(known @ known, known, rtol=1e-3, atol=1e-4)
    assert float(known.trace()) == pytest.approx(16, abs=1e-3)


def test_a_designed_pair_is_orthogonal_to_what_is_known():
    learner = replace(INF, least=0.9).build(SPEC)
    first, second = only(after(learner, [0, 1])), only(after(learner, [0, 1], [2, 3]))
    a = second.pairs[1, :, 0, 0]
    assert float(torch.einsum("prd,pde->pre", a, first.known).abs().max()) < 1e-3
    assert_close(a @ a.mT, torch.eye(2).expand(3, 2, 2) / 3, rtol=1e-4, atol=1e-4)
    assert torch.equal(first.pairs[0], second.pairs[0]) and torch.equal(second.pairs[1, :, 0, 0], second.pairs[1, :, 1, 0])
    with pytest.raises(UserError, match="must rise within 0 to 1"):
        replace(INF, least=0.99, most=0.9)
