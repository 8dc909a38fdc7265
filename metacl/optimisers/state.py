"""The whole state of an optimiser as one flat dictionary of tensors, whose names and shapes do not change from construction on.

So an optimiser may live in any tree of tensors: in a checkpoint of safetensors, or in the state of a learner. It works with
torch's optimisers and with those here, which have others inside (`inner`, by name) and tensors of their own (`own`, by name).
The rate and other options are no tensors: who builds the optimiser anew gives them anew.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

ZERO = {"step", "momentum_buffer", "square_avg", "grad_avg", "acc_delta", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf"}
"""Parts of the state of torch's optimisers that start at 0."""


def inner_of(optimiser: Optimizer) -> dict[str, Optimizer]:
    """The optimisers inside one of this package, by name; of torch's nothing."""
    return getattr(optimiser, "inner", {})


def leaves_of(optimiser: Optimizer) -> Iterator[Optimizer]:
    """Torch's optimisers inside: the optimiser itself where it is one."""
    inner = inner_of(optimiser)
    for part in inner.values():
        yield from leaves_of(part)
    if not inner:
        yield optimiser


def parameters_of(optimiser: Optimizer) -> list[Tensor]:
    """All parameters, group after group; their places in this list name them in states and errors."""
    return [part for group in optimiser.param_groups for part in group["params"]]


def names_of(optimiser: Optimizer) -> list[str]:
    """What errors call the parameters: by name where the optimiser was given `named_parameters()`, else by place and shape."""
    names: list[str] = []
    for group in optimiser.param_groups:
        own = group.get("param_names")
        for i, part in enumerate(group["params"]):
            names.append(own[i] if own else f"parameter {len(names)} {tuple(part.shape)}")
    return names


def moments_of(optimiser: Optimizer, part: Tensor) -> list[Tensor]:
    """What torch's optimisers inside keep of a parameter, number by number: momenta, means of squares."""
    kept = [leaf.state[part] for leaf in leaves_of(optimiser) if part in leaf.state]
    return [value for state in kept for value in state.values() if isinstance(value, Tensor) and value.shape == part.shape]


@torch.no_grad()
def blank_state(optimiser: Optimizer) -> None:
    """Makes the state exist that torch's optimisers make in their first step: zeros. No parameter or gradient changes.

    Where there is a state already, it stays. The first step from zeros is the first step without a state, bit for bit.

    Raises:
        ValueError: the state would not start at zeros, as in Rprop, or with SGD's dampening, by which a first step differs.
    """
    for leaf in leaves_of(optimiser):
        if any(group.get("momentum") and group.get("dampening") for group in leaf.param_groups):
            raise ValueError("a blank state of SGD with dampening is not its first step's; take dampening=0")
        parts = parameters_of(leaf)
        new = [part for part in parts if part.requires_grad and not leaf.state.get(part)]
        if not new:
            continue
        _step_of_nothing(leaf, parts, new)
        made = [(name, value) for part in new for name, value in leaf.state.get(part, {}).items()]
        if other := sorted({name for name, _ in made} - ZERO):
            for part in new:
                leaf.state.pop(part, None)
            raise ValueError(f"{', '.join(other)} of {type(leaf).__name__} need not start at 0: it has no blank state")
        for _, value in made:
            value.zero_()


def _step_of_nothing(leaf: Optimizer, parts: list[Tensor], new: list[Tensor]) -> None:
    """A step in which the new parameters have gradients of zeros, others none; parameters and gradients are put back."""
    gradients, before = [part.grad for part in parts], [part.detach().clone() for part in new]
    for part in parts:
        part.grad = None
    for part in new:
        part.grad = torch.zeros_like(part)
    leaf.step()
    for part, old in zip(new, before, strict=True):
        part.copy_(old)
    for part, gradient in zip(parts, gradients, strict=True):
        part.grad = gradient


def tensors_of(optimiser: Optimizer) -> dict[str, Tensor]:
    """The whole state, also that of the optimisers inside, complete from the start on (`blank_state`).

    Returns:
        The tensors themselves, not copies: "INDEX.KEY" of torch's optimisers, INDEX the place among all parameters; "base." and
        names as these of what is inside an `Around`, and "own.NAME"; "0.", "1." and names as these of a `Together`'s parts.

    Raises:
        ValueError: as `blank_state`.
    """
    blank_state(optimiser)
    return _tensors(optimiser)


def _tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    found = {f"own.{name}": value for name, value in getattr(optimiser, "own", {}).items()}
    for name, inside in inner_of(optimiser).items():
        found |= {f"{name}.{key}": value for key, value in _tensors(inside).items()}
    if not inner_of(optimiser):
        for i, part in enumerate(parameters_of(optimiser)):
            found |= {f"{i}.{key}": value for key, value in optimiser.state.get(part, {}).items()}
    return found


@torch.no_grad()
def load_tensors(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Copies what `tensors_of` gave into the state of an optimiser of the same shape, which goes on from there bit for bit.

    Raises:
        ValueError: names or shapes are not those of this optimiser. Nothing was copied.
    """
    own = tensors_of(optimiser)
    copy_all("the state", own, tensors)


def copy_all(what: str, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copies each tensor into the one of the same name. Raises `ValueError`, before, where names or shapes differ."""
    if missing := sorted(own.keys() - tensors.keys()):
        raise ValueError(f"{what} lacks {len(missing)} of {len(own)} tensors, {missing[0]} first; it is of another optimiser")
    if more := sorted(tensors.keys() - own.keys()):
        raise ValueError(f"{what} has {len(more)} tensors that are not known here, {more[0]} first; it is of another optimiser")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise ValueError(f"{name} of {what} is {tuple(tensors[name].shape)}, here {tuple(value.shape)}")
    for name, value in own.items():
        value.copy_(tensors[name])
