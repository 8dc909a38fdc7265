"""The Hessian of B losses at once: exact for a block of the parameters, by Hessian-vector products for all of them.

A loss is a function of weights {name: (B, *shape)} to (B,), in which row b depends on row b of the weights alone: one backward
pass of the sum gives all B gradients. P is the number of parameters of a row.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Loss = Callable[[Weights], Tensor]
Product = Callable[[Tensor], Tensor]
"""(B, P) -> (B, P), row b multiplied by a symmetric matrix of its own."""

CHUNK = 64
"""Columns of an exact Hessian that are found at the same time."""
NEAR = 1e-3
"""An eigenvalue is found if its error is this part of the way to the next; 0 is all that is this part of the largest."""
PROBES = 3
"""Random starts from which the rank of a whole Hessian is estimated: each costs as many products as there are steps."""


def block_hessian(loss: Loss, weights: Weights, block: Mapping[str, Any]) -> Tensor:
    """The exact Hessian (B, P, P) in the part `weights[name][:, index]` of the weights, in the order of `block`.

    Arguments:
        block: name -> index into one row's tensor; `...` takes all of it.
    """
    leaves = {name: weights[name].detach()[_rows(index)].clone().requires_grad_() for name, index in block.items()}
    whole = {name: w.detach().clone() for name, w in weights.items()}
    with torch.enable_grad():
        for name, index in block.items():
            whole[name][_rows(index)] = leaves[name]
        gradient_BP = _flat(torch.autograd.grad(loss(whole).sum(), list(leaves.values()), create_graph=True))
        if gradient_BP.grad_fn is None:  # linear in the block
            return gradient_BP.new_zeros(*gradient_BP.shape, gradient_BP.shape[1])
        columns = []
        for unit_CP in torch.eye(gradient_BP.shape[1]).to(gradient_BP).split(CHUNK):
            unit_CBP = unit_CP[:, None].expand(-1, *gradient_BP.shape)
            columns.append(_columns(gradient_BP, list(leaves.values()), unit_CBP))
    return torch.cat(columns).movedim(0, 2)


def hessian_product(loss: Loss, weights: Weights) -> Product:
    """v -> H v in all weights, one backward pass of the gradient a product (Pearlmutter 1994)."""
    leaves = [w.detach().clone().requires_grad_() for w in weights.values()]
    with torch.enable_grad():
        summed = loss(dict(zip(weights, leaves, strict=True))).sum()
        gradient_BP = _flat(torch.autograd.grad(summed, leaves, create_graph=True, materialize_grads=True))

    def product(v_BP: Tensor) -> Tensor:
        if gradient_BP.grad_fn is None:
            return torch.zeros_like(v_BP)
        return _flat(_gradients(gradient_BP, leaves, v_BP))

    return product


def lanczos(product: Product, start_BP: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lanczos with full orthogonalisation: eigenvalues, their weights and errors, each (B, K), K = min(steps, P).

    The weights of a row add to 1: sum_k weight_k f(value_k) is v' f(H) v for the normalised start v. Within each error of its
    value there is an eigenvalue. After P steps the values are the eigenvalues that v has a part in. Where the Krylov space
    ends earlier, the values that are left have no weight.
    """
    v_BP = start_BP / start_BP.norm(dim=1, keepdim=True)
    basis_BKP, diagonal, below = v_BP[:, None], [], []
    for k in range(steps := min(steps, start_BP.shape[1])):
        w_BP = product(basis_BKP[:, k])
        diagonal.append((w_BP * basis_BKP[:, k]).sum(1))
        size_B = w_BP.norm(dim=1)
        for _ in range(2):  # once is not enough in floating point
            w_BP = w_BP - torch.einsum("bkp,bk->bp", basis_BKP, torch.einsum("bkp,bp->bk", basis_BKP, w_BP))
        norm_B = w_BP.norm(dim=1)
        norm_B = norm_B.where(norm_B > 100 * torch.finfo(norm_B.dtype).eps * size_B, 0)
        if k + 1 < steps:
            below.append(norm_B)
            basis_BKP = torch.cat([basis_BKP, (w_BP / norm_B.clamp_min(1e-30)[:, None] * (norm_B > 0)[:, None])[:, None]], 1)
    tridiagonal_BKK = torch.diag_embed(torch.stack(diagonal, 1))
    if below:
        off_BK = torch.stack(below, 1)
        tridiagonal_BKK = tridiagonal_BKK + torch.diag_embed(off_BK, 1) + torch.diag_embed(off_BK, -1)
    values_BK, vectors_BKK = torch.linalg.eigh(tridiagonal_BKK.double())
    return values_BK, vectors_BKK[:, 0].square(), norm_B[:, None] * vectors_BKK[:, -1].abs()


