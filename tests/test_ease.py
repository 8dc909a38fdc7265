"""EASE: its adapters, its semantic mapping and its answers, each against a plain form."""

from dataclasses import replace

import pytest
import torch
from tiny_vit import SPEC, TINY, after, examples, only, tiny  # noqa: F401
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from metacl.evaluation.check import check_learner
from metacl.learners.vision.ease import EaseConfig, with_mapped
from metacl.nets.vit import bottleneck

CONFIG = EaseConfig(epochs=2, batch_size=4, rank=3, rate=0.05, trunk=TINY)
pytestmark = pytest.mark.usefixtures("tiny")


def test_what_a_learner_owes():
    check_learner(replace(CONFIG, epochs=1, batch_size=8).build(SPEC), SPEC)


def test_an_adapter_stands_beside_the_feed_forward_half():
    """It takes the tokens before the norm, and what it adds is not scaled with the layers beside it."""
    learner = CONFIG.build(SPEC)
    block = learner.trunk.network.blocks[1]
    h, down, up = torch.randn(2, 5, 24), nn.Linear(24, 3), nn.Linear(3, 24)
    added = bottleneck(down.weight, down.bias, up.weight, up.bias, 0.3)
    middle = h + block.ls1(block.attn(block.norm1(h), added))
    wanted = middle + block.ls2(block.mlp(block.norm2(middle), added)) + 0.3 * up(down(middle).relu())
    assert_close(block(h, added), wanted)


def test_earlier_adapters_and_prototypes_stay_bit_for_bit():
    learner = CONFIG.build(SPEC)
    first, second = only(after(learner, [0, 1])), only(after(learner, [0, 1], [2, 3]))
    assert all(torch.equal(second.adapters[name][0], part[0]) for name, part in first.adapters.items())
    assert torch.equal(second.prototypes[0, :2], first.prototypes[0, :2]) and not second.prototypes[1, :2].any()
    assert bool(second.adapters["up"][1].any()) and second.task_of.tolist() == [0, 0, 1, 1, -1, -1]
    x = examples([2, 3], 1).x[0]
    h = learner.spaces(second.adapters, x)
    assert_close(second.prototypes[:, 2], h[:, :6].mean(1), rtol=1e-4, atol=1e-5)
    assert_close(learner.spaces(first.adapters, x)[0], h[0])


def test_prototypes_of_old_classes_are_mapped_as_published():
    """In each later space from all classes of that task and after it; their real prototypes stay."""
    generator = torch.Generator().manual_seed(0)
    task_of, real = torch.tensor([0, 0, 1, 2, 2, -1]), torch.randn(3, 6, 5, generator=generator)
    found = with_mapped(real, task_of)
    for space in range(3):
        for c, own in enumerate(task_of.tolist()):
            if own >= space or own < 0:
                assert torch.equal(found[space, c], real[space, c])
                continue
            there = [o for o in range(5) if task_of[o] >= space]
            like = torch.stack([F.cosine_similarity(real[own, c], real[own, o], dim=0) for o in there]).softmax(0)
            assert_close(found[space, c], sum(w * real[space, o] for w, o in zip(like, there, strict=True)))


def test_an_answer_is_a_weighted_sum_of_cosines():
    learner = replace(CONFIG, others=0.4).build(SPEC)
    state = only(after(learner, [0, 1], [2], [3]))
    x = examples([0, 1, 2, 3], 7).x[0]
    spaces, every = learner.spaces(state.adapters, x), with_mapped(state.prototypes, state.task_of)
    answers = learner.answer_row(state, x)
    for c in range(4):
        like = [F.cosine_similarity(spaces[t], every[t, c][None]) for t in range(3)]
        wanted = sum(part * (1.0 if t == state.task_of[c] else 0.4 / 2) for t, part in enumerate(like))
        assert_close(answers[:, c], wanted, rtol=1e-4, atol=1e-5)
    assert float(answers[:, 4:].max()) < -1e8


def test_a_class_that_comes_back_belongs_to_its_latest_task():
    learner = CONFIG.build(SPEC)
    state = only(after(learner, [0, 1], [1, 2]))
    assert state.task_of.tolist()[:3] == [0, 1, 1] and bool(state.prototypes[:, 1].any(-1).all())


def test_it_learns():
    learner = replace(CONFIG, epochs=5).build(SPEC)
    state, test = after(learner, [0, 1], [2, 3]), examples([0, 1, 2, 3], 9)
    assert float((learner.predict(state, test.x).argmax(-1) == test.y).float().mean()) > 0.8
