"""What tells whether a learner can still learn: ranks, dead units, norms, the spread of attention, curvature.

`diagnose` measures any learner whose state has `weights` {name: (B, *shape)}; what else it can tell comes from three members
that a learner may have:

    hidden(state, x) -> [(B, N, D), ...]               activations of its hidden units, layer by layer
    attention_weights(state, x) -> [(B, M, N), ...]    which add to 1 over the support N
    last_layer: {name: index}                          the block of weights whose Hessian the paper looks at
"""

from typing import Any

import torch
from torch import Tensor

from episodes import Examples
from metacl.evaluation.curvature import Weights, block_hessian, estimated_rank, spectral_rank
from metacl.learners.losses import example_losses
from metacl.learners.protocol import Learner, State

LONG = 4
"""A matrix this many times longer than it is wide is long."""
CURVED = 100
"""Queries on whose loss Hessians are found, the same for every method: full attention copies its support for each."""
RIDGE, FLOOR = 1e-6, 1e-12
"""The paper's, for the last layer (its code; Bekal et al. do not mention them)."""


def singular_values(matrix: Tensor) -> Tensor:
    """(..., N, D) -> (..., min(N, D)), descending. Of long matrices through their Gram matrix: exact to 1e-8 of the largest."""
    matrix = matrix.double()
    N, D = matrix.shape[-2:]
    if max(N, D) < LONG * min(N, D):
        return torch.linalg.svdvals(matrix)
    gram = matrix.mT @ matrix if N > D else matrix @ matrix.mT
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(-1)


def effective_rank(matrix: Tensor) -> Tensor:
    """(..., N, D) -> (...): exp of the entropy of the singular values over their sum (Roy and Vetterli 2007). 0 for zeros."""
    values = singular_values(matrix)
    share = values / values.sum(-1, keepdim=True).clamp_min(1e-300)
    return (-torch.xlogy(share, share)).sum(-1).exp() * (values[..., 0] > 0)


def stable_rank(matrix: Tensor) -> Tensor:
    """(..., N, D) -> (...): squared Frobenius norm over squared largest singular value. 0 for zeros."""
    values = singular_values(matrix)
    return values.square().sum(-1) / values[..., 0].square().clamp_min(1e-300)


def dormant_units(h: Tensor, threshold: float = 0.025) -> Tensor:
    """(..., N, D) -> (..., D) bool: units whose mean |activation| is at most `threshold` times the layer's (Sokar et al. 2023).

    In a layer without any activation all units are dormant.
    """
    size = h.abs().mean(-2)
    return size <= threshold * size.mean(-1, keepdim=True)


def active_units(h: Tensor) -> Tensor:
    """(..., N, D) -> (...): the share of the units that an example makes positive, averaged over examples."""
    return (h > 0).double().mean((-2, -1))


def norm(tensors: Weights) -> Tensor:
    """(B,) the Euclidean norm of all tensors of a row together."""
    return torch.stack([w.double().flatten(1).square().sum(1) for w in tensors.values()]).sum(0).sqrt()


def attention_entropy(weights: Tensor) -> Tensor:
    """(..., M, N) that add to 1 over N -> (...): mean entropy of a query's attention, in nats; at most log N."""
    return (-torch.xlogy(weights, weights)).sum(-1).mean(-1)


def matrices(weights: Weights) -> list[Tensor]:
    """The weights that are matrices, (B, out, in); a convolution's are (B, out, in * height * width)."""
    return [w.flatten(2) for w in weights.values() if w.ndim > 2]


def diagnose(learner: Any, state: State, queries: Examples, hessian: bool = True) -> dict[str, Tensor]:
    """What can be measured of each of the B learners in `state`, each (B,).

    Returns:
        feature_rank, feature_stable_rank: of the activations of the last hidden layer; units are counted over all layers.
        dormant, active: shares of units.
        weight_rank, weight_stable_rank: means over the matrices among the weights, each over its largest possible rank.
        weight_norm, gradient_norm: of all weights, and of the gradient of the mean loss on `queries`.
        attention_entropy: mean over layers.
        last_layer_rank: of the exact Hessian of the loss in `last_layer`, as in the paper.
        hessian_rank: the same for every method, of the positive part of the Hessian of the loss in all weights; the mean of
            estimates from three probes.
        hessian_rank_between_probes: the standard deviation between these, see `estimated_rank`.
        sharpness: the largest eigenvalue of that Hessian.
        Hessians are of the loss on the first `CURVED` queries. A learner without weights has none of all this.
    """
    found: dict[str, Tensor] = {}
    if not getattr(state, "weights", {}) or not learner.trains:
        return found
    with torch.no_grad():
        found |= _of_units(learner, state, queries.x) | _of_weights(state.weights)
        if hasattr(learner, "attention_weights"):
            layers = [attention_entropy(a) for a in learner.attention_weights(state, queries.x)]
            found["attention_entropy"] = torch.stack(layers).mean(0)

    def losses(weights: Weights) -> Tensor:
        return query_losses(learner, state._replace(weights=weights), queries)

    found["gradient_norm"] = norm(_gradient(losses, state.weights))
    if hessian:
        few = queries[:CURVED]
        last_layer = getattr(learner, "last_layer", {})
        found |= _of_hessian(lambda w: query_losses(learner, state._replace(weights=w), few), state.weights, last_layer)
    return found


def query_losses(learner: Learner, state: State, queries: Examples) -> Tensor:
    """(B,) the mean loss on the queries of each row."""
    prediction = learner.predict(state, queries.x)
    return example_losses(prediction, queries.y, learner.spec).mean(1)


def _of_units(learner: Any, state: State, x: Tensor) -> dict[str, Tensor]:
    layers = learner.hidden(state, x) if hasattr(learner, "hidden") else []
    if not layers:
        return {}
    units = sum(h.shape[-1] for h in layers)
    return {
        "feature_rank": effective_rank(layers[-1]),
        "feature_stable_rank": stable_rank(layers[-1]),
        "dormant": torch.stack([dormant_units(h).sum(-1) for h in layers]).sum(0) / units,
        "active": torch.stack([active_units(h) * h.shape[-1] for h in layers]).sum(0) / units,
    }


def _of_weights(weights: Weights) -> dict[str, Tensor]:
    found = {"weight_norm": norm(weights)}
    if layers := [w for w in matrices(weights) if min(w.shape[1:]) > 1]:
        found["weight_rank"] = torch.stack([effective_rank(w) / min(w.shape[1:]) for w in layers]).mean(0)
        found["weight_stable_rank"] = torch.stack([stable_rank(w) / min(w.shape[1:]) for w in layers]).mean(0)
    return found


def _gradient(losses: Any, weights: Weights) -> Weights:
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    with torch.enable_grad():
        found = torch.autograd.grad(losses(leaves).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _of_hessian(losses: Any, weights: Weights, last_layer: dict[str, Any]) -> dict[str, Tensor]:
    found = {}
    if last_layer:
        values_BP = torch.linalg.eigvalsh(block_hessian(losses, weights, last_layer).double())
        found["last_layer_rank"] = spectral_rank(values_BP, ridge=RIDGE, floor=FLOOR)
    whole = estimated_rank(losses, weights)
    between = {"hessian_rank_between_probes": whole["between_probes"]}
    return found | {"hessian_rank": whole["rank"]} | between | {"sharpness": whole["sharpness"]}
