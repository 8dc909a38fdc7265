"""Softmax attention over a cache of keys and values (Vaswani 2017), through fused kernels."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from episodes import UserError
from metacl.attention import backends, naive
from metacl.attention.interface import Attention, Sizes, rows_apart
from metacl.nets.shared_batch import dropout as shared_dropout


class KeyValueCache(NamedTuple):
    """Keys and values of all tokens so far, or of the last window - 1."""

    k: Tensor
    """(B, key heads, N, E)"""
    v: Tensor
    """(B, key heads, N, F)"""
    valid: Tensor
    """(B, N) bool, False for padding, and for the places of a window that are not filled yet."""


class SoftmaxAttention(Attention[KeyValueCache]):
    """out = softmax(q k^T / sqrt(E)) v.

    Arguments: see `Attention`; window: a token sees itself and the window - 1 before it only, and the cache has that many
    places from the start. key_heads < heads is grouped-query attention (Ainslie 2023), 1 multi-query.
    """

    has_weights = True

    def __init__(self, sizes: Sizes, *, key_heads: int | None = None, window: int | None = None):
        super().__init__(sizes, key_heads)
        if window is not None and window < 1:
            raise UserError(f"A window of {window} tokens is too small: a token sees at least itself (1).")
        self.window, self.constant_state = window, window is not None
        self.kernels = () if window else ("flash",)

    def init_state(self, batch_size: int) -> KeyValueCache:
        weight, places = self.qkv.weight, (self.window or 1) - 1
        k = weight.new_zeros(batch_size, self.key_heads, places, self.key_width)
        v = weight.new_zeros(batch_size, self.key_heads, places, self.head_width)
        return KeyValueCache(k, v, torch.zeros(batch_size, places, dtype=torch.bool, device=weight.device))

    def extend(self, x_BND: Tensor, state: KeyValueCache, valid_BN: Tensor | None) -> tuple[Tensor, KeyValueCache]:
        if self.window is not None and valid_BN is not None:
            out, states = rows_apart(self.extend, x_BND, state, valid_BN)
            return out, KeyValueCache(*(torch.cat(parts) for parts in zip(*states, strict=True)))
        q, new = self._extended(x_BND, state, valid_BN)
        dropout = self.dropout if self.training else 0.0
        if self.window is not None:
            out = windowed(q, new, self.window, dropout)
            return self._outputs(out, x_BND), KeyValueCache(*_last(new, self.window - 1))
        if state.k.shape[2] == 0 and valid_BN is None:
            out = backends.softmax(q, new.k, new.v, None, dropout, self.backend)
        else:
            out = backends.softmax(q, new.k, new.v, causal_mask(new.valid, q.shape[2]), dropout, self.backend)
        return self._outputs(out, x_BND), new

    def extend_naive(self, x_BND: Tensor, state: KeyValueCache, valid_BN: Tensor | None) -> tuple[Tensor, KeyValueCache]:
        q, new = self._extended(x_BND, state, valid_BN)
        out = naive.softmax_attention(q, new.k, new.v, new.valid, self.window)
        if self.window is None:
            return self._outputs(out, x_BND), new
        order = new.valid.long().argsort(dim=1, stable=True)[:, new.valid.shape[1] - self.window + 1 :]
        k, v = (t.gather(2, order[:, None, :, None].expand(*t.shape[:2], -1, t.shape[3])) for t in new[:2])
        return self._outputs(out, x_BND), KeyValueCache(k, v, new.valid.gather(1, order))

    def read(self, x_BMD: Tensor, state: KeyValueCache) -> Tensor:
        q, k, v = self.project(x_BMD)
        share = self.heads // self.key_heads
        k, v, state_k, state_v = (t.repeat_interleave(share, dim=1) for t in (k, v, state.k, state.v))
        weight_BHMN, own_BHM1 = query_weights(q, k, state_k, state.valid)
        weight_BHMN, own_BHM1 = (shared_dropout(weight, self.dropout, self.training) for weight in (weight_BHMN, own_BHM1))
        return self._outputs(weight_BHMN.to(v) @ state_v.to(v) + own_BHM1.to(v) * v, x_BMD)

    def task_mass(self, x_BMD: Tensor, x_BND: Tensor, task_BN: Tensor, heads: int, valid_BN: Tensor | None = None) -> Tensor:
        """See `Attention`. The whole stream counts, whatever the window."""
        share = self.heads // self.key_heads
        q = self.project_part(x_BMD, 0, heads)
        k = self.project_part(x_BND, 1, -(-heads // share)).repeat_interleave(share, dim=1)[:, :heads]
        seen_BN = torch.ones_like(task_BN, dtype=torch.bool) if valid_BN is None else valid_BN
        weight_BHMN = stream_scores(q, k, seen_BN).softmax(-1)
        return weight_BHMN @ F.one_hot(task_BN).to(weight_BHMN)[:, None]

    def _extended(self, x_BND: Tensor, state: KeyValueCache, valid_BN: Tensor | None) -> tuple[Tensor, KeyValueCache]:
        """The queries of new tokens, and the cache with them; padding is kept as zeros."""
        q, k, v = self.project(x_BND)
        seen = x_BND.new_ones(x_BND.shape[:2], dtype=torch.bool) if valid_BN is None else valid_BN
        if valid_BN is not None:
            k, v = k * valid_BN[:, None, :, None], v * valid_BN[:, None, :, None]
        if state.k.shape[2] == 0:
            return q, KeyValueCache(k, v, seen)
        return q, KeyValueCache(
            torch.cat([state.k.to(k), k], dim=2), torch.cat([state.v.to(v), v], dim=2), torch.cat([state.valid, seen], dim=1)
        )

    def _outputs(self, out_BHNF: Tensor, like_BND: Tensor) -> Tensor:
        return self.merge(out_BHNF, like_BND)


def windowed(q_BHNE: Tensor, cache: KeyValueCache, window: int, dropout: float = 0.0) -> Tensor:
    """(B, H, N, F): causal attention in which each of N tokens, the last of the cache, sees `window` tokens.

    It works in blocks, on N * window scores instead of N * N. Only places before a stream begins may be padding.
    """
    N, block = q_BHNE.shape[2], max(window, 64)
    before = cache.k.shape[2] - N
    outputs = []
    for start in range(0, N, block):
        stop = min(start + block, N)
        first, last = max(before + start - window + 1, 0), before + stop
        query, key = (torch.arange(*span, device=q_BHNE.device) for span in ((before + start, last), (first, last)))
        distance = query[:, None] - key
        mask = ((distance > 0) & (distance < window) & cache.valid[:, None, None, first:last]) | (distance == 0)
        k, v = cache.k[:, :, first:last], cache.v[:, :, first:last]
        outputs.append(backends.softmax_by_torch(q_BHNE[:, :, start:stop], k, v, mask, dropout))
    return torch.cat(outputs, dim=2)


def query_weights(q_BHME: Tensor, own_BHME: Tensor, k_BHNE: Tensor, valid_BN: Tensor) -> tuple[Tensor, Tensor]:
    """How each query attends to the state (B, H, M, N) and to its own key (B, H, M, 1), which add to 1; float32 at least."""
    score_BHMN = stream_scores(q_BHME, k_BHNE, valid_BN)
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


def _last(cache: KeyValueCache, places: int) -> tuple[Tensor, Tensor, Tensor]:
    first = cache.k.shape[2] - places
    return cache.k[:, :, first:], cache.v[:, :, first:], cache.valid[:, first:]
