"""TRAC: how far weights may be from where they started is learnt ("Fast TRAC: A Parameter-Free Optimizer for Lifelong
Reinforcement Learning", Muppidi, Zhang, Yang 2024).

With theta_0 the weights at construction, g the gradient, u the base's step, and S the sum of the scales, in each step

    h = g . delta over all parameters,    then delta <- delta + u, from 0 on,
    v_j <- beta_j^2 v_j + h^2,    sigma_j <- beta_j sigma_j - h,
    s_j = s_0 / erfi(1 / sqrt 2) * erfi(sigma_j / (sqrt(2 v_j) + eps))    for several beta_j,
    theta <- theta_0 + delta max(S, 0)    with S the new sum.

While moving away from theta_0 lowers the loss S grows, exponentially; otherwise the weights are drawn back. s_0, eps and the
beta_j are those of the authors, and so is that sigma_j starts at 1e-8: with v_j = 0 this is what lets the scales leave 0.

Ours: the sums are kept in float64, scales that overflow are an error, and delta is kept. The authors' code works it out of
theta, as (theta - theta_0) / (S + eps): the same, but for rounding. With S near 1e-8 float32 rounds it to nothing, and where S
comes to be below 0, which may be in the second step, weights do not move any more.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metacl.optimisers.around import Around
from metacl.optimisers.state import parameters_of

BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)


class Trac(Around):
    """The base's steps, scaled about the weights at construction.

    Arguments:
        betas: discounts of the past, each of which has a scale.
        start: s_0, size of a scale at first.
    """

    def __init__(self, base: torch.optim.Optimizer, betas: Sequence[float] = BETAS, start: float = 1e-8, eps: float = 1e-8):
        """Raises `ValueError` where a number is out of range."""
        if not betas or not all(0 < beta <= 1 for beta in betas) or start <= 0 or eps <= 0:
            raise ValueError(f"betas must lie in (0, 1], start and eps above 0, not {tuple(betas)}, {start:g} and {eps:g}")
        super().__init__(base)
        self.start, self.eps = start, eps
        parts = parameters_of(self)
        self.betas = torch.tensor(betas, dtype=torch.float64, device=parts[0].device)
        zeros = torch.zeros_like(self.betas)
        self.own = {f"reference.{i}": part.detach().clone() for i, part in enumerate(parts)}
        self.own |= {f"delta.{i}": torch.zeros_like(part) for i, part in enumerate(parts)}
        self.own |= {"variance": zeros, "sigma": torch.full_like(zeros, 1e-8), "scale": zeros.clone()}
        self._going: list[tuple[int, Tensor, Tensor]] = []

    def before(self) -> None:
        """Before the base's step, as others in it may change gradients."""
        h = torch.zeros_like(self.betas[0])
        self._going = []
        for i, part, gradient in self.with_gradients():
            h += (self.own[f"delta.{i}"].flatten() @ gradient.flatten()).to(h)
            self._going.append((i, part, part.clone()))
        self.own["variance"].mul_(self.betas**2).add_(h**2)
        self.own["sigma"].mul_(self.betas).sub_(h)

    def after(self) -> None:
        """Raises `FloatingPointError` where the scales overflow; weights are then where the base has taken them."""
        variance, sigma, scale = (self.own[name] for name in ("variance", "sigma", "scale"))
        scale.copy_(erfi(sigma / ((2 * variance).sqrt() + self.eps)) * (self.start / ERFI_1))
        if not bool(scale.sum().isfinite()):
            raise FloatingPointError(f"the scales of TRAC overflow: {scale.tolist()}; lower the rate of the base")
        by = scale.sum().clamp_min(0)
        for i, part, old in self._going:
            delta = self.own[f"delta.{i}"].add_(part - old)
            part.copy_(self.own[f"reference.{i}"] + by.to(part) * delta)
        self._going = []


def erfi(x: Tensor) -> Tensor:
    """The imaginary error function, 2 / sqrt(pi) times the integral of exp(t^2) from 0 to x, of float64.

    To 6 by its power series, all of whose terms have one sign, beyond by its asymptotic series; both to about 1e-14.
    """
    n = torch.arange(1, 151, dtype=x.dtype, device=x.device)
    square = x.clamp(-6, 6).square()[..., None]
    near = 2 / math.sqrt(math.pi) * x.clamp(-6, 6) * (1 + ((square / n).cumprod(-1) / (2 * n + 1)).sum(-1))
    far = torch.where(x.abs() > 6, x, 6)
    series = 1 + ((2 * n[:25] - 1) / (2 * far.square()[..., None])).cumprod(-1).sum(-1)
    return torch.where(x.abs() > 6, far.square().exp() / (far * math.sqrt(math.pi)) * series, near)


ERFI_1 = float(erfi(torch.tensor(1 / math.sqrt(2), dtype=torch.float64)))
"""erfi(1 / sqrt 2), by which the scales are divided."""
