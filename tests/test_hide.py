"""HiDe-Prompt and NoRGa: the spec's minimal tests, class statistics against numpy, and odd tasks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_vit import SPEC, TINY, after, examples, task, tiny  # noqa: F401
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from episodes import EpisodeSpec, Examples, UserError
from metacl.evaluation.check import check_learner
from metacl.learners.vision.class_statistics import RIDGE, draw, no_statistics, statistics_of, with_classes
from metacl.learners.vision.hide import AlignmentConfig, HidePromptConfig
from metacl.learners.vision.identity import present

SHORT = AlignmentConfig(epochs=2, samples=8)
HIDE = HidePromptConfig(
    epochs=2,
    identity_epochs=2,
    batch_size=4,
    blocks=2,
    length=3,
    rate=0.05,
    identity_alignment=SHORT,
    alignment=SHORT,
    trunk=TINY,
)
NORGA = replace(HIDE, gate="tanh")
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize("config", [HIDE, replace(NORGA, statistics="diagonal")], ids=["hide", "norga"])
def test_what_a_learner_owes(config):
    check_learner(config.build(SPEC), SPEC)


@pytest.mark.parametrize("gate", ["tanh", "sigmoid", "gelu"])
def test_a_gate_that_stays_at_zero_is_hide_bit_for_bit(gate):
    """In all that is learnt."""
    plain, gated = HIDE.build(SPEC), replace(HIDE, gate=gate, alpha=0.0, learn_gate=False).build(SPEC)
    ends = [after(learner, [0, 1], [2, 3]) for learner in (plain, gated)]
    for left, right in zip(*(pytree.tree_leaves(end._replace(gates=end.key)) for end in ends), strict=True):
        assert torch.equal(left, right)
    x = examples([0, 1, 2, 3], 7).x
    assert torch.equal(plain.predict(ends[0], x), gated.predict(ends[1], x))
    assert not torch.equal(after(NORGA.build(SPEC), [0, 1]).prefixes, after(plain, [0, 1]).prefixes)


def test_a_prefix_of_no_tokens_is_the_plain_transformer():
    learner = replace(NORGA, length=0).build(SPEC)
    state = after(learner, [0, 1], [2])
    x = examples([0, 1, 2]).x[0]
    own = learner.added(state.prefixes[0, :1], state.gates[0])
    assert torch.equal(learner.trunk.features(x, lambda part: own), learner.trunk.features(x))


def test_the_gate_is_trained_in_the_first_task_alone():
    first, second = (after(NORGA.build(SPEC), *tasks) for tasks in ([[0, 1]], [[0, 1], [2, 3]]))
    assert bool((first.gates != 1).all()) and torch.equal(first.gates, second.gates)


def test_earlier_prefixes_stay_and_later_ones_start_from_them():
    first, second = (after(HIDE.build(SPEC), *tasks) for tasks in ([[0, 1]], [[0, 1], [2, 3]]))
    assert torch.equal(first.prefixes[0, 0], second.prefixes[0, 0]) and second.prefixes.shape[1] == 2
    still = after(replace(HIDE, rate=1e-9).build(SPEC), [0, 1], [2, 3])
    assert_close(still.prefixes[0, 0], still.prefixes[0, 1])


def test_the_mean_of_earlier_prefixes_is_mixed_in():
    learner = replace(HIDE, momentum=1.0).build(SPEC)
    state = after(learner, [0], [1], [2])
    assert_close(state.prefixes[0, 2], state.prefixes[0, :2].mean(0))


def test_the_head_of_old_classes_is_left_by_training_and_moved_by_alignment():
    learner = HIDE.build(SPEC)
    before = after(learner, [0, 1])
    row = pytree.tree_map(lambda t: t[0], before)
    x, y = task([2, 3], seed=1)
    trained = learner._prefix_learnt(row, x[0], y[0], row.task_of >= 0)
    assert torch.equal(trained.head["weight"][:2], row.head["weight"][:2])
    assert not torch.equal(trained.head["weight"][2:4], row.head["weight"][2:4])
    done = after(learner, [0, 1], [2, 3])
    assert not torch.equal(done.head["weight"][0, :2], before.head["weight"][0, :2])


@pytest.mark.parametrize("published", [False, True])
def test_the_order_of_a_batch_matters_as_published_only(published):
    """Images of several tasks in one batch: the published code gives an image its neighbours' prefixes."""
    learner = replace(NORGA, published_batching=published).build(SPEC)
    state = after(replace(NORGA).build(SPEC), [0, 1], [2, 3])
    x = examples([0, 2, 1, 3], 5, number=2).x
    order = torch.tensor([7, 1, 4, 0, 6, 2, 5, 3])
    same = torch.allclose(learner.predict(state, x)[:, order], learner.predict(state, x[:, order]), atol=1e-5)
    assert same != published


