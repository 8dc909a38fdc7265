"""EpisodeGenerator: episode i of (benchmark, split, seed) is a pure function of these four, the same on every machine."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from episodes.rng import random_numbers
from episodes.tasks.family import TaskFamily
from episodes.types import Episode, EpisodeShape, Examples


class EpisodeGenerator(Dataset):
    """Draws episodes by their index. Nothing is remembered between two draws.

    Arguments:
        family: the task family of one meta-split.
        shape: tasks, shots and queries of an episode.
        name, split, seed: the address of the sequence; another value of any gives other episodes.
    """

    def __init__(self, family: TaskFamily, shape: EpisodeShape, name: str, split: str, seed: int):
        family.check(shape)
        self.family, self.shape = family, shape
        self.address = f"{name}/{split}/{seed}"

    def batch(self, indices: Sequence[int]) -> Episode:
        """The episodes at `indices`, stacked along the first axis."""
        draws = [self.family.draw(random_numbers(self.address, i), self.shape) for i in indices]
        stream_x, stream_y, query_x, query_y = (np.stack(part) for part in zip(*(draw[:4] for draw in draws), strict=True))
        ends = tuple(range(self.shape.shots, stream_y.shape[1] * self.shape.shots + 1, self.shape.shots))
        return Episode(self._examples(stream_x, stream_y), self._examples(query_x, query_y), self.family.spec, ends)

    __getitems__ = batch

    def classes(self, indices: Sequence[int]) -> Tensor | None:
        """(B, T) the class of each task of some episodes, by its number in the meta-split; None: tasks are no classes.

        Two tasks of one number are of one class, in whatever episode: its images are what makes a task easy or hard.
        """
        drawn = [self.family.draw(random_numbers(self.address, i), self.shape).classes for i in indices]
        known = [own for own in drawn if own is not None]
        return torch.from_numpy(np.stack(known)) if known and len(known) == len(drawn) else None

    def _examples(self, x: np.ndarray, y: np.ndarray) -> Examples:
        """(B, T, K, ...) drawn inputs and targets, one task after another."""
        B, T, K = x.shape[:3]
        task = torch.arange(T).repeat_interleave(K).expand(B, -1).contiguous()
        return Examples(self.family.fetch(x.reshape(B, T * K, *x.shape[3:])), _flat(y), task)

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


def _flat(y: np.ndarray) -> Tensor:
    return torch.from_numpy(y.reshape(y.shape[0], -1, *y.shape[3:]).copy())


def _keep(episode: Any) -> Any:
    return episode
