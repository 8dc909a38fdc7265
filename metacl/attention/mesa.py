"""In-context least squares: a regression of all values so far on all keys so far answers each query."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metacl.attention import naive
from metacl.attention.interface import Attention, Width, wide
from metacl.attention.recurrent import HeadNorm, unit
from metacl.attention.scan import Tokens, look, scan
from metacl.nets.shared_batch import dropout

CHUNK = 64
"""Tokens that are worked through together."""
ENOUGH = 1e-6
"""Conjugate gradients end when every residual is at most this times as long as its query."""


class MesaState(NamedTuple):
    """The sufficient statistics of ridge regression, in float32 at least, whatever the dtype of the tokens."""

    keys: Tensor
    """(B, H, E, E): R = sum of k k^T."""
    values: Tensor
    """(B, H, E, F): G = sum of k v^T."""


class Mesa(Attention[MesaState]):
    """out = G^T (R + Diag(ridge))^-1 q with R and G the sums of k k^T and k v^T.

    Sources: the mesa-layer (von Oswald 2023) and MesaNet (2025, eq. 6). Queries and keys have length 1, the ridge is learnt.
    The outputs are linear attention with the solutions as queries. The gradient of the solutions needs one more solution with
    the same matrices (the implicit function theorem), however they were found.

    Arguments: see `Attention`; iterations: most iterations of conjugate gradients, which need no matrix but R. 0: exact
    solutions, for which an E x E matrix is factorised at each token.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        head_width: Width = None,
        key_width: Width = None,
        *,
        iterations: int = 30,
    ):
        super().__init__(width, heads, dropout, head_width, key_width)
        self.iterations = iterations
        self.log_ridge = nn.Parameter(torch.zeros(heads, 1, self.key_width))
        self.norm = HeadNorm(self.head_width)

    def init_state(self, batch_size: int) -> MesaState:
        return MesaState(
            self.zeros(batch_size, self.heads, self.key_width, self.key_width),
            self.zeros(batch_size, self.heads, self.key_width, self.head_width),
        )

    def extend(self, x_BND: Tensor, state: MesaState, valid_BN: Tensor | None) -> tuple[Tensor, MesaState]:
        q, k, v = self._tokens(x_BND, valid_BN)
        ridge = self._ridge()
        with torch.autocast(x_BND.device.type, enabled=False):
            solve = _in_chunks(q, k.detach(), ridge.detach(), state.keys.detach(), self.iterations)
            solved = solve(q.detach())
            seen, keys = scan(Tokens(solved, k, k), state.keys, CHUNK)
            solution = _Implicit.apply(q - seen - ridge * solved, solved, solve)
            out, values = scan(Tokens(solution, k, v), state.values, CHUNK)
        return self._outputs(out, x_BND), MesaState(keys, values)

    def extend_naive(self, x_BND: Tensor, state: MesaState, valid_BN: Tensor | None) -> tuple[Tensor, MesaState]:
        ridge = self._ridge()[:, 0].expand(len(x_BND), -1, -1)
        out, keys, values = naive.least_squares(*self._tokens(x_BND, valid_BN), ridge, state.keys, state.values)
        return self._outputs(out, x_BND), MesaState(keys, values)

    def read(self, x_BMD: Tensor, state: MesaState) -> Tensor:
        q, k, v = self._tokens(x_BMD, None)
        ridge = self._ridge()
        with torch.autocast(x_BMD.device.type, enabled=False):
            solve = _alone(k.detach(), ridge.detach(), state.keys.detach(), self.iterations)
            solved = solve(q.detach())
            solution = _Implicit.apply(q - look(Tokens(solved, k, k), state.keys) - ridge * solved, solved, solve)
            return self._outputs(look(Tokens(solution, k, v), state.values), x_BMD)

    def _tokens(self, x_BND: Tensor, valid_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, float32 at least: solving is no work for bf16."""
        q, k, v = (wide(t) for t in self.project(x_BND))
        return Tokens(unit(q), unit(k), v).masked(valid_BN)[:3]

    def _ridge(self) -> Tensor:
        return wide(self.log_ridge).exp()

    def _outputs(self, out_BHNF: Tensor, like_BND: Tensor) -> Tensor:
        return self.merge(dropout(self.norm(out_BHNF), self.dropout, self.training), like_BND)


class _Implicit(torch.autograd.Function):
    """The solution of A x = q as a function of the residual r = q - A x, which is 0: dx = A^-1 dr, A symmetric."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, solved: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return solved.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.solve(grad), None, None


def _in_chunks(q: Tensor, k: Tensor, ridge: Tensor, keys: Tensor, iterations: int) -> Callable[[Tensor], Tensor]:
    """Solves (R_n + Diag(ridge)) x_n = b_n for each token n of a stream, R_n the sum of k k^T up to and with n."""

    def solve(b_BHNE: Tensor) -> Tensor:
        R, solutions = keys, []
        for b, k_chunk in zip(b_BHNE.split(CHUNK, dim=2), k.split(CHUNK, dim=2), strict=True):

            def times(p: Tensor, R: Tensor = R, k: Tensor = k_chunk) -> Tensor:
                return p @ R + (p @ k.mT).tril() @ k + ridge * p

            if iterations:
                solutions.append(conjugate_gradients(times, b, iterations))
            else:
                own = torch.einsum("bhne,bhni->bhnei", k_chunk, k_chunk).cumsum(2)
                solutions.append(torch.linalg.solve(R[:, :, None] + own + torch.diag_embed(ridge), b))
            R = R + k_chunk.mT @ k_chunk
        return torch.cat(solutions, dim=2)

    return solve


def _alone(k: Tensor, ridge: Tensor, keys: Tensor, iterations: int) -> Callable[[Tensor], Tensor]:
    """`_in_chunks` for queries, each of which sees only the state and its own key."""

    def solve(b_BHME: Tensor) -> Tensor:
        if iterations:
            return conjugate_gradients(lambda p: p @ keys + (p * k).sum(-1, keepdim=True) * k + ridge * p, b_BHME, iterations)
        own = torch.einsum("bhme,bhmi->bhmei", k, k)
        return torch.linalg.solve(keys[:, :, None] + own + torch.diag_embed(ridge), b_BHME)

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
