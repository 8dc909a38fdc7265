"""What online learners are while they learn: weights, optimiser, rate and random numbers, of B learners side by side."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from episodes.errors import above_zero, at_least
from metacl.learners.trained.adam import adam_step_
from metacl.nets.scratch import Weights

Memory = dict[str, Any]
"""What a method keeps beside weights and optimiser: tensors, or buffers of examples, by name; the first axis of each is B."""


@dataclass(frozen=True)
class OnlineConfig:
    """What all online learners have."""

    rate: float = 1e-4
    """Learning rate (Adam)."""
    block: int = 1
    """Stream examples that are taken in at a time, with one update: what `learn` is given is cut into such blocks."""

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "block")
        above_zero("learner.rate", self.rate)


class OnlineState(NamedTuple):
    """B learners in training."""

    weights: Weights
    rate: Tensor
    """(B,) learning rates."""
    key: Tensor
    """(B,) int64, the seeds of their random numbers."""
    seen: Tensor
    """(B,) int64, stream examples so far."""
    used: Tensor
    """(B,) int64, examples so far of whose loss a gradient was taken, each time counted."""
    first: Tensor
    """(B, P), Adam's running mean of the gradient ..."""
    second: Tensor
    """... and of its square."""
    steps: Tensor
    """(B, 1) Adam's steps so far, or (B, P) where each weight has its own count."""
    memory: Memory


@dataclass
class Work:
    """A state while it is learning: everything may be written into."""

    flat: Tensor
    """(B, P), all weights."""
    rate: Tensor
    key: Tensor
    seen: Tensor
    used: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor
    memory: Memory

    def adam(self, gradient_BP: Tensor) -> None:
        """One step, in place."""
        self.steps += 1
        adam_step_(self.flat, self.first, self.second, gradient_BP, self.steps, self.rate[:, None])


def random_numbers(key: int, step: int, what: int) -> np.random.Generator:
    """A generator for one learner at one step, the same however it came there (Philox)."""
    return np.random.Generator(np.random.Philox(key=np.array([key, step * 16 + what], dtype=np.uint64)))
