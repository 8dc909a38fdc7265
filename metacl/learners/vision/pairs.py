"""Pairs of low-rank weights beside those of keys and values in every block: A (R, D), and B (D, R) as its transpose."""

import numpy as np
import torch
from torch import Tensor

from episodes import UserError
from metacl.learners.vision.trunk import Trunk
from metacl.nets.vit import Added, VitConfig, low_rank

SPREAD = 0.01
"""Deviation of the one number that is not zero in each column of a new B."""
QKV = "blocks.{}.attn.qkv.weight"


def pair_shape(shape: VitConfig, rank: int) -> tuple[int, int, int, int, int]:
    """(P, 2, 2, R, D): what a task adds, for each block, for keys and values, A and the transpose of B.

    Raises:
        UserError: the rank is more than the width.
    """
    if rank > shape.width:
        raise UserError(f"learner.rank {rank} is more than the width of the transformer, {shape.width}.")
    return shape.depth, 2, 2, rank, shape.width


def merged(trunk: Trunk, pairs: Tensor, sign: float = 1.0) -> dict[str, Tensor]:
    """The weights of queries, keys and values in each block, with all pairs added to them, or with sign -1 subtracted.

    Arguments:
        pairs: (T, P, 2, 2, R, D), of each task and block, for keys and values, A and the transpose of B.
    """
    sum_P2DD = sign * torch.einsum("tpkrd,tpkre->pkde", pairs[:, :, :, 1], pairs[:, :, :, 0])
    found = {}
    for i, (k_DD, v_DD) in enumerate(sum_P2DD):
        own = trunk.network.get_parameter(QKV.format(i)).detach()
        found[QKV.format(i)] = own + torch.cat([torch.zeros_like(k_DD), k_DD, v_DD])
    return found


def beside(a_2RD: Tensor, b_2RD: Tensor) -> Added:
    """What a pair that is trained adds to its block."""
    return low_rank({"k": (a_2RD[0], b_2RD[0].T), "v": (a_2RD[1], b_2RD[1].T)})


def new_pair(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """(P, 2, 2, R, D): A as torch's linear layers, and a B with one number that is not zero in each of its columns."""
    P, _, _, R, D = shape
    pair = torch.zeros(shape)
    pair[:, :, 0] = torch.from_numpy(rng.uniform(-(D**-0.5), D**-0.5, (P, 2, R, D)).astype(np.float32))
    place = torch.from_numpy(rng.integers(D, size=(P, 2, R, 1)))
    value = torch.from_numpy(rng.normal(0, SPREAD, (P, 2, R, 1)).astype(np.float32))
    pair[:, :, 1] = pair[:, :, 1].scatter(-1, place, value)
    return pair
