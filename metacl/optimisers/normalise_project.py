"""Normalise and project, NaP (Lyle, Zheng, Khetarpal et al. 2024, "Normalization and effective learning rates in reinforcement
learning").

In a network with LayerNorm growing weights only lower the rate at which it learns. So after each step each weight matrix is
scaled back to the Frobenius norm it started with,

    W <- |W_0| / |W| W,

and a LayerNorm stands before each non-linearity, which is a change of the network: for vision transformers
`metacl.nets.vit.normalised`.

Ours: biases and LayerNorm's own numbers are left alone. A matrix that is zero at construction, as the heads of some networks
are, has no norm to keep and is left alone too.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from metacl.optimisers.around import Around
from metacl.optimisers.state import parameters_of


def weights_of(optimiser: torch.optim.Optimizer, only: Iterable[Tensor] | None = None) -> list[tuple[int, Tensor]]:
    """Weight matrices and their places: parameters of two axes, and kernels of convolutions, of four.

    Arguments:
        only: these alone; None: all of the optimiser's.

    Raises:
        ValueError: one of `only` is no matrix or kernel, or not the optimiser's.
    """
    parts = parameters_of(optimiser)
    if only is None:
        return [(i, part) for i, part in enumerate(parts) if part.ndim in (2, 4)]
    place = {id(part): i for i, part in enumerate(parts)}
    found = []
    for part in only:
        if id(part) not in place or part.ndim not in (2, 4):
            raise ValueError(f"a parameter {tuple(part.shape)} is no weight matrix of this optimiser")
        found.append((place[id(part)], part))
    return found


class NormaliseProject(Around):
    """Each weight matrix keeps the Frobenius norm it has at construction.

    Arguments:
        weights: those that keep theirs; None: all of `weights_of`.
    """

    def __init__(self, base: torch.optim.Optimizer, weights: Iterable[Tensor] | None = None):
        """Raises `ValueError` as `weights_of`."""
        super().__init__(base)
        self.weights = weights_of(self, weights)
        self.own = {f"norm.{i}": part.detach().norm() for i, part in self.weights}

    def after(self) -> None:
        for i, part in self.weights:
            now, wanted = part.norm(), self.own[f"norm.{i}"]
            part.mul_(torch.where((now > 0) & (wanted > 0), wanted / now, 1))
