"""Linear attention with a constant-size state (Katharopoulos 2020), in chunks: no N x N matrix exists, in any pass."""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from metacl.attention.interface import Attention


class LinearState(NamedTuple):
    """Running sums over the stream, in float32 whatever the tokens' dtype."""

    sums: Tensor
    """(B, H, E, E): S = sum of phi(k) v^T."""
    norm: Tensor
    """(B, H, E): z = sum of phi(k)."""


class LinearAttention(Attention):
    """out = phi(q) S / (phi(q) . z), S and z the sums of phi(k) v^T and phi(k), phi(x) = elu(x) + 1 (eq. 9-12 of the paper).

    Arguments: see `Attention`. There are no weights to drop: dropout is on the outputs of the heads.
    """

    chunk = 64
    """Tokens that are handled as one matrix product."""

    def init_state(self, batch_size: int) -> LinearState:
        sums = torch.zeros(batch_size, self.heads, self.head_width, self.head_width, device=self.out.weight.device)
        return LinearState(sums, sums[..., 0])

    def learn(self, x_BND: Tensor, state: LinearState, valid_BN: Tensor | None = None) -> tuple[Tensor, LinearState]:
        q, k, v = self._project(x_BND)
        out, state = linear_attention(q, k, v, state, valid_BN, self.chunk)
        return self._merge(out, x_BND), state

    def read(self, x_BMD: Tensor, state: LinearState) -> Tensor:
        q, k, v = self._project(x_BMD)
        own = (q * k).sum(-1, keepdim=True)
        with torch.autocast(q.device.type, enabled=False):
            top = q @ state.sums.to(q) + own * v
            return self._merge(top / (q @ state.norm[..., None].to(q) + own), x_BMD)

    def task_mass(self, x_BMD: Tensor, x_BND: Tensor, task_BN: Tensor, heads: int, valid_BN: Tensor | None = None) -> Tensor:
        """See `Attention`. phi(q) . z_t / sum over tasks, z_t the sum of task t's keys: linear in N, like the mechanism."""
        q = _feature(_widen(self.project_part(x_BMD, 0, heads)))
        k = _feature(_widen(self.project_part(x_BND, 1, heads)))
        k = k if valid_BN is None else k * valid_BN[:, None, :, None]
        with torch.autocast(q.device.type, enabled=False):
            norm_BHTE = torch.einsum("bhne,bnt->bhte", k, F.one_hot(task_BN).to(k))
            mass_BHMT = q @ norm_BHTE.mT
            return mass_BHMT / mass_BHMT.sum(-1, keepdim=True)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """phi(q), phi(k) and v, (B, H, N, E) each, float32 at least."""
        q, k, v = rearrange(_widen(self.qkv(x)), "b n (part h e) -> part b h n e", part=3, h=self.heads)
        return _feature(q), _feature(k), v

    def _merge(self, out_BHNE: Tensor, like: Tensor) -> Tensor:
        merged = F.dropout(rearrange(out_BHNE, "b h n e -> b n (h e)"), self.dropout, self.training)
        return self.out(merged.to(like.dtype))


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, state: LinearState, valid_BN: Tensor | None = None, chunk: int = 64
) -> tuple[Tensor, LinearState]:
    """Causal linear attention over q, k (already positive features) and v, (B, H, N, E) each, continuing `state`.

    Within a chunk the C x C products, between chunks the running sums. The cost is N * (C + E) * E, the memory N / C states.
    A token that is not valid sees what precedes it and itself, and is not kept.
    """
    N = q.shape[2]
    chunk = min(chunk, N)
    kept = k if valid_BN is None else k * valid_BN[:, None, :, None]
    with torch.autocast(q.device.type, enabled=False):
        q, k, kept, v = (_chunks(t, chunk) for t in (q, k, kept, v))  # (B, H, n, C, E)
        sums = torch.cat([state.sums[:, :, None].to(v), kept.mT @ v], dim=2).cumsum(2)  # (B, H, n + 1, E, E)
        norm = torch.cat([state.norm[:, :, None].to(v), kept.sum(3)], dim=2).cumsum(2)  # (B, H, n + 1, E)
        score = (q @ kept.mT).tril(-1)
        own = (q * k).sum(-1, keepdim=True)
        top = score @ v + q @ sums[:, :, :-1] + own * v
        bottom = score.sum(-1, keepdim=True) + q @ norm[:, :, :-1, :, None] + own
        # Padded queries are zero: without the 1 they would be 0 / 0.
        bottom = bottom + (bottom == 0)
    out = rearrange(top / bottom, "b h n c e -> b h (n c) e")[:, :, :N]
    return out, LinearState(sums[:, :, -1], norm[:, :, -1])


def _feature(t: Tensor) -> Tensor:
    return F.elu(t) + 1


def _widen(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _chunks(t: Tensor, chunk: int) -> Tensor:
    """(B, H, N, E) -> (B, H, n, C, E), the last chunk filled with zeros, which add nothing to a sum."""
    missing = -t.shape[2] % chunk
    return rearrange(F.pad(t.contiguous(), (0, 0, 0, missing)), "b h (n c) e -> b h n c e", c=chunk)
