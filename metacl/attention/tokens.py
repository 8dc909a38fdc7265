"""What the shared recurrence (`scan.py`) takes in, and what a token by itself would read."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """What a mechanism makes of N tokens, each of which writes n times (n = 1 but for few). q, k, v and erase have one dtype,
    and products are made in it."""

    q: Tensor
    """(B, H, N, E)"""
    k: Tensor
    """(B, H, n N, E): first what the first token writes along, in order, then the second, ..."""
    v: Tensor
    """(B, H, n N, F)"""
    log_decay: Tensor | None = None
    """(B, H, N), or (B, H, N, E); at most 0, float32 at least. None: nothing is forgotten."""
    beta: Tensor | None = None
    """(B, H, n N), float32 at least: how strongly the delta rule writes. None: the rule is add or erase."""
    erase: Tensor | None = None
    """(B, H, n N, E): e, the key whose value is taken back. None: the rule is add or delta."""

    @property
    def writes(self) -> int:
        """n"""
        return self.k.shape[-2] // max(1, self.q.shape[-2])

    @property
    def taken(self) -> Tensor | None:
        """The keys whose values are taken back: k for delta, e for erase."""
        return self.erase if self.beta is None else self.k

    def masked(self, valid_BN: Tensor | None) -> "Tokens":
        """The tokens with padding (not valid) that neither writes into the state nor lets it decay."""
        if valid_BN is None:
            return self
        seen, decay, beta = valid_BN[:, None], self.log_decay, self.beta
        if decay is not None:
            decay = decay * (seen if decay.ndim == 3 else seen[..., None])
        seen = seen if self.writes == 1 else seen.repeat_interleave(self.writes, dim=-1)
        return self._replace(k=self.k * seen[..., None], log_decay=decay, beta=None if beta is None else beta * seen)


def divided(sums: Tensor) -> Tensor:
    """(..., F) -> (..., F - 1): sums divided by their last feature, the normaliser. Sums over no token at all give 0."""
    return sums[..., :-1] / normaliser(sums)


def look(tokens: Tokens, state_BHEF: Tensor) -> Tensor:
    """(B, H, M, F): the output of each token if it alone came next."""
    q, log_decay, written = tokens.q, tokens.log_decay, list[tuple[Tensor, Tensor]]()
    with torch.autocast(q.device.type, enabled=False):
        state = state_BHEF.to(tokens.v)
        rate = 1 if log_decay is None else (log_decay if log_decay.ndim == 4 else log_decay[..., None]).exp().to(state)
        out = (q * rate) @ state
        for i in range(tokens.writes):
            k, u = tokens.k[:, :, i :: tokens.writes], tokens.v[:, :, i :: tokens.writes]
            if tokens.taken is not None:
                e = tokens.taken[:, :, i :: tokens.writes]
                u = u - (e * rate) @ state - sum(_dot(e, earlier) * told for earlier, told in written)
            if tokens.beta is not None:
                u = tokens.beta[:, :, i :: tokens.writes, None].to(u) * u
            out = out + _dot(q, k) * u
            written.append((k, u))
        return out


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b)[..., None]


def normaliser(sums: Tensor) -> Tensor:
    """(..., F) -> (..., 1): the last feature, or 1 where it is 0."""
    bottom = sums[..., -1:]
    return bottom + (bottom == 0)
