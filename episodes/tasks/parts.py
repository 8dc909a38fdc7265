"""What streams over the images of a pool share: which images a task has, and how they become examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tyro.conf import Suppress

from episodes.data.config import DataConfig
from episodes.data.halves import HubImages
from episodes.data.pool import ClassPool
from episodes.source import Part
from episodes.types import Examples


@dataclass(frozen=True)
class ImageStreamConfig:
    """The options that every stream over images has."""

    name: Suppress[str]
    """The name of the stream."""
    data: DataConfig
    """The data set whose images the stream has: `glyphs`, a folder or a hub name."""
    own: Suppress[HubImages]
    """The data set that the stream is named after, and how it is read."""


def labelled(pool: ClassPool, classes: Sequence[int] | np.ndarray | range) -> tuple[np.ndarray, np.ndarray]:
    """(I,) the places of the images of some classes, and the label of each: the place of its class in `classes`."""
    runs = [np.arange(pool.starts[c], pool.starts[c] + pool.counts[c]) for c in classes]
    return np.concatenate(runs), np.repeat(np.arange(len(runs)), [len(run) for run in runs])


def part_of(order: np.ndarray, fetched: Callable[[np.ndarray], Examples]) -> Part:
    """The examples at the places `order`, fetched when they are looked at."""
    return Part(len(order), lambda where: fetched(order[where]), lambda places: fetched(order[places]))


def task_index(index: int, chosen: np.ndarray, like: Tensor) -> Tensor:
    """(1, N) the index of the task that all N chosen examples belong to."""
    return torch.full((1, len(chosen)), index, device=like.device)
