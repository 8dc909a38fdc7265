"""Second moments of what comes into the attention of each block, and the directions that make up most of them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metacl.learners.vision.trunk import TOGETHER, Trunk
from metacl.nets.vit import Added


@torch.no_grad()
def second_moments(trunk: Trunk, x_NCHW: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
    """(P, D, D) float64, for each of P blocks the mean of h h^T over the tokens of all images, in one pass.

    The images are shown whole, and not in random views as in the published code of LoRA-DRS.

    Arguments:
        weights: in place of the transformer's own, as of `Trunk`.
    """
    total, tokens = torch.zeros(()), 0
    for first in range(0, len(x_NCHW), TOGETHER):
        seen: list[Tensor] = []

        def tap(name: str, part: Tensor, seen: list[Tensor] = seen) -> None:
            if name == "attention in":
                rows = part.flatten(0, 1).double()
                with torch.autocast(rows.device.type, enabled=False):
                    seen.append(rows.T @ rows)

        trunk(trunk.view(x_NCHW[first : first + TOGETHER]), [Added(tap=tap)] * trunk.shape.depth, weights=weights)
        total = total.to(seen[0]) + torch.stack(seen)
        tokens += len(x_NCHW[first : first + TOGETHER]) * trunk.tokens
    return total / tokens


def principal(moment_DD: Tensor, share: float) -> Tensor:
    """(D, k): the fewest leading eigenvectors that make up a share of the trace."""
    value_D, vector_DD = torch.linalg.eigh(moment_DD.double())
    value_D, vector_DD = value_D.flip(0).clamp_min(0), vector_DD.flip(1)
    reached_D = value_D.cumsum(0) / value_D.sum().clamp_min(torch.finfo(torch.float64).tiny)
    k = min(int((reached_D < share).sum()) + 1, len(value_D))
    return vector_DD[:, :k].float()