def spectrum(loss: Loss, weights: Weights, probes: int = 1, steps: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The Hessian's eigenvalues in all weights, and how many of each, both (B, K): stochastic Lanczos quadrature.

    The counts of a row add to P. Eigenvalues that are found, most of the largest, count once each, as if none but 0 were
    there twice; the rest of P goes to the other values by their weights. (By weights alone, as in Ubaru, Chen and Saad 2017,
    the count of an eigenvalue is right in the mean of many probes alone.)
    """
    product, some = hessian_product(loss, weights), next(iter(weights.values()))
    P = sum(w[0].numel() for w in weights.values())
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(probes):
        start_BP = (2.0 * torch.randint(0, 2, (P,), generator=rng) - 1).to(some).expand(len(some), -1)
        values_BK, weights_BK, errors_BK = lanczos(product, start_BP, steps)
        found.append((values_BK, _counts(values_BK, weights_BK, errors_BK, P) / probes))
    return torch.cat([values for values, _ in found], 1), torch.cat([counts for _, counts in found], 1)


def estimated_rank(loss: Loss, weights: Weights, probes: int = PROBES, steps: int = 64) -> dict[str, Tensor]:
    """The rank of the positive part of the Hessian in all weights, estimated from several probes one after the other.

    One probe alone may be off by a few per cent, and by a third where many small eigenvalues make most of the rank: an estimate
    is worth what its probes agree on.

    Returns:
        rank (B,), the mean over probes; between_probes (B,), the standard deviation between them, of which that of the mean is
        1 / sqrt(probes); sharpness (B,), the largest eigenvalue that any of them found.
    """
    found = [spectrum(loss, weights, steps=steps, seed=seed) for seed in range(probes)]
    rank_KB = torch.stack([spectral_rank(*own) for own in found])
    sharpness_B = torch.cat([values_BK for values_BK, _ in found], 1).amax(1)
    return {"rank": rank_KB.mean(0), "between_probes": rank_KB.std(0), "sharpness": sharpness_B}


def _counts(values_BK: Tensor, weights_BK: Tensor, errors_BK: Tensor, P: int) -> Tensor:
    gap_BK = values_BK.diff(dim=1, prepend=values_BK[:, :1] - torch.inf, append=values_BK[:, -1:] + torch.inf)
    alone_BK = errors_BK < NEAR * torch.minimum(gap_BK[:, :-1], gap_BK[:, 1:])
    once_BK = alone_BK & (values_BK.abs() > NEAR * values_BK.abs().amax(1, keepdim=True))
    rest_BK = weights_BK.where(~once_BK, 0)
    rest_B1 = rest_BK.sum(1, keepdim=True)
    return rest_BK / rest_B1.clamp_min(1e-300) * (P - once_BK.sum(1, keepdim=True)) + once_BK


def spectral_rank(values_BK: Tensor, counts_BK: Tensor | None = None, ridge: float = 0.0, floor: float = 0.0) -> Tensor:
    """(B,) exp(-sum_i p_i log p_i), p_i = l_i / sum l over the eigenvalues l (Bekal et al. 2025, eq. 11).

    Arguments:
        counts_BK: how many of each; None: one.
        ridge: added to each eigenvalue, the paper's 1e-6.
        floor: the smallest that is left, the paper's 1e-12: negative curvature is dropped.
    """
    values_BK = (values_BK.double() + ridge).clamp_min(floor)
    counts_BK = torch.ones_like(values_BK) if counts_BK is None else counts_BK.double()
    share_BK = values_BK / (counts_BK * values_BK).sum(1, keepdim=True).clamp_min(1e-300)
    rank_B = (-counts_BK * torch.xlogy(share_BK, share_BK)).sum(1).exp()
    return rank_B.where((share_BK > 0).any(1), 0)


def _columns(gradient_BP: Tensor, leaves: list[Tensor], unit_CBP: Tensor) -> Tensor:
    """(C, B, P), products with C vectors: at the same time, or one by one where torch cannot (inner steps of convolutions)."""
    try:
        found = _gradients(gradient_BP, leaves, unit_CBP, is_grads_batched=True)
    except RuntimeError:
        return torch.stack([_flat(_gradients(gradient_BP, leaves, unit_BP)) for unit_BP in unit_CBP])
    return torch.cat([part.flatten(2) for part in found], dim=2)


def _rows(index: Any) -> Any:
    return (slice(None), *index) if isinstance(index, tuple) else (slice(None), index)


def _flat(tensors: Any) -> Tensor:
    return torch.cat([t.flatten(1) for t in tensors], dim=1)


def _gradients(of: Tensor, leaves: list[Tensor], vectors: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(of, leaves, vectors, retain_graph=True, allow_unused=True, materialize_grads=True, **options)
