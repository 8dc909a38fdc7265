"""States on disk: safetensors, no pickle. The tree's form comes from the learner, the tensors from the file."""

from pathlib import Path

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
    tensors = load_file(path)
    if set(tensors) != {str(i) for i in range(len(leaves))}:
        raise UserError(
            f"{path} holds {len(tensors)} tensors; a state of this learner has {len(leaves)}. It belongs to another one."
        )
    return pytree.tree_unflatten([tensors[str(i)].to(leaf.device) for i, leaf in enumerate(leaves)], form)
