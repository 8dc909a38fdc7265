"""How a state forgets within one chunk: not at all, by one number a token, or by one number for each key feature of a token.

Each way is a class with the four places where decay enters a chunk, and their gradients. b_i is the sum of log decays up to
and with token i, C the last token, G = B * H streams and heads side by side:

    rows(x)_i = x_i * exp(b_i)                     token i looks at the state before the chunk
    ends(k)_j = k_j * exp(b_C - b_j)               what token j wrote, seen at the end of the chunk
    over(S)   = S * exp(b_C)                       the state before the chunk, seen at its end
    pair(x, k)_ij = x_i . (k_j * exp(b_i - b_j))   token i looks at what token j wrote (only j <= i has a meaning)

Where a token writes n times (see `Tokens` in scan.py) it decays before the first: then its b is that of n rows, x may have one
row or n of a token, and k has n.

`..._back` makes the gradient of an argument from the gradient of the result, and adds the part that belongs to the decays to
a running sum.
"""

import torch
from torch import Tensor

MOST = 80.0
"""Largest exponent of a factor of a vector decay: exp(80) is still a float32, and so is exp(-80)."""


class NoDecay:
    """Everything is kept."""

    def rows(self, x_GCE: Tensor) -> Tensor:
        return x_GCE

    ends = over = rows

    def rows_back(self, grad: Tensor, rows_GCE: Tensor) -> Tensor:
        return grad

    def ends_back(self, grad: Tensor, ends_GCE: Tensor) -> Tensor:
        return grad

    def over_back(self, grad: Tensor, over_GEF: Tensor) -> Tensor:
        return grad

    def pair(self, x_GCE: Tensor, k_GCE: Tensor) -> Tensor:
        return x_GCE @ k_GCE.mT

    def pair_back(self, grad_GCC: Tensor, pair_GCC: Tensor, x_GCE: Tensor, k_GCE: Tensor) -> tuple[Tensor, Tensor]:
        return grad_GCC @ k_GCE, grad_GCC.mT @ x_GCE

    def gradient(self) -> Tensor | None:
        """The gradient of the log decays, in their shape; None where there are none."""
        return None


class ScalarDecay(NoDecay):
    """Log decays g (G, C), at most 0: differences are taken before exp, so nothing overflows."""

    def __init__(self, g_GC: Tensor, dtype: torch.dtype, writes: int = 1):
        b_GC, self.writes = _repeated(g_GC.cumsum(1), writes), writes
        self.row, self.end = b_GC.exp()[..., None].to(dtype), (b_GC[:, -1:] - b_GC).exp()[..., None].to(dtype)
        self.total = b_GC[:, -1:].exp()[..., None]
        self.between = (b_GC[:, :, None] - b_GC[:, None]).clamp_max_(0).exp_().to(dtype)
        self.b_back, self.last_back = torch.zeros_like(b_GC), torch.zeros_like(b_GC[:, 0])

    def rows(self, x_GCE: Tensor) -> Tensor:
        return x_GCE * _of(x_GCE, self.row)

    def ends(self, k_GCE: Tensor) -> Tensor:
        return k_GCE * self.end

    def over(self, state_GEF: Tensor) -> Tensor:
        return state_GEF * self.total

    def pair(self, x_GCE: Tensor, k_GCE: Tensor) -> Tensor:
        return (x_GCE @ k_GCE.mT).mul_(_of(x_GCE, self.between))

    def rows_back(self, grad: Tensor, rows_GCE: Tensor) -> Tensor:
        _of(grad, self.b_back).add_(_dot(grad, rows_GCE))
        return grad * _of(grad, self.row)

    def ends_back(self, grad: Tensor, ends_GCE: Tensor) -> Tensor:
        due_GC = _dot(grad, ends_GCE)
        self.b_back -= due_GC
        self.last_back += due_GC.sum(1)
        return grad * self.end

    def over_back(self, grad: Tensor, over_GEF: Tensor) -> Tensor:
        self.last_back += (grad * over_GEF).sum((1, 2))
        return grad * self.total

    def pair_back(self, grad_GCC: Tensor, pair_GCC: Tensor, x_GCE: Tensor, k_GCE: Tensor) -> tuple[Tensor, Tensor]:
        due_GCC = (grad_GCC * pair_GCC).to(self.b_back.dtype)
        _of(x_GCE, self.b_back).add_(due_GCC.sum(2))
        self.b_back -= due_GCC.sum(1)
        return super().pair_back(grad_GCC * _of(x_GCE, self.between), pair_GCC, x_GCE, k_GCE)

    def gradient(self) -> Tensor:
        self.b_back[:, -1] += self.last_back
        return _summed(self.b_back, self.writes).flip(1).cumsum(1).flip(1)


