"""GeMCL: a normal-gamma posterior for each class and feature (Banayeeanzade et al., NeurIPS 2021).

A class with n examples, whose mean is m and S = sum (z - m)^2, has the posterior alpha' = alpha + n / 2, beta' = beta + S / 2.
The density of a query is then a Student-t around m with 2 alpha' degrees of freedom.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from episodes import EpisodeSpec, Examples, UserError
from episodes.errors import at_least
from metacl.learners.distributed import Distributed
from metacl.learners.protocol import Learner
from metacl.learners.statistics.running import UNSEEN, ClassMoments, add_to_moments, no_moments, seen_symbols
from metacl.nets.encoders import EncoderConfig, build_encoder


@dataclass(frozen=True)
class GemclConfig:
    """Mean and variance of the features of each class. The encoder and the prior over variances are meta-trained."""

    width: int = 128
    """Features of an example (D)."""
    predictive: Literal["student-t", "gaussian"] = "student-t"
    """Density that scores a query: `student-t`, the predictive one, or `gaussian`, that at the mode of the posterior (MAP)."""
    official: bool = False
    """Score the Student-t as the published code does: with log v where the density has half of it, without the normaliser."""
    alpha: float = 100.0
    """Alpha of the normal-gamma prior when meta-training starts."""
    beta: float = 1000.0
    """Beta of the normal-gamma prior when meta-training starts. beta / alpha is about the variance of a feature in a class."""
    distributed: Distributed = None
    """When meta-training asks a query. None: at the end of the stream. `random`: once, after a random task from its own on.
    `every`: after each task from its own on."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "width")
        if self.alpha <= 0 or self.beta <= 0:
            raise UserError(f"learner.alpha {self.alpha} and learner.beta {self.beta} must be above 0.")
        if self.official and self.predictive != "student-t":
            raise UserError(
                "learner.official is a form of the Student-t: leave it out, or take --learner.predictive student-t."
            )

    def build(self, spec: EpisodeSpec) -> "Gemcl":
        return Gemcl(self, spec)


class Gemcl(Learner):
    """logit_v = log p(z | the examples of v). The order of the stream does not matter."""

    def __init__(self, config: GemclConfig, spec: EpisodeSpec):
        super().__init__(spec, config.distributed)
        if not spec.classification:
            raise UserError(
                "GeMCL is for classification; this benchmark is a regression. Take alpaca, sb-mcl or a transformer."
            )
        self.config = config
        self.encoder = build_encoder(config.encoder, spec, config.width)
        # Weight decay draws these back to the prior that was given.
        self.log_alpha_change, self.log_beta_change = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    @property
    def alpha(self) -> Tensor:
        return self.config.alpha * self.log_alpha_change.exp()

    @property
    def beta(self) -> Tensor:
        return self.config.beta * self.log_beta_change.exp()

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).to(next(self.parameters()).dtype)  # out of autocast, as statistics need it

    def init_state(self, batch_size: int) -> ClassMoments:
        return no_moments(next(self.parameters()), batch_size, self.spec.symbols, self.config.width)

    def learn_features(self, state: ClassMoments, z_BND: Tensor, examples: Examples) -> ClassMoments:
        return add_to_moments(state, z_BND, examples.y, examples.valid)

    def predict_features(self, state: ClassMoments, z_BMD: Tensor) -> Tensor:
        """log p for the S symbols that were seen; the rest of the vocabulary costs nothing."""
        symbols_BS = seen_symbols(state.counts)
        index_BSD = symbols_BS[..., None].expand(-1, -1, z_BMD.shape[-1])
        count_BS = state.counts.gather(1, symbols_BS)
        off_BMSD = (z_BMD[:, :, None] - state.means.gather(1, index_BSD)[:, None]).square()
        alpha_BS1 = (self.alpha + count_BS / 2)[..., None]
        beta_BSD = self.beta + state.squares.gather(1, index_BSD) / 2
        if self.config.predictive == "gaussian":
            logp_BMS = gaussian(off_BMSD, (beta_BSD / (alpha_BS1 - 0.5))[:, None])
        else:
            spread_BSD = beta_BSD / alpha_BS1 * (1 + 1 / count_BS.clamp_min(1)[..., None])
            logp_BMS = student_t(off_BMSD, spread_BSD[:, None], alpha_BS1[:, None], self.config.official)
        logp_BMS = logp_BMS.masked_fill(count_BS[:, None] == 0, UNSEEN)
        nothing_BMV = z_BMD.new_full((*z_BMD.shape[:2], self.spec.symbols), UNSEEN)
        return nothing_BMV.scatter(2, symbols_BS[:, None].expand_as(logp_BMS), logp_BMS)


def student_t(off: Tensor, spread: Tensor, alpha: Tensor, official: bool = False) -> Tensor:
    """(...): the log density of a Student-t with 2 alpha degrees of freedom, summed over D features.

    Arguments:
        off: (..., D), (z - mean)^2.
        spread: (..., D), the squared scale v.
        alpha: (..., 1).
        official: -sum [(alpha + 1/2) log(1 + off / (2 alpha v)) + log v], which is no density.
    """
    tail = (alpha + 0.5) * torch.log1p(off / (2 * alpha * spread))
    if official:
        return -(tail + spread.log()).sum(-1)
    exact = alpha.double()  # a small difference of large numbers
    normaliser = torch.lgamma(exact + 0.5) - torch.lgamma(exact) - 0.5 * (2 * math.pi * exact).log()
    return (normaliser.to(tail) - tail - 0.5 * spread.log()).sum(-1)


def gaussian(off: Tensor, variance: Tensor) -> Tensor:
    """(...): the log density of a normal distribution with this variance (..., D), summed over D features. `off` as above."""
    return -0.5 * (off / variance + (2 * math.pi * variance).log()).sum(-1)
