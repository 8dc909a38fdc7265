"""States on disk: safetensors, no pickle. The tree's form comes from the learner, the tensors from the file."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils import _pytree as pytree

from episodes import UserError
from metacl.learners.protocol import Learner, State


def save_state(path: str | Path, state: State) -> None:
    """Writes the tensors of `state`, numbered in tree order."""
    save_file({str(i): leaf.contiguous().clone() for i, leaf in enumerate(pytree.tree_leaves(state))}, path)


def load_state(path: str | Path, learner: Learner) -> State:
    """The state in `path` as a state of `learner`.

    Raises:
        UserError: the file belongs to another kind of learner.
    """
    leaves, form = pytree.tree_flatten(learner.init_state(1))
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The state {path} cannot be read ({error}): it is missing, cut off, or no state.") from error
    if set(tensors) != {str(i) for i in range(len(leaves))}:
        raise UserError(
            f"{path} holds {len(tensors)} tensors; a state of this learner has {len(leaves)}. It belongs to another one."
        )
    for i, leaf in enumerate(leaves):
        found = tensors[str(i)]
        # An axis that is empty at the start is one that grows.
        if found.ndim != leaf.ndim or any(
            own not in (0, size) for own, size in zip(leaf.shape[1:], found.shape[1:], strict=True)
        ):
            raise UserError(f"{path} holds a tensor of shape {tuple(found.shape)} where this learner has {tuple(leaf.shape)}.")
    # Cloned into memory that is aligned as PyTorch's own: the rounding of a matrix product may depend on it.
    return pytree.tree_unflatten([tensors[str(i)].to(leaf.device).clone() for i, leaf in enumerate(leaves)], form)
