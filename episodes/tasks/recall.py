"""Episodes of recall: pairs of a random key and a symbol, and questions for the symbols of keys."""

import numpy as np
import torch
from torch import Tensor

from episodes.tasks.family import Draw
from episodes.types import EpisodeShape, EpisodeSpec


class Recall:
    """How many pairs a state has room for: multi-query associative recall (MQAR: Arora et al., Zoology, ICLR 2024).

    A task is a pair: a key of 32 normal random numbers, drawn for it alone, and one of V symbols, which other keys may have
    too. The stream tells the pairs (a shot is the key with its symbol), and a query asks for the symbol of one of its keys. So
    an episode has as many pairs as tasks, and one shot and one query of each say all there is where there is no noise.
    Nothing of a pair means anything in another episode: there is nothing to remember but the stream. Keys share symbols: a
    mean of the keys of one symbol is no key, so a learner that keeps one for each symbol (`pn`) has interference, too.

    Arguments:
        vocabulary: V, the symbols, of which each pair draws one.
        noise: standard deviation of what is added to each number of a key, anew in each shot and query; 0: it is the very key.
    """

    numbers, most_tasks = 32, None

    def __init__(self, vocabulary: int, noise: float = 0.0):
        self.noise = noise
        self.spec = EpisodeSpec("vector", (self.numbers,), "cross_entropy", symbols=vocabulary)

    def check(self, shape: EpisodeShape) -> None:
        """Any shape can be drawn."""

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        tasks, examples = shape.tasks, shape.shots + shape.queries
        key = rng.standard_normal((tasks, 1, self.numbers))
        symbol = rng.integers(0, self.spec.symbols, (tasks, 1))
        x = key + self.noise * rng.standard_normal((tasks, examples, self.numbers))
        x, y = x.astype(np.float32), np.broadcast_to(symbol, (tasks, examples))
        return Draw(x[:, : shape.shots], y[:, : shape.shots], x[:, shape.shots :], y[:, shape.shots :])

    def fetch(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x)
