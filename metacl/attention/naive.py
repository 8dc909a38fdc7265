"""The oracles of the tests: every mechanism as a plain loop over tokens, obviously right and as slow as it looks. Any dtype.

Shapes: q, k (B, H, N, E), v (B, H, N, F); valid (B, N) bool, or None. Each returns the outputs (B, H, N, F) and the state after
them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from metacl.attention.scan import Tokens


def recurrence(tokens: Tokens, state: Tensor) -> tuple[Tensor, Tensor]:
    """S <- exp(g) S; then n times u = v or beta (v - S^T k) or v - S^T e, S <- S + k u^T; then out = S^T q. S (B, H, E, F)."""
    q, k, v = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in tokens[:3])
    log_decay, beta, erase, outputs = tokens.log_decay, tokens.beta, tokens.erase, []
    for n in range(q.shape[2]):
        if log_decay is not None:
            rate = log_decay[:, :, n].exp()
            state = state * (rate[..., None] if rate.ndim == 3 else rate[..., None, None])
        for i in range(n * tokens.writes, (n + 1) * tokens.writes):
            written = v[:, :, i]
            if beta is not None:
                written = beta[:, :, i, None] * (written - torch.einsum("bhef,bhe->bhf", state, k[:, :, i]))
            if erase is not None:
                written = written - torch.einsum("bhef,bhe->bhf", state, erase[:, :, i].to(state))
            state = state + torch.einsum("bhe,bhf->bhef", k[:, :, i], written)
        outputs.append(torch.einsum("bhef,bhe->bhf", state, q[:, :, n]))
    return torch.stack(outputs, dim=2), state


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None, window: int | None = None) -> Tensor:
    """out_n = sum_i softmax_i(q_n . k_i / sqrt(E)) v_i over n itself and the valid tokens before it.

    With a window these are only the last window - 1 of them. The tokens of q are the last of k and v. Several heads of q may
    share one of k and v.
    """
    B, N, share = q.shape[0], k.shape[2], q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)
    seen = torch.ones(B, N, dtype=torch.bool) if valid is None else valid
    streams = []
    for b in range(B):
        outputs = []
        for n in range(N - q.shape[2], N):
            before = [i for i in range(n) if seen[b, i]]
            visible = (before if window is None else before[max(0, len(before) - window + 1) :]) + [n]
            score = torch.einsum("he,hie->hi", q[b, :, n - N + q.shape[2]], k[b, :, visible]) / q.shape[-1] ** 0.5
            outputs.append(torch.einsum("hi,hie->he", score.softmax(-1), v[b, :, visible]))
        streams.append(torch.stack(outputs, dim=1))
    return torch.stack(streams)


def least_squares(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, ridge: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """R <- gamma R + beta k k^T, G <- gamma G + beta k v^T, out = G^T (R^T + Diag(ridge))^-1 q, solved exactly.

    R = keys (B, H, E, E), G = values (B, H, E, F), log gamma and beta (B, H, N), ridge (B, H, E).

    R is symmetric; the transpose decides how its gradient is shared between two equal entries.
    """
    outputs = []
    for n in range(q.shape[2]):
        kept, told = log_decay[:, :, n, None, None].exp(), beta[:, :, n, None] * k[:, :, n]
        keys = kept * keys + torch.einsum("bhe,bhi->bhei", k[:, :, n], told)
        values = kept * values + torch.einsum("bhe,bhf->bhef", told, v[:, :, n])
        solved = torch.linalg.solve(keys.mT + torch.diag_embed(ridge), q[:, :, n])
        outputs.append(torch.einsum("bhef,bhe->bhf", values, solved))
    return torch.stack(outputs, dim=2), keys, values


def diagonal_posterior(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, prior: Tensor, sums: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """M <- a M + k v^T, I <- a I + beta k^2, out = sum_e q_e M_e / (I_e + prior).

    M = sums (B, H, E, F), I = precision (B, H, E), log a and beta (B, H, N), prior (H, 1); v is beta times a value.
    """
    outputs = []
    for n in range(q.shape[2]):
        kept = log_decay[:, :, n, None].exp()
        sums = kept[..., None] * sums + torch.einsum("bhe,bhf->bhef", k[:, :, n], v[:, :, n])
        precision = kept * precision + beta[:, :, n, None] * k[:, :, n] ** 2
        mean = sums / (precision + prior)[..., None]
        outputs.append(torch.einsum("bhe,bhef->bhf", q[:, :, n], mean))
    return torch.stack(outputs, dim=2), sums, precision


def preconditioned_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    moment_decay: Tensor,
    moment_weight: Tensor,
    steps: Callable[[Tensor], Tensor],
    sums: Tensor,
    moment: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """A <- a' A + weight k^2, S <- a S, S <- S + (steps(A) k) beta (v - S^T k)^T, out = S^T q.

    S = sums (B, H, E, F), A = moment (B, H, E), log a, log a', beta and weight (B, H, N).
    """
    outputs = []
    for n in range(q.shape[2]):
        moment = moment_decay[:, :, n, None].exp() * moment + moment_weight[:, :, n, None] * k[:, :, n] ** 2
        sums = log_decay[:, :, n, None, None].exp() * sums
        error = v[:, :, n] - torch.einsum("bhef,bhe->bhf", sums, k[:, :, n])
        written = steps(moment) * k[:, :, n]
        sums = sums + torch.einsum("bhe,bhf->bhef", written, beta[:, :, n, None] * error)
        outputs.append(torch.einsum("bhef,bhe->bhf", sums, q[:, :, n]))
    return torch.stack(outputs, dim=2), sums, moment


def gated_slots(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, log_decay: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """K_m <- a_m K_m + write_m k, V_m <- a_m V_m + write_m v for each slot m, out = sum_m softmax_m(K_m . q) V_m.

    K = keys (B, H, E, M), V = values (B, H, M, F), log a and write (B, H, N, M).
    """
    outputs = []
    for n in range(q.shape[2]):
        kept = log_decay[:, :, n].exp()
        keys = keys * kept[:, :, None] + torch.einsum("bhe,bhm->bhem", k[:, :, n], write[:, :, n])
        values = values * kept[..., None] + torch.einsum("bhm,bhf->bhmf", write[:, :, n], v[:, :, n])
        share = torch.einsum("bhem,bhe->bhm", keys, q[:, :, n]).softmax(-1)
        outputs.append(torch.einsum("bhm,bhmf->bhf", share, values))
    return torch.stack(outputs, dim=2), keys, values


def log_linear(
    tokens: Tokens, weights: Tensor, buckets: list[tuple[int, Tensor]], count: int
) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """out_n = sum over buckets of weight[level] S_bucket^T q. Buckets are the bits of a binary counter; level 0 is the token.

    Arguments:
        tokens: q, k, v and a log decay (B, H, N).
        weights: (B, H, N, L); levels from L on have the last.
        buckets: (level, S (B, H, E, F)) for the `count` tokens before these; level l + 1 holds 2^l of them.
    """
    q, k, v, log_decay, *_ = tokens
    assert log_decay is not None
    outputs = []
    for n in range(q.shape[2]):
        rate = log_decay[:, :, n].exp()[..., None, None]
        buckets = [(level, rate * S) for level, S in buckets]
        own = torch.einsum("bhe,bhf->bhef", k[:, :, n], v[:, :, n])
        out = torch.zeros_like(v[:, :, n])
        for level, S in [*buckets, (0, own)]:
            weight = weights[:, :, n, min(level, weights.shape[-1] - 1), None]
            out = out + weight * torch.einsum("bhef,bhe->bhf", S, q[:, :, n])
        outputs.append(out)
        level = 1
        while any(taken == level for taken, _ in buckets):  # as a 1 is carried when 1 is added
            own = own + next(S for taken, S in buckets if taken == level)
            buckets = [(taken, S) for taken, S in buckets if taken != level]
            level += 1
        buckets = [*buckets, (level, own)]
    return torch.stack(outputs, dim=2), buckets


def test_time_training(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    model: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    now: Tensor,
    count: int,
    batch: int,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """W <- W - rate * gradient of |model(W, k) - v|^2 / 2 at the W with which this mini-batch started; out = model(W, q).

    Arguments:
        rate: (B, H, N) inner learning rates.
        model: (W (B, H, E + 1, E), x (B, H, E)) -> (B, H, E).
        start: W when this mini-batch started.
        now: W after all tokens so far.
        count: tokens so far.
        batch: tokens in a mini-batch.

    Returns:
        The outputs, then start, now and count after them.
    """
    outputs = []
    for n in range(q.shape[2]):

        def loss(W: Tensor, n: int = n) -> Tensor:
            return (model(W, k[:, :, n]) - v[:, :, n]).square().sum() / 2

        now = now - rate[:, :, n, None, None] * torch.func.grad(loss)(start)
        outputs.append(model(now, q[:, :, n]))
        count += 1
        if count % batch == 0:
            start = now
    return torch.stack(outputs, dim=2), start, now, count
