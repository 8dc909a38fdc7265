"""Phases: the stretches of a stream after which questions may be asked. In order, they are where `task` changes, as ever."""

import hashlib
from dataclasses import replace

import pytest
import torch
from tiny import IMAGES, SHAPE, image_benchmark, sequence
from torch.testing import assert_close

from episodes import DataConfig, Episode, EpisodeSource, Examples, UserError, load_benchmark, usual_shape
from metacl.evaluation.check import random_episode
from metacl.evaluation.follow import follow, followed
from metacl.evaluation.known import KnownLabels
from metacl.evaluation.padding import latest
from metacl.evaluation.questions import EVERYTHING, Questions
from metacl.learners.distributed import task_parts

DIGESTS = {
    "glyphs": "520e4f637d4b7d64/7189ce2743394b48",
    "sine": "942854117eeb67dd/da33d9ce7f737dc5",
    "recall": "c7785fd1b70fe56b/8288d8f1589c4f93",
    "tracking": "e54b62693cc61429/64a068432d6b9c95",
}
"""Of what was drawn before there were schedules, of meta-train and of meta-test."""


def digest(episode: Episode) -> str:
    tensors = [getattr(part, name) for part in (episode.stream, episode.queries) for name in ("x", "y", "task")]
    return hashlib.blake2b(b"".join(t.contiguous().numpy().tobytes() for t in tensors), digest_size=8).hexdigest()


@pytest.mark.parametrize(("name", "expected"), DIGESTS.items())
def test_episodes_in_order_are_those_of_ever(name, expected):
    benchmark = load_benchmark(DataConfig(name), 64)
    generators = [benchmark.generator(split, usual_shape(name), 3) for split in ("train", "test")]
    episodes = [generator.batch([0, 1, 7]) for generator in generators]
    assert "/".join(map(digest, episodes)) == expected


def mixed(batch_size: int = 2) -> Episode:
    """Three phases of two examples; the tasks of each row come in an order of its own."""
    episode = image_benchmark().generator("train", SHAPE, 0).batch(range(batch_size))
    orders = [torch.tensor([0, 2, 4, 1, 3, 5]), torch.tensor([4, 0, 1, 5, 2, 3])][:batch_size]
    parts = [episode.stream.row(b)[order] for b, order in enumerate(orders)]
    stream = Examples(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "task")))
    return replace(episode, stream=stream)


def test_phases_in_order_are_where_the_task_changes():
    episode = image_benchmark().generator("train", SHAPE, 0).batch([0, 1])
    assert episode.ends == (2, 4, 6) == replace(episode, ends=None).phases() == random_episode(IMAGES, 0, 2, 3, 2).phases()


def test_mixed_tasks_have_the_phases_that_they_are_given():
    episode = mixed()
    assert list(task_parts(episode)) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    source = EpisodeSource(episode)
    assert source.most_tasks == 3
    for index in range(3):
        task = source.task(index)
        assert torch.equal(task.train.x, episode.stream.x[:, 2 * index : 2 * index + 2])
        assert (task.held_out.task == index).all()
    cut = episode.first_tasks(2)
    assert cut.ends == (2, 4) and len(cut.stream) == 4 and cut.queries.task.unique().tolist() == [0, 1]
    assert cut.to("cpu").ends == (2, 4)


def test_mixed_tasks_without_phases_are_refused():
    with pytest.raises(UserError, match="come mixed"):
        EpisodeSource(replace(mixed(), ends=None))


def padded(episode: Episode) -> Episode:
    """With a fourth phase of examples and queries that nobody is to notice."""
    valid = torch.arange(8).expand(2, -1) < 6
    parts = []
    for part in (episode.stream, episode.queries):
        more = Examples.concatenate([part, replace(part[:2], y=part.y.flip(0)[:, :2], task=torch.full((2, 2), 3))])
        parts.append(replace(more, valid=valid))
    return replace(episode, stream=parts[0], queries=parts[1], ends=(2, 4, 6, 8))


@pytest.mark.parametrize("distributed", [None, "every"])
def test_padded_queries_change_no_meta_loss(distributed):
    episode = image_benchmark().generator("train", SHAPE, 0).batch([0, 1])
    learner = sequence(distributed=distributed).train()
    plain, more = learner.meta_loss(episode), learner.meta_loss(padded(episode))
    # After every task: the padded phase asks all of them once more.
    if distributed is None:
        assert_close(more.loss, plain.loss)
        assert_close(more.metrics["accuracy"], plain.metrics["accuracy"])
    else:
        asked_twice = learner.meta_loss(replace(padded(episode), queries=episode.queries))
        assert_close(more.loss, asked_twice.loss)
        assert_close(more.metrics["forgetting"], asked_twice.metrics["forgetting"])


def test_padding_makes_no_label_known():
    episode = padded(image_benchmark().generator("train", SHAPE, 0).batch([0, 1]))
    plain, known = (KnownLabels(EpisodeSource(own)) for own in (episode.first_tasks(3), episode))
    assert torch.equal(known.after(3), plain.after(2)) and known.after(0).sum(1).tolist() == [1, 1]


def test_the_support_of_a_padded_task_has_no_padding():
    train = padded(image_benchmark().generator("train", SHAPE, 0).batch([0, 1])).stream
    train = replace(train, valid=torch.tensor([[1, 0, 1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 1, 0]]).bool())
    support = latest(train, 3)
    assert torch.equal(support.x, torch.stack([train.x[0, [3, 5]], train.x[1, [2, 6]]])) and support.valid is None
    assert len(latest(train, 1)) == 1 and latest(train, 0) is None


def test_a_phase_of_padding_is_not_asked_before_it_is_learnt():
    source = EpisodeSource(padded(image_benchmark().generator("train", SHAPE, 0).batch([0, 1])))
    with pytest.raises(UserError, match="--asked 0"):
        next(follow(sequence(), source, EVERYTHING))


def test_what_is_asked_of_padded_rows_is_what_each_would_be_asked_alone():
    episode = image_benchmark().generator("train", replace(SHAPE, shots=3), 0).batch([0, 1])
    valid = torch.tensor([[1, 1, 0, 1, 0, 0, 1, 1, 1], [0, 1, 0, 1, 1, 1, 0, 1, 1]]).bool()
    asked = Questions(asked=1, lags=())
    _, together = followed(sequence(), EpisodeSource(replace(episode, stream=replace(episode.stream, valid=valid))), asked)
    for b in range(2):
        own = episode.stream.row(b)[valid[b]]
        ends = tuple(valid[b].view(3, 3).sum(1).cumsum(0).tolist())
        alone = EpisodeSource(Episode(own, episode.queries.row(b), episode.spec, ends))
        for left, right in zip(together, followed(sequence(), alone, asked)[1], strict=True):
            assert_close(left["prequential"]["loss"][b : b + 1], right["prequential"]["loss"])
