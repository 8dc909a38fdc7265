"""What methods add to a vision transformer: prefixes, a gate on their scores, low-rank weights, adapters, a norm.

The transformer itself is `episodes.data.backbones.vit`, which frozen features are made with too.
Letters: B images, N tokens, H heads, E width of a head, L tokens of a prefix, D width, R rank.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from episodes.data.backbones.vit import NOTHING, Added, VisionTransformer, VitConfig, attention

__all__ = [
    "ACTIVATIONS",
    "NOTHING",
    "Added",
    "Gate",
    "VisionTransformer",
    "VitConfig",
    "bottleneck",
    "gate",
    "low_rank",
    "normalised",
    "prefix_attention",
    "prefixed",
]

Gate = Callable[[Tensor], Tensor]
"""On the scores of a prefix (B, H, N, L)."""
ACTIVATIONS: dict[str, Gate] = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "gelu": F.gelu}


def prefix_attention(q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, gate: Gate | None = None) -> Tensor:
    """Softmax attention in which each token also sees a prefix, whose keys and values are learnt (Li and Liang 2021).

    Arguments:
        q, k, v: (B, H, N, E) of the tokens.
        prefix_k, prefix_v: (B, H, L, E), or with B = 1 the same for all images.
        gate: changes the scores of the prefix, q . k / sqrt(E), before the one softmax over both; None: they stay.

    Returns:
        (B, H, N, E)
    """
    if not prefix_k.shape[-2]:
        return attention(q, k, v)
    scaled = q * q.shape[-1] ** -0.5
    of_prefix = scaled @ prefix_k.mT
    if gate is not None:
        of_prefix = gate(of_prefix)
    weight = torch.cat([of_prefix, scaled @ k.mT], -1).softmax(-1)
    L = prefix_k.shape[-2]
    return weight[..., :L] @ prefix_v + weight[..., L:] @ v


def gate(score: Tensor, tau: Tensor, alpha: Tensor, activation: Literal["tanh", "sigmoid", "gelu"]) -> Tensor:
    """The non-linear residual gate of NoRGa (Le et al. 2024, eq. 12): s + alpha * activation(tau * s)."""
    return score + alpha * ACTIVATIONS[activation](tau * score)


def prefixed(prefix: Tensor, gates: list[Gate] | None = None) -> list[Added]:
    """What is added to the first P blocks: a prefix of its own for each.

    Arguments:
        prefix: (B, P, 2, L, H, E), keys and values, or with B = 1 the same for all images.
        gates: one for each block; None: no gate.
    """
    added = []
    for i, own in enumerate(prefix.unbind(1)):
        k, v = own.transpose(2, 3).unbind(1)  # each (B, H, L, E)
        added.append(Added(attend=partial(_attend, k, v, None if gates is None else gates[i])))
    return added


def _attend(prefix_k: Tensor, prefix_v: Tensor, gate: Gate | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return prefix_attention(q, k, v, prefix_k.to(q.dtype), prefix_v.to(q.dtype), gate)


def low_rank(pairs: Mapping[Literal["q", "k", "v"], tuple[Tensor, Tensor]]) -> Added:
    """Low-rank weights beside those of queries, keys or values (LoRA, Hu et al. 2022): h -> h A^T B^T.

    Arguments:
        pairs: for each of the three that has one, A (R, D) and B (D, R).
    """

    def qkv(h_BND: Tensor) -> Tensor:
        zeros = torch.zeros_like(h_BND) if len(pairs) < 3 else h_BND
        parts = [h_BND @ pairs[name][0].T @ pairs[name][1].T if name in pairs else zeros for name in ("q", "k", "v")]
        return torch.cat(parts, -1)

    return Added(qkv=qkv)


def normalised(depth: int, added: Sequence[Added] = ()) -> list[Added]:
    """What is added to each block for a LayerNorm without weights before the GELU of its feed-forward layers (Lyle et al.).

    Arguments:
        depth: blocks of the transformer.
        added: what else is added to the first blocks.

    Raises:
        ValueError: something else is there already.
    """
    if any(own.before_gelu is not None for own in added):
        raise ValueError("something is added before the GELU already; a LayerNorm there would take its place")
    return [replace(own, before_gelu=_norm) for own in [*added, *[NOTHING] * (depth - len(added))]]


def _norm(hidden: Tensor) -> Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:])


def bottleneck(down_RD: Tensor, down_R: Tensor, up_DR: Tensor, up_D: Tensor, scale: float) -> Added:
    """An adapter beside the feed-forward half (AdaptFormer, Chen et al. 2022): scale * (up relu(down h + bias) + bias)."""
    return Added(beside=lambda h_BND: scale * F.linear(F.relu(F.linear(h_BND, down_RD, down_R)), up_DR, up_D))
