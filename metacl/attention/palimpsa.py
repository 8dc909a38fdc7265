"""A memory that knows how sure it is: a mean and a precision for each key feature."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metacl.attention import backends, naive
from metacl.attention.gated import DecayGate
from metacl.attention.interface import Sizes, wide
from metacl.attention.moments import moments, moments_alone
from metacl.attention.recurrent import Gate, Shell, unit
from metacl.attention.scan import Tokens, look


class PalimpsaState(NamedTuple):
    """A Gaussian belief about the map from keys to values, in float32 at least. Its mean is sums / (precision + prior)."""

    sums: Tensor
    """(B, H, E, F): the decayed sum of beta k v^T."""
    precision: Tensor
    """(B, H, E): the decayed sum of beta k^2, above that of the prior."""


class Palimpsa(Shell[PalimpsaState]):
    """M <- a M + beta k v^T, I <- a I + beta k^2, out = (M / (I + prior))^T q (Palimpsa, Bonnet 2026, arXiv 2602.09075).

    A Bayesian linear regression of values on keys with a diagonal precision: the more a key feature has been told, the less a
    new token changes its mean (metaplasticity), and what is forgotten goes back to the prior N(0, 1 / prior). Where forgetting
    dominates, I stays far below the prior, and it is Mamba-2. a = exp(-dt A) as there; beta = sigmoid(w x); the prior is
    learnt, one for each head, at first 1; queries and keys go through SiLU and have length 1.
    The published layer has a beta, and so a precision, for each value feature too; here there is one for each head, so that
    the outputs are linear attention whose queries are divided by the precision.

    Arguments: see `Attention`.
    """

    kernels = ("fla",)
    activated = 2

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.decay, self.beta = DecayGate(self.width, self.heads), Gate(self.width, self.heads)
        self.log_prior = nn.Parameter(torch.zeros(self.heads, 1, 1))

    def init_state(self, batch_size: int) -> PalimpsaState:
        precision = self.zeros(batch_size, self.heads, self.key_width)
        return PalimpsaState(self.zeros(*precision.shape, self.head_width), precision)

    def extend(self, x_BND: Tensor, state: PalimpsaState, valid_BN: Tensor | None) -> tuple[Tensor, PalimpsaState]:
        tokens, beta = self._tokens(x_BND, valid_BN)
        told, precision = moments(tokens.k, beta, wide(tokens.log_decay), state.precision)  # type: ignore[arg-type]
        out, sums = backends.scan(self._sure(tokens, told), state.sums, self.backend)
        return self._outputs(out, x_BND), PalimpsaState(sums, precision)

    def extend_naive(self, x_BND: Tensor, state: PalimpsaState, valid_BN: Tensor | None) -> tuple[Tensor, PalimpsaState]:
        (q, k, v, log_decay, *_), beta = self._tokens(x_BND, valid_BN)
        prior = self.log_prior[:, 0].exp()
        out, sums, precision = naive.diagonal_posterior(q, k, v, log_decay, beta, prior, *state)  # type: ignore[arg-type]
        return self._outputs(out, x_BND), PalimpsaState(sums, precision)

    def read(self, x_BMD: Tensor, state: PalimpsaState) -> Tensor:
        tokens, beta = self._tokens(x_BMD, None)
        told = moments_alone(tokens.k, beta, wide(tokens.log_decay), state.precision)  # type: ignore[arg-type]
        return self._outputs(look(self._sure(tokens, told), state.sums), x_BMD)

    def _tokens(self, x_BND: Tensor, valid_BN: Tensor | None) -> tuple[Tokens, Tensor]:
        """The tokens, their values times beta, and beta (B, H, N)."""
        q, k, v = self.project(x_BND)
        beta = self.beta(x_BND).sigmoid()
        return Tokens(unit(q), unit(k), beta[..., None].to(v) * v, self.decay(x_BND)[1]).masked(valid_BN), beta

    def _sure(self, tokens: Tokens, told_BHNE: Tensor) -> Tokens:
        """The tokens with queries that read means in the place of sums."""
        return tokens._replace(q=(tokens.q / (told_BHNE + wide(self.log_prior).exp())).to(tokens.q.dtype))
