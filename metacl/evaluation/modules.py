"""What tells of each module of each layer of a transformer whether it can still learn: features, weights, gradients, attention.

The modules are queries, keys, values ("q", "k", "v"), "attention out" (after the projection), "mlp hidden" (after the
non-linearity), "mlp out", and "features", the class token after the last norm; "attention" is what queries and keys make
together. Measured is a learner with three members, all of them of one row of its state, which has `weights` by name:

    answers_tapped(state, x, tap=None) -> (M, V)     logits; tap(layer, module, activations) is handed what there is on the way,
                                                     "q", "k", "v" (M, H, N, E), others (M, N, D), "features" (M, D)
    module_weights(state) -> {"q": (layers, out, in), ...}
    before_first_task(state) -> state                from which the change of weights is counted

`metacl.learners.vision.modules` has them for all learners on vision transformers whose weights train.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from episodes import Examples
from metacl.evaluation.curvature import spectral_rank
from metacl.evaluation.plasticity import attention_entropy, dormant_units, effective_rank
from metacl.learners.losses import mean_loss
from metacl.learners.protocol import State

PROBES, WINDOW = 100, 10
"""Most held-out examples that are looked at; and small batches of them, of whose gradients the rank is found."""
ONE_IN = 100
"""A unit is active where it is positive for one probe token in so many."""
SLIGHT, WIDE = 0.025, 0.1
"""Thresholds of ReDo (Sokar et al. 2023): its own, and one for GELU, whose units are hardly ever zero."""
Measured = dict[str, dict[str, Tensor]]
"""By measure and module."""
MEASURES = {
    "feature_rank": "effective rank of activations, of the largest possible",
    "weight_rank": "effective rank of weights, of the largest possible",
    "gradient_rank": f"effective rank of the gradients of {WINDOW} batches",
    "weight_change": "change of weights since before the first task, root mean square",
    "active_0": f"units that are positive for one probe token in {ONE_IN}, share",
    "active_tau": f"units with a normalised score above {WIDE}, share",
    "dormant_0.025": f"units with a normalised score of at most {SLIGHT}, share",
    "dormant_0.1": f"units with a normalised score of at most {WIDE}, share",
    "attention_entropy": "entropy of attention, nats",
    "logit_max": "largest logit of attention",
    "logit_std": "standard deviation of the logits of attention",
}
"""What is measured, in words."""


def diagnose_modules(learner: Any, state: State, queries: Examples) -> Measured:
    """What can be measured of each module of each of the B learners in `state`: {measure: {module: (B, layers)}}.

    It costs one forward pass of at most `PROBES` of the queries, which are spread evenly over all of them, and forward and
    backward passes of as many in `WINDOW` batches, whose gradients by the matrices are in memory together. Rows are measured
    one after another.

    Returns:
        feature_rank: `effective_rank` (Roy and Vetterli 2007) of the activations of all probe tokens, (tokens, units), over
            the smaller of these two numbers.
        weight_rank: the same of the matrices W_q, W_k, W_v, W_o, W_1, W_2, without biases.
        gradient_rank: exp of the entropy of the eigenvalues, over their sum, of the Gram matrix of the gradients of the mean
            cross-entropy on each of the `WINDOW` batches, by the same matrices: from 1 to `WINDOW`.
        weight_change: the root of the mean square of what the matrices differ by from those before the first task.
        active_0: the share of the units of "mlp hidden" that are positive for at least one probe token in `ONE_IN`. GELU
            leaves the sign as it is, so that it does not matter whether before or after it.
        dormant_0.025, dormant_0.1: `dormant_units`: the share of units whose mean |activation| is at most so many times the
            layer's. active_tau: the share of all others at 0.1, which is 1 - dormant_0.1.
        attention_entropy: of the attention of a query, mean over images, heads and queries, in nats; at most the log of the
            number of tokens.
        logit_max, logit_std: of q . k / sqrt(E), over images, heads, queries and keys.
        What is not finite is measured as NaN. "features" has one layer. Nothing is found of a learner without these members.
    """
    if not hasattr(learner, "module_weights"):
        return {}
    spread = torch.linspace(0, len(queries) - 1, min(PROBES, len(queries)), device=queries.y.device)
    probes, rows = queries[spread.round().long()], list[Measured]()
    for b in range(len(probes.y)):
        own, x, y = pytree.tree_map(lambda t, b=b: t[b], state), probes.x[b], probes.y[b]
        if probes.valid is not None:
            x, y = x[probes.valid[b]], y[probes.valid[b]]
        rows.append(_of_row(learner, own, x, y))
    return {
        measure: {module: torch.stack([row[measure][module] for row in rows]) for module in own}
        for measure, own in rows[0].items()
    }


def _of_row(learner: Any, state: State, x: Tensor, y: Tensor) -> Measured:
    seen = Seen()
    with torch.no_grad():
        learner.answers_tapped(state, x, seen)
        now, before = (learner.module_weights(own) for own in (state, learner.before_first_task(state)))
        found = seen.measured() | {
            "weight_rank": {module: rank_share(w) for module, w in now.items()},
            "weight_change": {module: (w - before[module]).double().square().mean((1, 2)).sqrt() for module, w in now.items()},
        }
    found["gradient_rank"] = gradient_ranks(learner, state, x, y)
    return {measure: found[measure] for measure in MEASURES if measure in found}


class Seen:
    """A tap that measures activations as they come, so that those of one layer at most are kept."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list[Tensor]]] = {}
        self.q = torch.zeros(0)

    def __call__(self, layer: int, module: str, part: Tensor) -> None:
        if module == "q":
            self.q = part
        if module == "k":
            for measure, value in attention_measures(self.q, part).items():
                self._add(measure, "attention", value)
        if module in ("q", "k", "v", "attention out", "mlp hidden", "mlp out", "features"):
            for measure, value in unit_measures(as_matrix(part)).items():
                self._add(measure, module, value)
        if module == "mlp hidden":
            self._add("active_0", module, active_share(as_matrix(part)))

    def measured(self) -> Measured:
        """Each (layers,)."""
        return {measure: {module: torch.stack(values) for module, values in own.items()} for measure, own in self.found.items()}

    def _add(self, measure: str, module: str, value: Tensor) -> None:
        self.found.setdefault(measure, {}).setdefault(module, []).append(value)


