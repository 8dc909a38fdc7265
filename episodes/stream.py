"""Long streams of tasks without meta-training: what a task of each kind is. Task i is a function of (stream, seed, i) alone.

Nothing is kept from one task to the next, so a stream is endless, can be entered anywhere, and is the same on every machine.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from episodes.data.pool import ClassPool
from episodes.errors import UserError
from episodes.types import EpisodeSpec, Examples


class Part:
    """Examples (B = 1) of one task, made when they are looked at: `part[a:b]`."""

    def __init__(self, length: int, fetch: Callable[[slice], Examples]):
        self._length, self._fetch = length, fetch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> Examples:
        return self._fetch(slice(*part.indices(self._length)))


@dataclass(frozen=True)
class StreamTask:
    """A task of a stream: learnt once, in order, then asked about."""

    train: Part
    held_out: Part


class Stream(Protocol):
    """What runs along a stream asks of it."""

    name: str
    spec: EpisodeSpec
    most_tasks: int | None
    """Tasks before it runs out of data; None: endless."""
    fingerprint: str
    """Equal fingerprints, equal streams."""

    def task(self, seed: int, index: int) -> StreamTask:
        """Task `index`, from 0, of the stream of this seed. Raises `UserError` past the last."""
        ...


def side_by_side(parts: Sequence[Examples]) -> Examples:
    """Examples of several streams (one for each seed) as one batch, B = their number."""
    x, y, task = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "task"))
    return Examples(x, y, task)


class SlowlyChangingRegression:
    """Bits that change from task to task, and a fixed random net to be learnt (Dohare et al. 2024, after the query-only paper).

    x is 20 bits: the first 15 are constant within a task, the others are fair coins. y = v.h + c over 100 threshold units,
    h_i = [w_i.x + b_i > 0.7 * 21 - S_i] with S_i = (20 - sum_j w_ij + b_i) / 2; w, b, v and c are -1 or 1, drawn by the seed.

    Arguments:
        rule: at a new task `redraw` draws all 15 bits anew (the paper's code), `flip-one` flips one of them (Dohare).
        train, held_out: examples of a task.
    """

    bits, changing, units, beta = 20, 15, 100, 0.7
    most_tasks: int | None = None
    spec = EpisodeSpec("vector", (20,), "mse", y_shape=(1,))

    def __init__(self, rule: Literal["redraw", "flip-one"] = "redraw", train: int = 9_000, held_out: int = 1_000):
        self.name, self.rule, self.train, self.held_out = "slowly-changing-regression", rule, train, held_out
        self.fingerprint = f"{self.name}-1/{rule}/{train}/{held_out}"

    def task(self, seed: int, index: int) -> StreamTask:
        free = random_numbers(self, seed, "samples", index).integers(
            0, 2, (self.train + self.held_out, self.bits - self.changing)
        )
        fixed = np.broadcast_to(self.task_bits(seed, index), (len(free), self.changing))
        x = np.concatenate([fixed, free], axis=1)
        y = self.target(seed, x)
        both = Examples(_floats(x)[None], _floats(y)[None, :, None], torch.full((1, len(x)), index))
        train, held_out = both[: self.train], both[self.train :]
        return StreamTask(Part(self.train, train.__getitem__), Part(self.held_out, held_out.__getitem__))

    def task_bits(self, seed: int, index: int) -> np.ndarray:
        """(15,) the bits that are constant in a task."""
        if self.rule == "redraw":
            return random_numbers(self, seed, "bits", index).integers(0, 2, self.changing)
        start = random_numbers(self, seed, "bits", 0).integers(0, 2, self.changing)
        flips = random_numbers(self, seed, "flips", 0).integers(0, self.changing, index)
        return (start + np.bincount(flips, minlength=self.changing)) % 2

    def target(self, seed: int, x: np.ndarray) -> np.ndarray:
        """(N, 20) bits -> (N,) integers."""
        w, b, v, c = self.network(seed)
        threshold = self.beta * (self.bits + 1) - (self.bits - w.sum(1) + b) / 2
        return (x @ w.T + b > threshold) @ v + c

    def network(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """w (100, 20), b (100,), v (100,), c (), each -1 or 1."""
        rng = random_numbers(self, seed, "network", 0)
        shapes: tuple[tuple[int, ...], ...] = ((self.units, self.bits), (self.units,), (self.units,), ())
        w, b, v, c = (2 * rng.integers(0, 2, shape) - 1 for shape in shapes)
        return w, b, v, np.asarray(c)


class Permuted:
    """All images of a pool in each task, in a new order, under a new permutation of their pixels, of their labels or of both.

    Arguments:
        flat: inputs are vectors of pixels in [0, 1]; otherwise they stay images, for a permutation of the labels.
        held_out: the last images of each task; None: one in thirty.
    """

    most_tasks: int | None = None

    def __init__(
        self,
        name: str,
        pool: ClassPool,
        pixels: bool = True,
        labels: bool = False,
        flat: bool = True,
        held_out: int | None = None,
    ):
        self.name, self.pool, self.pixels, self.labels, self.flat = name, pool, pixels, labels, flat
        self.images, self.y = labelled(pool, range(len(pool.names)))
        self.held_out = max(1, len(self.y) // 30) if held_out is None else held_out
        if len(self.y) <= self.held_out:
            raise UserError(f"{pool.source} has {len(self.y)} images: too few for {self.held_out} held-out ones in each task.")
        shape = (int(np.prod(pool.x_shape)),) if flat else pool.x_shape
        self.spec = EpisodeSpec("vector" if flat else "image", shape, "cross_entropy", symbols=len(pool.names))
        self.fingerprint = f"{name}-1/{pool.fingerprint}/{pixels}/{labels}/{flat}/{self.held_out}"

    def task(self, seed: int, index: int) -> StreamTask:
        order = random_numbers(self, seed, "order", index).permutation(len(self.y))
        pixels, labels = self.permutations(seed, index)

        def fetched(chosen: np.ndarray) -> Examples:
            x = self.pool.fetch(self.images[chosen][None])
            if self.flat:
                x = x.flatten(2)[..., torch.from_numpy(pixels).to(x.device)].float() / 255
            return Examples(x, torch.from_numpy(labels[self.y[chosen]])[None].to(x.device), task_index(index, chosen, x))

        cut = len(order) - self.held_out
        return StreamTask(part_of(order[:cut], fetched), part_of(order[cut:], fetched))

    def permutations(self, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a task: the places from which its pixels are taken, and the label that each class has."""
        pixels, labels = int(np.prod(self.pool.x_shape)), len(self.pool.names)
        rng = random_numbers(self, seed, "permutations", index)
        drawn = rng.permutation(pixels), rng.permutation(labels)
        return drawn[0] if self.pixels else np.arange(pixels), drawn[1] if self.labels else np.arange(labels)


def labelled(pool: ClassPool, classes: Sequence[int] | np.ndarray | range) -> tuple[np.ndarray, np.ndarray]:
    """(I,) the places of the images of some classes, and the label of each: the place of its class in `classes`."""
    runs = [np.arange(pool.starts[c], pool.starts[c] + pool.counts[c]) for c in classes]
    return np.concatenate(runs), np.repeat(np.arange(len(runs)), [len(run) for run in runs])


def part_of(order: np.ndarray, fetched: Callable[[np.ndarray], Examples]) -> Part:
    return Part(len(order), lambda where: fetched(order[where]))


def task_index(index: int, chosen: np.ndarray, like: Tensor) -> Tensor:
    return torch.full((1, len(chosen)), index, device=like.device)


def _floats(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def random_numbers(stream: Stream, seed: int, purpose: str, index: int) -> np.random.Generator:
    """Random numbers that are a function of the stream's name, the seed, what they are for, and the task."""
    digest = hashlib.blake2b(f"{stream.name}/{seed}/{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype="<u8"), counter=[0, 0, 0, index]))
