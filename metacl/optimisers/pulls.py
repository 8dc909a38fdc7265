"""Pulls on the weights: to zero, to where they started, and to new random ones.

    L2               lambda |w|^2 is added to the loss: 2 lambda w to its gradient.
    L2Init           lambda |w - w_0|^2 is added to the loss, w_0 the weights at construction (Kumar, Marklund, Van Roy 2023,
                     "Maintaining Plasticity in Continual Learning via Regenerative Regularization").
    ShrinkPerturb    w <- (1 - shrink) w + perturb * noise after a step (Ash and Adams 2020, "On Warm-Starting Neural Network
                     Training"; after each step as in Dohare et al. 2021).

The first two go through the base's moments as the loss does; AdamW's own `weight_decay` is another thing. Ours: in
ShrinkPerturb the noise of a weight matrix is normal and as strong as the matrix was at construction, so that one number serves
all layers; parameters with fewer than two axes (biases, LayerNorm) are left alone.
"""

import numpy as np
import torch
from torch import Tensor

from metacl.optimisers.around import Around
from metacl.optimisers.state import parameters_of


class L2(Around):
    """A pull to zero. `strength` is lambda; parameters without a gradient are not pulled."""

    def __init__(self, base: torch.optim.Optimizer, strength: float):
        """Raises `ValueError` where the strength is below 0."""
        _check(strength=strength)
        super().__init__(base)
        self.strength = strength

    def before(self) -> None:
        for _, part, gradient in self.with_gradients():
            gradient.add_(part, alpha=2 * self.strength)


class L2Init(Around):
    """A pull to the weights at construction. `strength` is lambda; parameters without a gradient are not pulled."""

    def __init__(self, base: torch.optim.Optimizer, strength: float):
        """Raises `ValueError` where the strength is below 0."""
        _check(strength=strength)
        super().__init__(base)
        self.strength = strength
        self.own = {f"start.{i}": part.detach().clone() for i, part in enumerate(parameters_of(self))}

    def before(self) -> None:
        for i, part, gradient in self.with_gradients():
            gradient.add_(part - self.own[f"start.{i}"], alpha=2 * self.strength)


class ShrinkPerturb(Around):
    """Weights are shrunk and perturbed.

    Arguments:
        shrink: share of each weight that is taken away.
        perturb: size of the noise over the standard deviation of the matrix at construction. A matrix that started with equal
            numbers, a head of zeros for instance, gets none.
        every: steps from one time to the next.
        seed: of the noise, which is a function of the seed and the count of steps: it repeats, also after a resume.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, base: torch.optim.Optimizer, shrink: float, perturb: float, seed: int, every: int = 1):
        _check(shrink=shrink, perturb=perturb, seed=seed)
        if shrink > 1 or every < 1:
            raise ValueError(f"shrink must be at most 1 and every 1 or more, not {shrink:g} and {every}")
        super().__init__(base)
        self.shrink, self.perturb, self.seed, self.every = shrink, perturb, seed, every
        self.own = {f"spread.{i}": part.detach().std(correction=0) for i, part in self._matrices()}
        self.own["count"] = torch.zeros((), dtype=torch.int64)

    def after(self) -> None:
        self.own["count"] += 1
        count = int(self.own["count"])
        if count % self.every:
            return
        for i, part in self._matrices():
            part.mul_(1 - self.shrink)
            if self.perturb:
                rng = np.random.default_rng([self.seed, count, i])
                noise = torch.from_numpy(rng.standard_normal(part.shape, np.float32)).to(part)
                part.add_(noise * (self.perturb * self.own[f"spread.{i}"]))

    def _matrices(self) -> list[tuple[int, Tensor]]:
        return [(i, part) for i, part in enumerate(parameters_of(self)) if part.ndim > 1]


def _check(**numbers: float) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"{name} must be 0 or more, not {number:g}")
