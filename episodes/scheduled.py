"""Schedules of streams: any stream whose tasks come back, blur, are learnt from unequal numbers of examples, or have noise.

Phase i of a seed is a function of the stream, the schedule, the seed and i alone, as a task of a stream is. What each option
draws has random numbers of its own. Letters: N examples of a phase.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from episodes.domain_stream import InDomains
from episodes.errors import UserError
from episodes.rng import random_numbers, stream_numbers
from episodes.schedule import StreamSchedule
from episodes.source import Part, Task
from episodes.stream import Stream, shared_images
from episodes.tasks.datasets import Datasets
from episodes.types import Examples

VERSION = 1
"""Of what a schedule draws, a part of the fingerprint of every scheduled stream."""


def scheduled(stream: Stream, schedule: StreamSchedule) -> Stream:
    """The stream in its domains and in the order of a schedule; the stream itself where nothing is asked.

    Raises:
        UserError: the schedule makes no sense for this stream.
    """
    if schedule.domains and isinstance(stream, Datasets):
        raise UserError(
            f"schedule.domains {schedule.domains} has the first task of a stream alone, which of {stream.name} is one of the "
            "data sets: leave it out, or take class-incremental on one of them."
        )
    stream = InDomains(stream, schedule.domains) if schedule.domains else stream
    order = replace(schedule, domains=None)
    return Scheduled(stream, order) if order.words() else stream


class Scheduled:
    """A stream in another order. Its tasks are visits to those of the stream: phase i is of visit i.

    Arguments:
        stream: any stream; what it has of each task is kept, in phases as long as its tasks.
        schedule: what is changed; its domains are the stream's.

    Raises:
        UserError: labels are to be noisy where there are none; an endless stream is to come in random order, or a stream has
            fewer tasks than are to recur.
    """

    def __init__(self, stream: Stream, schedule: StreamSchedule):
        _check(stream, schedule)
        self.stream, self.schedule = stream, schedule
        self.name, self.spec = stream.name, stream.spec
        self.round = schedule.different or stream.most_tasks
        self.most_tasks = None if schedule.different else stream.most_tasks
        self.mixed = schedule.blur > 0
        self.fingerprint = f"{stream.fingerprint}/schedule-{VERSION}/{schedule.words()}"

    def task(self, seed: int, index: int) -> Task:
        """What is learnt in phase `index`, and the held-out examples of the task that visit `index` is to."""
        if self.most_tasks is not None and index >= self.most_tasks:
            return self.stream.task(seed, index)  # which says that there is none
        visits = Visits(self.stream, self.schedule, seed)
        own, length = visits.task(index), visits.length(index)
        mixed = cache(lambda: self._mixed(visits, index))  # only where it is looked at what is learnt
        noise = self._noise(seed, index, length) if self.schedule.noise else None

        def at(which: slice | np.ndarray) -> Examples:
            visit_N, place_N = mixed()
            examples = _gathered(visits, visit_N[which], place_N[which], own)
            return examples if noise is None else _noisy(examples, noise[which], self.spec.symbols)

        return Task(Part(length, at, at), _of_visit(own.held_out, index))

    def shared_images(self) -> list[str]:
        """What the stream says."""
        return shared_images(self.stream)

    def _mixed(self, visits: "Visits", index: int) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the visit that each example of a phase is of, and its place among what that visit has."""
        if self.schedule.blur == 1:
            assert self.round is not None
            first = index // self.round * self.round
            lengths = [visits.length(visit) for visit in range(first, first + self.round)]
            visit_A = np.repeat(np.arange(self.round) + first, lengths)
            place_A = np.concatenate([np.arange(length) for length in lengths])
            end = int(np.cumsum(lengths)[index - first])
            chosen = visits.numbers("blur", first).permutation(len(visit_A))[end - lengths[index - first] : end]
            return visit_A[chosen], place_A[chosen]
        visit_N, place_N = np.full(visits.length(index), index), np.arange(visits.length(index))
        last = None if self.most_tasks is None else self.most_tasks - 1
        if not self.schedule.blur:
            return visit_N, place_N
        to_last, to_next = visits.given(index)
        if index:
            theirs = visits.given(index - 1)[1][: (number := visits.exchanged(index - 1))]
            visit_N[to_last[:number]], place_N[to_last[:number]] = index - 1, theirs
        if index != last:
            theirs = visits.given(index + 1)[0][: (number := visits.exchanged(index))]
            visit_N[to_next[:number]], place_N[to_next[:number]] = index + 1, theirs
        return visit_N, place_N

    def _noise(self, seed: int, index: int, length: int) -> np.ndarray:
        """(N,) by how many labels each label is moved on: 0 where it stays right."""
        rng = stream_numbers(self.name, seed, "schedule/noise", index)
        wrong = rng.random(length) < self.schedule.noise
        return np.where(wrong, rng.integers(1, self.spec.symbols, length), 0)


