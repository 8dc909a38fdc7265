"""`check_stream` passes every stream of the table, and says in words what is wrong with one that is not."""

from dataclasses import replace

import pytest
import torch
from making import labelled_folder

from episodes import STREAMS, DataConfig, EpisodeSpec, Examples, Part, Task, UserError, check_stream
from episodes.errors import Notice
from episodes.tasks.datasets import DatasetsConfig, EachData
from episodes.tasks.parts import ImageStreamConfig
from episodes.tasks.permuted import PermutedConfig
from episodes.tasks.regression import RegressionConfig


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_of_the_table(name, tmp_path, cache):
    config = STREAMS[name].config
    if isinstance(config, DatasetsConfig):
        folders = [labelled_folder(tmp_path / part, classes=number, each=6) for part, number in (("a", 3), ("b", 2))]
        with pytest.warns(Notice, match="brought to 3 x 6 x 6"):
            check_stream(replace(config, sets=tuple(folders), data=EachData(size=6)).load())
        return
    if isinstance(config, ImageStreamConfig):
        config = replace(config, data=DataConfig(labelled_folder(tmp_path / "data", classes=10, each=6), size=6))
    check_stream(config.load())
    if isinstance(config, PermutedConfig):
        check_stream(replace(config, unseen=True).load())


def test_a_stream_of_one_task_and_the_other_rule():
    check_stream(RegressionConfig(bits="flip-one", train=30, held_out=10).load(), seed=7)
    check_stream(RegressionConfig(train=30, held_out=10, unseen=True).load())
    one = Right()
    one.most_tasks = 1
    check_stream(one)


class Right:
    """Vectors with a class each; every way to be wrong is a subclass below."""

    name, fingerprint = "right", "right-1"
    spec = EpisodeSpec("vector", (4,), "cross_entropy", symbols=3)
    most_tasks: int | None = 5

    def task(self, seed: int, index: int) -> Task:
        if self.most_tasks is not None and index >= self.most_tasks:
            raise UserError("no more")
        return Task(self.half(seed, index, 12), self.half(seed, index + 100, 6))

    def half(self, seed: int, index: int, length: int) -> Part | Examples:
        examples = self.examples(seed, index, length)
        return Part(length, examples.__getitem__)

    def examples(self, seed: int, index: int, length: int) -> Examples:
        rng = torch.Generator().manual_seed(1000 * seed + index)
        x, y = torch.rand(1, length, 4, generator=rng), torch.randint(0, 3, (1, length), generator=rng)
        return Examples(x, y, torch.full((1, length), index % 100))


def changed(**change):
    """The right examples with one tensor replaced by a function of them."""

    class Changed(Right):
        def examples(self, seed, index, length):
            examples = super().examples(seed, index, length)
            return replace(examples, **{name: make(examples) for name, make in change.items()})

    return Changed()


class Counts(Right):
    asked = 0

    def examples(self, seed, index, length):
        self.asked += 1
        return super().examples(seed, index + 1000 * self.asked, length)


class DrawsWhenLookedAt(Right):
    def half(self, seed, index, length):
        rng = torch.Generator().manual_seed(seed)

        def fetch(where: slice) -> Examples:
            examples = self.examples(seed, index, length)
            return replace(examples, x=torch.rand(1, length, 4, generator=rng))[where]

        return Part(length, fetch)


class IgnoresTheSlice(Right):
    def half(self, seed, index, length):
        examples = self.examples(seed, index, length)
        return Part(length, lambda where: examples[: where.stop - where.start])


class WritesOverWhatItGave(Right):
    buffer = torch.zeros(1, 12, 4)

    def examples(self, seed, index, length):
        examples = super().examples(seed, index, length)
        return replace(examples, x=self.buffer[:, :length].copy_(examples.x))


class OneSeed(Right):
    def examples(self, seed, index, length):
        return super().examples(0, index, length)


class OneTask(Right):
    def examples(self, seed, index, length):
        return replace(super().examples(seed, index // 100, length), task=torch.full((1, length), index % 100))


class Endless(Right):
    def task(self, seed, index):
        return Task(self.half(seed, index, 12), self.half(seed, index + 100, 6))


class Empty(Right):
    def task(self, seed, index):
        return Task(self.half(seed, index, 12), self.half(seed, index, 0))


class Seeds(Right):
    def examples(self, seed, index, length):
        torch.manual_seed(seed)
        return super().examples(seed, index, length)


def named(**attributes):
    stream = Right()
    for name, value in attributes.items():
        setattr(stream, name, value)
    return stream


WRONG = {
    "a count of what was asked": (Counts(), "train of task 2 must be the same when asked again"),
    "random at each look": (DrawsWhenLookedAt(), r"the slice \[0:1\] must have the same examples"),
    "a slice from elsewhere": (IgnoresTheSlice(), r"the slice \[4:9\] must have the same examples"),
    "one buffer for all": (WritesOverWhatItGave(), "train of task 2 must be the same when asked again"),
    "the seed left out": (OneSeed(), "seeds 0 and 1 must have other tasks"),
    "the index left out": (OneTask(), "tasks 0 and 1 must not be the same"),
    "no end": (Endless(), "task 5, past `most_tasks` = 5, must raise a UserError"),
    "nothing held out": (Empty(), "held_out of task 0 must not be empty"),
    "another shape": (
        named(spec=EpisodeSpec("vector", (5,), "cross_entropy", symbols=3)),
        r"`x` must have the shape \(1, 12, 5\)",
    ),
    "another kind": (named(spec=EpisodeSpec("image", (4,), "cross_entropy", symbols=3)), "`x` must be torch.uint8"),
    "another target": (named(spec=EpisodeSpec("vector", (4,), "mse", y_shape=(1,))), r"`y` must have the shape \(1, 12, 1\)"),
    "doubles": (changed(x=lambda examples: examples.x.double()), "`x` must be torch.float32"),
    "not finite": (changed(x=lambda examples: examples.x / 0), "`x` must be finite"),
    "a label too many": (changed(y=lambda examples: examples.y + 1), r"labels must be in 0..2, but are in .*3"),
    "a label below 0": (changed(y=lambda examples: examples.y - 1), r"labels must be in 0..2, but are in -1"),
    "another task": (changed(task=lambda examples: examples.task + 1), r"`task` must be 0, but holds \[1\]"),
    "padding": (changed(valid=lambda examples: examples.task >= 0), "`valid` must be None"),
    "no fingerprint": (named(fingerprint=""), "`fingerprint` must be a str"),
    "no tasks": (named(most_tasks=0), "`most_tasks` must be None or at least 1"),
    "global random numbers": (Seeds(), "global random numbers of torch"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_stream_is_caught(case):
    stream, expected = WRONG[case]
    torch.manual_seed(12345)
    with pytest.raises(AssertionError, match=expected):
        check_stream(stream)


def test_the_right_one_is_right():
    check_stream(Right(), seed=3)
