"""Backpropagation with BAdam (Foster and Brintrup 2023) in place of Adam: what is certain of the weights holds them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from episodes import EpisodeSpec
from episodes.errors import above_zero, at_least
from metacl.learners.trained.backprop import Backprop, BackpropConfig
from metacl.learners.trained.online_state import Memory, Work, random_numbers
from metacl.optimisers.badam import badam_step_

WEIGHTS = 6
"""Mark of the random numbers that weights are drawn with."""


@dataclass(frozen=True)
class BadamConfig(BackpropConfig):
    """Each weight has a normal distribution; it moves the less the more certain it is. No task has to be told."""

    rate: float = 0.1
    """Learning rate: a step is at most about so many times the variance of a weight."""
    deviation: float = 0.06
    """Standard deviation of each weight before the first example."""
    samples: int = 10
    """Draws of the weights for each update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "samples")
        above_zero("learner.deviation", self.deviation)

    def build(self, spec: EpisodeSpec) -> "Badam":
        return Badam(self, spec)


class Badam(Backprop):
    """One step of BAdam on the sum of the losses of each block. The mean weights answer."""

    config: BadamConfig

    def remember(self, flat_BP: Tensor) -> Memory:
        return super().remember(flat_BP) | {"deviation": torch.full_like(flat_BP, self.config.deviation)}

    def apart(self, asked: int) -> bool:
        return True

    def update(self, work: Work, x: Tensor, y: Tensor) -> None:
        if self.config.one:
            x, y = self.chosen(work, x, y)
        mean_BP, deviation_BP = work.flat.clone(), work.memory["deviation"]
        gradient_BP, product_BP = torch.zeros_like(mean_BP), torch.zeros_like(mean_BP)
        shape, samples = (self.config.samples, mean_BP.shape[1]), self.config.samples
        rngs = [random_numbers(int(key), int(seen), WEIGHTS) for key, seen in zip(work.key, work.seen, strict=True)]
        noise_SBP = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rngs], 1)
        for eps_BP in torch.from_numpy(noise_SBP).to(mean_BP):
            work.flat = mean_BP + deviation_BP * eps_BP
            found_BP = x.shape[1] * self.loss_gradient(work, x, y)[0]
            gradient_BP += found_BP / samples
            product_BP += found_BP * eps_BP / samples
        work.flat = mean_BP
        work.steps += 1
        pulled_BP = self.regularised(work, gradient_BP)
        badam_step_(work.flat, deviation_BP, work.first, work.second, pulled_BP, product_BP, work.steps, work.rate[:, None])
        self.perturbed(work)
        work.used += samples * x.shape[1]
