"""Schedules of streams: what each promises, for any stream and seed; and that a phase is a function of its address alone."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import labelled_folder, small_pool
from scipy.stats import kstest

from episodes import EpisodeSpec, Examples, Part, SeededStream, StreamSchedule, Task, UserError, check_stream, scheduled
from episodes.scheduled import Scheduled
from episodes.stream import shared_images
from episodes.tasks.permuted import Permuted
from episodes.tasks.regression import SlowlyChangingRegression
from episodes.tasks.splits import Incremental, Splits
from metacl.cli import evaluate_main, train_main
from metacl.commands.data_of import found
from metacl.commands.evaluate import words_of
from metacl.commands.parse_evaluate import parse_evaluate
from metacl.recipes.config import OF_ENDLESS

MANY = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SCHEDULES = {
    "different": StreamSchedule(different=3),
    "blur": StreamSchedule(blur=0.5),
    "iid": StreamSchedule(different=4, blur=1.0),
    "shots": StreamSchedule(shots_least=2),
    "noise": StreamSchedule(noise=0.3),
    "all": StreamSchedule(3, 0.7, 2, 0.2),
}


class Numbered:
    """Task t of a seed has 5 + 3 * (t % 4) examples, each of which says which it is: x is (seed, task, place), y the place
    among 7 labels. Its halves are slices, or whole `Examples`."""

    def __init__(self, most_tasks: int | None = None, whole: bool = False):
        self.name, self.most_tasks, self.fingerprint, self.whole = "numbered", most_tasks, f"{most_tasks}", whole
        self.spec = EpisodeSpec("vector", (3,), "cross_entropy", symbols=7)

    def task(self, seed: int, index: int) -> Task:
        if self.most_tasks is not None and index >= self.most_tasks:
            raise UserError("there is none")
        train, held_out = (self._half(seed, index, first, size) for first, size in ((0, 5 + 3 * (index % 4)), (100, 4)))
        return Task(train, held_out) if self.whole else Task(*(Part(len(own), own.__getitem__) for own in (train, held_out)))

    def _half(self, seed: int, index: int, first: int, size: int) -> Examples:
        place = torch.arange(first, first + size)
        x = torch.stack([torch.full_like(place, seed), torch.full_like(place, index), place], 1)[None].float()
        return Examples(x, place[None] % 7, torch.full((1, size), index))


def cells(half) -> list[tuple[int, int, int, int]]:
    """(the task it was of, its place there, its label, the visit that `task` says)."""
    part = half[:]
    return [(int(x[1]), int(x[2]), int(y), int(t)) for x, y, t in zip(part.x[0], part.y[0], part.task[0], strict=True)]


@st.composite
def schedules(draw, **fixed) -> StreamSchedule:
    different = draw(st.none() | st.integers(2, 5))
    options = {
        "different": different,
        "blur": draw(st.sampled_from([0.0, 0.2, 0.6, 0.99] + [1.0] * (fixed.get("different", different) is not None))),
        "shots_least": draw(st.none() | st.integers(1, 20)),
        "noise": draw(st.sampled_from([0.0, 0.4])),
    }
    return StreamSchedule(**options | fixed)


STREAMS = {
    "numbered": Numbered(),
    "that ends": Numbered(5),
    "whole": Numbered(whole=True),
    "splits": Splits("splits", small_pool([9] * 5), small_pool([4] * 5, seed=1), 2),
    "incremental": Incremental("classes", small_pool([9] * 8), small_pool([4] * 8, seed=1), 2, cumulative=False),
    "permuted": Permuted("pixels", small_pool([20, 30]), held_out=5),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_scheduled_stream_is_a_stream(name, kind):
    check_stream(scheduled(STREAMS[name], SCHEDULES[kind]))


@MANY
@given(schedules(), st.integers(0, 9), st.integers(0, 2**16), st.booleans())
def test_a_phase_is_a_function_of_its_address(schedule, index, seed, whole):
    one, two = scheduled(Numbered(whole=whole), schedule), scheduled(Numbered(), schedule)
    for other in (index + 1, 0):
        cells(two.task(seed, other).train)
    assert cells(one.task(seed, index).train) == cells(two.task(seed, index).train)
    whole_part, part = cells(one.task(seed, index).train), one.task(seed, index).train
    assert cells(part[1:]) == whole_part[1:] and cells(part[1:4:2]) == whole_part[1:4:2] and len(part[0:0]) == 0
    places = [place for place in (2, 0, 1) if place < len(part)]
    assert cells(part.take(np.array(places))) == [whole_part[place] for place in places]


@MANY
@given(schedules(noise=0.0, shots_least=None), st.integers(0, 2**16))
def test_each_example_comes_once_in_a_round(schedule, seed):
    """Of a stream that ends, or of the first round where tasks recur; and a phase is as long as its task."""
    size = schedule.different or 5
    stream = scheduled(Numbered(None if schedule.different else 5), schedule)
    phases = [cells(stream.task(seed, index).train) for index in range(size + (schedule.different is not None))]
    assert [len(phase) for phase in phases[:size]] == [5 + 3 * (t % 4) for t in range(size)]
    found = Counter((task, place) for phase in phases for task, place, _, visit in phase if visit < size)
    wanted = Counter((t, place) for t in range(size) for place in range(5 + 3 * (t % 4)))
    if schedule.blur in (0.0, 1.0) or not schedule.different:
        assert found == wanted
    else:
        assert found <= wanted and found.total() >= wanted.total() - 14 // 2, "some of the last visit are learnt after it"
    assert all(label == place % 7 for phase in phases for _, place, label, _ in phase), "labels stay"


@MANY
@given(st.sampled_from([0.2, 0.5, 0.99]), st.integers(1, 30), st.integers(0, 2**16))
def test_blur_is_between_neighbours(blur, index, seed):
    """So many of a phase are of each neighbour, and no others; what it gives to one it does not get back."""
    phase = cells(scheduled(Numbered(), StreamSchedule(blur=blur)).task(seed, index).train)
    lengths = [5 + 3 * (t % 4) for t in range(index - 1, index + 2)]
    of = Counter(visit for *_, visit in phase)
    assert set(of) <= {index - 1, index, index + 1} and all(task == visit for task, _, _, visit in phase)
    for neighbour, shorter in ((index - 1, min(lengths[:2])), (index + 1, min(lengths[1:]))):
        assert int(blur * shorter / 2) <= of[neighbour] <= min(int(blur * shorter / 2) + 1, shorter // 2)
    assert of[index] > 0


def test_the_share_that_is_blurred_is_the_asked_one():
    stream, mixed, number = scheduled(Numbered(), StreamSchedule(blur=0.4)), 0, 0
    for seed in range(100):
        phase = cells(stream.task(seed, 4).train)  # a short task between two: 5 examples beside 14 and 8
        mixed, number = mixed + sum(visit != 4 for *_, visit in phase), number + len(phase)
    assert abs(mixed / number - 0.4) < 0.04


@MANY
@given(st.integers(2, 5), st.integers(0, 2**16))
def test_tasks_recur_in_rounds(different, seed):
    stream = scheduled(Numbered(), StreamSchedule(different=different))
    assert stream.most_tasks is None
    visits = [stream.task(seed, index) for index in range(3 * different)]
    which = [cells(own.train)[0][0] for own in visits]
    assert which[:different] == list(range(different))
    assert all(sorted(which[r : r + different]) == which[:different] for r in (different, 2 * different))
    for index, (task, own) in enumerate(zip(which, visits, strict=True)):
        first = visits[task]
        assert sorted(cell[:3] for cell in cells(own.train)) == [cell[:3] for cell in cells(first.train)]
        assert [cell[:3] for cell in cells(own.held_out)] == [cell[:3] for cell in cells(first.held_out)]
        assert {cell[3] for cell in cells(own.train) + cells(own.held_out)} == {index}, "`task` is the visit"


def test_rounds_and_their_examples_are_in_other_orders():
    stream = scheduled(Numbered(), StreamSchedule(different=4))
    orders = [tuple(cells(stream.task(seed, 4 * r + i).train)[0][0] for i in range(4)) for seed in range(3) for r in (1, 2, 3)]
    assert len(set(orders)) > 5
    again = [[place for _, place, *_ in cells(stream.task(seed, 4).train)] for seed in range(5)]
    assert all(own != sorted(own) for own in again)


def test_random_order_is_uniform_over_a_round():
    """Each place of a round is as likely of each task as the task is long."""
    stream, firsts = scheduled(Numbered(), StreamSchedule(different=3, blur=1.0)), []
    for seed in range(200):
        firsts += [cells(stream.task(seed, phase).train)[0][0] for phase in (0, 2)]
    shares = np.bincount(firsts, minlength=3) / 400
    np.testing.assert_allclose(shares, np.array([5, 8, 11]) / 24, atol=0.07)


@MANY
@given(st.integers(1, 20), schedules(different=None, shots_least=None, noise=0.0), st.integers(0, 2**16))
def test_shots_are_between_the_least_and_all(least, others, seed):
    fewer = scheduled(Numbered(), StreamSchedule(**vars(others) | {"shots_least": least}))
    for index in range(4):
        whole = 5 + 3 * (index % 4)
        assert min(least, whole) <= len(fewer.task(seed, index).train) <= whole
        assert len(fewer.task(seed + 1, index).train) == len(fewer.task(seed, index).train), "alike for every seed"


def test_shots_are_imbalanced_evenly_in_their_logarithm():
    stream = scheduled(SlowlyChangingRegression(train=1000, held_out=2), StreamSchedule(shots_least=10))
    sizes = np.array([len(stream.task(0, index).train) for index in range(200)])
    assert sizes.min() < 15 and sizes.max() > 800
    assert kstest(np.log10(sizes / 10) / 2, "uniform").pvalue > 0.01
    source = SeededStream(stream, [0, 1])
    assert [len(source.task(i).train) for i in range(5)] == sizes[:5].tolist()


@MANY
@given(schedules(noise=0.0), st.integers(0, 6), st.integers(0, 2**16))
def test_noise_changes_labels_and_nothing_else(others, index, seed):
    plain, noisy = (Scheduled(Numbered(), StreamSchedule(**vars(others) | {"noise": p})) for p in (0.0, 1.0))
    right, wrong = (cells(stream.task(seed, index).train) for stream in (plain, noisy))
    assert [(a, b, d) for a, b, _, d in right] == [(a, b, d) for a, b, _, d in wrong]
    assert all(a[2] != b[2] and 0 <= b[2] < 7 for a, b in zip(right, wrong, strict=True))
    assert cells(plain.task(seed, index).held_out) == cells(noisy.task(seed, index).held_out)


def test_the_share_of_noise_is_the_asked_one_and_all_others_are_as_likely():
    stream, moved = scheduled(Numbered(), StreamSchedule(noise=0.3)), []
    for index in range(200):
        moved += [(label - place) % 7 for _, place, label, _ in cells(stream.task(0, index).train)]
    shares = np.bincount(moved, minlength=7) / len(moved)
    np.testing.assert_allclose(shares, [0.7] + [0.05] * 6, atol=0.025)


def test_what_makes_no_sense_is_said():
    for stream, schedule, words in (
        (Numbered(), StreamSchedule(blur=1.0), "numbered has no end.*--schedule.different 10"),
        (Numbered(4), StreamSchedule(different=5), "has 4 tasks. Take 4 or fewer"),
        (SlowlyChangingRegression(), StreamSchedule(noise=0.1), "has none to change"),
    ):
        with pytest.raises(UserError, match=words):
            scheduled(stream, schedule)
    for options, words in (
        ({"different": 1}, "schedule.different must be at least 2"),
        ({"blur": 1.1}, "schedule.blur must be at most 1"),
        ({"noise": -0.1}, "schedule.noise must be at least 0"),
        ({"shots_least": 0}, "schedule.shots-least must be at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            StreamSchedule(**options)
    with pytest.raises(UserError, match="there is none"):
        scheduled(Numbered(5), StreamSchedule(blur=1.0)).task(0, 5)
    assert scheduled(plain := Numbered(), StreamSchedule()) is plain
    twice = Permuted("pixels", small_pool([2, 2]), held_out=1)
    assert shared_images(scheduled(twice, StreamSchedule(blur=0.1))) == shared_images(twice)


def test_a_stream_that_mixes_without_saying_so_is_no_stream():
    stream = Scheduled(Numbered(), StreamSchedule(blur=0.5))
    stream.mixed = False
    with pytest.raises(AssertionError, match="`task` must be 0"):
        check_stream(stream)


def test_from_the_command_line(cli, tmp_path, cache):
    """Learners from nothing and a meta-trained one; resumed; and what is learnt is in the title."""
    folder = labelled_folder(tmp_path / "pictures", classes=8, each=12)
    data = ["--stream.data.name", folder, "--stream.data.size", "10", "--tasks", "4", "--lags", "1", "--matrix"]
    schedule = ["--schedule.different", "3", "--schedule.blur", "1", "--schedule.shots-least", "4", "--schedule.noise", "0.1"]
    words = ["split-tiny-imagenet", "nadaraya-watson", "knn", *data, *schedule, "--out", "both"]
    status, text = cli(evaluate_main, *words)
    assert status == 0 and "different 3, blur 1, shots-least 4, noise 0.1" in text, text
    found = json.loads(Path("both/results.json").read_text())
    assert found["config"]["schedule"] == {"different": 3, "blur": 1.0, "shots_least": 4, "noise": 0.1, "domains": None}
    fingerprint = json.loads(Path("both/knn/environment.json").read_text())["stream_fingerprint"]
    assert "schedule-1/different 3" in fingerprint
    assert cli(evaluate_main, "--resume", "both")[0] == 0
    learner = ["--learner.width", "8", "--learner.encoder.channels", "4", "--learner.encoder.strides", "2", "--data.size", "10"]
    shape = ["--episodes.tasks", "2", "--episodes.shots", "2", "--episodes.queries", "2", "--steps", "2", "--batch-size", "2"]
    assert cli(train_main, folder, "pn", *learner, *shape, "--run", "mine")[0] == 0
    status, text = cli(evaluate_main, "mine", "split-tiny-imagenet", *data, "--schedule.blur", "0.5", "--out", "blurred")
    assert status == 0 and "blur 0.5" in text, text
    status, text = cli(evaluate_main, "split-tiny-imagenet", "knn", *data, "--schedule.blur", "1", "--out", "no")
    assert status == 2 and "has no end" in text and not Path("no").exists()


@pytest.mark.parametrize(
    ("options", "tasks", "words"), [("blur 0.5", 3, "blur 0.5"), ("different 2", OF_ENDLESS, "different 2")]
)
def test_a_class_incremental_stream_is_followed_to_its_end_if_it_has_one(options, tasks, words, tmp_path, cache):
    folder = labelled_folder(tmp_path / "pictures", classes=6, each=4)
    argv = ["class-incremental", "knn", "--stream.data.name", folder, "--stream.classes", "2", *f"--schedule.{options}".split()]
    (config,) = found(parse_evaluate(argv).configs)
    assert config.tasks == tasks
    assert words_of(config).endswith(f"class-incremental of pictures ({words})")
