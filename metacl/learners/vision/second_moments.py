"""Second moments of what comes into the layers of each block, and the directions that make up most of them, or least."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from metacl.learners.vision.trunk import TOGETHER, Trunk
from metacl.nets.vit import Added

ROUNDING = 1e-7
"""Eigenvalues that are so small a part of the largest one are zero, as far as moments that are kept in float32 tell."""


def second_moments(trunk: Trunk, x_NCHW: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
    """(P, D, D) float64, for each of P blocks the mean of h h^T over the tokens of all images, in one pass.

    Arguments:
        weights: in place of the transformer's own, as of `Trunk`.
    """
    return moments_at(trunk, x_NCHW, ("attention in",), weights)["attention in"]


@torch.no_grad()
def moments_at(
    trunk: Trunk, x_NCHW: Tensor, places: Collection[str], weights: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """`second_moments` of what is found at some places of each block, by the names of `Added.tap`, all of the same pass.

    The images are shown whole, and not in random views as in the published code of LoRA-DRS.
    """
    total, tokens = dict[str, Tensor](), 0
    for first in range(0, len(x_NCHW), TOGETHER):
        seen: dict[str, list[Tensor]] = {place: [] for place in places}

        def tap(name: str, part: Tensor, seen: dict[str, list[Tensor]] = seen) -> None:
            if name in seen:
                rows = part.flatten(0, 1).double()
                with torch.autocast(rows.device.type, enabled=False):
                    seen[name].append(rows.T @ rows)

        trunk(trunk.view(x_NCHW[first : first + TOGETHER]), [Added(tap=tap)] * trunk.shape.depth, weights=weights)
        for name, found in seen.items():
            total[name] = total.get(name, 0) + torch.stack(found)
        tokens += len(x_NCHW[first : first + TOGETHER]) * trunk.tokens
    return {name: whole / tokens for name, whole in total.items()}


def principal(moment_DD: Tensor, share: float) -> Tensor:
    """(D, k): the fewest leading eigenvectors that make up a share of the trace."""
    value_D, vector_DD = torch.linalg.eigh(moment_DD.double())
    value_D, vector_DD = value_D.flip(0).clamp_min(0), vector_DD.flip(1)
    reached_D = value_D.cumsum(0) / value_D.sum().clamp_min(torch.finfo(torch.float64).tiny)
    k = min(int((reached_D < share).sum()) + 1, len(value_D))
    return vector_DD[:, :k].float()


def nearly_null(moment_DD: Tensor, times: float, forced: int = 0) -> Tensor:
    """(D, k): the eigenvectors whose eigenvalues are at most so many times the smallest one; of what is rounding, all.

    Arguments:
        forced: so many of the smallest eigenvalues, which the inputs have by their making, do not count as the smallest one.
    """
    value_D, vector_DD = torch.linalg.eigh(moment_DD.double())
    least = torch.maximum(value_D[forced], value_D[-1] * ROUNDING)
    return vector_DD[:, value_D <= times * least].float()