class VectorDecay(NoDecay):
    """Log decays g (G, C, E): exp(b_i - b_j) is two factors, split at half of b_C, which must not be below -2 MOST.

    A tensor times a factor is made once, however often it is asked for.
    """

    def __init__(self, g_GCE: Tensor, dtype: torch.dtype, writes: int = 1):
        b_GCE, self.writes, self.dtype = g_GCE.cumsum(1), writes, dtype
        half_G1E = b_GCE[:, -1:] / 2
        self.left = _repeated((b_GCE - half_G1E).exp_(), writes)
        self.right, self.half = self.left.reciprocal(), half_G1E.exp_()
        self.total = self.half.mT.square()
        self.b_back, self.last_back = torch.zeros_like(self.left), torch.zeros_like(self.left[:, 0])
        self.made: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}

    def rows(self, x_GCE: Tensor) -> Tensor:
        return (self._times(x_GCE) * self.half).to(self.dtype)

    def ends(self, k_GCE: Tensor) -> Tensor:
        return (self._times(k_GCE, right=True) * self.half).to(self.dtype)

    def over(self, state_GEF: Tensor) -> Tensor:
        return state_GEF * self.total

    def pair(self, x_GCE: Tensor, k_GCE: Tensor) -> Tensor:
        return self._times(x_GCE).to(self.dtype) @ self._times(k_GCE, right=True).to(self.dtype).mT

    def rows_back(self, grad: Tensor, rows_GCE: Tensor) -> Tensor:
        _of(grad, self.b_back).add_(grad * rows_GCE)
        return (grad * _of(grad, self.left)).mul_(self.half)

    def ends_back(self, grad: Tensor, ends_GCE: Tensor) -> Tensor:
        due_GCE = (grad * ends_GCE).to(self.b_back.dtype)
        self.b_back -= due_GCE
        self.last_back += due_GCE.sum(1)
        return (grad * self.right).mul_(self.half)

    def over_back(self, grad: Tensor, over_GEF: Tensor) -> Tensor:
        self.last_back += (grad * over_GEF).sum(2)
        return grad * self.total

    def pair_back(self, grad_GCC: Tensor, pair_GCC: Tensor, x_GCE: Tensor, k_GCE: Tensor) -> tuple[Tensor, Tensor]:
        left_GCE, right_GCE = self._times(x_GCE), self._times(k_GCE, right=True)
        to_left, to_right = super().pair_back(grad_GCC, pair_GCC, left_GCE.to(self.dtype), right_GCE.to(self.dtype))
        _of(x_GCE, self.b_back).addcmul_(to_left, left_GCE)
        self.b_back.addcmul_(to_right, right_GCE, value=-1)
        return to_left * _of(x_GCE, self.left), to_right * self.right

    def gradient(self) -> Tensor:
        self.b_back[:, -1] += self.last_back
        return _summed(self.b_back, self.writes).flip(1).cumsum(1).flip(1)

    def _times(self, x_GCE: Tensor, right: bool = False) -> Tensor:
        """x * left, or x * right. (x is kept too, so that its id stays its own.)"""
        place = id(x_GCE), right
        if place not in self.made:
            self.made[place] = x_GCE, x_GCE * _of(x_GCE, self.right if right else self.left)
        return self.made[place][1]


def decay_of(log_decay: Tensor | None, dtype: torch.dtype, writes: int = 1) -> NoDecay:
    """The decay of a chunk with log decays None, (G, C) or (G, C, E), for products in `dtype`.

    Arguments:
        writes: n, how often a token writes.
    """
    if log_decay is None:
        return NoDecay()
    return (ScalarDecay if log_decay.ndim == 2 else VectorDecay)(log_decay, dtype, writes)


def _of(x: Tensor, t: Tensor) -> Tensor:
    """The rows of t, n a token, that belong to those of x: all of them, or one of each token."""
    return t if t.shape[1] == x.shape[1] else t[:, :: t.shape[1] // x.shape[1]]


def _repeated(t: Tensor, writes: int) -> Tensor:
    return t if writes == 1 else t.repeat_interleave(writes, dim=1)


def _summed(t: Tensor, writes: int) -> Tensor:
    """The gradient of what was repeated."""
    return t if writes == 1 else t.unflatten(1, (-1, writes)).sum(2)


def _dot(a_GCE: Tensor, b_GCE: Tensor) -> Tensor:
    return (a_GCE * b_GCE).sum(2, dtype=torch.promote_types(a_GCE.dtype, torch.float32))
