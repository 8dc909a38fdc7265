"""Training on the examples of one task: shuffled epochs of small batches."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metacl.learners.protocol import DivergedError

Schedule = Literal["constant", "step", "cosine", "quarter"]
"""Of the rate over the epochs: as it is; a tenth after each 30 epochs; half or a quarter of a cosine, down to zero."""


def fit(
    optimiser: torch.optim.Optimizer,
    loss: Callable[[np.ndarray], Tensor],
    number: int,
    epochs: int,
    batch_size: int,
    rng: np.random.Generator,
    schedule: Schedule = "constant",
    clip: float = 0.0,
    begins: Callable[[], None] = lambda: None,
) -> None:
    """Trains, in place, what the optimiser has.

    Arguments:
        loss: of the examples at some places, of which each comes once an epoch.
        number: of examples.
        clip: largest norm of the gradient; 0 leaves it as it is.
        begins: is called before each epoch.

    Raises:
        DivergedError: the loss is not finite.
    """
    parts = [part for group in optimiser.param_groups for part in group["params"]]
    rates = [group["lr"] for group in optimiser.param_groups]
    for epoch in range(epochs):
        begins()
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * _factor(schedule, epoch, epochs)
        order = rng.permutation(number)
        for first in range(0, number, batch_size):
            with torch.enable_grad():
                value = loss(order[first : first + batch_size])
                if not value.isfinite():
                    rate = ", ".join(dict.fromkeys(f"{rate:g}" for rate in rates))
                    raise DivergedError(
                        f"The loss is not finite at the learning rate {rate}. Give a lower --learner.rate; or, where it is "
                        "theirs, a lower rate of the alignment or of the task-identity network."
                    )
                optimiser.zero_grad()
                value.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(parts, clip)
            optimiser.step()


def trainable(tree: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that gradients are taken of."""
    return {name: part.detach().clone().requires_grad_() for name, part in tree.items()}


def detached(tree: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.detach() for name, part in tree.items()}


def groups(pairs: Sequence[tuple[Sequence[Tensor], float]]) -> list[dict[str, Any]]:
    """Parameter groups, each with a rate; those without parameters are left out."""
    return [{"params": list(params), "lr": rate} for params, rate in pairs if params]


def _factor(schedule: Schedule, epoch: int, epochs: int) -> float:
    if schedule == "step":
        return 0.1 ** (epoch // 30)
    if schedule == "quarter":
        return math.cos(0.495 * math.pi * epoch / max(1, epochs - 1))
    return (1 + math.cos(math.pi * epoch / epochs)) / 2 if schedule == "cosine" else 1.0
