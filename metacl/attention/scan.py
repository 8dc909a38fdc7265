"""The recurrence that most mechanisms share, in chunks: a state that decays and is written to. No N x N matrix exists.

    S <- Diag(exp(g)) S                          decay: none, a scalar or a vector over the key features
    u  = v                  (rule add)   or   beta (v - S^T k)   (rule delta: only what the state does not say yet)
                                         or   v - S^T e          (rule erase: what is taken back has a key of its own)
    S <- S + k u^T,   out = S^T q

A token may write n times, as if it were n tokens of which the first decays and the last is read.

A chunk of C tokens is a few matrix products. With b the sums of log decays (see decay.py):

    u   = v   or   beta * r,  r = T (v - rows(k) S),  T = (I + tril(pair(k, k), -1) Diag(beta))^-1   (the UT transform)
    out = rows(q) S + tril(pair(q, k)) u
    S  <- over(S) + ends(k)^T u

and for erase, without beta, rows(e) and pair(e, k) in T. The chunks are worked through in order by one autograd function, wide
heads a few at a time, so that what it touches stays in the processor's cache. For add it keeps nothing but its inputs, else the
errors, T and the state before each chunk; the rest is computed again in the backward pass.
Sources: Yang et al., "Gated linear attention" (2024) and "Parallelizing linear transformers with the delta rule" (2024).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from metacl.attention.decay import MOST, NoDecay, decay_of
from metacl.attention.interface import wide
from metacl.attention.tokens import Tokens, divided, look, normaliser

__all__ = ["Tokens", "divided", "look", "scan"]

NOTHING = -2 * MOST
"""Log decay below which nothing is left, in float32 or in float64: what is lower, -inf too, counts as this."""
ROOM = 2**19
"""How many numbers the states of those heads may have that are worked through together: 2 MiB of float32."""


def scan(tokens: Tokens, state_BHEF: Tensor, chunk: int | None = None, divide: bool = False) -> tuple[Tensor, Tensor]:
    """The outputs (B, H, N, F) of all tokens and the state after them, float32 at least.

    It takes N * (C + E) * F products a head. For the backward pass add keeps only its inputs, delta and erase N / C states;
    `divide` keeps the quotients too.

    Arguments:
        divide: the outputs are `divided`, chunk by chunk.
        chunk: C. None: by width, so that n C is of that size; a state of E x F numbers is read and written once a chunk, so
            wide states want long ones. With vector decays at most 64, and less where a stream forgets so much that factors
            would leave float32.
    """
    if chunk is None:
        chunk = max(1, min(256, max(64, tokens.q.shape[-1] // 2)) // tokens.writes)
    log_decay = tokens.log_decay
    if log_decay is not None:
        vector = log_decay.ndim == 4 and log_decay.numel() > 0
        least = float(log_decay.detach().amin()) if vector else -torch.inf  # scalars are few, and a look at them no gain
        if least < NOTHING:
            tokens = tokens._replace(log_decay=log_decay.clamp_min(NOTHING))
        if vector:
            chunk = short_enough(log_decay.detach(), max(least, NOTHING), min(chunk, 64))
    with torch.autocast(tokens.q.device.type, enabled=False):
        return _Scan.apply(*tokens, state_BHEF, chunk, divide)


def short_enough(log_decay_BHNE: Tensor, least: float, chunk: int) -> int:
    """The longest chunk, of `chunk` and its halves, in which no factor of a vector decay leaves float32 (see decay.py).

    Arguments:
        least: the smallest of the log decays.
    """
    while chunk > 1 and least * chunk < -2 * MOST:
        whole = pad(log_decay_BHNE, (0, 0, 0, -log_decay_BHNE.shape[2] % chunk)).unflatten(2, (-1, chunk))
        if float(whole.sum(3).amin()) >= -2 * MOST:
            break
        chunk //= 2
    return chunk


class _Scan(torch.autograd.Function):
    """`scan`, with the gradients written out."""

    @staticmethod
    def forward(ctx: Any, q, k, v, log_decay, beta, erase, state, chunk, divide) -> tuple[Tensor, Tensor]:
        (B, H, N, _), F, tokens = q.shape, v.shape[-1], Tokens(q, k, v, log_decay, beta, erase)
        out, final = v.new_empty(B, N, H, F - divide).transpose(1, 2), torch.empty_like(state)
        bottom = v.new_empty(B, H, N, 1) if divide else None
        solved: list[Tensor] = []
        for group in _groups(state):
            own, S = _take(tokens, group), state[group].flatten(0, 1)
            for part in _parts(N, chunk):
                x = _chunk(own, part)
                decay, before = decay_of(x.log_decay, v.dtype, x.writes), S.to(v.dtype)
                u = x.v
                if x.taken is not None:
                    error, inverse = _solve(x, decay, before)
                    solved += (S, error, inverse)
                    u = _written(x, error)
                paired = _seen(decay.pair(x.q, x.k))
                read = torch.baddbmm(paired @ u, decay.rows(x.q), before).unflatten(0, (-1, own.q.shape[1]))
                if bottom is not None:
                    bottom[group][:, :, part] = normaliser(read)
                    read = read[..., :-1] / bottom[group][:, :, part]
                out[group][:, :, part] = read
                S = decay.over(S) + decay.ends(x.k).mT @ u
            final[group] = S.view_as(final[group])
        ctx.chunk = chunk
        ctx.save_for_backward(*tokens, state, out if divide else None, bottom, *solved)
        return out, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        tokens = Tokens(*ctx.saved_tensors[:6])
        state, out, bottom, *solved = ctx.saved_tensors[6:]
        parts = list(_parts(tokens.q.shape[2], ctx.chunk))
        grads = Tokens(*(None if t is None else _like(t) for t in tokens))  # type: ignore[arg-type]
        first = torch.empty_like(state)
        for i, group in enumerate(_groups(state)):
            own, dS = _take(tokens, group), grad_state[group].flatten(0, 1)
            kept = [solved[j : j + 3] for j in range(3 * i * len(parts), 3 * (i + 1) * len(parts), 3)]
            kept = kept if tokens.taken is not None else [[S] for S in _states(own, state[group].flatten(0, 1), parts)]
            for part in reversed(parts):
                before, *others = kept.pop()
                dout = grad_out[group][:, :, part]
                if bottom is not None:
                    dout = _divided_back(dout, out[group][:, :, part], bottom[group][:, :, part])
                due, dS = _chunk_back(_chunk(own, part), before, others, dout.flatten(0, 1), dS)
                for whole, piece, rows in zip(grads, due, _rows(part, tokens.writes), strict=True):
                    if whole is not None and piece is not None:
                        place = whole[group][:, :, rows]
                        place.copy_(piece.view_as(place))
            first[group] = dS.view_as(first[group])
        return *grads, first, None, None


def _states(tokens: Tokens, S: Tensor, parts: list[slice]) -> list[Tensor]:
    """The state before each chunk, for the rule add."""
    states = []
    for part in parts:
        states.append(S)
        x = _chunk(tokens, part)
        decay = decay_of(x.log_decay, x.v.dtype, x.writes)
        S = decay.over(S) + decay.ends(x.k).mT @ x.v
    return states


def _solve(x: Tokens, decay: NoDecay, state_GEF: Tensor) -> tuple[Tensor, Tensor]:
    """The errors e (G, C, F) that the rules delta and erase write, and the inverse T (G, C, C)."""
    assert x.taken is not None
    mixed = wide(decay.pair(x.taken, x.k).tril_(-1))
    if x.beta is not None:
        mixed = mixed * x.beta[:, None]
    unit = torch.eye(mixed.shape[1], dtype=mixed.dtype, device=mixed.device)
    inverse = torch.linalg.solve_triangular(mixed + unit, unit.expand_as(mixed), upper=False, unitriangular=True).to(x.v)
    return inverse @ torch.baddbmm(x.v, decay.rows(x.taken), state_GEF, alpha=-1), inverse


def _written(x: Tokens, error_GCF: Tensor) -> Tensor:
    """u, from the errors."""
    return error_GCF if x.beta is None else error_GCF * x.beta[..., None].to(error_GCF)


def _chunk_back(x: Tokens, state: Tensor, solved: list[Tensor], dout: Tensor, dS: Tensor) -> tuple[Tokens, Tensor]:
    """The gradients of a chunk's tokens, and of the state before it, from those of its outputs and the state after it."""
    before, after, decay = state.to(x.v), dS.to(x.v), decay_of(x.log_decay, x.v.dtype, x.writes)
    rows, ends, paired = decay.rows(x.q), decay.ends(x.k), _seen(decay.pair(x.q, x.k))
    u = _written(x, solved[0]) if solved else x.v
    du = torch.baddbmm(paired.mT @ dout, ends, after)
    dq, dk = decay.pair_back(_seen(dout @ u.mT), paired, x.q, x.k)
    dq = dq + decay.rows_back(dout @ before.mT, rows)
    dk = dk + decay.ends_back(u @ after.mT, ends)
    dS = decay.over_back(dS, decay.over(state)) + rows.mT @ dout
    dbeta = derase = None
    if x.taken is not None:
        rows = decay.rows(x.taken)
        du, right, left, dbeta = _solve_back(x, decay, solved, du)
        left = left + decay.rows_back(-du @ before.mT, rows)
        dS, dk = dS - rows.mT @ du, dk + right
        dk, derase = (dk + left, None) if x.erase is None else (dk, left)
    return Tokens(dq, dk, du, decay.gradient(), dbeta, derase), dS


