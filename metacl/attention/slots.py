"""Gated slot attention: softmax attention over a fixed number of slots, each of them a decayed mean of keys and of values."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from metacl.attention import fused, naive
from metacl.attention.decay import MOST
from metacl.attention.gated import LEAST
from metacl.attention.interface import Sizes, wide
from metacl.attention.recurrent import Gate, Shell, softplus_inverse, start_at
from metacl.attention.scan import Tokens, look, scan, short_enough

CHUNK = 64
"""Tokens that are worked through together where slots are scored; less where a stream forgets so much that factors would leave
float32."""


class SlotState(NamedTuple):
    """M slots, in float32 at least, whatever the dtype of the tokens."""

    keys: Tensor
    """(B, H, E, M)"""
    values: Tensor
    """(B, H, M, F)"""


class SlotTokens(NamedTuple):
    """What the layer makes of tokens. q, k and v have one dtype, and products are made in it."""

    q: Tensor
    """(B, H, N, E)"""
    k: Tensor
    """(B, H, N, E)"""
    v: Tensor
    """(B, H, N, F)"""
    write: Tensor
    """(B, H, N, M), float32 at least: how much of the token each slot takes; 0 where a token is not valid."""
    log_decay: Tensor
    """(B, H, N, M), float32 at least: what each slot keeps; 0 where a token is not valid."""

    def reading(self, score_BHNM: Tensor) -> Tokens:
        """The tokens of the recurrence V <- Diag(a) V + (1 - a) v^T, read by the softmax of the slots' scores."""
        return Tokens(score_BHNM.softmax(-1).to(self.v), self.write.to(self.v), self.v, self.log_decay)


class GatedSlots(Shell[SlotState]):
    """K <- Diag(a) K + (1 - a) k^T, V <- Diag(a) V + (1 - a) v^T, out = V^T softmax(K q) (GSA, Zhang 2024, section 3).

    Row m of K and of V is a slot. a = sigmoid(w x)^(1/8), one for each slot; q, k and v go through SiLU, and nothing divides
    the scores, as published. The paper's block has SiLU on what is read, and one norm for all heads (see `Shell`).

    Arguments: see `Attention`; slots: M in each head; None: as many as a key has features.
    """

    kernels = ("fla",)
    activated = 3
    recalls = False

    def __init__(self, sizes: Sizes, *, slots: int | None = None):
        super().__init__(sizes)
        self.slots = slots or self.key_width
        self.forget = Gate(self.width, self.heads, self.slots)

    def start_matching(self) -> None:
        """See `Attention`. Slots are means of all that was seen, no votes of like examples, so this is no matching network; but
        what it is told it keeps, and it reads from where it should."""
        super().start_matching()
        start_at(self.forget, -softplus_inverse(8 * LEAST))

    def init_state(self, batch_size: int) -> SlotState:
        return SlotState(
            self.zeros(batch_size, self.heads, self.key_width, self.slots),
            self.zeros(batch_size, self.heads, self.slots, self.head_width),
        )

    def extend(self, x_BND: Tensor, state: SlotState, valid_BN: Tensor | None) -> tuple[Tensor, SlotState]:
        tokens = self._tokens(x_BND, valid_BN)
        run = fused.slots(tokens.v, self.backend)
        if run is not None:
            out, keys, values = fused.slots_by_fla(run, tokens, state.keys, state.values)
        else:
            score, keys = score_slots(tokens, state.keys)
            out, values = scan(tokens.reading(score), state.values)
        return self._outputs(out, x_BND), SlotState(keys, values)

    def extend_naive(self, x_BND: Tensor, state: SlotState, valid_BN: Tensor | None) -> tuple[Tensor, SlotState]:
        out, keys, values = naive.gated_slots(*self._tokens(x_BND, valid_BN), *state)
        return self._outputs(out, x_BND), SlotState(keys, values)

    def read(self, x_BMD: Tensor, state: SlotState) -> Tensor:
        tokens = self._tokens(x_BMD, None)
        q, k, _, write, log_decay = tokens
        with torch.autocast(x_BMD.device.type, enabled=False):
            score = log_decay.exp() * (q @ state.keys.to(q)) + wide((q * k).sum(-1, keepdim=True)) * write
        return self._outputs(look(tokens.reading(score), state.values), x_BMD)

    def _tokens(self, x_BND: Tensor, valid_BN: Tensor | None) -> SlotTokens:
        q, k, v = (F.silu(t) for t in self.project(x_BND))
        log_decay = (F.logsigmoid(self.forget(x_BND)) / 8).clamp_min(-2 * MOST)
        if valid_BN is not None:
            log_decay = log_decay * valid_BN[:, None, :, None]
        return SlotTokens(q, k, v, -log_decay.expm1(), log_decay)


def score_slots(tokens: SlotTokens, state_BHEM: Tensor) -> tuple[Tensor, Tensor]:
    """K q for each token, (B, H, N, M), and the state after them; float32 at least.

    With c the sum of log decays over a chunk, b_i that up to and with token i, less c / 2, and S the state before the chunk:

        score_i = exp(b_i) (sum over j <= i of (q_i . k_j) exp(-b_j) write_j + exp(c / 2) q_i S)

    Here decay is along what is read, where `scan` has it along the keys. All chunks are worked through at once.
    """
    q, k, _, write, log_decay = tokens
    N, chunk = q.shape[2], short_enough(log_decay.detach(), float(log_decay.detach().amin()), CHUNK)
    with torch.autocast(q.device.type, enabled=False):
        q, k, write, log_decay = (_in_chunks(t, chunk) for t in (q, k, write, log_decay))
        from_start = log_decay.cumsum(3)
        whole = from_start[..., -1, None, :]
        half = whole.detach() / 2  # it cancels, and so does its gradient
        b = from_start - half
        told = ((-b).exp() * write).to(q)
        added = wide(k.mT @ told) * (whole - half).exp()
        states, state = [], state_BHEM
        for part_kept, part_added in zip(whole.exp().unbind(2), added.unbind(2), strict=True):
            states.append(state)
            state = part_kept * state + part_added
        start = (torch.stack(states, dim=2) * half.exp()).to(q)
        score = b.exp() * ((q @ k.mT).tril_() @ told + q @ start)
    return score.flatten(2, 3)[:, :, :N], state


def _in_chunks(t_BHNX: Tensor, chunk: int) -> Tensor:
    """(B, H, chunks, chunk, X), zeros behind the last token."""
    missing = -t_BHNX.shape[2] % chunk
    return (F.pad(t_BHNX, (0, 0, 0, missing)) if missing else t_BHNX).unflatten(2, (-1, chunk)).contiguous()
