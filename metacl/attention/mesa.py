"""In-context least squares: a regression of all values so far on all keys so far answers each query."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metacl.attention import naive
from metacl.attention.decay import ScalarDecay
from metacl.attention.gated import LEAST
from metacl.attention.interface import Sizes, wide
from metacl.attention.recurrent import Gate, Shell, softplus_inverse, start_at, unit
from metacl.attention.scan import Tokens, look, scan

CHUNK = 64
"""Tokens that are worked through together."""
ENOUGH = 1e-6
"""Conjugate gradients end when every residual is at most this times as long as its query."""
LEAST_RIDGE = 0.25
"""Lower bound of the ridge, as published. It also bounds how many iterations a solution takes."""
REMEMBERS = 5.0
"""Bias with which the forget gate starts: what is told is half forgotten after 100 tokens. The layer of fla starts near 0, and
forgets half at each token."""


class MesaState(NamedTuple):
    """The sufficient statistics of ridge regression, in float32 at least, whatever the dtype of the tokens."""

    keys: Tensor
    """(B, H, E, E): R, the decayed sum of beta k k^T."""
    values: Tensor
    """(B, H, E, F): G, the decayed sum of beta k v^T."""


class MesaTokens(NamedTuple):
    """What the layer makes of tokens, float32 at least: solving is no work for bf16."""

    q: Tensor
    """(B, H, N, E), of length 1."""
    k: Tensor
    """(B, H, N, E), of length 1; 0 where a token is not valid."""
    v: Tensor
    """(B, H, N, F)"""
    log_decay: Tensor
    """(B, H, N): log gamma."""
    beta: Tensor
    """(B, H, N)"""

    def telling(self, read: Tensor, told: Tensor) -> Tokens:
        """The tokens of the recurrence S <- gamma S + beta k told^T, in which `read` looks at S."""
        return Tokens(read, self.k, self.beta[..., None] * told, self.log_decay)


class Mesa(Shell[MesaState]):
    """out = G^T (R + Diag(ridge))^-1 q with R <- gamma R + beta k k^T, G <- gamma G + beta k v^T.

    Source: MesaNet (von Oswald 2025, eq. 6). Queries and keys have length 1; gamma (what stays) and beta (how strongly a token
    counts) are sigmoids of the token; the ridge is softplus(parameter) + LEAST_RIDGE, at first 1. With gamma = beta = 1 it is
    the mesa-layer (von Oswald 2023).
    The outputs are linear attention with the solutions as queries. The gradient of the solutions needs one more solution with
    the same matrices (the implicit function theorem), however they were found.

    Arguments: see `Attention`; iterations: most iterations of conjugate gradients, which need no matrix but R. 0: exact
    solutions, for which an E x E matrix is factorised at each token.
    """

    activated = 2

    def __init__(self, sizes: Sizes, *, iterations: int = 30):
        super().__init__(sizes)
        self.iterations = iterations
        self.forget, self.beta = Gate(self.width, self.heads), Gate(self.width, self.heads)
        nn.init.constant_(self.forget.linear.bias, REMEMBERS)  # type: ignore[arg-type]
        start = float(softplus_inverse(1 - LEAST_RIDGE))
        self.above_least = nn.Parameter(torch.full((self.heads, 1, self.key_width), start))

    def start_matching(self) -> None:
        super().start_matching()
        start_at(self.forget, -softplus_inverse(LEAST))

    def init_state(self, batch_size: int) -> MesaState:
        return MesaState(
            self.zeros(batch_size, self.heads, self.key_width, self.key_width),
            self.zeros(batch_size, self.heads, self.key_width, self.head_width),
        )

    def extend(self, x_BND: Tensor, state: MesaState, valid_BN: Tensor | None) -> tuple[Tensor, MesaState]:
        tokens, ridge = self._tokens(x_BND, valid_BN), self._ridge()
        with torch.autocast(x_BND.device.type, enabled=False):
            solve = _in_chunks(MesaTokens(*(t.detach() for t in tokens)), ridge.detach(), state.keys.detach(), self.iterations)
            solved = solve(tokens.q.detach())
            seen, keys = scan(tokens.telling(solved, tokens.k), state.keys, CHUNK)
            solution = _Implicit.apply(tokens.q - seen - ridge * solved, solved, solve)
            out, values = scan(tokens.telling(solution, tokens.v), state.values, CHUNK)
        return self._outputs(out, x_BND), MesaState(keys, values)

    def extend_naive(self, x_BND: Tensor, state: MesaState, valid_BN: Tensor | None) -> tuple[Tensor, MesaState]:
        ridge = self._ridge()[:, 0].expand(len(x_BND), -1, -1)
        out, keys, values = naive.least_squares(*self._tokens(x_BND, valid_BN), ridge, state.keys, state.values)
        return self._outputs(out, x_BND), MesaState(keys, values)

    def read(self, x_BMD: Tensor, state: MesaState) -> Tensor:
        tokens, ridge = self._tokens(x_BMD, None), self._ridge()
        with torch.autocast(x_BMD.device.type, enabled=False):
            solve = _alone(MesaTokens(*(t.detach() for t in tokens)), ridge.detach(), state.keys.detach(), self.iterations)
            solved = solve(tokens.q.detach())
            seen = look(tokens.telling(solved, tokens.k), state.keys)
            solution = _Implicit.apply(tokens.q - seen - ridge * solved, solved, solve)
            out = look(tokens.telling(solution, tokens.v), state.values)
        return self._outputs(out, x_BMD)

    def _tokens(self, x_BND: Tensor, valid_BN: Tensor | None) -> MesaTokens:
        q, k, v = (wide(t) for t in self.project(x_BND))
        tokens = Tokens(unit(q), unit(k), v, F.logsigmoid(self.forget(x_BND))).masked(valid_BN)
        return MesaTokens(*tokens[:4], self.beta(x_BND).sigmoid())  # type: ignore[arg-type]

    def _ridge(self) -> Tensor:
        """(H, 1, E)"""
        return F.softplus(wide(self.above_least)) + LEAST_RIDGE


class _Implicit(torch.autograd.Function):
    """The solution of A x = q as a function of the residual r = q - A x, which is 0: dx = A^-1 dr, A symmetric."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, solved: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return solved.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.solve(grad), None, None


