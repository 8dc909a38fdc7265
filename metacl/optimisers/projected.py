"""Adam whose steps are projected: each parameter may be kept to some directions of its rows."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class ProjectedAdam(torch.optim.Adam):
    """Adam with a matrix for each group of parameters, by which the last axis of its updates is multiplied.

    With `lr` a schedule may be used as with any optimiser; `state_dict` has the matrices too.

    Arguments:
        params: parameters, or groups of them. A group may have
            right: (D, D), for parameters (..., D); None or missing: they move as in Adam.
            raw: True projects gradients, before Adam's moments; False (the default) projects Adam's updates after them.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, **options: Any):
        super().__init__(params, lr, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group({"right": None, "raw": False} | param_group)
        group = self.param_groups[-1]
        right, sizes = group["right"], {part.shape[-1] for part in group["params"] if part.ndim}
        if right is not None and sizes != {len(right)}:
            raise ValueError(f"right is {tuple(right.shape)}; the parameters of its group have last axes {sorted(sizes)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. The loss of `closure`, where there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for group in self.param_groups:
            if (right := group["right"]) is None:
                continue
            for part in (part for part in group["params"] if part.grad is not None):
                if group["raw"]:
                    part.grad = part.grad @ right
                else:
                    kept.append((part, part.detach().clone(), right))
        super().step()
        for part, before, right in kept:
            part.copy_(before + (part - before) @ right)
        return loss