class Visits:
    """The visits of one seed to the tasks of a stream: which task each is to, and which of its examples it has."""

    def __init__(self, stream: Stream, schedule: StreamSchedule, seed: int):
        self.stream, self.schedule, self.seed = stream, schedule, seed
        self.task: Callable[[int], Task] = cache(self._task)
        self.given: Callable[[int], tuple[np.ndarray, np.ndarray]] = cache(self._given)
        self.order: Callable[[int], np.ndarray | None] = cache(self._order)

    def numbers(self, purpose: str, visit: int) -> np.random.Generator:
        return stream_numbers(self.stream.name, self.seed, f"schedule/{purpose}", visit)

    def length(self, visit: int) -> int:
        """How many examples are learnt from: all of the task, or fewer of it. Equal shares for each seed."""
        whole, least = len(self.task(visit).train), self.schedule.shots_least
        if least is None or least >= whole:
            return whole
        part = random_numbers(f"{self.stream.name}/schedule/shots", visit).random()
        return max(least, round(whole * (least / whole) ** part))

    def _order(self, visit: int) -> np.ndarray | None:
        """The places in the task of the examples of a visit; None: as they are. A later visit has them in another order."""
        again = self.schedule.different is not None and visit >= self.schedule.different
        return self.numbers("order", visit).permutation(len(self.task(visit).train)) if again else None

    def exchanged(self, visit: int) -> int:
        """Examples that change places with the next visit; a fraction of an example is a chance of one."""
        shorter = min(self.length(visit), self.length(visit + 1))
        return min(int(self.schedule.blur * shorter / 2 + self.numbers("number", visit).random()), shorter // 2)

    def _given(self, visit: int) -> tuple[np.ndarray, np.ndarray]:
        """The places of a visit from which examples go to the last and to the next one, in random order; none is in both."""
        lots = self.numbers("blur", visit).permutation(length := self.length(visit))
        return lots[: length // 2], lots[length - length // 2 :]

    def _task(self, visit: int) -> Task:
        different = self.schedule.different
        if different is None or visit < different:
            return self.stream.task(self.seed, visit)
        turn, place = divmod(visit, different)
        return self.stream.task(self.seed, int(self.numbers("recur", turn).permutation(different)[place]))


def _gathered(visits: Visits, visit_N: np.ndarray, place_N: np.ndarray, own: Task) -> Examples:
    """Examples of several visits, in this order."""
    if not len(visit_N):
        return own.train[0:0]
    parts, places = list[Examples](), list[np.ndarray]()
    for visit in np.unique(visit_N).tolist():
        places.append(np.flatnonzero(visit_N == visit))
        order, wanted = visits.order(visit), place_N[places[-1]]
        parts.append(_as_visit(visits.task(visit).train.take(wanted if order is None else order[wanted]), visit))
    return Examples.concatenate(parts).take(np.concatenate(places).argsort()) if len(parts) > 1 else parts[0]


def _noisy(examples: Examples, moved_N: np.ndarray, symbols: int) -> Examples:
    y = (examples.y + torch.from_numpy(moved_N).to(examples.y.device)) % symbols
    return Examples(examples.x, y, examples.task)


def _of_visit(half: Part | Examples, visit: int) -> Part:
    """The half of a task as that of a visit to it."""
    return Part(len(half), lambda part: _as_visit(half[part], visit), lambda places: _as_visit(half.take(places), visit))


def _as_visit(examples: Examples, visit: int) -> Examples:
    return Examples(examples.x, examples.y, torch.full_like(examples.task, visit))


def _check(stream: Stream, schedule: StreamSchedule) -> None:
    """Raises `UserError` where a schedule makes no sense for a stream."""
    if schedule.noise and (not stream.spec.classification or stream.spec.symbols < 2):
        raise UserError(f"schedule.noise changes labels, and {stream.name} has none to change: leave it out.")
    if schedule.blur == 1 and schedule.different is None and stream.most_tasks is None:
        raise UserError(
            f"schedule.blur 1 is the whole stream in random order, and {stream.name} has no end. Let some of its tasks recur, "
            "as in --schedule.different 10, or take --schedule.blur 0.9."
        )
    most = stream.most_tasks
    if schedule.different is not None and most is not None and schedule.different > most:
        raise UserError(f"schedule.different {schedule.different}: {stream.name} has {most} tasks. Take {most} or fewer.")
