"""One step of training for many networks at once, in place, each on examples of its own that weigh more or less."""

from collections.abc import Callable

from torch import Tensor
from torch.func import grad_and_value, vmap

from metacl.learners.trained.adam import adam_
from metacl.nets.scratch import Weights

Loss = Callable[[Weights, Tensor, Tensor, Tensor], Tensor]
"""Of one network: its weights, inputs (n, *x_shape), targets (n, ...) and the weight of each example (n,) -> ()."""


def weighted_step_(
    loss: Loss,
    weights: Weights,
    moments: tuple[Weights, ...],
    rate_B: Tensor,
    before_B: Tensor,
    x: Tensor,
    y: Tensor,
    weight_BN: Tensor,
) -> Tensor:
    """One step of B networks. Of one whose examples all weigh nothing weights and moments stay as they are.

    Arguments:
        moments: Adam's running means of the gradient and of its square; none: the step is one of SGD.
        rate_B: learning rates.
        before_B: steps that each network has taken.
        x, y, weight_BN: n examples of each network, and how much they weigh in its loss.

    Returns:
        (B,) whether the losses are finite.
    """
    gradients, loss_B = vmap(grad_and_value(loss))(weights, x, y, weight_BN)
    idle = (~weight_BN.any(1)).nonzero()[:, 0]
    before = [{name: w[idle] for name, w in part.items()} for part in [weights, *moments]] if len(idle) else []
    if moments:
        adam_(weights, moments, gradients, before_B + 1, rate_B)
    else:
        for name, gradient in gradients.items():
            weights[name] -= rate_B.view(-1, *[1] * (gradient.ndim - 1)) * gradient
    for part, old in zip([weights, *moments], before, strict=False):
        for name, rows in old.items():
            part[name][idle] = rows
    return loss_B.isfinite()
