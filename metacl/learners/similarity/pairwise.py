"""The score of a pair: a small MLP over (query, support example, its label) that never lays out the pairs for its first layer.

The first layer is linear in what is concatenated, so W [s, q, l] + b = W_s s + W_q q + W_l l + b: M + N products instead of
M x N, and no M x N x 2A concatenation. The later layers work through a few queries at a time. `PairNetwork.forward` is the
plain form on concatenated pairs, and the oracle of the fast one.

A query and a support vector have A features, a label L, a pair P, a hidden layer H; B networks work side by side.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.nets.scratch import Weights

Pair = Literal["plain", "difference"]
FEW, MANY = 2**19, 2**24
"""Hidden numbers that are worked on at a time: few, which stay in the cache, or, where a gradient is asked for, many."""
LEAST = 1e-6
"""Added to the share of a class before its logarithm, so that a class without support is a finite mistake."""


@dataclass(frozen=True)
class ScoreConfig:
    """d = score(query, support example, its label), an MLP, and how scores become an answer."""

    hidden: int = 100
    """Width of the hidden layers in the MLP that scores a pair (H)."""
    depth: int = 2
    """Linear layers of the MLP that scores a pair, with ReLU between them. Published: 11 on permuted MNIST, 2 on regression."""
    label: bool = False
    """Let the score see the label of the support example too."""
    normalise: Literal["none", "softmax"] = "none"
    """How scores d become an answer. `none`: y = sum_j d_j y_j (equation 6 of the paper). `softmax`: the same with softmax(d);
    in classification the answer is then log y."""
    pair: Pair = "plain"
    """What the MLP sees of a query q and a support example s. `plain`: [s, q]. `difference`: [s, q, |s - q|], which takes more
    products, as many as pairs times features."""

    def __post_init__(self) -> None:
        at_least(1, self, "learner.score.", "hidden")
        at_least(2, self, "learner.score.", "depth")


class PairNetwork(nn.Module):
    """The weights of the score, Xavier-uniform with zero biases, and its plain form.

    Arguments:
        width: features of a query and of a support vector (A).
        label_width: features of a label (L); 0: the label is no part of the pair.
    """

    def __init__(self, config: ScoreConfig, width: int, label_width: int):
        super().__init__()
        self.pair = config.pair
        into = (3 if config.pair == "difference" else 2) * width + label_width
        sizes = [into, *[config.hidden] * (config.depth - 1), 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, q_BMA: Tensor, s_BNA: Tensor, label_BNL: Tensor | None = None) -> Tensor:
        """Scores (B, M, N), from one row for each pair."""
        h_BMNP = concatenated(q_BMA, s_BNA, label_BNL, self.pair)
        for i, layer in enumerate(self.layers):
            h_BMNP = layer(h_BMNP.relu() if i else h_BMNP)
        return h_BMNP[..., 0]


def concatenated(q_BMA: Tensor, s_BNA: Tensor, label_BNL: Tensor | None, pair: Pair) -> Tensor:
    """(B, M, N, P): the rows [s, q(, |s - q|)(, label)]."""
    M, N = q_BMA.shape[1], s_BNA.shape[1]
    q, s = q_BMA[:, :, None].expand(-1, -1, N, -1), s_BNA[:, None].expand(-1, M, -1, -1)
    parts = [s, q, *([(s - q).abs()] if pair == "difference" else [])]
    parts += [] if label_BNL is None else [label_BNL[:, None].expand(-1, M, -1, -1)]
    return torch.cat(parts, dim=-1)


def pair_scores(weights: Weights, q_BMA: Tensor, s_BNA: Tensor, label_BNL: Tensor | None, pair: Pair = "plain") -> Tensor:
    """Scores (B, M, N) by B networks, each with queries and a support of its own.

    Arguments:
        weights: the weights of a `PairNetwork` by name, each (B, *shape), or (1, *shape) for one network.
    """
    if not (q_BMA.shape[1] and s_BNA.shape[1]):
        return q_BMA.new_zeros(len(q_BMA), q_BMA.shape[1], s_BNA.shape[1])
    B, M, N, A = *q_BMA.shape[:2], *s_BNA.shape[1:]
    weights = {name: w.expand(B, *w.shape[1:]) for name, w in weights.items()}
    W_BHP, b_BH = weights["layers.0.weight"], weights["layers.0.bias"]
    from_s_BNH = torch.baddbmm(b_BH[:, None], s_BNA, W_BHP[..., :A].mT)
    from_q_BMH = q_BMA @ W_BHP[..., A : 2 * A].mT
    apart = W_BHP[..., 2 * A : 3 * A] if pair == "difference" else None
    if label_BNL is not None:
        from_s_BNH = torch.baddbmm(from_s_BNH, label_BNL, W_BHP[..., -label_BNL.shape[-1] :].mT)
    deeper = [(weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]) for i in range(1, len(weights) // 2)]
    graded = torch.is_grad_enabled() and any(t.requires_grad for t in (from_s_BNH, from_q_BMH))
    most = max(1, (MANY if graded else FEW) // (B * N * max(W_BHP.shape[1], A if apart is not None else 0)))
    if most >= M:
        return _part(from_q_BMH, from_s_BNH, q_BMA, s_BNA, apart, deeper, graded)
    parts = []
    for first in range(0, M, most):
        own = slice(first, first + most)
        inputs = from_q_BMH[:, own], from_s_BNH, q_BMA[:, own], s_BNA, apart, deeper, graded
        parts.append(checkpoint(_part, *inputs, use_reentrant=False) if graded else _part(*inputs))
    return torch.cat(parts, dim=1)


def _part(
    from_q_BMH: Tensor,
    from_s_BNH: Tensor,
    q_BMA: Tensor,
    s_BNA: Tensor,
    apart_BHA: Tensor | None,
    deeper: list[tuple[Tensor, Tensor]],
    graded: bool,
) -> Tensor:
    """Scores (B, M, N) of some of the queries."""
    M, N = from_q_BMH.shape[1], from_s_BNH.shape[1]
    h_BXH = (from_q_BMH[:, :, None] + from_s_BNH[:, None]).flatten(1, 2)
    if apart_BHA is not None:
        distance_BXA = (s_BNA[:, None] - q_BMA[:, :, None]).abs().flatten(1, 2)
        h_BXH = torch.baddbmm(h_BXH, distance_BXA, apart_BHA.mT)
    for weight_BHH, bias_BH in deeper:
        h_BXH = torch.baddbmm(bias_BH[:, None], h_BXH.relu() if graded else h_BXH.relu_(), weight_BHH.mT)
    return h_BXH.view(-1, M, N)


def hidden_units(weights: Weights, q_BMA: Tensor, s_BNA: Tensor, label_BNL: Tensor | None, pair: Pair) -> list[Tensor]:
    """Activations (B, M * N, H) of each hidden layer, a row for each pair. It is the plain form: for a few pairs only."""
    h_BXP, layers = concatenated(q_BMA, s_BNA, label_BNL, pair).flatten(1, 2), []
    for i in range(len(weights) // 2 - 1):
        h_BXP = torch.baddbmm(weights[f"layers.{i}.bias"][:, None], h_BXP, weights[f"layers.{i}.weight"].mT).relu()
        layers.append(h_BXP)
    return layers


def read_out(d_BMN: Tensor, y_BNF: Tensor, valid_BN: Tensor | None, config: ScoreConfig, spec: EpisodeSpec) -> Tensor:
    """y = sum_j d_j y_j: (B, M, F) logits or targets. An empty support answers with zeros, or with equal logits.

    Arguments:
        y_BNF: one-hot labels, or targets, flat.
        valid_BN: which of the support counts; None: all of it.
    """
    if config.normalise == "none":
        return (d_BMN if valid_BN is None else d_BMN * valid_BN[:, None]) @ y_BNF
    if valid_BN is not None:
        d_BMN = d_BMN.masked_fill(~valid_BN[:, None], -math.inf)
        d_BMN = d_BMN.masked_fill(~valid_BN.any(1)[:, None, None], 0.0)
    share_BMN = d_BMN.softmax(-1)
    if valid_BN is not None:
        share_BMN = share_BMN * valid_BN[:, None]
    answer_BMF = share_BMN @ y_BNF
    return (answer_BMF + LEAST).log() if spec.classification else answer_BMF