def _in_chunks(tokens: MesaTokens, ridge: Tensor, keys: Tensor, iterations: int) -> Callable[[Tensor], Tensor]:
    """Solves (R_n + Diag(ridge)) x_n = b_n for each token n of a stream, R_n the keys' sum up to and with n."""

    def solve(b_BHNE: Tensor) -> Tensor:
        R, solutions = keys.flatten(0, 1), []
        ridge_G1E = ridge.expand(len(b_BHNE), -1, -1, -1).flatten(0, 1)
        parts = (t.flatten(0, 1).split(CHUNK, dim=1) for t in (b_BHNE, tokens.k, tokens.log_decay, tokens.beta))
        for b, k, g, beta in zip(*parts, strict=True):
            decay, told = ScalarDecay(g, k.dtype), beta[..., None] * k

            def times(p: Tensor, R: Tensor = R, k: Tensor = k, told: Tensor = told, decay: ScalarDecay = decay) -> Tensor:
                return decay.rows(p) @ R + decay.pair(p, k).tril_() @ told + ridge_G1E * p

            if iterations:
                solutions.append(conjugate_gradients(times, b, iterations))
            else:
                own = torch.einsum("gni,gie,gif->gnef", decay.between.tril(), k, told)
                whole = decay.row[..., None] * R[:, None] + own + torch.diag_embed(ridge_G1E)
                solutions.append(torch.linalg.solve(whole, b))
            R = decay.over(R) + decay.ends(k).mT @ told
        return torch.cat(solutions, dim=1).view_as(b_BHNE)

    return solve


def _alone(tokens: MesaTokens, ridge: Tensor, keys: Tensor, iterations: int) -> Callable[[Tensor], Tensor]:
    """`_in_chunks` for queries, each of which sees only the state and its own key."""
    k, told, kept = tokens.k, tokens.beta[..., None] * tokens.k, tokens.log_decay.exp()[..., None]

    def solve(b_BHME: Tensor) -> Tensor:
        if iterations:
            return conjugate_gradients(
                lambda p: kept * (p @ keys) + (p * k).sum(-1, keepdim=True) * told + ridge * p, b_BHME, iterations
            )
        own = torch.einsum("bhme,bhmi->bhmei", k, told)
        return torch.linalg.solve(kept[..., None] * keys[:, :, None] + own + torch.diag_embed(ridge), b_BHME)

    return solve


def conjugate_gradients(times: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x (..., E) with times(x) = b, for many symmetric positive systems side by side (Hestenes and Stiefel 1952)."""
    x, residual = torch.zeros_like(b), b
    direction, size = residual, residual.square().sum(-1, keepdim=True)
    enough = size * ENOUGH**2
    for _ in range(iterations):
        if (size <= enough).all():
            break
        image = times(direction)
        # Where a system is solved its direction is 0, and so is what would be added.
        step = size / (direction * image).sum(-1, keepdim=True).clamp_min(torch.finfo(b.dtype).tiny)
        x = x + step * direction
        residual = residual - step * image
        old, size = size, residual.square().sum(-1, keepdim=True)
        direction = residual + size / old.clamp_min(torch.finfo(b.dtype).tiny) * direction
    return x
