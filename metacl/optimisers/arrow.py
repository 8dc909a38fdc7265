"""ARROW: gradients reshaped by the covariance of the latest ones ("Vision Transformers that Never Stop Learning", Sun 2026).

For a block of parameters with d numbers, g its gradient and G (W, d) its latest W gradients, g the last of them,

    C = G^T G / W,    p = (alpha I + beta C)^-1 g,

so that directions in which the latest gradients were large are shrunk. C is never formed: with the Gram matrix K = G G^T, of
which a step changes one row and one column, and S = I + beta / (W alpha) K, all that is needed is p = 1 / alpha G^T S^-1 e,
where e is one at the place of g in the window (Woodbury's identity, and that g is in the window).

No code of the paper was published. Its equations are as above; the choice of blocks, the relative damping, what happens before
the window is full and how the step is combined with another optimiser are this project's, and options.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

FLOOR = 1e-8
"""Least damping where it is relative: gradients whose squared length is far below it are hardly reshaped."""


class Arrow(torch.optim.Optimizer):
    """Another optimiser, whose gradients are reshaped in some blocks of parameters before each of its steps.

    Arguments:
        base: has these parameters and all others. `Arrow(torch.optim.SGD(...), ...)` with `scale` "raw" is the literal formula.
        blocks: parameters by the name of their block, as of `blocks_of`; each block has a window of its own.
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
        if window < 1:
            raise ValueError(f"window must be 1 or more, not {window}: it counts the gradients that are kept")
        if beta < 0 or damping <= 0:
            raise ValueError(f"beta must be 0 or more and damping above 0, not {beta:g} and {damping:g}")
        if empty := [name for name, parts in blocks.items() if not parts]:
            raise ValueError(f"the blocks {', '.join(empty)} have no parameters")
        _check_apart(base, blocks)
        self.base, self.blocks = base, {name: list(parts) for name, parts in blocks.items()}
        self.window, self.beta, self.damping, self.relative = window, beta, damping, relative
        self.scale, self.warm_up = scale, warm_up
        self.windows = {name: _Window(parts, window) for name, parts in self.blocks.items()}
        super().__init__(base.param_groups, {})
        self.param_groups = base.param_groups  # the same, so that schedules of the rate reach the base

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of the base, with reshaped gradients. The loss of `closure`, where there is one.

        Raises:
            FloatingPointError: the gradient of a block is not finite. Nothing of the step is done, and nothing stored.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = {name: _flat(parts) for name, parts in self.blocks.items()}
        for name, g_d in gradients.items():
            if g_d is not None and not bool(g_d.isfinite().all()):
                raise FloatingPointError(f"the gradient of {name} is not finite; it was not stored, and no step was made")
        for name, g_d in gradients.items():
            if g_d is not None:
                _write(self.reshaped(name, g_d), self.blocks[name])
        self.base.step()
        return loss

    def reshaped(self, name: str, g_d: Tensor) -> Tensor:
        """The gradient of a block after it has come into its window (d)."""
        own = self.windows[name]
        place = own.add(g_d)
        if self.warm_up == "plain" and own.count < self.window:
            return g_d
        gram = own.gram[: own.count, : own.count]
        alpha = self.damping
        if self.relative:  # the trace of C, over as many eigenvalues as it has
            alpha = alpha * float(gram.trace()) / own.count**2 + FLOOR
        system = torch.eye(own.count, dtype=gram.dtype, device=gram.device) + self.beta / (own.count * alpha) * gram
        wanted = torch.zeros(own.count, 1, dtype=gram.dtype, device=gram.device)
        wanted[place] = 1
        share = torch.cholesky_solve(wanted, torch.linalg.cholesky(system))[:, 0]
        times_alpha_d = own.gradients[: own.count].T @ share.to(g_d)
        if self.scale == "raw":
            return times_alpha_d / alpha
        if self.scale == "gradient":
            return times_alpha_d * (g_d.norm() / times_alpha_d.norm().clamp_min(torch.finfo(g_d.dtype).tiny))
        return times_alpha_d

    def task_begins(self) -> None:
        """Forgets the latest gradients: for learners that are told where tasks begin. Without it windows go on."""
        for own in self.windows.values():
            own.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """That of the base, and every window."""
        return {"base": self.base.state_dict(), "windows": {name: own.state() for name, own in self.windows.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises `ValueError` where it is of other blocks or of another window."""
        if state_dict["windows"].keys() != self.windows.keys():
            raise ValueError(f"the state has the blocks {sorted(state_dict['windows'])}, not {sorted(self.windows)}")
        for name, state in state_dict["windows"].items():
            self.windows[name].load(name, state)
        self.base.load_state_dict(state_dict["base"])
        self.param_groups = self.base.param_groups


class _Window:
    """The latest gradients of a block, in a ring, and their Gram matrix in float64."""

    def __init__(self, parts: Sequence[nn.Parameter], size: int):
        some, numbers = parts[0], sum(part.numel() for part in parts)
        self.gradients = torch.zeros(size, numbers, device=some.device)
        self.gram = torch.zeros(size, size, dtype=torch.float64, device=some.device)
        self.next = self.count = 0

    def add(self, g_d: Tensor) -> int:
        """The place at which the gradient now is."""
        place, size = self.next, len(self.gradients)
        self.gradients[place] = g_d
        row = torch.stack([own_d.double() @ g_d.double() for own_d in self.gradients])  # one at a time: twice the memory of one
        self.gram[place], self.gram[:, place] = row, row
        self.next, self.count = (place + 1) % size, min(self.count + 1, size)
        return place

    def clear(self) -> None:
        self.gradients.zero_()
        self.gram.zero_()
        self.next = self.count = 0

    def state(self) -> dict[str, Any]:
        return {"gradients": self.gradients.clone(), "gram": self.gram.clone(), "next": self.next, "count": self.count}

    def load(self, name: str, state: dict[str, Any]) -> None:
        if state["gradients"].shape != self.gradients.shape:
            raise ValueError(
                f"the window of {name} in the state is {tuple(state['gradients'].shape)}, here {tuple(self.gradients.shape)}"
            )
        self.gradients.copy_(state["gradients"])
        self.gram.copy_(state["gram"])
        self.next, self.count = state["next"], state["count"]


def _check_apart(base: torch.optim.Optimizer, blocks: Mapping[str, Sequence[nn.Parameter]]) -> None:
    known, owner = {id(part) for group in base.param_groups for part in group["params"]}, dict[int, str]()
    for name, parts in blocks.items():
        for part in parts:
            if id(part) not in known:
                raise ValueError(f"a parameter of {name} is none of the base optimiser's")
            if id(part) in owner:
                raise ValueError(f"{owner[id(part)]} and {name} have a parameter in common: a block has its own")
            owner[id(part)] = name


def blocks_of(network: nn.Module, patterns: Iterable[str]) -> dict[str, list[nn.Parameter]]:
    """Blocks of parameters by pattern: all parameters below each module whose name matches is one block.

    Arguments:
        patterns: names of modules with * for all but dots and ? for one letter, such as "blocks.5.attn" or "blocks.*.mlp".

    Raises:
        ValueError: a pattern matches no module that has parameters; says what there is.
    """
    there = {name: list(module.parameters()) for name, module in network.named_modules() if name}
    there = {name: parts for name, parts in there.items() if parts}
    found: dict[str, list[nn.Parameter]] = {}
    for pattern in patterns:
        own = {name: parts for name, parts in there.items() if _fits(name, pattern)}
        if not own:
            kinds = sorted({re.sub(r"\d+", "*", name) for name in there})
            raise ValueError(f"the pattern {pattern!r} matches no module with parameters; there are {', '.join(kinds)}")
        found |= own
    return found


def _fits(name: str, pattern: str) -> bool:
    names, patterns = name.split("."), pattern.split(".")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


def _flat(parts: Sequence[nn.Parameter]) -> Tensor | None:
    """The gradient of a block (d) in float32; None where no part has one. Those that have none count as zeros."""
    if all(part.grad is None for part in parts):
        return None
    return torch.cat([(torch.zeros_like(part) if part.grad is None else part.grad).flatten().float() for part in parts])


def _write(g_d: Tensor, parts: Sequence[nn.Parameter]) -> None:
    sizes = [math.prod(part.shape) for part in parts]
    for part, own in zip(parts, g_d.split(sizes), strict=True):
        if part.grad is not None:
            part.grad.copy_(own.view(part.shape))