def as_matrix(part: Tensor) -> Tensor:
    """(M, H, N, E), (M, N, D) or (M, D) -> (tokens, units)."""
    return (part.transpose(1, 2).flatten(2) if part.ndim == 4 else part).flatten(0, -2)


def unit_measures(h: Tensor) -> dict[str, Tensor]:
    """Of activations (tokens, units), each ()."""
    finite = h.isfinite().all()
    slight, wide = (dormant_units(h, at).double().mean().where(finite, torch.nan) for at in (SLIGHT, WIDE))
    return {"feature_rank": rank_share(h), "active_tau": 1 - wide, "dormant_0.025": slight, "dormant_0.1": wide}


def active_share(h: Tensor) -> Tensor:
    """(tokens, units) -> (): the share of units that are positive for at least one token in `ONE_IN`."""
    return ((h > 0).double().mean(0) >= 1 / ONE_IN).double().mean().where(h.isfinite().all(), torch.nan)


def attention_measures(q: Tensor, k: Tensor) -> dict[str, Tensor]:
    """Of queries and keys (M, H, N, E), each ()."""
    logits = q @ k.mT * q.shape[-1] ** -0.5
    entropy = attention_entropy(logits.softmax(-1)).double().mean()
    return {"attention_entropy": entropy, "logit_max": logits.max().double(), "logit_std": logits.double().std(correction=0)}


def rank_share(matrix: Tensor) -> Tensor:
    """(..., n, m) -> (...): the effective rank over min(n, m); NaN where the matrix is not finite."""
    return _where_finite(effective_rank, matrix) / min(matrix.shape[-2:])


def gradient_ranks(learner: Any, state: State, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """By module (layers,): the effective rank of the gradients of the loss on x[0::W], x[1::W], ..., W batches."""
    W, found = min(WINDOW, len(x)), list[dict[str, Tensor]]()
    leaves = {name: w.detach().requires_grad_() for name, w in state.weights.items()}
    for w in range(W):
        with torch.enable_grad():
            loss = mean_loss(learner.answers_tapped(state._replace(weights=leaves), x[w::W])[None], y[None, w::W], learner.spec)
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        found.append(learner.module_weights(state._replace(weights=dict(zip(leaves, gradients, strict=True)))))
    return {module: torch.stack([_gram_rank(layer) for layer in _layers(found, module)]) for module in found[0]}


def _layers(gradients: list[dict[str, Tensor]], module: str) -> list[Tensor]:
    """For each layer (W, numbers), one at a time in float64 elsewhere."""
    return [torch.stack([own[module][i].flatten() for own in gradients]) for i in range(len(gradients[0][module]))]


def _gram_rank(g_WP: Tensor) -> Tensor:
    g_WP = g_WP.double()
    return _where_finite(lambda gram: spectral_rank(torch.linalg.eigvalsh(gram)[None])[0], g_WP @ g_WP.T)


def _where_finite(measure: Callable[[Tensor], Tensor], matrix: Tensor) -> Tensor:
    finite = matrix.isfinite().all(-1).all(-1)
    return measure(matrix.where(finite[..., None, None], 0)).where(finite, torch.nan)
