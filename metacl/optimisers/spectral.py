"""Penalties that keep weight matrices well conditioned, as gradients that are added before a step.

    Spectral    strength * (sigma^k - 1)^2, sigma the largest singular value, which is found by power iteration (Lewandowski,
                Kumar, Schuurmans, György, Machado 2024, "Learning Continually by Spectral Regularization"):

                    v = W^T u / |.|,    u = W v / |.|,    sigma = u^T W v,    gradient 2 (sigma^k - 1) k sigma^(k-1) u v^T

    Parseval    strength * |W W^T - s I|^2, which is least where the rows are orthogonal and as long as sqrt(s) (Chung, Cherif,
                Meger, Precup 2024, "Parseval Regularization for Continual Reinforcement Learning"):

                    gradient 4 (W W^T - s I) W = 4 W (W^T W - s I)

The kernel of a convolution counts as a matrix with a row for each channel that it makes. Ours: which matrices (`weights`), and
that there is nothing on biases and LayerNorm. With more rows than columns the rows cannot all be orthogonal; the gradient then
is that of orthogonal columns.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from metacl.optimisers.around import Around
from metacl.optimisers.normalise_project import weights_of


class Spectral(Around):
    """The largest singular value of each weight matrix is drawn to 1.

    Arguments:
        strength: of the penalty of each matrix.
        power: k.
        iterations: of the power iteration, at each step. Its vectors go on from one step to the next; 20 are made at first.
        weights: the matrices; None: all of `weights_of`.

    Raises:
        ValueError: a number is out of range, or as `weights_of`.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        strength: float,
        power: int = 2,
        iterations: int = 1,
        weights: Iterable[Tensor] | None = None,
    ):
        if strength < 0 or power < 1 or iterations < 1:
            raise ValueError(f"strength must be 0 or more, power and iterations 1, not {strength:g}, {power}, {iterations}")
        super().__init__(base)
        self.strength, self.power, self.iterations = strength, power, iterations
        self.weights = weights_of(self, weights)
        self.own = {f"left.{i}": _start(part.detach().flatten(1)) for i, part in self.weights}

    def before(self) -> None:
        for i, part in self.weights:
            if part.grad is None:
                continue
            W, left = part.flatten(1), self.own[f"left.{i}"]
            u, v = _iterated(W, left, self.iterations)
            left.copy_(torch.where(u.any(), u, left))  # of a matrix of zeros nothing is found
            sigma = u @ (W @ v)
            slope = 2 * self.power * (sigma**self.power - 1) * sigma ** (self.power - 1)
            part.grad.add_(torch.outer(self.strength * slope * u, v).view(part.shape))


def _start(W: Tensor) -> Tensor:
    """From the longest row, which cannot miss all singular vectors; a matrix of zeros has any vector."""
    longest = W.square().sum(1).argmax()
    if not bool(W[longest].any()):
        return F.one_hot(longest, len(W)).to(W)
    return _iterated(W, F.normalize(W @ W[longest], dim=0), 20)[0]


def _iterated(W: Tensor, u: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The left and the right vector after so many power iterations."""
    for _ in range(iterations):
        v = F.normalize(u @ W, dim=0)
        u = F.normalize(W @ v, dim=0)
    return u, v


class Parseval(Around):
    """The rows of each weight matrix are drawn to orthogonal ones.

    Arguments:
        strength: of the penalty of each matrix.
        scale: s, the squared length to which rows are drawn.
        weights: the matrices; None: all of `weights_of`.

    Raises:
        ValueError: a number is out of range, or as `weights_of`.
    """

    def __init__(
        self, base: torch.optim.Optimizer, strength: float, scale: float = 1.0, weights: Iterable[Tensor] | None = None
    ):
        if strength < 0 or scale <= 0:
            raise ValueError(f"strength must be 0 or more and scale above 0, not {strength:g} and {scale:g}")
        super().__init__(base)
        self.strength, self.scale, self.weights = strength, scale, weights_of(self, weights)

    def before(self) -> None:
        for _, part in self.weights:
            if part.grad is None:
                continue
            W = part.flatten(1)
            wide = W.shape[0] <= W.shape[1]
            gram = W @ W.T if wide else W.T @ W
            gram.diagonal().sub_(self.scale)
            slope = gram @ W if wide else W @ gram
            part.grad.add_(slope.view(part.shape), alpha=4 * self.strength)
