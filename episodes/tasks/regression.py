"""Regression whose inputs change slowly: as a stream, and as episodes to meta-train on."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tyro.conf import Suppress

from episodes.errors import at_least
from episodes.rng import stream_numbers
from episodes.source import Part, Task
from episodes.tasks.family import Draw
from episodes.types import EpisodeShape, EpisodeSpec, Examples


@dataclass(frozen=True)
class RegressionConfig:
    """A stream of regression whose inputs are bits, most of which change from task to task only.

    As published, nothing is held out in the strict sense: a task has 32 different inputs (its five free bits), and its held-out
    examples are the same 32 that it is learnt from. `unseen` holds eight of them out.
    """

    name: Suppress[str] = "slowly-changing-regression"
    """The name of the stream."""
    bits: Literal["redraw", "flip-one"] = "redraw"
    """How a new task of the stream differs: all 15 constant bits are drawn anew, or one of them is flipped."""
    train: int = 9_000
    """Examples of a task of the stream that are learnt from."""
    held_out: int = 1_000
    """Held-out examples of a task of the stream, which are not learnt from, but may be equal to some that are: see `unseen`."""
    unseen: bool = False
    """Held-out examples of a task are of eight of its 32 inputs, which its examples to learn from never have. As published they
    are of the same 32."""

    def __post_init__(self) -> None:
        at_least(1, self, "stream.", "train", "held_out")

    def load(self) -> "SlowlyChangingRegression":
        """The stream."""
        return SlowlyChangingRegression(self.bits, self.train, self.held_out, self.unseen)


class SlowlyChangingRegression:
    """Bits that change from task to task, and a fixed random net to be learnt (Dohare et al. 2024, after the query-only paper).

    x is 20 bits: the first 15 are constant within a task, the others are fair coins. y = v.h + c over 100 threshold units,
    h_i = [w_i.x + b_i > 0.7 * 21 - S_i] with S_i = (20 - sum_j w_ij + b_i) / 2; w, b, v and c are -1 or 1, drawn by the seed.

    Arguments:
        rule: at a new task `redraw` draws all 15 bits anew (the paper's code), `flip-one` flips one of them (Dohare).
        train, held_out: how many examples of a task are learnt from, and how many are held out.
        unseen: the inputs of held-out examples (8 of the 32 that a task has) are none of those to learn from (the other 24).
    """

    bits, changing, units, beta, apart = 20, 15, 100, 0.7, 8
    most_tasks: int | None = None
    spec = EpisodeSpec("vector", (20,), "mse", y_shape=(1,))

    def __init__(
        self,
        rule: Literal["redraw", "flip-one"] = "redraw",
        train: int = 9_000,
        held_out: int = 1_000,
        unseen: bool = False,
    ):
        self.name, self.rule, self.train, self.held_out = "slowly-changing-regression", rule, train, held_out
        self.unseen = unseen
        self.fingerprint = f"{self.name}-1/{rule}/{train}/{held_out}{'/unseen' if unseen else ''}"

    def task(self, seed: int, index: int) -> Task:
        x = self.inputs(seed, index)
        y = self.target(seed, x)
        both = Examples(_floats(x)[None], _floats(y)[None, :, None], torch.full((1, len(x)), index))
        train, held_out = both[: self.train], both[self.train :]
        return Task(*(Part(len(half), half.__getitem__, half.take) for half in (train, held_out)))

    def inputs(self, seed: int, index: int) -> np.ndarray:
        """(N, 20) the bits of a task's examples, those held out at the end."""
        fixed, examples = self.task_bits(seed, index), self.train + self.held_out
        rng, free = stream_numbers(self.name, seed, "samples", index), self.bits - self.changing
        coins = self._patterns(rng, free) if self.unseen else rng.integers(0, 2, (examples, free))
        return np.concatenate([np.broadcast_to(fixed, (examples, self.changing)), coins], axis=1)

    def _patterns(self, rng: np.random.Generator, free: int) -> np.ndarray:
        """(N, free) bits, of which those held out at the end are of `apart` patterns that the others do not have."""
        order = rng.permutation(2**free)
        drawn = rng.choice(order[self.apart :], self.train), rng.choice(order[: self.apart], self.held_out)
        return np.concatenate(drawn)[:, None] >> np.arange(free) & 1

    def task_bits(self, seed: int, index: int) -> np.ndarray:
        """(15,) the bits that are constant in a task."""
        if self.rule == "redraw":
            return stream_numbers(self.name, seed, "bits", index).integers(0, 2, self.changing)
        start = stream_numbers(self.name, seed, "bits", 0).integers(0, 2, self.changing)
        flips = stream_numbers(self.name, seed, "flips", 0).integers(0, self.changing, index)
        return (start + np.bincount(flips, minlength=self.changing)) % 2

    def target(self, seed: int, x: np.ndarray) -> np.ndarray:
        """(..., 20) bits -> (...) integers."""
        w, b, v, c = self.network(seed)
        threshold = self.beta * (self.bits + 1) - (self.bits - w.sum(1) + b) / 2
        return (x @ w.T + b > threshold) @ v + c

    def network(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """w (100, 20), b (100,), v (100,), c (), each -1 or 1."""
        rng = stream_numbers(self.name, seed, "network", 0)
        shapes: tuple[tuple[int, ...], ...] = ((self.units, self.bits), (self.units,), (self.units,), ())
        w, b, v, c = (2 * rng.integers(0, 2, shape) - 1 for shape in shapes)
        return w, b, v, np.asarray(c)


class RegressionEpisodes:
    """Episodes of slowly changing regression, to meta-train on: the first T tasks of a stream whose seed the episode draws.

    So each episode has a network of its own, and each of its tasks 15 constant bits of its own. K shots of a task are the
    first of its training examples, Q queries are held out; as in the published stream a query may be equal to a shot, since a
    task has 32 inputs.
    """

    most_tasks: int | None = None
    spec = SlowlyChangingRegression.spec

    def check(self, shape: EpisodeShape) -> None:
        """Any shape can be drawn."""

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        seed = int(rng.integers(2**63))
        stream = SlowlyChangingRegression(train=shape.shots, held_out=shape.queries)
        x = np.stack([stream.inputs(seed, index) for index in range(shape.tasks)])
        y = stream.target(seed, x)[..., None]
        x, y = x.astype(np.float32), y.astype(np.float32)
        return Draw(x[:, : shape.shots], y[:, : shape.shots], x[:, shape.shots :], y[:, shape.shots :])

    def fetch(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x)


def _floats(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
