"""Prefix, L2P, DualPrompt, S-Prompt++ and CODA-Prompt: what is taken against loops in numpy, what stays, and odd tasks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vit import SPEC, TINY, after, examples, task, tiny  # noqa: F401
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from episodes import UserError
from metacl.evaluation.check import check_learner
from metacl.learners.vision import trunk
from metacl.learners.vision.coda import CodaConfig, component_weights, orthogonal, overlap
from metacl.learners.vision.l2p import L2PConfig
from metacl.learners.vision.matched import MatchedConfig
from metacl.learners.vision.prefix import PrefixConfig
from metacl.nets.vit import VitConfig
from metacl.recipes.presets import trained_for
from metacl.recipes.settings import EPISODES

SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 4, "rate": 0.05, "trunk": TINY}
CONFIGS: dict[str, Any] = {
    "prefix": PrefixConfig(length=3, blocks=2, **SHORT),
    "l2p": L2PConfig(length=2, size=6, top=2, **SHORT),
    "l2p, class token": L2PConfig(length=2, size=6, top=2, reads="token", **SHORT),
    "dualprompt": MatchedConfig(length=3, blocks=2, shared_length=2, shared_blocks=1, **SHORT),
    "s-prompt": MatchedConfig(length=3, blocks=3, shared_blocks=0, **SHORT),
    "coda-prompt": CodaConfig(length=2, blocks=2, components=3, **SHORT),
}
OWN = {"dualprompt": ("prefix", "key"), "s-prompt": ("prefix", "key"), "coda-prompt": ("prefix", "key", "attention")}
"""What a task adds and later ones leave as it is."""
SHARED = {"prefix": ("prefix",), "l2p": ("prompt", "key"), "dualprompt": ("shared",)}
"""What all tasks train."""
pytestmark = pytest.mark.usefixtures("tiny")


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_learner_owes(name, monkeypatch):
    monkeypatch.setitem(trunk.UNTRAINED, "vit-tiny-32", VitConfig(8, 4, 12, 3, 2, 16))
    check_learner(replace(CONFIGS[name], epochs=1, batch_size=8).build(SPEC), SPEC)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_order_of_a_batch_changes_nothing(name):
    """Images of several tasks in one batch."""
    learner = CONFIGS[name].build(SPEC)
    state = after(learner, [0, 1], [2, 3])
    x, order = examples([0, 2, 1, 3], 5, number=2).x, torch.tensor([7, 1, 4, 0, 6, 2, 5, 3])
    assert_close(learner.predict(state, x)[:, order], learner.predict(state, x[:, order]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_more_images_than_pass_at_a_time(name, monkeypatch):
    learner = CONFIGS[name].build(SPEC)
    state, x = after(learner, [0, 1], [2, 3]), examples([0, 1, 2], 5).x
    whole = learner.predict(state, x)
    monkeypatch.setattr("metacl.learners.vision.prompts.TOGETHER", 5)
    assert_close(learner.predict(state, x), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_what_an_earlier_task_added_stays_bit_for_bit(name):
    learner = CONFIGS[name].build(SPEC)
    first, second = after(learner, [0, 1]), after(learner, [0, 1], [2, 3])
    for part in OWN[name]:
        old, new = first.parts[part][0], second.parts[part][0]
        assert len(new) == 2 * len(old) and torch.equal(old, new[: len(old)])
        assert not torch.equal(new[: len(old)], new[len(old) :])


@pytest.mark.parametrize("name", SHARED)
def test_what_is_shared_is_trained_in_every_task(name):
    learner = CONFIGS[name].build(SPEC)
    first, second = after(learner, [0, 1]), after(learner, [0, 1], [2, 3])
    for part in SHARED[name]:
        assert first.parts[part].shape == second.parts[part].shape
        assert not torch.equal(first.parts[part], second.parts[part])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_head_of_old_classes_is_left_alone(name):
    """A task answers among its own classes while it is trained."""
    learner = CONFIGS[name].build(SPEC)
    first, second = after(learner, [0, 1]), after(learner, [0, 1], [2, 3])
    for part in ("weight", "bias"):
        assert torch.equal(first.head[part][0, :2], second.head[part][0, :2])
        assert bool(second.head[part][0, 2:4].any()) and not bool(second.head[part][0, 4:].any())


def test_a_new_prefix_begins_as_the_last_one_ended():
    state = after(replace(CONFIGS["s-prompt"], rate=1e-9).build(SPEC), [0, 1], [2, 3])
    assert_close(state.parts["prefix"][0, 0], state.parts["prefix"][0, 1])
    assert not torch.allclose(state.parts["key"][0, 0], state.parts["key"][0, 1], atol=0.1)


def test_the_pool_against_a_loop():
    learner = CONFIGS["l2p"].build(SPEC)
    parts, query = {"prompt": noise(6, 2, 24), "key": noise(6, 24, seed=1)}, noise(5, 24, seed=2)
    chosen = learner.chosen(parts, query, learning=True)
    prompt, key, total = parts["prompt"].numpy(), parts["key"].numpy(), 0.0
    for n, q in enumerate(query.numpy()):
        likeness = [float(q @ k / np.linalg.norm(q) / np.linalg.norm(k)) for k in key]
        best = sorted(range(6), key=lambda k: -likeness[k])[:2]
        total += sum(likeness[k] for k in best)
        assert_close(chosen.prompts_NLD[n].numpy(), np.concatenate([prompt[k] for k in best]))
    assert float(chosen.penalty) == pytest.approx(-0.1 * total / 5, rel=1e-4)


def test_what_the_head_sees_of_l2p():
    tokens = noise(2, 1 + 2 * 2 + 4, 24)
    assert_close(CONFIGS["l2p"].build(SPEC).read(tokens), tokens[:, 1:5].sum(1) / 4)
    assert_close(CONFIGS["l2p, class token"].build(SPEC).read(tokens), tokens[:, 0])


def test_the_nearest_key_against_a_loop():
    """The shared prefix comes first, then that of the nearest key; in training that of the last task."""
    learner = CONFIGS["dualprompt"].build(SPEC)
    parts = {"prefix": noise(4, 2, 2, 3, 4, 6), "key": noise(4, 24, seed=1), "shared": noise(1, 1, 2, 2, 4, 6, seed=2)}
    query, (q, k, v) = noise(5, 24, seed=3), noise(3, 5, 4, 7, 6, seed=4)
    asked, trained = (learner.chosen(parts, query, learning) for learning in (False, True))
    key = parts["key"].numpy()
    total = 0.0
    for n, own in enumerate(query.numpy()):
        likeness = key @ own / np.linalg.norm(key, axis=1) / np.linalg.norm(own)
        total += likeness[3]
        for chosen, best in ((asked, int(likeness.argmax())), (trained, 3)):
            prefixes = [parts["shared"][0, 0], *parts["prefix"][best]]
            for added, prefix in zip(chosen.added, prefixes, strict=True):
                assert_close(added.attend(q, k, v)[n], attention(q[n], k[n], v[n], prefix))
    assert float(trained.penalty) == pytest.approx(-total / 5, rel=1e-4)


def attention(q, k, v, prefix):
    """Of one image with a prefix (2, L, H, E), a head at a time."""
    heads = []
    for h in range(len(q)):
        keys, values = (torch.cat([own[:, h], rest[h]]) for own, rest in zip(prefix, (k, v), strict=True))
        heads.append((q[h] @ keys.T / q.shape[-1] ** 0.5).softmax(-1) @ values)
    return torch.stack(heads)


def test_weighted_sums_against_a_loop():
    learner = CONFIGS["coda-prompt"].build(SPEC)
    parts = {"prefix": noise(7, 2, 2, 2, 4, 6), "key": noise(7, 2, 24, seed=1), "attention": noise(7, 2, 24, seed=2)}
    query, (q, k, v) = noise(5, 24, seed=3), noise(3, 5, 4, 7, 6, seed=4)
    chosen = learner.chosen(parts, query, learning=False)
    prefix, key, attend = (parts[name].numpy() for name in ("prefix", "key", "attention"))
    weights = component_weights(query, parts["key"], parts["attention"])
    for n, own in enumerate(query.numpy()):
        for p in range(2):
            summed = np.zeros(prefix.shape[2:], dtype=np.float32)
            for c in range(7):
                seen = own * attend[c, p]
                weight = seen @ key[c, p] / np.linalg.norm(seen) / np.linalg.norm(key[c, p])
                assert float(weights[n, p, c]) == pytest.approx(float(weight), abs=1e-5)
                summed += weight * prefix[c, p]
            expected = attention(q[n], k[n], v[n], torch.from_numpy(summed))
            assert_close(chosen.added[p].attend(q, k, v)[n], expected, rtol=1e-4, atol=1e-5)


def test_the_penalty_of_components_against_a_loop():
    """And it is none of what an image is asked with."""
    learner, part = CONFIGS["coda-prompt"].build(SPEC), noise(4, 2, 3, 2)
    flat, expected = part.flatten(2).numpy(), 0.0
    for p in range(2):
        expected += np.mean([(flat[i, p] @ flat[j, p] - (i == j)) ** 2 for i in range(4) for j in range(4)])
    assert float(overlap(part)) == pytest.approx(float(expected), rel=1e-4)
    parts = {"prefix": noise(4, 2, 2, 2, 4, 6), "key": noise(4, 2, 24), "attention": noise(4, 2, 24)}
    total = sum(float(overlap(part)) for part in parts.values())
    assert float(learner.chosen(parts, noise(3, 24), learning=True).penalty) == pytest.approx(0.1 * total, rel=1e-4)
    assert not learner.chosen(parts, noise(3, 24), learning=False).penalty


def test_new_components_are_orthogonal_to_all_before_as_far_as_there_is_room():
    rng = np.random.default_rng(0)
    old = noise(3, 2, 5, 2)
    new = orthogonal(old, 4, rng)
    assert new.shape == (4, 2, 5, 2)
    own, before = new.flatten(2).transpose(0, 1), old.flatten(2).transpose(0, 1)
    assert_close(own @ own.mT, torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)
    assert_close(own @ before.mT, torch.zeros(2, 4, 3), rtol=0, atol=1e-5)
    for there in (noise(8, 2, 10), noise(12, 2, 10)):
        more = orthogonal(there, 4, rng)
        assert_close(more.norm(dim=-1), torch.ones(4, 2)) and bool(more.isfinite().all())
    room = orthogonal(noise(8, 2, 10), 4, rng)[:2].transpose(0, 1)
    assert_close(room @ noise(8, 2, 10).transpose(0, 1).mT, torch.zeros(2, 2, 8), rtol=0, atol=1e-5)


def test_keys_are_pulled_to_the_queries():
    """By the pull alone: a task of one class has no other error."""
    config = replace(CONFIGS["s-prompt"], epochs=30, rate=0.2)
    learner = config.build(SPEC)
    query = learner.trunk.features(examples([0]).x[0]).mean(0)
    keys = [after(own, [0]).parts["key"][0, 0] for own in (learner, replace(config, pull=0.0).build(SPEC))]
    pulled, still = (float(torch.cosine_similarity(key, query, dim=0)) for key in keys)
    assert pulled > 0.9 > still


@pytest.mark.parametrize("name", CONFIGS)
def test_classes_that_are_easy_to_tell_are_told(name):
    """By a transformer with larger weights than one that is not trained: else prompts hardly see the image."""
    learner = replace(CONFIGS[name], epochs=10).build(SPEC)
    for weight in learner.network.blocks.parameters():
        weight.data *= 10 if weight.ndim == 2 else 1
    x, y = task([0, 1, 2], seed=11)
    assert (learner.predict(after(learner, [0, 1, 2]), x).argmax(-1) == y).float().mean() > 0.8


@pytest.mark.parametrize("name", CONFIGS)
def test_odd_tasks(name):
    """One class, one image, a class that comes back; answers are among the classes seen."""
    learner = CONFIGS[name].build(SPEC)
    state = after(learner, [0], [1, 2])
    state = learner.learn(state, examples([3], 4, number=1))
    state = learner.learn(state, examples([1], 5))
    assert state.seen[0].tolist() == [True] * 4 + [False] * 2 and int(state.tasks) == 4
    logits = learner.predict(state, examples([0, 1, 2, 3, 4]).x)
    assert bool(logits.isfinite().all()) and int(logits.argmax(-1).max()) < 4
    assert all(bool(leaf.isfinite().all()) for leaf in pytree.tree_leaves(state))
    assert not learner.predict(learner.init_state(1), examples([0]).x).any()


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_of_the_images_is_kept(name):
    learner = CONFIGS[name].build(SPEC)
    few, many = (learner.learn(learner.init_state(1), examples([0, 1], number=number)) for number in (2, 5))
    assert [leaf.shape for leaf in pytree.tree_leaves(few)] == [leaf.shape for leaf in pytree.tree_leaves(many)]


def test_what_cannot_be_is_refused():
    for name, options in (("prefix", {"blocks": 4}), ("coda-prompt", {"blocks": 4}), ("dualprompt", {"blocks": 3})):
        with pytest.raises(UserError, match=r"learner\.blocks \d are more than the transformer has: 3"):
            replace(CONFIGS[name], **options).build(SPEC)
    with pytest.raises(UserError, match=r"learner\.top 7 prompts cannot be taken of a pool of 6"):
        replace(CONFIGS["l2p"], top=7)
    for options in ({"epochs": 0}, {"length": 0}, {"rate": 0.0}, {"clip": -1.0}):
        with pytest.raises(UserError, match=r"learner\."):
            replace(CONFIGS["prefix"], **options)


def test_the_papers_settings():
    """Those that differ between the methods."""
    found = {name: trained_for(name, "paper", EPISODES) for name in ("l2p", "dualprompt", "s-prompt", "coda-prompt")}
    pool, dual, single, coda = found.values()
    assert (pool.size, pool.length, pool.top, pool.pull, pool.epochs) == (30, 5, 5, 0.1, 10)
    assert (dual.shared_blocks, dual.shared_length, dual.blocks, dual.length, dual.pull) == (2, 5, 3, 20, 1.0)
    assert (single.shared_blocks, single.blocks, single.length, single.epochs) == (0, 5, 20, 20)
    assert (coda.blocks, 2 * coda.length, 10 * coda.components, coda.rate, coda.schedule) == (5, 8, 100, 0.001, "quarter")
    assert all(config.rate == 0.005 * config.batch_size / 256 for config in (pool, dual, single))
