"""Mechanisms that are one recurrence. A subclass says only what q, k, v, decay and beta are."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metacl.attention import backends, naive
from metacl.attention.interface import Attention, Sizes, State, wide
from metacl.attention.scan import Tokens, divided, look
from metacl.nets.shared_batch import dropout


class RecurrentState(NamedTuple):
    """The sums over the stream, in float32 at least, whatever the dtype of the tokens."""

    sums: Tensor
    """(B, H, E, F): S. A query reads S^T q."""


class Shell(Attention[State]):
    """What is around a recurrence: RMSNorm of what each head reads. Arguments: see `Attention`.

    Published blocks have more: most put a short convolution before q, k and v, and multiply what was read by a gate. Here all
    mechanisms have the same surroundings, so that they differ in their recurrence alone, and a name like `gated-delta` means
    the recurrence of that paper, not its block. The options short_conv and gate of `make_attention` add these two: with
    `short_conv 4 gate 1` a `gated-delta` is the token mixer of Gated DeltaNet (Yang 2025), but for its widths and for the bias
    of its projections. The gate is SiLU; those of Kimi Linear and RWKV-7 are others, and are not here.
    """

    normed = True
    activated = 0
    """How many of queries, keys and values the mechanism itself puts SiLU on: those a short convolution leaves without."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.norm: nn.Module = HeadNorm(self.head_width)
        self.output_gate: Gate | None = None

    def add_gate(self) -> None:
        """The option gate: what heads read is multiplied, after the norm, by SiLU of a projection of the token."""
        self.output_gate = Gate(self.qkv.in_features, self.heads, self.head_width)

    @torch.no_grad()
    def start_matching(self) -> None:
        """See `Attention`. An output gate lets all through: SiLU of 1.2785 is 1."""
        super().start_matching()
        if self.output_gate is not None:
            nn.init.zeros_(self.output_gate.linear.weight)  # type: ignore[arg-type]
            start_at(self.output_gate, 1.2785)

    def _outputs(self, out_BHNF: Tensor, x_BND: Tensor) -> Tensor:
        out_BHNF = self.norm(out_BHNF)
        if self.output_gate is not None:
            out_BHNF = out_BHNF * F.silu(self.output_gate(x_BND))
        return self.merge(dropout(out_BHNF, self.dropout, self.training), x_BND)


class Recurrent(Shell[RecurrentState]):
    """S <- decay(S) + k u^T, out = RMSNorm(S^T q), in each head (see `scan.py`). Arguments: see `Attention`.

    A subclass writes `tokens`. Where a mechanism `has_weights`, the output is divided by their sum. What published blocks have
    around their recurrence: see `Shell`.
    """

    kernels = ("fla",)

    def tokens(self, x_BND: Tensor) -> Tokens:
        """What the recurrence takes in: the tokens x (B, N, D) as q, k, v, decay and beta."""
        raise NotImplementedError

    def init_state(self, batch_size: int) -> RecurrentState:
        return RecurrentState(self.zeros(batch_size, self.heads, self.key_width, self.head_width))

    def extend(self, x_BND: Tensor, state: RecurrentState, valid_BN: Tensor | None) -> tuple[Tensor, RecurrentState]:
        out, sums = backends.scan(self.tokens(x_BND).masked(valid_BN), state.sums, self.backend, divide=self.has_weights)
        return self._outputs(out, x_BND), RecurrentState(sums)

    def extend_naive(self, x_BND: Tensor, state: RecurrentState, valid_BN: Tensor | None) -> tuple[Tensor, RecurrentState]:
        out, sums = naive.recurrence(self.tokens(x_BND).masked(valid_BN), state.sums)
        return self._outputs(self._weighted(out), x_BND), RecurrentState(sums)

    def read(self, x_BMD: Tensor, state: RecurrentState) -> Tensor:
        return self._outputs(self._weighted(look(self.tokens(x_BMD), state.sums)), x_BMD)

    def _weighted(self, out_BHNF: Tensor) -> Tensor:
        return divided(out_BHNF) if self.has_weights else out_BHNF


class HeadNorm(nn.Module):
    """RMSNorm of each head's outputs (B, H, N, F), with one scale (F,) for all heads, in float32 at least."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, out_BHNF: Tensor) -> Tensor:
        return F.rms_norm(wide(out_BHNF), self.scale.shape, wide(self.scale), eps=1e-6)


class Gate(nn.Module):
    """(B, N, D) -> (B, H, N), or (B, H, N, size): a linear map of a token to one number a head, or `size`, in float32 at least.

    Arguments:
        rank: the map is a product of two, with so many features between them; None: it is one matrix.
    """

    def __init__(self, width: int, heads: int, size: int | None = None, rank: int | None = None):
        super().__init__()
        self.heads, self.size = heads, size
        rows = heads * (size or 1)
        self.linear = (
            nn.Linear(width, rows) if rank is None else nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, rows))
        )

    def forward(self, x_BND: Tensor) -> Tensor:
        gates = wide(self.linear(x_BND)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return gates if self.size else gates[..., 0]


@torch.no_grad()
def start_at(gate: Gate, bias: float | Tensor) -> None:
    """The gate says `bias`, one number or one for each row, where a token says nothing."""
    last = gate.linear[-1] if isinstance(gate.linear, nn.Sequential) else gate.linear
    last.bias.copy_(torch.as_tensor(bias))  # type: ignore[operator]


def softplus_inverse(x: float | Tensor) -> Tensor:
    """y with softplus(y) = x. softplus(y) is -log(sigmoid(-y)), so -y is the gate whose log sigmoid is -x."""
    return torch.as_tensor(x).expm1().log()


def start_at_half(gate: Gate, most: float) -> None:
    """`most` * sigmoid(gate), the beta of a delta rule, is 1/2 where a token says nothing."""
    start_at(gate, -math.log(2 * most - 1))


def unit(t_BHNE: Tensor) -> Tensor:
    """SiLU, then scaled to length 1, in the same dtype: what delta rules make of queries and keys (B, H, N, E)."""
    return F.normalize(F.silu(wide(t_BHNE)), dim=-1).to(t_BHNE.dtype)
