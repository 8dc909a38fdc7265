"""BAdam: Bayesian adaptive moment regularisation (Foster and Brintrup 2023, arXiv 2309.08546).

Each weight has a normal distribution N(mu, sigma^2), that of no two depends on each other. With weights drawn as
mu + sigma eps, g the gradient there of the sum of the losses, and E the mean over some draws,

    m <- b1 m + (1 - b1) E[g],    v <- b2 v + (1 - b2) E[g]^2,
    mu <- mu - rate sigma^2 sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + small),
    sigma <- sigma sqrt(1 + (sigma E[g eps] / 2)^2) - sigma^2 E[g eps] / 2.

The last line is that of Bayesian gradient descent (Zeno et al. 2018), whose step of mu is rate sigma^2 E[g]. Weights that the
losses so far have made certain, whose sigma is small, hardly move any more: nothing else holds what was learnt, and no task
has to be told. Where E[g eps] is not zero, as it is with few draws, sigma is drawn down more than up.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

SMALL = 1e-10
"""Added to the root of v."""


class BAdam(torch.optim.Optimizer):
    """The steps above, for any network. The parameters are the means, and predict as such.

    Arguments:
        params: parameters, or groups of them.
        lr: the rate; a step is at most about so many times sigma^2.
        deviation: sigma before the first step.
        samples: draws of the weights for each step; that of the first group counts for all.
        betas: b1 and b2.
        seed: of the draws, which are a function of it and of the number of the step, so that `state_dict` is all that a run
            needs to go on as if it had not been stopped.

    Raises:
        ValueError: one of them is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        deviation: float = 0.06,
        samples: int = 10,
        betas: tuple[float, float] = (0.9, 0.999),
        seed: int = 0,
    ):
        if lr < 0 or deviation <= 0 or samples < 1 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"lr {lr:g} is 0 or more, deviation {deviation:g} above 0, samples {samples} 1 or more, betas {betas} below 1"
            )
        super().__init__(params, {"lr": lr, "deviation": deviation, "samples": samples, "betas": betas, "seed": seed})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; what the closure has given at the last draw.

        Arguments:
            closure: clears the gradients, and finds the loss and its gradients anew; it is called once for each draw. The loss
                is the *sum* over the examples of a batch: the more examples speak, the more certain a weight becomes.

        Raises:
            ValueError: there is no closure.
        """
        if closure is None:
            raise ValueError("BAdam draws weights several times a step: give `step` a closure that finds the gradients anew")
        parts = [(part, self._ready(part, group), group) for group in self.param_groups for part in group["params"]]
        means = [part.clone() for part, _, _ in parts]
        sums: list[tuple[Tensor, Tensor]] = [(torch.zeros_like(mean), torch.zeros_like(mean)) for mean in means]
        samples, loss = parts[0][2]["samples"], None
        try:
            for draw in range(samples):
                noise = [self._noise(place, draw, *own) for place, own in enumerate(parts)]
                for (part, state, _), mean, eps in zip(parts, means, noise, strict=True):
                    part.copy_(mean + state["deviation"] * eps)
                with torch.enable_grad():
                    loss = closure()
                for (part, _, _), eps, (gradient, product) in zip(parts, noise, sums, strict=True):
                    if part.grad is not None:
                        gradient.add_(part.grad, alpha=1 / samples)
                        product.addcmul_(part.grad, eps, value=1 / samples)
        finally:  # also where a closure is stopped
            for (part, _, _), mean in zip(parts, means, strict=True):
                part.copy_(mean)
        for (part, state, group), (gradient, product) in zip(parts, sums, strict=True):
            if part.grad is not None:
                state["step"] += 1
                moments = state["deviation"], state["first"], state["second"]
                badam_step_(part, *moments, gradient, product, state["step"], group["lr"], group["betas"])
        return loss

    def _ready(self, part: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state = self.state[part]
        if not state:
            state["step"] = torch.zeros((), device=part.device)
            state["deviation"] = torch.full_like(part, group["deviation"])
            state["first"], state["second"] = torch.zeros_like(part), torch.zeros_like(part)
        return state

    def _noise(self, place: int, draw: int, part: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        number = (int(state["step"]) * 4096 + draw) * 4096 + place
        rng = torch.Generator().manual_seed((group["seed"] * 0x9E3779B97F4A7C15 + number) % 2**63)
        return torch.randn(part.shape, generator=rng, dtype=part.dtype).to(part.device)


def badam_step_(
    mean: Tensor,
    deviation: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    product: Tensor,
    step: Tensor,
    rate: float | Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
) -> None:
    """One step on tensors of one shape, in place.

    Arguments:
        gradient, product: means over draws of the gradient, and of the gradient times its draw.
        step: its number, from 1, and `rate` broadcast to them.
    """
    first.lerp_(gradient, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    scale = rate * (1 - betas[1] ** step).sqrt() / (1 - betas[0] ** step)
    mean -= scale * deviation.square() * first / (second.sqrt() + SMALL)
    half = deviation * product / 2
    deviation.mul_((1 + half.square()).sqrt() - half)
