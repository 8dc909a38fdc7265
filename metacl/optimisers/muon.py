"""Several optimisers as one, each with some of the parameters; and Muon with AdamW as one.

Muon (Jordan et al. 2024; "Muon is Scalable for LLM Training", Liu et al. 2025) makes the momentum of a weight matrix orthogonal
before it is a step; it is torch's. It is for matrices only: all other parameters are AdamW's.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Parameter = Any
"""A tensor, or its name and the tensor."""


class Together(torch.optim.Optimizer):
    """Optimisers that step one after another. Its `param_groups` are theirs, in their order, so that schedules reach them."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        """Raises `ValueError` where there are none, or two have a parameter in common."""
        if not parts:
            raise ValueError("there are no optimisers to take together")
        self.parts = list(parts)
        super().__init__(self._groups(), {})
        self.param_groups = self._groups()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """A step of each. The loss of `closure`, where there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def task_begins(self) -> None:
        """Tells those that want to know."""
        for part in self.parts:
            if (tell := getattr(part, "task_begins", None)) is not None:
                tell()

    @property
    def inner(self) -> dict[str, torch.optim.Optimizer]:
        return {str(i): part for i, part in enumerate(self.parts)}

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises `ValueError` where it is of another number of optimisers."""
        if len(state_dict["parts"]) != len(self.parts):
            raise ValueError(f"the state is of {len(state_dict['parts'])} optimisers, not of {len(self.parts)}")
        for part, own in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(own)
        self.param_groups = self._groups()


def muon(
    parameters: Iterable[Parameter],
    rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    other: Iterable[Tensor] = (),
) -> torch.optim.Optimizer:
    """Muon for all matrices and AdamW for the rest.

    A step of Muon is scaled so that it is as large as one of AdamW (`match_rms_adamw`): one rate serves both.

    Arguments:
        parameters: all of them, with or without their names.
        other: matrices that are AdamW's nonetheless, by custom embeddings and the head.
    """
    apart = {id(part) for part in other}
    matrices, rest = list[Parameter](), list[Parameter]()
    for own in parameters:
        part = own[1] if isinstance(own, tuple) else own
        (matrices if part.ndim == 2 and id(part) not in apart else rest).append(own)
    parts: list[torch.optim.Optimizer] = []
    if matrices:
        parts.append(torch.optim.Muon(matrices, rate, weight_decay, momentum, adjust_lr_fn="match_rms_adamw"))
    if rest:
        parts.append(torch.optim.AdamW(rest, rate, weight_decay=weight_decay))
    return Together(parts)
