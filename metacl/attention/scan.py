"""The recurrence that most mechanisms share, in chunks: a state that decays and is written to. No N x N matrix exists.

    S <- Diag(exp(g)) S                          decay: none, a scalar or a vector over the key features
    u  = v                  (rule add)   or   beta (v - S^T k)   (rule delta: only what the state does not say yet)
    S <- S + k u^T,   out = S^T q

A chunk of C tokens is a few matrix products. With b the sums of log decays (see decay.py):

    u   = v   or   beta * e,  e = T (v - rows(k) S),  T = (I + tril(pair(k, k), -1) Diag(beta))^-1   (the UT transform)
    out = rows(q) S + tril(pair(q, k)) u
    S  <- over(S) + ends(k)^T u

The chunks are worked through in order by one autograd function, wide heads a few at a time, so that what it touches stays in
the processor's cache. For add it keeps nothing but its inputs, for delta e, T and the state before each chunk; the rest is
computed again in the backward pass.
Sources: Yang et al., "Gated linear attention" (2024) and "Parallelizing linear transformers with the delta rule" (2024).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from metacl.attention.decay import MOST, NoDecay, decay_of

NOTHING = -200.0
"""Log decay below which nothing is left, in float32 or in float64: what is lower, -inf too, counts as this."""
ROOM = 2**19
"""How many numbers the states of those heads may have that are worked through together: 2 MiB of float32."""


class Tokens(NamedTuple):
    """What a mechanism makes of N tokens. q, k and v have one dtype, and products are made in it."""

    q: Tensor
    """(B, H, N, E)"""
    k: Tensor
    """(B, H, N, E)"""
    v: Tensor
    """(B, H, N, F)"""
    log_decay: Tensor | None = None
    """(B, H, N), or (B, H, N, E); at most 0, float32 at least. None: nothing is forgotten."""
    beta: Tensor | None = None
    """(B, H, N), float32 at least: how strongly the delta rule writes. None: the rule is add."""

    def masked(self, valid_BN: Tensor | None) -> "Tokens":
        """The tokens with padding (not valid) that neither writes into the state nor lets it decay."""
        if valid_BN is None:
            return self
        seen = valid_BN[:, None]
        decay, beta = self.log_decay, self.beta
        if decay is not None:
            decay = decay * (seen if decay.ndim == 3 else seen[..., None])
        return Tokens(self.q, self.k * seen[..., None], self.v, decay, None if beta is None else beta * seen)


def scan(tokens: Tokens, state_BHEF: Tensor, chunk: int | None = None, divide: bool = False) -> tuple[Tensor, Tensor]:
    """The outputs (B, H, N, F) of all tokens and the state after them, float32 at least.

    It takes N * (C + E) * F products a head. For the backward pass add keeps only its inputs, delta N / C states; `divide`
    keeps the quotients too.

    Arguments:
        divide: the outputs are `divided`, chunk by chunk.
        chunk: C. None: by width; a state of E x F numbers is read and written once a chunk, so wide states want long ones.
            With vector decays at most 64, and less where a stream forgets so much that factors would leave float32.
    """
    if chunk is None:
        chunk = min(256, max(64, tokens.q.shape[-1] // 2))
    log_decay = tokens.log_decay
    if log_decay is not None:
        vector = log_decay.ndim == 4 and log_decay.numel() > 0
        least = float(log_decay.detach().amin()) if vector else -torch.inf  # scalars are few, and a look at them no gain
        if least < NOTHING:
            tokens = tokens._replace(log_decay=log_decay.clamp_min(NOTHING))
        if vector:
            chunk = _short_enough(log_decay.detach(), max(least, NOTHING), min(chunk, 64))
    with torch.autocast(tokens.q.device.type, enabled=False):
        return _Scan.apply(*tokens, state_BHEF, chunk, divide)


def _short_enough(log_decay_BHNE: Tensor, least: float, chunk: int) -> int:
    """The longest chunk, of `chunk` and its halves, in which no factor of a vector decay leaves float32 (see decay.py).

    Arguments:
        least: the smallest of the log decays.
    """
    while chunk > 1 and least * (chunk // 2) < -MOST:
        whole = pad(log_decay_BHNE, (0, 0, 0, -log_decay_BHNE.shape[2] % chunk)).unflatten(2, (-1, chunk))
        if float(whole.sum(3).amin()) >= -MOST:
            break
        chunk //= 2
    return chunk


def divided(sums: Tensor) -> Tensor:
    """(..., F) -> (..., F - 1): sums divided by their last feature, the normaliser. Sums over no token at all give 0."""
    return sums[..., :-1] / _normaliser(sums)


def look(tokens: Tokens, state_BHEF: Tensor) -> Tensor:
    """(B, H, M, F): the output of each token if it alone came next."""
    q, k, v, log_decay, beta = tokens
    with torch.autocast(q.device.type, enabled=False):
        state = state_BHEF.to(v)
        rate = 1 if log_decay is None else (log_decay if log_decay.ndim == 4 else log_decay[..., None]).exp().to(v)
        written = v if beta is None else beta[..., None].to(v) * (v - (k * rate) @ state)
        return (q * rate) @ state + (q * k).sum(-1, keepdim=True) * written


class _Scan(torch.autograd.Function):
    """`scan`, with the gradients written out."""

    @staticmethod
    def forward(ctx: Any, q, k, v, log_decay, beta, state, chunk, divide) -> tuple[Tensor, Tensor]:
        B, H, N, F = v.shape
        out, final = v.new_empty(B, N, H, F - divide).transpose(1, 2), torch.empty_like(state)
        bottom = v.new_empty(B, H, N, 1) if divide else None
        solved: list[Tensor] = []
        for group in _groups(state):
            own, S = _take(Tokens(q, k, v, log_decay, beta), group), state[group].flatten(0, 1)
            for part in _parts(N, chunk):
                x = _chunk(own, part)
                decay, before = decay_of(x.log_decay, v.dtype), S.to(v.dtype)
                u = x.v
                if x.beta is not None:
                    error, inverse = _solve(x, decay, before)
                    solved += (S, error, inverse)
                    u = error * x.beta[..., None].to(v.dtype)
                paired = decay.pair(x.q, x.k).tril_()
                read = torch.baddbmm(paired @ u, decay.rows(x.q), before).view(v[group][:, :, part].shape)
                if bottom is not None:
                    bottom[group][:, :, part] = _normaliser(read)
                    read = read[..., :-1] / bottom[group][:, :, part]
                out[group][:, :, part] = read
                S = decay.over(S) + decay.ends(x.k).mT @ u
            final[group] = S.view_as(final[group])
        ctx.chunk = chunk
        ctx.save_for_backward(q, k, v, log_decay, beta, state, out if divide else None, bottom, *solved)
        return out, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, beta, state, out, bottom, *solved = ctx.saved_tensors
        tokens, parts = Tokens(q, k, v, log_decay, beta), list(_parts(v.shape[2], ctx.chunk))
        grads = Tokens(*(None if t is None else _like(t) for t in tokens))  # type: ignore[arg-type]
        first = torch.empty_like(state)
        for i, group in enumerate(_groups(state)):
            own, dS = _take(tokens, group), grad_state[group].flatten(0, 1)
            kept = [solved[j : j + 3] for j in range(3 * i * len(parts), 3 * (i + 1) * len(parts), 3)]
            kept = kept if beta is not None else [[S] for S in _states(own, state[group].flatten(0, 1), parts)]
            for part in reversed(parts):
                before, *others = kept.pop()
                dout = grad_out[group][:, :, part]
                if bottom is not None:
                    dout = _divided_back(dout, out[group][:, :, part], bottom[group][:, :, part])
                due, dS = _chunk_back(_chunk(own, part), before, others, dout.flatten(0, 1), dS)
                for whole, piece in zip(grads, due, strict=True):
                    if whole is not None and piece is not None:
                        place = whole[group][:, :, part]
                        place.copy_(piece.view_as(place))
            first[group] = dS.view_as(first[group])
        return *grads, first, None, None


def _states(tokens: Tokens, S: Tensor, parts: list[slice]) -> list[Tensor]:
    """The state before each chunk, for the rule add."""
    states = []
    for part in parts:
        states.append(S)
        x = _chunk(tokens, part)
        decay = decay_of(x.log_decay, x.v.dtype)
        S = decay.over(S) + decay.ends(x.k).mT @ x.v
    return states


def _solve(x: Tokens, decay: NoDecay, state_GEF: Tensor) -> tuple[Tensor, Tensor]:
    """The errors e (G, C, F) that the delta rule writes, and the inverse T (G, C, C)."""
    assert x.beta is not None
    mixed = decay.pair(x.k, x.k).tril_(-1).to(x.beta.dtype) * x.beta[:, None]
    unit = torch.eye(mixed.shape[1], dtype=mixed.dtype, device=mixed.device)
    inverse = torch.linalg.solve_triangular(mixed + unit, unit.expand_as(mixed), upper=False, unitriangular=True).to(x.v)
    return inverse @ torch.baddbmm(x.v, decay.rows(x.k), state_GEF, alpha=-1), inverse


def _chunk_back(x: Tokens, state: Tensor, solved: list[Tensor], dout: Tensor, dS: Tensor) -> tuple[Tokens, Tensor]:
    """The gradients of a chunk's tokens, and of the state before it, from those of its outputs and the state after it."""
    before, after, decay = state.to(x.v), dS.to(x.v), decay_of(x.log_decay, x.v.dtype)
    rows, ends, paired = decay.rows(x.q), decay.ends(x.k), decay.pair(x.q, x.k).tril_()
    u = x.v if x.beta is None else solved[0] * x.beta[..., None].to(x.v)
    du = torch.baddbmm(paired.mT @ dout, ends, after)
    dq, dk = decay.pair_back((dout @ u.mT).tril_(), paired, x.q, x.k)
    dq = dq + decay.rows_back(dout @ before.mT, rows)
    dk = dk + decay.ends_back(u @ after.mT, ends)
    dS = decay.over_back(dS, decay.over(state)) + rows.mT @ dout
    dbeta = None
    if x.beta is not None:
        error, inverse = solved
        mixed = decay.pair(x.k, x.k).tril_(-1)
        dbeta = (error * du).sum(2, dtype=x.beta.dtype)
        du = inverse.mT @ (du * x.beta[..., None].to(du))  # from here the gradient of v - rows(k) S
        dbeta -= (error * (mixed.mT @ du)).sum(2, dtype=x.beta.dtype)
        left, right = decay.pair_back(-(du @ u.mT).tril_(-1), mixed, x.k, x.k)
        rows = decay.rows(x.k)
        dk = dk + left + right + decay.rows_back(-du @ before.mT, rows)
        dS = dS - rows.mT @ du
    return Tokens(dq, dk, du, decay.gradient(), dbeta), dS