def _solve_back(x: Tokens, decay: NoDecay, solved: list[Tensor], du: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """From the gradient of u those of v - rows(e) S, and through T and beta of k, of e (or the k in its place) and of beta."""
    assert x.taken is not None
    (error, inverse), u, dbeta = solved, _written(x, solved[0]), None
    mixed = decay.pair(x.taken, x.k).tril_(-1)
    if x.beta is None:
        due = inverse.mT @ du
    else:
        due = inverse.mT @ (du * x.beta[..., None].to(du))
        dbeta = (error * (du - mixed.mT @ due)).sum(2, dtype=x.beta.dtype)
    left, right = decay.pair_back(-(due @ u.mT).tril_(-1), mixed, x.taken, x.k)
    return due, right, left, dbeta


def _seen(pair_GMC: Tensor) -> Tensor:
    """What lies on or below the diagonal, where n columns belong to each row."""
    M, C = pair_GMC.shape[1:]
    if M == C:
        return pair_GMC.tril_()
    return pair_GMC.masked_fill_(torch.ones(M, M, device=pair_GMC.device).triu_(1).bool().repeat_interleave(C // M, 1), 0)


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


def _rows(part: slice, writes: int) -> Tokens:
    """Where the tokens of a part stand in each field of all tokens."""
    many = slice(part.start * writes, part.stop * writes)
    return Tokens(part, many, many, part, many, many)  # type: ignore[arg-type]


def _chunk(tokens: Tokens, part: slice) -> Tokens:
    """(B, H, N, ...) -> (G, C, ...)."""
    rows = _rows(part, tokens.writes)
    return Tokens(*(None if t is None else t[:, :, own].flatten(0, 1) for t, own in zip(tokens, rows, strict=True)))  # type: ignore[arg-type]


def _like(t: Tensor) -> Tensor:
    """Room for a gradient, with tokens before heads in memory, as projections have them."""
    return t.new_empty(t.transpose(1, 2).shape).transpose(1, 2)
