"""EpisodeGenerator: episode i of (benchmark, split, seed) is a pure function of these four, the same on every machine."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from episodes.arrange import Numbers, Table, arranged, check_schedule, visits
from episodes.domains import in_domains
from episodes.rng import random_numbers
from episodes.tasks.across import Across, of_one_set
from episodes.tasks.family import Draw, TaskFamily
from episodes.types import Episode, EpisodeShape, Examples


class EpisodeGenerator(Dataset):
    """Draws episodes by their index. Nothing is remembered between two draws.

    Arguments:
        family: the task family of one meta-split.
        shape: tasks, shots and queries of an episode, and its schedule.
        name, split, seed: the address of the sequence; another value of any gives other episodes.
    """

    def __init__(self, family: TaskFamily, shape: EpisodeShape, name: str, split: str, seed: int):
        family = Across(family) if shape.schedule.domains == "data-set" else family
        check_schedule(family, shape)
        self.family, self.shape, self._drawn = family, shape, shape.drawn
        family.check(self._drawn)
        self._plain = not shape.schedule.words() and shape.tasks_least is None
        self.ends = tuple(shape.phase * (t + 1) for t in range(shape.tasks))
        self.address = f"{name}/{split}/{seed}"

    def batch(self, indices: Sequence[int]) -> Episode:
        """The episodes at `indices`, stacked along the first axis."""
        draws = [self._draw(i) for i in indices]
        if self._plain:
            return self._in_order(draws)
        tables = [arranged(draw, self.shape, self._numbers(i)) for draw, i in zip(draws, indices, strict=True)]
        fewer = self.shape.tasks_least is not None
        padded = fewer or self.shape.schedule.shots_least is not None
        stream = self._examples([draw.stream_x for draw in draws], [own for own, _ in tables], indices, padded)
        queries = self._examples([draw.query_x for draw in draws], [own for _, own in tables], indices, fewer)
        return Episode(stream, queries, self.family.spec, self.ends)

    __getitems__ = batch

    def classes(self, indices: Sequence[int]) -> Tensor | None:
        """(B, T) the class of each task of some episodes, by its number in the meta-split; None: tasks are no classes, or are
        several.

        Two tasks of one number are of one class, in whatever episode: its images are what makes a task easy or hard.
        """
        if not self.shape.schedule.one_class_each:
            return None
        drawn = [(i, self._draw(i).classes) for i in indices]
        known = [own[list(self.visits(i))] for i, own in drawn if own is not None]
        return torch.from_numpy(np.stack(known)) if known and len(known) == len(drawn) else None

    def visits(self, index: int) -> tuple[int, ...]:
        """(T,) for each task of an episode, which of the different tasks it is a visit to."""
        return visits(self._numbers(index), self.shape)

    def _draw(self, index: int) -> Draw:
        return self.family.draw(random_numbers(self.address, index), self._drawn)

    def _numbers(self, index: int) -> Numbers:
        """The random numbers of the schedule of an episode; each purpose has its own."""
        return lambda purpose: random_numbers(f"{self.address}/schedule/{purpose}", index)

    def _in_order(self, draws: list[Draw]) -> Episode:
        """What no schedule changes, without a table of it: each row of examples is a task, one after another."""
        stream_x, stream_y, query_x, query_y = (np.stack(part) for part in zip(*(draw[:4] for draw in draws), strict=True))
        parts = []
        for x, y in ((stream_x, stream_y), (query_x, query_y)):
            B, T, K = x.shape[:3]
            task = torch.arange(T).repeat_interleave(K).expand(B, -1).contiguous()
            flat_y = torch.from_numpy(y.reshape(B, T * K, *y.shape[3:]).copy())
            parts.append(Examples(self.family.fetch(x.reshape(B, T * K, *x.shape[3:])), flat_y, task))
        return Episode(parts[0], parts[1], self.family.spec, self.ends)

    def _examples(self, drawn: list[np.ndarray], tables: list[Table], indices: Sequence[int], padded: bool) -> Examples:
        """Drawn inputs (rows, K, ...) of each episode, as its table arranges them."""
        places = zip(drawn, tables, strict=True)
        chosen = np.stack([own.reshape(-1, *own.shape[2:])[table.place] for own, table in places])
        if (domains := self.shape.schedule.domains) is None:
            x = self.family.fetch(chosen)
        else:
            numbers, domain_BN = [self._numbers(i)("domains") for i in indices], np.stack([table.domain for table in tables])
            if domains == "data-set":
                x = self.family.fetch(of_one_set(chosen, domain_BN, numbers))
            else:
                x = in_domains(self.family.fetch(chosen), domain_BN, self.shape, numbers)
        y, task, valid = (
            torch.from_numpy(np.stack([getattr(table, name) for table in tables])) for name in ("y", "task", "valid")
        )
        return Examples(x, y, task, valid if padded else None)

    def batches(
        self, batch_size: int, first: int = 0, last: int | None = None, part: tuple[int, int] = (0, 1), workers: int = 0
    ) -> Iterator[Episode]:
        """Batches number `first` to `last` (without end if None); batch b holds the episodes b * batch_size and following.

        Arguments:
            part: (rank, processes): each process draws its share of every batch.
            workers: processes that draw ahead of the learner; they change the speed, never an episode.
        """
        sampler = _Batches(batch_size, first, last, *part)
        pin = torch.cuda.is_available()
        # The sampler hands over whole batches: __getitems__ stacks them itself.
        yield from DataLoader(self, batch_sampler=sampler, num_workers=workers, collate_fn=_keep, pin_memory=pin)


class _Batches:
    """The indices of the batches from `first` on, for one of several processes."""

    def __init__(self, batch_size: int, first: int, last: int | None, rank: int, processes: int):
        self.batch_size, self.first, self.last, self.part = batch_size, first, last, (rank, processes)

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.first
        while self.last is None or batch < self.last:
            yield list(numbers_in(batch, self.batch_size, self.part))
            batch += 1


def numbers_in(batch: int, batch_size: int, part: tuple[int, int] = (0, 1)) -> range:
    """The numbers of the episodes of a batch; `part` (rank, processes): of one process's share of it."""
    (rank, processes), first = part, batch * batch_size
    return range(first + rank * batch_size // processes, first + (rank + 1) * batch_size // processes)


def _keep(episode: Any) -> Any:
    return episode
