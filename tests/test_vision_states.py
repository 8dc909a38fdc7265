"""What learners on a vision transformer keep: nothing of old images, a class that comes back, and a stop within a task."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from making import labelled_folder
from tiny_vit import SPEC, TINY, examples
from torch.utils import _pytree as pytree

from episodes import UserError
from metacl.cli import evaluate_main
from metacl.learners.vision import trunk
from metacl.learners.vision.hide import AlignmentConfig
from metacl.learners.vision.lora import LoraConfig
from metacl.nets.vit import VitConfig
from metacl.optimisers.projected import ProjectedAdam
from metacl.recipes.presets import trained_for
from metacl.recipes.settings import EPISODES
from metacl.recipes.vision_presets import VISION
from metacl.runs.following import Following

KEEP = ("vit-joint", "lora-joint")
FREE = [name for name in VISION if name not in KEEP]


@pytest.fixture(autouse=True)
def five_blocks(monkeypatch):
    """As many as the recipes want."""
    monkeypatch.setitem(trunk.UNTRAINED, "vit-tiny-32", VitConfig(8, 4, 24, 5, 4, 48))


def built(name: str):
    config = replace(trained_for(name, None, EPISODES), trunk=TINY, epochs=1)
    for field in fields(config):
        inner = getattr(config, field.name)
        if isinstance(inner, AlignmentConfig):
            config = replace(config, **{field.name: replace(inner, epochs=1, samples=4)})
    return config.build(SPEC)


def after(name: str, number: int):
    learner = built(name)
    return learner.learn(learner.learn(learner.init_state(1), examples([0, 1], 0, number)), examples([2, 3], 1, number))


def about(state) -> list[tuple]:
    return [(part.shape, part.dtype) for part in pytree.tree_leaves(state)]


@pytest.mark.parametrize("name", FREE)
def test_nothing_of_old_images_is_kept(name):
    """Shapes, and so bytes, do not depend on how many images there were, and no pixel is among them."""
    few, many = after(name, 5), after(name, 8)
    assert about(few) == about(many)
    assert all(part.numel() == 0 for part in pytree.tree_leaves(few) if part.dtype == torch.uint8)
    assert max(part.numel() for part in pytree.tree_leaves(few) if part.dtype == torch.int64) <= SPEC.symbols


@pytest.mark.parametrize("name", KEEP)
def test_the_upper_lines_keep_all(name):
    assert after(name, 5).x.shape[1] == 20 and after(name, 8).x.shape[1] == 32


@pytest.mark.parametrize("name", ["lora-sequential", "inf-lora", "lora-drs", "adam-nscl", "ease"])
def test_a_class_that_comes_back_is_answered(name):
    learner = built(name)
    state = learner.init_state(1)
    for i, classes in enumerate(([0, 1], [1, 2], [1])):
        state = learner.learn(state, examples(classes, i))
    answers = learner.predict(state, examples([0, 1, 2], 7).x)
    assert bool(answers.isfinite().all()) and answers.argmax(-1).max() <= 2


def test_what_is_refused():
    for config in (LoraConfig(rank=25, trunk=TINY), trained_for("inf-lora", None, EPISODES)):
        with pytest.raises(UserError, match=r"learner\.rank \d+ is more than the width of the transformer, 24"):
            replace(config, trunk=TINY, rank=25).build(SPEC)


def test_a_run_that_was_stopped_within_a_task_learns_it_from_its_beginning(cli, tmp_path, monkeypatch):
    """Nothing is kept of the half of the task that was learnt; the figures are those of a run that was not stopped."""
    pictures = labelled_folder(tmp_path / "pictures", classes=6, each=8, splits=("train", "test"))
    words = [
        "class-incremental",
        "lora-drs",
        "--stream.data.name",
        pictures,
        "--stream.classes",
        "2",
        "--learner.trunk.backbone",
    ]
    words += [
        "vit-tiny-32",
        "--learner.trunk.side",
        "8",
        "--learner.epochs",
        "3",
        "--learner.batch-size",
        "4",
        "--save-every",
        "1",
    ]
    status, text = cli(evaluate_main, *words, "--out", "whole")
    assert status == 0, text
    steps, step = [], ProjectedAdam.step

    def stopped(self, closure=None):
        steps.append(1)
        if len(steps) == 18:  # of twelve a task: in the middle of the second one
            raise KeyboardInterrupt
        return step(self, closure)

    with monkeypatch.context() as patched:
        patched.setattr(ProjectedAdam, "step", stopped)
        status, text = cli(evaluate_main, *words, "--out", "part")
    assert status == 130 and "Stopped in task 2, of which nothing is kept: it will be learnt from its beginning" in text
    assert len(Following.open(Path("part")).records()) == 1
    status, text = cli(evaluate_main, "--resume", "part")
    assert status == 0 and "1 tasks are done. Task 2 is learnt from its beginning." in text
    ours, theirs = (json.loads((Path(folder) / "results.json").read_text())["results"][0] for folder in ("part", "whole"))
    timed = ("seconds_a_task",)
    assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    last = [Following.open(Path(folder)).checkpoints.about(3)["digests"] for folder in ("part", "whole")]
    assert last[0] == last[1]
