"""Log-linear attention: instead of one state for all that is past, one for each of log N stretches of it (Guo et al. 2025)."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from metacl.attention import naive
from metacl.attention.gated import DecayGate
from metacl.attention.interface import Attention, Learn, Sizes, aligned_sizes, rows_apart
from metacl.attention.recurrent import Gate, HeadNorm
from metacl.attention.scan import Tokens
from metacl.nets.shared_batch import dropout

CHUNK = 64
"""Tokens that are worked through together, a power of two."""


class LogLinearState(NamedTuple):
    """The buckets of a Fenwick tree: where bit l of the count is set, bucket l holds 2^l tokens, the newest in the smallest."""

    buckets: Tensor
    """(B, H, L, E, F): sums of k v^T, L the bits of the count; 0 where the bit is not set."""
    seen: Tensor
    """(B,) int64: tokens so far."""


class _Bucket(NamedTuple):
    """The sum S of 2^bit tokens from `start` on, S still to be multiplied by exp(due)."""

    start: int
    bit: int
    sums_BHEF: Tensor
    due_BH: Tensor


class LogLinear(Attention[LogLinearState]):
    """out = sum over levels of weight_l(x) S_l^T q, S_l the decayed sum of k v^T over the tokens of level l.

    Level 0 is the token itself, level l + 1 the bucket of 2^l tokens (see `LogLinearState`). The weights are softplus(w_l x),
    the decay is that of Mamba-2 (log-linear Mamba-2, section 3 of the paper). The state grows with log N, the cost with
    N log N.

    Arguments: see `Attention`; levels: weights that a token has; levels from there on have the last of them.
    """

    constant_state = False
    normed = True

    def __init__(self, sizes: Sizes, *, levels: int = 16):
        super().__init__(sizes)
        self.decay, self.weights = DecayGate(self.width, self.heads), Gate(self.width, self.heads, levels)
        self.norm = HeadNorm(self.head_width)

    def init_state(self, batch_size: int) -> LogLinearState:
        buckets = self.zeros(batch_size, self.heads, 0, self.key_width, self.head_width)
        return LogLinearState(buckets, torch.zeros(batch_size, dtype=torch.long, device=buckets.device))

    def extend(self, x_BND: Tensor, state: LogLinearState, valid_BN: Tensor | None) -> tuple[Tensor, LogLinearState]:
        if valid_BN is not None or (state.seen != state.seen[0]).any():
            return self._apart(self.extend, x_BND, state, valid_BN)
        ((q, k, v, decay, *_), weights), count = self._tokens(x_BND), int(state.seen[0])
        buckets, outputs = _unpack(state.buckets, count), []
        sizes = aligned_sizes(count, x_BND.shape[1], CHUNK)
        with torch.autocast(x_BND.device.type, enabled=False):
            # split, not slices: the gradient of each slice would be as long as the stream.
            for *chunk, weight in zip(*(t.split(sizes, dim=2) for t in (q, k, v, decay, weights)), strict=True):  # type: ignore[union-attr]
                out, buckets = _chunk(Tokens(*chunk), weight, buckets, count)
                outputs.append(out)
                count += out.shape[2]
            state = LogLinearState(_pack(buckets, count), torch.full_like(state.seen, count))
        return self._outputs(torch.cat(outputs, dim=2), x_BND), state

    def extend_naive(self, x_BND: Tensor, state: LogLinearState, valid_BN: Tensor | None) -> tuple[Tensor, LogLinearState]:
        if valid_BN is not None or (state.seen != state.seen[0]).any():
            return self._apart(self.extend_naive, x_BND, state, valid_BN)
        (tokens, weights), count = self._tokens(x_BND), int(state.seen[0])
        old = [(bucket.bit + 1, bucket.sums_BHEF) for bucket in _unpack(state.buckets, count)]
        out, buckets = naive.log_linear(tokens, weights, old, count)
        count += x_BND.shape[1]
        packed = [_Bucket(0, level - 1, S, torch.zeros_like(S[..., 0, 0])) for level, S in buckets]
        return self._outputs(out, x_BND), LogLinearState(_pack(packed, count), torch.full_like(state.seen, count))

    def read(self, x_BMD: Tensor, state: LogLinearState) -> Tensor:
        if (state.seen != state.seen[0]).any():
            rows = (slice(b, b + 1) for b in range(len(x_BMD)))
            return torch.cat([self.read(x_BMD[row], LogLinearState(*(t[row] for t in state))) for row in rows])
        (q, k, v, log_decay, *_), weights = self._tokens(x_BMD)
        rate = log_decay.exp()  # type: ignore[union-attr]
        with torch.autocast(x_BMD.device.type, enabled=False):
            out = weights[..., :1].to(v) * (q * k).sum(-1, keepdim=True) * v
            for bucket in _unpack(state.buckets, int(state.seen[0])):
                weight = weights[..., min(bucket.bit + 1, weights.shape[-1] - 1)]
                out = out + (weight * rate)[..., None].to(v) * (q @ bucket.sums_BHEF.to(v))
        return self._outputs(out, x_BMD)

    def _tokens(self, x_BND: Tensor) -> tuple[Tokens, Tensor]:
        """The tokens, and the weights (B, H, N, levels)."""
        q, k, v = self.project(x_BND)
        dt, log_decay = self.decay(x_BND)
        return Tokens(q, k, v * dt[..., None].to(v.dtype), log_decay), F.softplus(self.weights(x_BND))

    def _outputs(self, out_BHNF: Tensor, like_BND: Tensor) -> Tensor:
        return self.merge(dropout(self.norm(out_BHNF), self.dropout, self.training), like_BND)

    def _apart(
        self, extend: Learn, x_BND: Tensor, state: LogLinearState, valid_BN: Tensor | None
    ) -> tuple[Tensor, LogLinearState]:
        """`extend` for streams of unequal length, each alone. The axis of levels is as long as the longest stream needs."""
        valid_BN = torch.ones(x_BND.shape[:2], dtype=torch.bool, device=x_BND.device) if valid_BN is None else valid_BN
        out, states = rows_apart(extend, x_BND, state, valid_BN)
        levels = max(own.buckets.shape[2] for own in states)
        buckets = [F.pad(own.buckets, (0, 0, 0, 0, 0, levels - own.buckets.shape[2])) for own in states]
        return out, LogLinearState(torch.cat(buckets), torch.cat([own.seen for own in states]))


def _chunk(tokens: Tokens, weights_BHCL: Tensor, buckets: list[_Bucket], begin: int) -> tuple[Tensor, list[_Bucket]]:
    """The outputs of tokens number begin, begin + 1, ..., all in one aligned chunk, and the buckets after them."""
    q, k, v, log_decay, *_ = tokens
    place = torch.arange(begin, begin + q.shape[2], device=q.device)
    b_BHC = log_decay.cumsum(2)  # type: ignore[union-attr]
    between = (b_BHC[..., None] - b_BHC[..., None, :]).clamp_max(0).exp()
    weight = _weights(weights_BHCL, _level(place[:, None], place))
    out = ((q @ k.mT) * (between * weight).to(q)).tril() @ v
    for bucket in buckets:
        weight_BHC = weights_BHCL.gather(3, _index(_level(place, bucket.start), weights_BHCL)[..., None])[..., 0]
        scale = weight_BHC * (b_BHC + bucket.due_BH[..., None]).exp()
        out = out + scale[..., None].to(q) * (q @ bucket.sums_BHEF.to(q))
    end = b_BHC[..., -1]
    due = [*(_Bucket(*old[:3], old.due_BH + end) for old in buckets)]
    ends = k * (end[..., None] - b_BHC).exp()[..., None].to(k)
    return out, list(_regroup(due, ends, v, begin))


def _regroup(buckets: list[_Bucket], ends_BHCE: Tensor, v_BHCF: Tensor, begin: int) -> Iterator[_Bucket]:
    """The buckets for a count of begin + C: each the sum of old buckets and new tokens that lie in its stretch."""
    stop = count = begin + v_BHCF.shape[2]
    for bit in range(count.bit_length()):
        if not count >> bit & 1:
            continue
        start = stop - (1 << bit)
        inside = [old for old in buckets if start <= old.start < stop]
        if len(inside) == 1 and inside[0].bit == bit:
            yield inside[0]
        else:
            sums: Tensor | int = sum(old.sums_BHEF * old.due_BH.exp()[..., None, None] for old in inside)
            new = slice(max(start - begin, 0), max(stop - begin, 0))
            if new.stop > new.start:
                sums = sums + ends_BHCE[:, :, new].mT @ v_BHCF[:, :, new]
            if isinstance(sums, Tensor):
                yield _Bucket(
                    start,
                    bit,
                    sums.to(torch.promote_types(sums.dtype, torch.float32)),
                    torch.zeros_like(sums[..., 0, 0], dtype=torch.promote_types(sums.dtype, torch.float32)),
                )
        stop = start


def _weights(weights_BHCL: Tensor, level_CC: Tensor) -> Tensor:
    return weights_BHCL.gather(3, _index(level_CC, weights_BHCL))


def _index(level: Tensor, weights_BHCL: Tensor) -> Tensor:
    """Levels (C, ...) -> (B, H, C, ...), for every stream and head; levels past the last weight become the last."""
    return level.clamp_max(weights_BHCL.shape[-1] - 1).expand(*weights_BHCL.shape[:2], *level.shape)


def _level(place: Tensor, other: Tensor | int) -> Tensor:
    """0 for the token itself, else 1 + the highest bit in which the two places differ: the size of the bucket between them."""
    return torch.frexp((place ^ other).double()).exponent.long()


def _unpack(buckets_BHLEF: Tensor, count: int) -> list[_Bucket]:
    bits = [bit for bit in range(count.bit_length()) if count >> bit & 1]
    zero = torch.zeros_like(buckets_BHLEF[:, :, 0, 0, 0]) if bits else torch.empty(0)
    return [_Bucket(count >> bit + 1 << bit + 1, bit, buckets_BHLEF[:, :, bit], zero) for bit in bits]


def _pack(buckets: list[_Bucket], count: int) -> Tensor:
    of_bit = {bucket.bit: bucket.sums_BHEF * bucket.due_BH.exp()[..., None, None] for bucket in buckets}
    nothing = torch.zeros_like(next(iter(of_bit.values())))
    return torch.stack([of_bit.get(bit, nothing) for bit in range(count.bit_length())], dim=2)
