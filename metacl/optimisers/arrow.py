"""ARROW: gradients reshaped by the covariance of the latest ones ("Vision Transformers that Never Stop Learning", Sun 2026).

For a block of parameters with d numbers, g its gradient and G (W, d) its latest W gradients, g the last of them,

    C = G^T G / W,    p = (alpha I + beta C)^-1 g,

so that directions in which the latest gradients were large are shrunk. C is never formed: with the Gram matrix K = G G^T, of
which a step changes one row and one column, and S = I + beta / (W alpha) K, all that is needed is p = 1 / alpha G^T S^-1 e,
where e is one at the place of g in the window (Woodbury's identity, and that g is in the window).

No code of the paper was published. Its equations are as above; the choice of blocks, the relative damping, what happens before
the window is full and how the step is combined with another optimiser are this project's, and options.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from metacl.optimisers.around import Around
from metacl.optimisers.blocks import blocks_of
from metacl.optimisers.state import parameters_of

__all__ = ["Arrow", "blocks_of"]

FLOOR = 1e-8
"""Least damping where it is relative: gradients whose squared length is far below it are hardly reshaped."""
CHUNK = 8192
"""Numbers of each gradient that are turned into float64 at a time."""
ROUGH = 0.01
"""Relative damping over beta from which on products in float32 are exact enough: S = I + beta / (W alpha) K then is at most
about I + 100 W K / trace(K), so that an error of 1e-6 of K stays far below I."""


class Arrow(Around):
    """Another optimiser, whose gradients g are reshaped in some blocks of parameters before each of its steps: p = (alpha I +
    beta C)^-1 g, C the mean of g g^T over the latest gradients of the block.

        optimiser = Arrow(torch.optim.AdamW(network.parameters(), 1e-3), blocks_of(network, ["blocks.*.attn"]))

    Arguments:
        base: has these parameters and all others. `Arrow(torch.optim.SGD(...), ...)` with `scale` "raw" is the literal formula.
        blocks: {name: [parameters]}, as `blocks_of` of this module makes them; each block has a window of its own.
        window: W, gradients that are kept.
        beta: strength of the curvature.
        damping: alpha, or where `relative` that many times the mean of C's eigenvalues that are not zero.
        scale: `alpha`, p times alpha, which at beta = 0 is the gradient; `gradient`, p as long as the gradient (grafting);
            `raw`, p as it is.
        warm_up: until the window is full, `columns` uses those that are there, `plain` leaves the gradient as it is.

    Raises:
        ValueError: the window has no place, a number is out of range, a block has no parameters, or a parameter is in two
            blocks or is none of the base's.
    """

    half = True  # the window is float32, and gradients are only turned

    def __init__(
        self,
        base: torch.optim.Optimizer,
        blocks: Mapping[str, Sequence[nn.Parameter]],
        window: int = 10,
        beta: float = 1.0,
        damping: float = 1.0,
        relative: bool = True,
        scale: Literal["alpha", "gradient", "raw"] = "alpha",
        warm_up: Literal["columns", "plain"] = "columns",
    ):
        if not isinstance(blocks, Mapping) or not all(isinstance(parts, Sequence) for parts in blocks.values()):
            raise TypeError('blocks are {name: [parameters]}; blocks_of(network, ["*"]) makes one of each module at the top')
        if window < 1:
            raise ValueError(f"window must be 1 or more, not {window}: it counts the gradients that are kept")
        if beta < 0 or damping <= 0:
            raise ValueError(f"beta must be 0 or more and damping above 0, not {beta:g} and {damping:g}")
        if empty := [name for name, parts in blocks.items() if not parts]:
            raise ValueError(f"the blocks {', '.join(empty)} have no parameters")
        _check_apart(base, blocks)
        super().__init__(base)
        self.blocks = {name: list(parts) for name, parts in blocks.items()}
        self.window, self.beta, self.damping, self.relative = window, beta, damping, relative
        self.scale, self.warm_up = scale, warm_up
        rough = relative and damping >= ROUGH * beta
        self.windows = {name: _Window(parts, window, rough) for name, parts in self.blocks.items()}
        some = next(iter(self.windows.values())).gram
        self.eye = torch.eye(window, dtype=some.dtype, device=some.device)
        self.own = {f"{name}.{key}": value for name, own in self.windows.items() for key, value in own.tensors.items()}

    def before(self) -> None:
        for name, parts in self.blocks.items():
            if any(part.grad is not None for part in parts):
                own = self.windows[name]
                own.write(self.shares(own, own.add(parts)), parts)

    def shares(self, own: "_Window", place: int) -> Tensor:
        """How much of each gradient in the window the reshaped one is (count). The latest is at `place`."""
        count = int(own.count)
        gram, one = own.gram[:count, :count], self.eye[:count, place]
        if self.warm_up == "plain" and count < self.window:
            return one
        alpha = self.damping
        if self.relative:  # the trace of C, over as many eigenvalues as it has
            alpha = alpha * float(gram.trace()) / count**2 + FLOOR
        share = torch.linalg.solve(self.eye[:count, :count] + self.beta / (count * alpha) * gram, one)
        if self.scale == "raw":
            return share / alpha
        if self.scale == "gradient":
            length = (share @ gram @ share).sqrt()
            return share * (gram[place, place].sqrt() / length.clamp_min(torch.finfo(torch.float32).tiny))
        return share

    def task_begins(self) -> None:
        """Forgets the latest gradients: for learners that are told where tasks begin. Without it windows go on."""
        super().task_begins()
        for value in self.own.values():
            value.zero_()

    def names(self) -> list[str]:
        """A parameter of a block is called by the block."""
        of = {id(part): name for name, parts in self.blocks.items() for part in parts}
        return [of.get(id(part), name) for part, name in zip(parameters_of(self), super().names(), strict=True)]


class _Window:
    """The latest gradients of a block, in a ring, in float32, and their Gram matrix in float64.

    A product is exact to float64, or where `rough` to float32, which takes a third of the time.
    """

    def __init__(self, parts: Sequence[nn.Parameter], size: int, rough: bool):
        self.rough = rough
        device, self.sizes = parts[0].device, [part.numel() for part in parts]
        self.gradients = torch.zeros(size, sum(self.sizes), device=device)
        self.gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.next, self.count = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        self.tensors = {"gradients": self.gradients, "gram": self.gram, "next": self.next, "count": self.count}

    def add(self, parts: Sequence[nn.Parameter]) -> int:
        """The place at which the gradient now is. Parts that have none count as zeros."""
        place, size = int(self.next), len(self.gradients)
        for own, part in zip(self.gradients[place].split(self.sizes), parts, strict=True):
            own.zero_() if part.grad is None else own.view(part.shape).copy_(part.grad)
        row = self.products(place)
        self.gram[place], self.gram[:, place] = row, row
        self.next.fill_((place + 1) % size)
        self.count.add_(1).clamp_(max=size)
        return place

    def products(self, place: int) -> Tensor:
        """Of one gradient with all (W). In float64 some numbers at a time, so that their copies stay in the cache."""
        if self.rough:
            return torch.mv(self.gradients, self.gradients[place]).double()
        row = torch.zeros_like(self.gram[0])
        for some in self.gradients.split(CHUNK, 1):
            doubled = some.double()
            row.addmv_(doubled, doubled[place])
        return row

    def write(self, share: Tensor, parts: Sequence[nn.Parameter]) -> None:
        """The sum of some share of each gradient becomes the gradient, wherever there is one."""
        share = share.to(self.gradients)
        for own, part in zip(self.gradients[: len(share)].split(self.sizes, 1), parts, strict=True):
            if part.grad is None:
                continue
            if part.grad.is_contiguous() and part.grad.dtype == own.dtype:
                torch.mv(own.T, share, out=part.grad.view(-1))
            else:
                part.grad.copy_(torch.mv(own.T, share).view(part.shape))


def _check_apart(base: torch.optim.Optimizer, blocks: Mapping[str, Sequence[nn.Parameter]]) -> None:
    known, owner = {id(part) for group in base.param_groups for part in group["params"]}, dict[int, str]()
    for name, parts in blocks.items():
        for part in parts:
            if id(part) not in known:
                raise ValueError(f"a parameter of {name} is none of the base optimiser's")
            if id(part) in owner:
                raise ValueError(f"{owner[id(part)]} and {name} have a parameter in common: a block has its own")
            owner[id(part)] = name
