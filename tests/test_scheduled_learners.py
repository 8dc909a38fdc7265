"""Learners on every schedule: they are meta-trained, evaluated with the matrix, and asked everything."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from making import labelled_folder, small_pool
from test_schedules import SCHEDULES, scheduled
from tiny import prototypes, sequence, train, train_config, without_learn2learn
from torch.testing import assert_close

from episodes import Episode, EpisodeGenerator, EpisodeShape, EpisodeSource, Examples, ScheduleConfig, UserError
from episodes.augment.config import AugmentConfig, MapConfig
from episodes.augment.episodes import augmented, with_rotations
from episodes.tasks.classification import Classification
from metacl.cli import evaluate_main, train_main
from metacl.commands.parse_train import parse_train
from metacl.evaluation.episodes import evaluate
from metacl.evaluation.follow import followed
from metacl.evaluation.known import KnownLabels
from metacl.evaluation.questions import EVERYTHING
from metacl.learners import Learner
from metacl.recipes import settings
from metacl.recipes.config import ValidationConfig
from metacl.recipes.presets import LEARNERS, META_TRAINED, trained_for
from metacl.runs.folder import Run

SMALL = ["--learner.width", "16", "--learner.encoder.channels", "4", "4", "--learner.encoder.strides", "2", "2"]
FEW = ["--steps", "2", "--batch-size", "2", "--validation.every", "2", "--validation.episodes", "2", "--precision", "fp32"]
CLASSIFIERS = [name for name in META_TRAINED if LEARNERS[name].only != "regression"]
RUNS = {
    "transformer": ["--episodes.schedule.blur", "1", "--episodes.tasks-least", "2"],
    "linear-transformer": [
        "--episodes.schedule.recur",
        "2",
        "--episodes.schedule.blur",
        "0.4",
        "--learner.distributed",
        "every",
    ],
    "pn": ["--episodes.schedule.classes", "2", "--episodes.schedule.domains", "rotation", "--episodes.schedule.gradual"],
    "gemcl": ["--episodes.schedule.shots-least", "1"],
    "oml": ["--episodes.schedule.noise", "0.3", "--episodes.schedule.shots-least", "1"],
    "maml": ["--episodes.schedule.blur", "0.5", "--episodes.tasks-least", "1"],
    "sb-mcl": ["--episodes.schedule.recur", "2", "--episodes.tasks-least", "2"],
}
"""What each learner is meta-trained on, once: every schedule by some learner."""
LARGER = small_pool([12] * 10, (1, 10, 10))
"""Images that every learner can encode."""


def meta_learner(name: str) -> Learner:
    torch.manual_seed(0)
    config = next(iter(parse_train(["glyphs", name, *SMALL]).configs.values()))
    return config.learner.build(scheduled("all").family.spec)


def with_other_padding(part: Examples) -> Examples:
    """Other inputs and labels where nobody is to look."""
    assert part.valid is not None
    x = torch.where(part.valid[..., None, None, None], part.x, part.x.flip(0, 1) // 2)
    return replace(part, x=x, y=torch.where(part.valid, part.y, 7 - part.y))


def padded() -> Episode:
    return scheduled("all", tasks_least=2, vocabulary=8).batch([0, 1, 2])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_no_learner_notices_padding_in_meta_training(name):
    without_learn2learn(name)
    check_that_padding_is_unnoticed(meta_learner(name).train())


def test_the_auxiliary_loss_does_not_notice_padding():
    spec = scheduled("all").family.spec
    for layout in ("paired", "interleaved"):
        check_that_padding_is_unnoticed(sequence(spec, query="input", auxiliary_steps=5, layout=layout).train())


def check_that_padding_is_unnoticed(learner: Learner) -> None:
    plain = padded()
    for part in (plain.stream, plain.queries):
        assert part.valid is not None and not part.valid.all()
    other = replace(plain, stream=with_other_padding(plain.stream), queries=with_other_padding(plain.queries))
    found = []
    for episode in (plain, other):
        torch.manual_seed(1)
        learner.zero_grad()
        result = learner.meta_loss(episode)
        result.loss.backward()
        gradients = [p.grad.clone() for p in learner.parameters() if p.grad is not None]
        found.append((result.loss.detach(), gradients, result.metrics))
    for left, right in zip(*found, strict=True):
        assert_close(left, right)
    assert found[0][1] and all(gradient.isfinite().all() for gradient in found[0][1])


@pytest.mark.parametrize("name", RUNS)
def test_train_and_evaluate(cli, tmp_path, cache, name):
    without_learn2learn(name)
    pictures = labelled_folder(tmp_path / "pictures", classes=30, each=8)
    shape = ["--episodes.tasks", "3", "--episodes.shots", "2", "--episodes.queries", "1"]
    status, text = cli(train_main, pictures, name, *FEW, *SMALL, *shape, *RUNS[name], "--run", "mine")
    assert status == 0, text
    schedule = Run.open(Path("mine")).config.episodes.schedule
    assert not schedule.words() or f"({schedule.words()})" in text
    status, text = cli(evaluate_main, "mine", "--episodes", "4")
    assert status == 0, text
    (found,) = json.loads(Path("mine/results/results.json").read_text())["results"]
    assert len(found["matrix"]) == 3 and 0 <= found["measures"]["final"]["mean"] <= 1
    assert {"learned", "interference", "forgetting"} <= found["measures"].keys()
    assert found["source"] == found["episodes"]["address"] + (f" ({schedule.words()})" if schedule.words() else "")
    assert ScheduleConfig(**found["episodes"].get("schedule", {})) == schedule
    assert json.loads(Path("mine/results/results.json").read_text())["config"]["schedule"] == vars(schedule)
    assert {"matrix-3-tasks.png", "positions-3-tasks.png"} <= {path.name for path in Path("mine/results").glob("*.png")}


ASKED = [(own, name) for own in ("transformer", "pn", "knn") for name in SCHEDULES] + [("bp", "all"), ("er", "iid")]


@pytest.mark.parametrize(("learner", "name"), ASKED)
def test_every_question_is_answered(learner, name):
    shape = scheduled(name).shape
    generator = EpisodeGenerator(Classification(LARGER, shape.symbols), shape, "noise", "test", 0)
    if learner in LEARNERS and learner not in META_TRAINED:
        own = trained_for(learner, None, settings.EPISODES).build(generator.family.spec)
    else:
        own = (sequence if learner == "transformer" else prototypes)(generator.family.spec)
    episode = generator.batch(range(3))
    questions = replace(EVERYTHING, asked=1, diagnose_every=0)
    _, records = followed(own, EpisodeSource(episode), questions)
    assert len(records) == 4 and records[-1]["matrix"]["accuracy_known"].shape == (3, 4)
    assert all(record["prequential"]["loss"].isfinite().all() for record in records)
    assert all(record["backward"]["1"]["loss"].isfinite().all() for record in records[1:])


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_matrix_of_every_schedule(name):
    found = evaluate(prototypes(scheduled(name).family.spec), scheduled(name), episodes=3, batch_size=2)
    assert not found.scores_ETT[:, -1].isnan().any() and found.known_ETT is not None and found.chance is not None
    assert (found.class_ET is None) == (SCHEDULES[name].classes > 1)


def test_the_labels_known_are_those_of_each_row():
    """Of mixed tasks: those of the phases so far, in each row its own."""
    episode = scheduled("iid").batch(range(4))
    known = KnownLabels(EpisodeSource(episode))
    for phase in range(4):
        for b in range(4):
            expected = set(episode.stream.y[b, : episode.ends[phase]].tolist())
            assert set(known.after(phase)[b].nonzero()[:, 0].tolist()) == expected


def test_evaluation_has_all_tasks(cli, tmp_path, cache):
    status, text = cli(evaluate_main, "sine", "bp", "--tasks-least", "2")
    assert status == 2 and "tasks-least" in text
    status, text = cli(evaluate_main, "sine", "bp", "--help")
    assert status == 0 and "--schedule.blur" in text and "i.i.d." in text


def test_images_of_any_schedule_are_augmented():
    """Each image in its own way, whatever its place; what is done to whole classes needs them in order."""
    changes = AugmentConfig(per_image=MapConfig(shift=0.3))
    for name in ("blur", "classes", "all"):
        own = scheduled(name)
        plain = own.batch([0, 1])
        found = augmented(plain, [0, 1], own, changes)
        assert found.stream.x.shape == plain.stream.x.shape and not torch.equal(found.stream.x, plain.stream.x)
        assert torch.equal(found.stream.y, plain.stream.y) and found.ends == plain.ends
        alone = augmented(own.batch([1]), [1], own, changes)
        assert torch.equal(alone.queries.x, found.queries.x[1:])
        for refused in (AugmentConfig(mix=0.5), AugmentConfig(per_class=MapConfig(shift=0.3))):
            with pytest.raises(UserError, match="one class each"):
                with_rotations(own.family, own.shape, refused)
    padded_only = scheduled("shots")
    assert with_rotations(padded_only.family, padded_only.shape, AugmentConfig(mix=0.5))


def test_a_curriculum_of_mixed_tasks(tmp_path):
    """The first phases, and what is asked of their tasks."""
    shape = EpisodeShape(4, 2, 1, 8, schedule=ScheduleConfig(blur=1.0))
    config = train_config(episodes=shape, curriculum=20, steps=4, validation=ValidationConfig(every=4, episodes=2))
    run = train(tmp_path / "run", config)
    assert run.last() == 4 and all(torch.isfinite(torch.tensor(record.get("loss", 0.0))) for record in run.metrics())
