"""Schedules of episodes: small functions over a table that says which drawn example stands where.

Each is a function of random numbers, the table and the shape of the episode, with random numbers of its own: what is drawn for
one is the same, whatever others do. Letters: T tasks, C classes of a task, K shots, N examples.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from episodes.errors import UserError
from episodes.tasks.across import Across
from episodes.tasks.classification import Classification
from episodes.tasks.family import Draw, TaskFamily
from episodes.types import EpisodeShape

Numbers = Callable[[str], np.random.Generator]
"""The random numbers of one episode that are for a purpose."""


class Table(NamedTuple):
    """Examples of one episode, in the order in which they come."""

    place: np.ndarray
    """(N,) which of the drawn examples it is, these laid out one row after another."""
    task: np.ndarray
    """(N,) its task."""
    domain: np.ndarray
    """(N,) which task says how inputs are changed; 2.5: half way from that of task 2 to that of the next."""
    valid: np.ndarray
    """(N,) False: padding."""
    y: np.ndarray
    """(N, ...) its target."""

    def at(self, order: np.ndarray) -> "Table":
        """The examples in another order."""
        return Table(*(column[order] for column in self))


def arranged(draw: Draw, shape: EpisodeShape, numbers: Numbers) -> tuple[Table, Table]:
    """The stream and the queries of an episode, from the rows of examples that were drawn for it (`shape.drawn`)."""
    schedule = shape.schedule
    visited = visits(numbers, shape)
    stream = _laid_out(shape, shape.shots, visited, draw.stream_y)
    queries = _laid_out(shape, shape.queries, visited, draw.query_y)
    if shape.tasks_least is not None:
        stream, queries = fewer_tasks(numbers("tasks"), (stream, queries), shape)
    if schedule.shots_least is not None:
        stream = random_shots(numbers("shots"), stream, shape)
    if schedule.classes > 1:
        stream = mixed_classes(numbers("classes"), stream, shape)
    if schedule.gradual:
        stream, queries = gradual(numbers("gradual"), (stream, queries), shape)
    if schedule.blur:
        stream = blurred(numbers("blur"), stream, shape)
    if schedule.noise:
        stream = noisy(numbers("noise"), stream, shape)
    return stream, queries


def visits(numbers: Numbers, shape: EpisodeShape) -> tuple[int, ...]:
    """(T,) which of the different tasks each task is: all of them in their order, then all again, in a random order."""
    different = shape.schedule.different(shape.tasks)
    if shape.schedule.recur == 1:
        return tuple(range(different))
    rng = numbers("recur")
    later = [rng.permutation(different) for _ in range(shape.schedule.recur - 1)]
    return tuple(np.concatenate([np.arange(different), *later])[: shape.tasks].tolist())


def fewer_tasks(rng: np.random.Generator, parts: tuple[Table, Table], shape: EpisodeShape) -> tuple[Table, Table]:
    """Between `tasks_least` and all tasks, each number as likely; the rest is padding."""
    assert shape.tasks_least is not None
    number = rng.integers(shape.tasks_least, shape.tasks + 1)
    stream, queries = (part._replace(valid=part.valid & (part.task < number)) for part in parts)
    return stream, queries


def random_shots(rng: np.random.Generator, stream: Table, shape: EpisodeShape) -> Table:
    """Between `shots_least` and all shots of each class of each task, each number as likely; the rest is padding."""
    assert shape.schedule.shots_least is not None
    number_TC1 = rng.integers(shape.schedule.shots_least, shape.shots + 1, (shape.tasks, shape.schedule.classes, 1))
    return stream._replace(valid=stream.valid & (np.arange(shape.shots) < number_TC1).reshape(-1))


def mixed_classes(rng: np.random.Generator, stream: Table, shape: EpisodeShape) -> Table:
    """The examples of each task in random order."""
    order_TL = rng.random((shape.tasks, shape.phase)).argsort(1)
    return stream.at((order_TL + shape.phase * np.arange(shape.tasks)[:, None]).reshape(-1))


def gradual(rng: np.random.Generator, parts: tuple[Table, Table], shape: EpisodeShape) -> tuple[Table, Table]:
    """Domains that move on to the next within each task: at an example by its place, at a query anywhere."""
    stream, queries = parts
    along_L = (np.arange(shape.phase) + 0.5) / shape.phase
    stream = stream._replace(domain=stream.domain + np.tile(along_L, shape.tasks))
    return stream, queries._replace(domain=queries.domain + rng.random(len(queries.domain)))


def blurred(rng: np.random.Generator, stream: Table, shape: EpisodeShape) -> Table:
    """Examples of neighbouring phases change places; with `blur 1` all of the stream. Padding stays where it is.

    Of two phases blur / 2 of the smaller one change places; a fraction of an example is a chance of one.
    """
    blur, order = shape.schedule.blur, np.arange(len(stream.place))
    if blur == 1:
        there = np.flatnonzero(stream.valid)
        order[there] = rng.permutation(there)
        return stream.at(order)
    valid_TL = stream.valid.reshape(shape.tasks, -1)
    phases = [rng.permutation(np.flatnonzero(valid_L)) + t * shape.phase for t, valid_L in enumerate(valid_TL)]
    for own, later in pairwise(phases):
        number = int(blur * min(len(own), len(later)) / 2 + rng.random())
        left, right = own[len(own) - number :], later[:number]
        order[left], order[right] = order[right], order[left]
    return stream.at(order)


def noisy(rng: np.random.Generator, stream: Table, shape: EpisodeShape) -> Table:
    """Each label is, with the chance `noise`, one of the other labels of the episode, each of them as likely."""
    labels = np.unique(stream.y[stream.valid])
    wrong = rng.random(len(stream.y)) < shape.schedule.noise
    shift = rng.integers(1, max(2, len(labels)), len(stream.y))
    others = labels[(np.searchsorted(labels, stream.y) + shift) % len(labels)]
    return stream._replace(y=np.where(wrong & stream.valid, others, stream.y))


def check_schedule(family: TaskFamily, shape: EpisodeShape) -> None:
    """Raises `UserError` where the tasks of a family cannot be arranged so, or there are too few classes for it."""
    schedule, spec = shape.schedule, family.spec
    if not (words := schedule.words()):
        return
    if getattr(family, "ordered", False):
        raise UserError(f"The order of the examples is what these tasks are about: there is no schedule {words} for them.")
    if schedule.noise and not spec.classification:
        raise UserError("schedule.noise changes labels, and these targets are none: leave it out.")
    if schedule.domains and not isinstance(family, Classification | Across):
        raise UserError(f"schedule.domains {schedule.domains} needs classes of a data set; these tasks are none. Leave it out.")
    if schedule.domains in ("rotation", "inversion") and spec.x_kind != "image":
        raise UserError(f"schedule.domains {schedule.domains} needs images; these are vectors. Take permutation.")
    rows, most = schedule.rows(shape.tasks), family.most_tasks
    if most is not None and rows > most and schedule.classes > 1:
        fewer = schedule.most_tasks(most)
        advice = f"Ask for {fewer} tasks or fewer" if fewer else f"Ask for {most} classes or fewer"
        raise UserError(f"{shape.tasks} tasks with the schedule {words} have {rows} classes, and there are {most}. {advice}.")


def _laid_out(shape: EpisodeShape, each: int, visited: tuple[int, ...], y: np.ndarray) -> Table:
    """Examples one task after another, of each class one after another."""
    place, task, domain = _in_order(shape, each, visited)
    return Table(place, task, domain, np.ones(len(place), dtype=bool), y.reshape(-1, *y.shape[2:])[place])


@lru_cache(maxsize=64)
def _in_order(shape: EpisodeShape, each: int, visited: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The places, tasks and domains of `each` examples of each class of each task."""
    schedule, T = shape.schedule, shape.tasks
    which_T, round_T = np.array(visited), np.arange(T) // schedule.different(T)
    row_TC = np.arange(schedule.classes) + (0 if schedule.domains else schedule.classes * which_T[:, None])
    row_TC = np.broadcast_to(row_TC, (T, schedule.classes))
    place_TCK = (row_TC * schedule.recur + round_T[:, None])[..., None] * each + np.arange(each)
    found: list[Any] = [place_TCK, *(np.broadcast_to(own[:, None, None], place_TCK.shape) for own in (np.arange(T), which_T))]
    columns = tuple(np.ascontiguousarray(column).reshape(-1) for column in found)
    for column in columns:
        column.flags.writeable = False
    return columns[0], columns[1], columns[2].astype(np.float64)
