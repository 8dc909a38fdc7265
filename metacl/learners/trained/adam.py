"""Adam for many networks at once, in place."""

import torch
from torch import Tensor

from metacl.nets.scratch import Weights

FIRST, SECOND, SMALL = 0.9, 0.999, 1e-8
"""Adam's constants: how much of the running means of the gradient and of its square stays, and what is added to the root."""


def adam_(weights: Weights, moments: tuple[Weights, ...], gradients: Weights, step_B: Tensor, rate: float | Tensor) -> None:
    """One step of Adam on B networks, in place.

    Arguments:
        moments: the running means of the gradient and of its square, by name.
        step_B: the number of this step, from 1.
        rate: one learning rate for all, or (B,).
    """
    rate_B = torch.as_tensor(rate, dtype=torch.float64, device=step_B.device).expand(len(step_B))
    for name, gradient in gradients.items():
        first, second = moments[0][name], moments[1][name]
        shape = -1, *[1] * (gradient.ndim - 1)
        step, rate = step_B.to(gradient).view(shape), rate_B.to(gradient).view(shape)
        adam_step_(weights[name], first, second, gradient, step, rate)


def adam_step_(weight: Tensor, first: Tensor, second: Tensor, gradient: Tensor, step: Tensor, rate: Tensor) -> None:
    """One step of Adam (Kingma and Ba 2015) on tensors of one shape, in place. `step`, from 1, and `rate` broadcast to it."""
    first.lerp_(gradient, 1 - FIRST)
    second.mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
    root = (second / (1 - SECOND**step)).sqrt_().add_(SMALL)
    weight -= first / root * (rate / (1 - FIRST**step))
