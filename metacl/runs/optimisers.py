"""An optimiser's state as tensors, and back, bit for bit."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from episodes import UserError


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as tensors named INDEX.KEY."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, values in state.items() for key, value in values.items()}


def load_optimiser(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimiser_tensors` gave.

    A moment takes the strides of its parameter: fused optimisers go through the memory of both without looking at strides, so
    that a weight in channels-last order would be updated with another one's moment.

    Raises:
        UserError: the tensors are not those of this optimiser's parameters.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if not (index.isdecimal() and key) or int(index) >= len(parameters):
            raise UserError(f"{name!r} is of no parameter of this optimiser, which has {len(parameters)}.")
        like = parameters[int(index)]
        fits = tensor.shape == like.shape and tensor.dtype == like.dtype
        if not fits and not (key == "step" and tensor.ndim == 0 and tensor.is_floating_point()):
            raise UserError(
                f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype}, and its parameter {tuple(like.shape)} and "
                f"{like.dtype}."
            )
        state.setdefault(int(index), {})[key] = torch.empty_like(like).copy_(tensor) if tensor.ndim else tensor.clone()
    _check_complete(optimiser, parameters, state)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _check_complete(optimiser: Optimizer, parameters: list[Tensor], state: dict[int, dict[str, Tensor]]) -> None:
    """Parameters that have a gradient in some steps only may have no state; those that have one have all of it."""
    if isinstance(optimiser, torch.optim.AdamW):
        for index, values in state.items():
            if missing := {"step", "exp_avg", "exp_avg_sq"} ^ values.keys():
                raise UserError(
                    f"Of parameter {index} it has {', '.join(sorted(values))}, and not {', '.join(sorted(missing))}."
                )
