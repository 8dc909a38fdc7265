"""A vision transformer small enough for tests, in place of the untrained one."""

from dataclasses import replace

import pytest
import torch
from torch.utils import _pytree as pytree

from episodes import EpisodeSpec, Examples
from metacl.learners.vision import trunk
from metacl.learners.vision.trunk import TrunkConfig
from metacl.nets.vit import VitConfig

SPEC = EpisodeSpec("image", (3, 8, 8), "cross_entropy", symbols=6)
TINY = TrunkConfig("vit-tiny-32", precision="fp32")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(trunk.UNTRAINED, "vit-tiny-32", VitConfig(8, 4, 24, 3, 4, 48))


def untrained(config):
    """The configuration of any learner; of one on a vision transformer, on one that needs no file."""
    return replace(config, trunk=TINY) if hasattr(config, "trunk") else config


def task(classes, number=6, seed=0):
    """(1, N, ...) images of some classes, each class of a colour of its own, and their labels."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes).repeat_interleave(number)
    base = torch.randint(0, 200, (20, 3, 1, 1), generator=torch.Generator().manual_seed(9))
    x = base[y] + torch.randint(0, 50, (len(y), 3, 8, 8), generator=rng)
    return x.to(torch.uint8)[None], y[None]


def examples(classes, seed=0, number=6):
    """`task`, as it is learnt."""
    x, y = task(classes, number, seed)
    return Examples(x, y, torch.zeros_like(y))


def after(learner, *tasks):
    """The state of one row after tasks of these classes."""
    state = learner.init_state(1)
    for i, classes in enumerate(tasks):
        state = learner.learn(state, examples(classes, i))
    return state


def only(state):
    """The one row of a state, without the axis B."""
    return pytree.tree_map(lambda t: t[0], state)
