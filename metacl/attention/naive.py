"""The oracles: every mechanism as a plain loop over tokens, obviously right and as slow as it looks. Any dtype.

Shapes: q_BHNE, k_BHNE, v_BHNE; valid_BN (bool, or None). Each returns the outputs and what a new token would see.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
    """out_n = sum_{i<=n} softmax_i(q_n . k_i / sqrt(E)) v_i, over valid i and n itself."""
    seen = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool) if valid is None else valid
    outputs = []
    for n in range(q.shape[2]):
        score_BHn = torch.einsum("bhe,bhie->bhi", q[:, :, n], k[:, :, : n + 1]) / q.shape[-1] ** 0.5
        allowed_Bn = torch.cat([seen[:, :n], torch.ones_like(seen[:, :1])], dim=1)
        weight_BHn = score_BHn.masked_fill(~allowed_Bn[:, None], -torch.inf).softmax(-1)
        outputs.append(torch.einsum("bhi,bhie->bhe", weight_BHn, v[:, :, : n + 1]))
    return torch.stack(outputs, dim=2)


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, sums: Tensor, norm: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """S += phi(k) v^T, z += phi(k), out = phi(q) S / (phi(q) . z) with phi(x) = elu(x) + 1 (Katharopoulos 2020, eq. 9-12).

    sums_BHEF and norm_BHE are S and z before the first token. A token that is not valid sees itself and is not kept.
    """
    q, k = F.elu(q) + 1, F.elu(k) + 1
    outputs = []
    for n in range(q.shape[2]):
        new_sums = sums + torch.einsum("bhe,bhf->bhef", k[:, :, n], v[:, :, n])
        new_norm = norm + k[:, :, n]
        top = torch.einsum("bhe,bhef->bhf", q[:, :, n], new_sums)
        outputs.append(top / torch.einsum("bhe,bhe->bh", q[:, :, n], new_norm)[..., None])
        keep = torch.ones_like(norm[:, :1, :1]) if valid is None else valid[:, n, None, None].to(norm)
        sums = sums + keep[..., None] * (new_sums - sums)
        norm = norm + keep * (new_norm - norm)
    return torch.stack(outputs, dim=2), sums, norm
