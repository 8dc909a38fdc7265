"""What learners refuse: inputs and targets of another shape or type than they were built for, labels that are no symbols."""

from dataclasses import replace

import pytest
import torch
from tiny import IMAGES, VECTORS, without_learn2learn
from tiny_vit import untrained

from episodes import Episode, EpisodeSpec, UserError
from metacl.evaluation.check import random_episode
from metacl.learners import Learner
from metacl.learners.inputs import check_examples, check_symbols
from metacl.recipes.presets import LEARNERS
from metacl.recipes.settings import EPISODES

BIG = EpisodeSpec("image", (1, 12, 12), "cross_entropy", symbols=8)
FEATURES = EpisodeSpec("vector", (5,), "cross_entropy", symbols=8)
CLASSES, NUMBERS, FROZEN = (random_episode(spec, 0, tasks=2, shots=2) for spec in (BIG, VECTORS, FEATURES))
"""What is right: images, vectors with vectors as targets, and frozen features."""
OF_FEATURES = ("linear-probe", "ncm", "ranpac")
"""Learners that take nothing else."""
IN_CLASSES = {
    "another size": (
        lambda e: replace(e, x=e.x[..., 1:]),
        r"uint8 of shape \(2, 4, 1, 12, 11\).*takes \(B, N, 1, 12, 12\), uint8",
    ),
    "no channels": (lambda e: replace(e, x=e.x[:, :, 0]), r"shape \(2, 4, 12, 12\).*\(B, N, 1, 12, 12\)"),
    "floats": (lambda e: replace(e, x=e.x.float() / 255), r"inputs are float32 .*values 0 to 255\. Floats .*\.byte\(\)"),
    "no symbol": (
        lambda e: replace(e, y=torch.where(e.y == e.y[0, 0], -1, e.y)),
        "label symbol -1, .* 8 symbols .0 to 7.*`valid`",
    ),
    "one too many": (
        lambda e: replace(e, y=torch.where(e.y == e.y[0, 0], 8, e.y)),
        "label symbol 8, .* 8 symbols .*vocabulary 9",
    ),
    "labels as floats": (lambda e: replace(e, y=e.y.float()), r"targets are float32 of shape \(2, 4\).*int64, symbols 0 to 7"),
    "too few labels": (lambda e: replace(e, y=e.y[:, 1:]), r"int64 of shape \(2, 3\); with inputs \(2, 4, 1, 12, 12\)"),
    "too few tasks": (lambda e: replace(e, task=e.task[:, 1:]), r"`task` .* \(2, 3\).*\(2, 4\)"),
}
IN_NUMBERS = {
    "another size": (lambda e: replace(e, x=e.x[..., 1:]), r"float32 of shape \(2, 4, 4\).*takes \(B, N, 5\), floats"),
    "whole numbers": (lambda e: replace(e, x=e.x.long()), r"int64 of shape \(2, 4, 5\).*floats"),
    "labels": (lambda e: replace(e, y=e.task), r"targets are int64 .*takes \(2, 4, 3\), floats"),
    "targets of another size": (lambda e: replace(e, y=e.y[..., :1]), r"float32 of shape \(2, 4, 1\).*takes \(2, 4, 3\)"),
}
IN_FEATURES = {name: IN_NUMBERS[name] for name in ("another size", "whole numbers")}
IN_FEATURES |= {name: IN_CLASSES[name] for name in ("no symbol", "one too many", "labels as floats")}


def built(name: str) -> tuple[Learner, dict, Episode]:
    """The learner, what is wrong for it, and what is right."""
    without_learn2learn(name)
    torch.manual_seed(0)
    preset = LEARNERS[name]
    classes = preset.only != "regression"
    config = preset.meta_config() if preset.meta else next(iter(preset.trained.values()))(EPISODES)
    if name in OF_FEATURES:
        return config.build(FEATURES).eval(), IN_FEATURES, FROZEN
    return (
        untrained(config).build(BIG if classes else VECTORS).eval(),
        IN_CLASSES if classes else IN_NUMBERS,
        CLASSES if classes else NUMBERS,
    )


@pytest.mark.filterwarnings("ignore:The images are grey")
@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_refuses_what_it_was_not_built_for(name):
    learner, wrong, episode = built(name)
    state = learner.init_state(2)
    for spoilt, said in wrong.values():
        bad = spoilt(episode.stream)
        calls = [
            lambda bad=bad: learner.learn(state, bad),
            lambda bad=bad: learner.learn_predict(learner.init_state(2), bad),
            lambda bad=bad: learner.meta_loss(replace(episode, stream=bad)),
        ]
        if learner.support:
            calls.append(lambda bad=bad: learner.predict_with(state, bad, episode.queries.x))
        if bad.x is not episode.stream.x:
            calls.append(lambda bad=bad: learner.predict(state, bad.x))
            calls.append(lambda bad=bad: learner.predict_with(state, episode.stream, bad.x))
        for call in calls:
            with pytest.raises(UserError, match=said):
                call()


def test_targets_of_regression_are_floats_of_their_shape():
    for spoilt, said in IN_NUMBERS.values():
        with pytest.raises(UserError, match=said):
            check_examples(spoilt(NUMBERS.stream), VECTORS)
    check_examples(replace(NUMBERS.stream, x=NUMBERS.stream.x.double()), VECTORS)
    check_examples(NUMBERS.stream[:0], VECTORS)


def test_labels_of_padding_may_be_anything():
    y = torch.tensor([[0, 8, -1]])
    stream = replace(CLASSES.stream[:1].row(0), x=torch.zeros(1, 3, *IMAGES.x_shape, dtype=torch.uint8), y=y, task=y)
    with pytest.raises(UserError, match="label symbol -1"):
        check_symbols(stream, IMAGES)
    check_examples(replace(stream, valid=y == 0), IMAGES)
    check_examples(stream[:1], IMAGES)
    check_examples(stream[:0], IMAGES)
