"""The augmented triplet loss of LoRA-DRS (Liu and Chang 2025): old prototypes are among those to stay away from."""

import torch
from torch import Tensor

TINY = 1e-12
"""Least squared distance, so that its root has a gradient."""


def augmented_triplet_loss(h_ND: Tensor, y_N: Tensor, old_SD: Tensor, margin: float) -> Tensor:
    """The mean over examples of max(0, farthest of its class - nearest of another + margin), between unit vectors.

    Another may be an example of another class, or the prototype of an earlier class. Where there is neither, the two distances
    are taken to differ by the margin, so that the example adds nothing.

    Arguments:
        h_ND: features.
        old_SD: prototypes of earlier classes, S of them or none.
    """
    unit_ND, old_SD = (torch.nn.functional.normalize(part, dim=-1) for part in (h_ND, old_SD))
    apart_NN, same_NN = _distances(unit_ND, unit_ND), y_N[:, None] == y_N
    itself_NN = torch.eye(len(y_N), dtype=torch.bool, device=y_N.device)
    positive_N = apart_NN.masked_fill(~same_NN | itself_NN, 0).amax(1)
    others_N = torch.where(same_NN.all(1), positive_N + margin, apart_NN.masked_fill(same_NN, torch.inf).amin(1))
    if len(old_SD):
        others_N = torch.minimum(others_N, _distances(unit_ND, old_SD).amin(1))
    return (positive_N - others_N + margin).clamp_min(0).mean()


def _distances(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    return (2 - 2 * a_ND @ b_MD.T).clamp_min(TINY).sqrt()
