"""A delta rule whose steps are longer along key features of which little was told: it knows the curvature of its problem."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metacl.attention import fused, naive
from metacl.attention.gated import DecayGate
from metacl.attention.interface import Sizes, wide
from metacl.attention.moments import moments, moments_alone
from metacl.attention.recurrent import Gate, Shell, unit
from metacl.attention.scan import Tokens, look, scan

MOST_STEP = 1.5
"""A key feature is written with at most this times, and at least one part in this, of the step of the delta rule, as published.
Up to 2 the rule is stable."""
LEAST_MOMENT = 1e-6
"""What is added to a moment before its logarithm, as published."""
USUAL = -0.2
"""Logarithm of the moment with which a step is neither longer nor shorter, where meta-training starts, as published."""


class PreconditionedState(NamedTuple):
    """Both in float32 at least, whatever the dtype of the tokens."""

    sums: Tensor
    """(B, H, E, F): S. A query reads S^T q."""
    moment: Tensor
    """(B, H, E): A, the decayed second moment of the keys, feature by feature."""


class PreconditionedTokens(NamedTuple):
    """What the layer makes of tokens. q, k and v have one dtype, and products are made in it."""

    q: Tensor
    """(B, H, N, E), of length 1."""
    k: Tensor
    """(B, H, N, E), of length 1; 0 where a token is not valid."""
    v: Tensor
    """(B, H, N, F)"""
    log_decay: Tensor
    """(B, H, N): of S, float32 at least; 0 where a token is not valid."""
    beta: Tensor
    """(B, H, N), float32 at least."""
    moment_decay: Tensor
    """(B, H, N): log decay of A, float32 at least; 0 where a token is not valid."""
    moment_weight: Tensor
    """(B, H, N), float32 at least: how strongly a key counts in A."""

    def stepping(self, step_BHNE: Tensor) -> Tokens:
        """The recurrence S <- a S + step k (beta v - S^T (beta k))^T."""
        beta = self.beta[..., None].to(self.v)
        return Tokens(self.q, (step_BHNE * self.k).to(self.k), beta * self.v, self.log_decay, erase=beta * self.k)


class PreconditionedDelta(Shell[PreconditionedState]):
    """S <- a S, S <- S + P k beta (v - S^T k)^T, P = Diag(x^-s), s = r / (1 + |r|), r = log(A) - c, A <- a' A + beta' k^2.

    Preconditioned Gated DeltaNet (Tumma 2026, arXiv 2604.21100; as the layer of fla has it). The least-squares problem
    that a delta rule descends has the keys' second moment as its curvature; its diagonal A says how long a step along each key
    feature may be. P grows as A shrinks, between 1 / x and x with x = MOST_STEP. a and a' are decays as in Mamba-2, beta and
    beta' sigmoids, each of its own projection of the token; c is learnt, one for each head, at first USUAL. It costs what
    `gated-delta` costs, where `mesa` solves the whole problem for each query.

    Arguments: see `Attention`.
    """

    kernels = ("fla",)
    activated = 2

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.decay, self.beta = DecayGate(self.width, self.heads), Gate(self.width, self.heads)
        self.moment_decay, self.moment_weight = DecayGate(self.width, self.heads), Gate(self.width, self.heads)
        self.usual_H = nn.Parameter(torch.full((self.heads,), USUAL))

    def init_state(self, batch_size: int) -> PreconditionedState:
        moment = self.zeros(batch_size, self.heads, self.key_width)
        return PreconditionedState(self.zeros(*moment.shape, self.head_width), moment)

    def extend(self, x_BND: Tensor, state: PreconditionedState, valid_BN: Tensor | None) -> tuple[Tensor, PreconditionedState]:
        tokens = self._tokens(x_BND, valid_BN)
        run = fused.preconditioned(tokens.v, self.key_width, self.backend)
        if run is not None:
            options = {"x": MOST_STEP, "eps": LEAST_MOMENT, "log_atk_scale": wide(self.usual_H)}
            out, *new = fused.preconditioned_by_fla(run, tokens, *state, options)
            return self._outputs(out, x_BND), PreconditionedState(*new)
        told, moment = moments(tokens.k, tokens.moment_weight, tokens.moment_decay, state.moment)
        out, sums = scan(tokens.stepping(self._steps(told)), state.sums)
        return self._outputs(out, x_BND), PreconditionedState(sums, moment)

    def extend_naive(
        self, x_BND: Tensor, state: PreconditionedState, valid_BN: Tensor | None
    ) -> tuple[Tensor, PreconditionedState]:
        tokens = self._tokens(x_BND, valid_BN)
        out, *new = naive.preconditioned_delta(*tokens, lambda told_BHE: self._steps(told_BHE[:, :, None])[:, :, 0], *state)
        return self._outputs(out, x_BND), PreconditionedState(*new)

    def read(self, x_BMD: Tensor, state: PreconditionedState) -> Tensor:
        tokens = self._tokens(x_BMD, None)
        told = moments_alone(tokens.k, tokens.moment_weight, tokens.moment_decay, state.moment)
        return self._outputs(look(tokens.stepping(self._steps(told)), state.sums), x_BMD)

    def _tokens(self, x_BND: Tensor, valid_BN: Tensor | None) -> PreconditionedTokens:
        q, k, v = self.project(x_BND)
        q, k, v, log_decay, *_ = Tokens(unit(q), unit(k), v, self.decay(x_BND)[1]).masked(valid_BN)
        moment_decay = self.moment_decay(x_BND)[1]
        if valid_BN is not None:
            moment_decay = moment_decay * valid_BN[:, None]
        beta, weight = self.beta(x_BND).sigmoid(), self.moment_weight(x_BND).sigmoid()
        return PreconditionedTokens(q, k, v, log_decay, beta, moment_decay, weight)  # type: ignore[arg-type]

    def _steps(self, told_BHNE: Tensor) -> Tensor:
        """P (B, H, N, E), from A."""
        r = (told_BHNE + LEAST_MOMENT).log() - wide(self.usual_H)[:, None, None]
        return MOST_STEP ** (-r / (1 + r.abs()))