def test_published_batching_takes_keys_for_values():
    """As the spec works it out: the first half of a batch has keys alone, of images 2 b and 2 b + 1; the second half values."""
    learner = replace(HIDE, published_batching=True).build(SPEC)
    prefixes = torch.randn(4, 2, 2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    q = k = v = torch.randn(4, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    mixed = prefixes.clone()
    for b in range(4):
        for slot in range(2):
            mixed[b, :, slot] = prefixes[(2 * b + slot) % 4, :, (2 * b) // 4]
    right = HIDE.build(SPEC).added(mixed, torch.ones(2, 2))
    for found, expected in zip(learner.added(prefixes, torch.ones(2, 2)), right, strict=True):
        assert found.attend and expected.attend
        assert_close(found.attend(q, k, v), expected.attend(q, k, v))


def test_published_batching_mixes_the_batch_in_training_too():
    ends = [after(replace(HIDE, published_batching=own).build(SPEC), [0, 1]) for own in (False, True)]
    assert not torch.equal(ends[0].prefixes, ends[1].prefixes)
    assert after(replace(HIDE, published_batching=True, length=0).build(SPEC), [0, 1]).prefixes.numel() == 0


def test_answers_are_among_the_classes_seen():
    learner = HIDE.build(SPEC)
    logits = learner.predict(after(learner, [4, 1]), examples([0, 1, 4]).x)
    assert set(logits.argmax(-1).flatten().tolist()) <= {1, 4} and bool(logits.isfinite().all())
    assert not learner.predict(learner.init_state(1), examples([0]).x).any()


def test_classes_that_are_easy_to_tell_are_told():
    long = AlignmentConfig(rate=0.05, epochs=30, samples=32)
    more = {"epochs": 8, "identity_epochs": 30, "identity_rate": 5e-3, "identity_alignment": long, "alignment": long}
    learner = replace(HIDE, **more).build(SPEC)
    x, y = task([0, 1, 2, 3], seed=11)
    assert (learner.predict(after(learner, [0, 1], [2, 3]), x).argmax(-1) == y).float().mean() > 0.8


def test_odd_tasks():
    """One class, one image, a class that comes back (it belongs to its latest task), grey images."""
    learner = replace(NORGA, statistics="k-means").build(SPEC)
    state = after(learner, [0], [1, 2])
    state = learner.learn(state, examples([3], 4, number=1))
    state = learner.learn(state, examples([1], 5))
    assert state.task_of[0].tolist() == [0, 3, 1, 2, -1, -1]
    assert bool(learner.predict(state, examples([0, 1, 2, 3]).x).isfinite().all())
    grey = EpisodeSpec("image", (1, 8, 8), "cross_entropy", symbols=3)
    with pytest.warns(UserWarning, match="The images are grey: the vision transformer is shown them in three equal channels"):
        one = HIDE.build(grey)
    x, y = task([0, 1])
    state = one.learn(one.init_state(1), Examples(x[:, :, :1], y, torch.zeros_like(y)))
    assert bool(one.predict(state, x[:, :, :1]).isfinite().all())


def test_nothing_of_the_images_is_kept():
    learner = HIDE.build(SPEC)
    few, many = (learner.learn(learner.init_state(1), examples([0, 1], number=number)) for number in (6, 12))
    sizes = [[leaf.shape for leaf in pytree.tree_leaves(state)] for state in (few, many)]
    assert sizes[0] == sizes[1] and all(leaf.dtype != torch.uint8 for leaf in pytree.tree_leaves(few))


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"learner\.blocks 4 are more than the transformer has: 3"):
        replace(HIDE, blocks=4).build(SPEC)
    with pytest.raises(UserError, match="A vision transformer takes images, and these are vectors"):
        HIDE.build(EpisodeSpec("vector", (5,), "cross_entropy", symbols=3))
    with pytest.raises(UserError, match=r"Patches of 4 pixels do not divide images of 10\. Give --learner\.trunk\.side 8"):
        replace(HIDE, trunk=replace(TINY, side=10)).build(SPEC)
    with pytest.raises(UserError, match="Unknown backbone 'vit-huge'"):
        replace(HIDE, trunk=replace(TINY, backbone="vit-huge")).build(SPEC)


@pytest.mark.parametrize("kind", ["full", "diagonal", "k-means"])
def test_statistics_against_numpy(kind):
    rng = np.random.default_rng(0)
    h = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) @ torch.randn(5, 5)
    weight, mean, root = statistics_of(h, kind, rng)
    own = h.double().numpy()
    assert float(weight.sum()) == pytest.approx(1)
    assert_close((weight[:, None] * mean).sum(0), torch.from_numpy(own.mean(0)).float(), rtol=1e-4, atol=1e-4)
    if kind == "full":
        found = root[0] @ root[0].T
        assert_close(found, torch.from_numpy(np.cov(own.T) + RIDGE * np.eye(5)).float(), rtol=1e-4, atol=1e-4)
    elif kind == "diagonal":
        assert_close(root[0].square(), torch.from_numpy(own.var(0, ddof=1) + RIDGE).float(), rtol=1e-4, atol=1e-4)
    else:
        nearest = np.square(own[:, None] - mean.numpy()).sum(-1).argmin(1)
        for c in range(len(mean)):
            assert_close(mean[c], torch.from_numpy(own[nearest == c].mean(0)).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["full", "diagonal", "k-means"])
def test_what_is_drawn_has_the_statistics(kind):
    rng = np.random.default_rng(0)
    h = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.1]) + 3
    y = torch.ones(400, dtype=torch.int64)
    kept = with_classes(no_statistics(2, 3, kind, h[0]), h, y, kind, rng)
    drawn = draw(kept, 1, 20_000, rng)
    assert_close(drawn.mean(0), h.mean(0), rtol=0.02, atol=0.02)
    assert_close(drawn.std(0), h.std(0), rtol=0.05, atol=0.02)
    assert present(y, 2).tolist() == [False, True]
