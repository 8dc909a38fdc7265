"""States on disk: safetensors, no pickle. The form of the tree comes from the learner, what has grown from the file."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from episodes import UserError
from metacl.learners.protocol import Learner, State

Named = dict[tuple[str, ...], Tensor]
"""The tensors of a tree by the way from its root: "." and a field's name, "#" and a place, or "=" and a key, at each step."""
ALONE = "state"
"""The name of a state that is one tensor."""


def save_state(path: str | Path, state: State) -> None:
    """Writes the tensors of `state`, each named by its way through the tree."""
    leaves = pytree.tree_flatten_with_path(state)[0]
    save_file({"/".join(_way(keys)) or ALONE: leaf.contiguous().clone() for keys, leaf in leaves}, path)


def load_state(path: str | Path, learner: Learner) -> State:
    """The state in `path` as a state of `learner`.

    Lists and dictionaries may be longer than those of a fresh state: a state may grow from task to task.

    Raises:
        UserError: the file cannot be read, or belongs to another kind of learner.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The state {path} cannot be read ({error}): it is missing, cut off, or no state.") from error
    fresh = learner.init_state(1)
    device = next((leaf.device for leaf in pytree.tree_leaves(fresh)), None)
    # Cloned into memory that is aligned as PyTorch's own: the rounding of a matrix product may depend on it.
    named = {() if name == ALONE else tuple(name.split("/")): t.to(device).clone() for name, t in tensors.items()}
    try:
        return _tree(fresh, named)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"{path} is no state of this learner: it holds {len(tensors)} tensors, and {error.args[0] if error.args else ''}."
        ) from error


def _way(keys: Any) -> list[str]:
    """The steps from the root to a leaf, as words."""
    steps = []
    for key in keys:
        if isinstance(key, pytree.GetAttrKey):
            steps.append(f".{key.name}")
        elif isinstance(key, pytree.SequenceKey):
            steps.append(f"#{key.idx}")
        else:
            steps.append(f"={key.key}")
    return steps


def _tree(form: Any, named: Named) -> Any:
    """The tree whose tensors are `named`, in the form of a fresh one, or where it has grown beyond that (None) of lists and
    dictionaries."""
    if isinstance(form, Tensor) or (form is None and set(named) == {()}):
        return _leaf(form, named)
    if isinstance(form, tuple) and hasattr(form, "_fields"):
        fields = {f".{name}" for name in form._fields}
        if strange := {way[0] if way else "" for way in named} - fields:
            raise ValueError(f"{sorted(strange)[0]!r} is no part of it")
        return type(form)(*(_tree(getattr(form, name), _under(named, f".{name}")) for name in form._fields))
    if isinstance(form, list | tuple) or (form is None and all(way[0].startswith("#") for way in named)):
        known = list(form or ())
        length = max([len(known), *(int(way[0].removeprefix("#")) + 1 for way in named)])
        parts = [_tree(known[i] if i < len(known) else None, _under(named, f"#{i}")) for i in range(length)]
        return tuple(parts) if isinstance(form, tuple) else parts
    known_parts = dict(form or {})
    names = [*known_parts, *sorted({way[0][1:] for way in named} - {str(name) for name in known_parts})]
    return {name: _tree(known_parts.get(name), _under(named, f"={name}")) for name in names}


def _leaf(form: Tensor | None, named: Named) -> Tensor:
    if set(named) != {()}:
        raise ValueError("a tensor is missing" if not named else "it has a tree where this learner has a tensor")
    found = named[()]
    # An axis that is empty at the start is one that grows.
    fits = form is None or (
        found.ndim == form.ndim
        and found.is_floating_point() == form.is_floating_point()
        and all(own in (0, size) for own, size in zip(form.shape[1:], found.shape[1:], strict=True))
    )
    if form is not None and not fits:
        raise ValueError(
            f"a tensor of shape {tuple(found.shape)} and type {found.dtype} stands where this learner has "
            f"{tuple(form.shape)} and {form.dtype}"
        )
    return found


def _under(named: Named, step: str) -> Named:
    """The tensors below one step, by the rest of their way."""
    return {way[1:]: t for way, t in named.items() if way and way[0] == step}