def _normaliser(sums: Tensor) -> Tensor:
    bottom = sums[..., -1:]
    return bottom + (bottom == 0)


def _divided_back(grad: Tensor, out: Tensor, bottom: Tensor) -> Tensor:
    """The gradient of the sums, from that of their quotients `out`."""
    top = grad / bottom
    return torch.cat([top, -torch.linalg.vecdot(top, out)[..., None]], dim=-1)


def _groups(state_BHEF: Tensor) -> Iterator[tuple[slice, slice]]:
    """Streams and heads that are worked through together: so many that their states have at most ROOM numbers."""
    B, H, E, F = state_BHEF.shape
    together = max(1, ROOM // (E * F))
    rows, heads = max(1, together // H), min(H, together)
    return ((slice(b, b + rows), slice(h, h + heads)) for b in range(0, B, rows) for h in range(0, H, heads))


def _take(tokens: Tokens, group: tuple[slice, slice]) -> Tokens:
    return Tokens(*(None if t is None else t[group] for t in tokens))  # type: ignore[arg-type]


def _parts(N: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, N)) for start in range(0, N, chunk))


def _chunk(tokens: Tokens, part: slice) -> Tokens:
    """(B, H, N, ...) -> (G, C, ...)."""
    return Tokens(*(None if t is None else t[:, :, part].flatten(0, 1) for t in tokens))  # type: ignore[arg-type]


def _like(t: Tensor) -> Tensor:
    """Room for a gradient, with tokens before heads in memory, as projections have them."""
    return t.new_empty(t.transpose(1, 2).shape).transpose(1, 2)
