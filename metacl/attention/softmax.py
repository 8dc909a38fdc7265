"""Softmax attention over a growing cache of keys and values (Vaswani 2017), through PyTorch's fused kernels."""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from metacl.attention.interface import Attention


class KeyValueCache(NamedTuple):
    """Everything seen so far; it grows with the stream."""

    k: Tensor
    """(B, H, N, E)"""
    v: Tensor
    """(B, H, N, E)"""
    valid: Tensor
    """(B, N) bool, False for padding."""


class SoftmaxAttention(Attention):
    """Multi-head softmax attention: out = softmax(q k^T / sqrt(E)) v. Arguments: see `Attention`."""

    constant_state = False

    def init_state(self, batch_size: int) -> KeyValueCache:
        weight = self.qkv.weight
        empty = weight.new_zeros(batch_size, self.heads, 0, self.head_width)
        return KeyValueCache(empty, empty, torch.ones(batch_size, 0, dtype=torch.bool, device=weight.device))

    def learn(self, x_BND: Tensor, state: KeyValueCache, valid_BN: Tensor | None = None) -> tuple[Tensor, KeyValueCache]:
        q, k, v = self._project(x_BND)
        fresh = state.k.shape[2] == 0
        new = KeyValueCache(
            k if fresh else torch.cat([state.k.to(k), k], dim=2),
            v if fresh else torch.cat([state.v.to(v), v], dim=2),
            torch.cat(
                [state.valid, x_BND.new_ones(x_BND.shape[:2], dtype=torch.bool) if valid_BN is None else valid_BN], dim=1
            ),
        )
        dropout = self.dropout if self.training else 0.0
        if fresh and valid_BN is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        else:
            mask = causal_mask(new.valid, q.shape[2])
            mixed = F.scaled_dot_product_attention(q, new.k, new.v, attn_mask=mask, dropout_p=dropout)
        return self.out(rearrange(mixed, "b h n e -> b n (h e)")), new

    def read(self, x_BMD: Tensor, state: KeyValueCache) -> Tensor:
        q, k, v = self._project(x_BMD)
        weight_BHMN, own_BHM1 = query_weights(q, k, state)
        weight_BHMN, own_BHM1 = (F.dropout(weight, self.dropout, self.training) for weight in (weight_BHMN, own_BHM1))
        mixed = weight_BHMN.to(v) @ state.v.to(v) + own_BHM1.to(v) * v
        return self.out(rearrange(mixed, "b h m e -> b m (h e)"))

    def task_mass(self, x_BMD: Tensor, x_BND: Tensor, task_BN: Tensor, heads: int, valid_BN: Tensor | None = None) -> Tensor:
        q, k = self.project_part(x_BMD, 0, heads), self.project_part(x_BND, 1, heads)
        seen_BN = torch.ones_like(task_BN, dtype=torch.bool) if valid_BN is None else valid_BN
        weight_BHMN = stream_scores(q, k, seen_BN).softmax(-1)
        return weight_BHMN @ F.one_hot(task_BN).to(weight_BHMN)[:, None]

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(x), "b n (part h e) -> part b h n e", part=3, h=self.heads)
        return q, k, v


def query_weights(q_BHME: Tensor, own_BHME: Tensor, state: KeyValueCache) -> tuple[Tensor, Tensor]:
    """Attention weights, float32 at least, of each query on the state (B, H, M, N) and on its own key (B, H, M, 1)."""
    score_BHMN = stream_scores(q_BHME, state.k, state.valid)
    own_BHM1 = (q_BHME * own_BHME).sum(-1, keepdim=True).to(score_BHMN) * q_BHME.shape[-1] ** -0.5
    weight = torch.cat([score_BHMN, own_BHM1], dim=-1).softmax(-1)
    return weight[..., :-1], weight[..., -1:]


def stream_scores(q_BHME: Tensor, k_BHNE: Tensor, valid_BN: Tensor) -> Tensor:
    """q . k / sqrt(E), (B, H, M, N), float32 at least; -inf where a key is not valid."""
    wide = torch.promote_types(q_BHME.dtype, torch.float32)
    score_BHMN = (q_BHME @ k_BHNE.to(q_BHME).mT).to(wide) * q_BHME.shape[-1] ** -0.5
    return score_BHMN.masked_fill(~valid_BN[:, None, None], -torch.inf)


def causal_mask(valid_BN: Tensor, new: int) -> Tensor:
    """(B, 1, new, N) bool: each of the last `new` tokens sees the valid ones before it, and itself."""
    N = valid_BN.shape[1]
    place = torch.arange(N, device=valid_BN.device)
    query = place[N - new :, None]
    return ((place < query) & valid_BN[:, None, None]) | (place == query)
