"""Another optimiser with something done before and after each of its steps.

What methods against the loss of plasticity add to training (a pull, a new unit, a reshaped gradient) is so one class each, with
torch's interface, and may be put around another: `Arrow(L2(torch.optim.AdamW(...), 1e-4), blocks)`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metacl.optimisers.state import copy_all, names_of, parameters_of


class Around(torch.optim.Optimizer):
    """An optimiser around another, the base. A method overrides `before` and `after`.

    Its `param_groups` are the base's own, so that schedules of the rate reach the base. All that it keeps is in `own`, tensors
    by name, whose shapes stay from construction on (counts are int64 tensors without axes), so that it fits into a tree of
    tensors (`metacl.optimisers.state`). Gradients are changed in place.

    Parameters in half precision are refused, since small changes are lost in their rounding; a method that does not add to
    parameters sets `half`.
    """

    half = False
    own: dict[str, Tensor]

    def __init__(self, base: torch.optim.Optimizer):
        """Raises `ValueError` where parameters are in half precision and the method is not for it."""
        self.base = base
        super().__init__(base.param_groups, base.defaults)
        self.param_groups = base.param_groups
        self.own = {}
        if not self.half:
            for part, name in zip(parameters_of(self), names_of(self), strict=True):
                if part.dtype in (torch.float16, torch.bfloat16):
                    own = type(self).__name__
                    raise ValueError(f"{name} is {part.dtype}: {own} makes changes that its rounding loses; keep it in float32")

    def before(self) -> None:
        """What is done before a step of the base, without gradients being recorded; `.grad` is finite wherever it is."""

    def after(self) -> None:
        """What is done after a step of the base."""

    def task_begins(self) -> None:
        """For methods that are told where tasks begin: does nothing but tell the base, where it is one of these."""
        if (tell := getattr(self.base, "task_begins", None)) is not None:
            tell()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """`before`, a step of the base, `after`. The loss of `closure`, where there is one.

        Raises:
            FloatingPointError: a gradient is not finite; says whose. Nothing of the step is done, and nothing stored.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_finite()
        self.before()
        self.base.step()
        self.after()
        return loss

    def names(self) -> list[str]:
        """What errors call the parameters, in the order of `param_groups`."""
        return names_of(self)

    def with_gradients(self) -> list[tuple[int, Tensor, Tensor]]:
        """Those parameters that have a gradient: their place, they themselves, and the gradient."""
        return [(i, part, part.grad) for i, part in enumerate(parameters_of(self)) if part.grad is not None]

    def _check_finite(self) -> None:
        found = self.with_gradients()
        if _finite_sum([gradient for _, _, gradient in found]):
            return
        names = self.names()
        wrong = list(dict.fromkeys(names[i] for i, _, gradient in found if not bool(gradient.isfinite().all())))
        if not wrong:
            return
        more = f" (nor those of {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise FloatingPointError(f"the gradient of {wrong[0]} is not finite{more}; nothing was stored, and no step was made")

    @property
    def inner(self) -> dict[str, torch.optim.Optimizer]:
        return {"base": self.base}

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """That of the base, and the tensors of its own; as with torch's optimisers no copies."""
        return {"base": self.base.state_dict(), "own": dict(self.own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises `ValueError` where its own tensors have other names or shapes."""
        with torch.no_grad():
            copy_all("the state", self.own, state_dict["own"])
        self.base.load_state_dict(state_dict["base"])
        self.param_groups = self.base.param_groups


def _finite_sum(gradients: list[Tensor]) -> bool:
    """The cheapest look at all numbers. Where there are infinite ones it is false; it may overflow without them too."""
    sums = [gradient.sum() for gradient in gradients]
    if len({(own.device, own.dtype) for own in sums}) == 1:
        return bool(torch.stack(sums).sum().isfinite())
    return all(bool(own.isfinite()) for own in sums)
