"""SB-MCL: sequential Bayes in a latent space (Lee, Jeon, Son, Kim, ICML 2024).

An encoder turns each (x, y) into a Gaussian N(mean, 1 / precision) over a latent. The posterior is the product of these
Gaussians with a learnt prior: precisions add, and means are weighted with them, exactly and in any order. A decoder answers
from x and a latent.
Encoder and decoder are MLPs. By default they have two aids that the paper does not have. A linear map lies beside each
(`bypass`): one example is a small part of the mean of the latent, and through MLPs alone next to no gradient reaches it. And a
latent that tells classes apart sums features joined with labels; MLPs take very long to find that, so products of features and
labels go past them as well (`bind`; binding: Plate 1995).

S samples of the latent; E stands for (mean, precision) of one example.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from episodes import Episode, EpisodeSpec, Examples
from episodes.errors import at_least
from metacl.learners.losses import MetaLoss, mean_loss
from metacl.learners.protocol import Learner
from metacl.learners.symbols import RandomSymbols
from metacl.nets.encoders import EncoderConfig, VectorEncoder, build_encoder
from metacl.nets.shared_batch import randn_like

CERTAIN = 6.0
"""Log precision of one example before meta-training, with `bypass`. It is so high that sampling noise does not hide what an
example says; without, as published, it starts near 0."""


@dataclass(frozen=True)
class BayesConfig:
    """A Gaussian posterior over a latent. An encoder of examples makes it, a decoder reads it."""

    width: int = 128
    """Width of the features and of the latent (D)."""
    hidden: int = 256
    """Width of the hidden layers in the encoder of examples and in the decoder."""
    samples: int = 5
    """Samples of the latent whose predictions are averaged after meta-training, as probabilities (the authors' code averages
    logits). 0: the mode alone is used (MAP)."""
    kl_weight: float = 1e-3
    """Weight of KL(posterior || prior) in the meta-loss. At 1, the evidence bound, short meta-training ends with a posterior
    that is the prior and knows nothing of the stream."""
    bypass: bool = True
    """Put a linear map beside the encoder of examples and beside the decoder, and let each example count for much at first."""
    bind: bool = True
    """Add features * label to the mean that the encoder gives, and features * latent to what the decoder gives."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "width", "hidden")
        at_least(0, self, "learner.", "samples", "kl_weight")

    def build(self, spec: EpisodeSpec) -> "SequentialBayes":
        return SequentialBayes(self, spec)


class BayesState(NamedTuple):
    """The posterior N(mean, 1 / precision) of the latent."""

    mean: Tensor
    """(B, D)"""
    precision: Tensor
    """(B, D)"""


class SequentialBayes(Learner):
    """The order of the stream does not matter. In meta-training one random sample of the latent answers queries and stream.

    Afterwards `samples` of them answer queries. Their noise is drawn once and is part of the learner.
    """

    noise_SD: Tensor

    def __init__(self, config: BayesConfig, spec: EpisodeSpec):
        super().__init__(spec)
        width, hidden = config.width, config.hidden
        self.config = config
        self.encoder = build_encoder(config.encoder, spec, width)
        if spec.classification:
            self.symbols = RandomSymbols(spec.symbols, width, width)
            nn.init.eye_(self.symbols.write.weight)  # what is bound comes out as it went in
            nn.init.eye_(cast(nn.Linear, self.symbols.answer).weight)
        else:
            self.target_encoder = VectorEncoder(spec.y_shape, width)
            self.answer = nn.Linear(width, spec.outputs)
        self.recognise = nn.Sequential(
            nn.Linear(2 * width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2 * width)
        )
        self.decode_x, self.decode_latent = nn.Linear(width, hidden), nn.Linear(width, hidden, bias=False)
        self.decode = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width))
        if config.bypass:
            self.recognise_past = nn.Linear(2 * width, 2 * width, bias=False)
            self.decode_past = nn.Linear(width, width, bias=False)
            with torch.no_grad():
                self.recognise[-1].bias[width:] += CERTAIN  # type: ignore[operator,index]
        self.prior_mean_D = nn.Parameter(torch.zeros(width))
        self.prior_log_precision_D = nn.Parameter(torch.zeros(width))
        self.register_buffer("noise_SD", torch.randn(config.samples, width))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def init_state(self, batch_size: int) -> BayesState:
        return BayesState(*(t.expand(batch_size, -1) for t in (self.prior_mean_D, self.prior_log_precision_D.exp())))

    def learn_features(self, state: BayesState, z_BND: Tensor, examples: Examples) -> BayesState:
        y = examples.y
        label_BND = self.symbols.embed(y) if self.spec.classification else self.target_encoder(y)
        pair_BNE = torch.cat([z_BND, label_BND], dim=-1)
        both_BNE = self.recognise(pair_BNE)
        if self.config.bypass:
            both_BNE = both_BNE + self.recognise_past(pair_BNE)
        mean_BND, log_precision_BND = both_BNE.to(state.mean).chunk(2, dim=-1)
        if self.config.bind:
            mean_BND = mean_BND + z_BND * label_BND
        return product(state, mean_BND, log_precision_BND.exp(), examples.valid)

    def predict_features(self, state: BayesState, z_BMD: Tensor) -> Tensor:
        if not self.config.samples:
            return self._decode(z_BMD, state.mean[:, None])[:, 0]
        latent_BSD = state.mean[:, None] + self.noise_SD * state.precision[:, None].rsqrt()
        answers_BSM = self._decode(z_BMD, latent_BSD)
        if self.spec.classification:
            return answers_BSM.log_softmax(-1).logsumexp(1) - math.log(self.config.samples)
        return answers_BSM.mean(1)

    def meta_loss(self, episode: Episode) -> MetaLoss:
        """In training, with one sample of the latent: (the losses of N stream examples and M queries + KL) / (N + M).

        That is the evidence bound, for one example; the authors' code draws a sample for each example. As a loss of regression
        is a mean over the target's F numbers, KL / F stands there. N and M count valid ones, on average over the batch.
        """
        if not self.training:
            return super().meta_loss(episode)
        z_stream, z_query = self.encode_episode(episode)
        prior, stream = self.init_state(len(z_stream)), episode.stream
        state = self.learn_features(prior, z_stream, stream)
        latent_BSD = (state.mean + randn_like(state.mean) * state.precision.rsqrt())[:, None]
        asked = self.query_loss(self._decode(z_query, latent_BSD)[:, 0], episode.queries.y, episode.queries.valid)
        told = self._stream_loss(self._decode(z_stream, latent_BSD)[:, 0], stream)
        N, M = (len(part) if part.valid is None else part.valid.sum() / len(part.y) for part in (stream, episode.queries))
        numbers = 1 if self.spec.classification else self.spec.outputs
        share, every = N / (N + M), N + M
        kl = divergence(state, prior).mean() / (every * numbers)
        metrics = asked.metrics | {"stream": told.detach(), "kl": kl.detach()}
        return MetaLoss((1 - share) * asked.loss + share * told + self.config.kl_weight * kl, metrics)

    def _decode(self, z_BMD: Tensor, latent_BSD: Tensor) -> Tensor:
        """Logits (B, S, M, V) or targets (B, S, M, *y_shape): the answer to each query with each of S latents."""
        h_BSMD = self.decode(self.decode_x(z_BMD)[:, None] + self.decode_latent(latent_BSD)[:, :, None])
        if self.config.bypass:
            h_BSMD = h_BSMD + self.decode_past(latent_BSD)[:, :, None]
        if self.config.bind:
            h_BSMD = h_BSMD + z_BMD[:, None] * latent_BSD[:, :, None]
        if self.spec.classification:
            return self.symbols.logits(h_BSMD)
        return self.shaped(self.answer(h_BSMD))

    def _stream_loss(self, prediction: Tensor, stream: Examples) -> Tensor:
        """The mean loss of predictions (B, N, ...) over the valid examples of the stream."""
        keep = stream.valid
        if keep is None:
            return mean_loss(prediction, stream.y, self.spec)
        return mean_loss(prediction[keep], stream.y[keep], self.spec)


def product(state: BayesState, mean_BND: Tensor, precision_BND: Tensor, valid_BN: Tensor | None = None) -> BayesState:
    """The product of Gaussians. It corrects the mean: mean' = mean + sum precision_n (mean_n - mean) / precision'."""
    if valid_BN is not None:
        precision_BND = precision_BND * valid_BN[..., None]
    total_BD = state.precision + precision_BND.sum(1)
    return BayesState(state.mean + (precision_BND * (mean_BND - state.mean[:, None])).sum(1) / total_BD, total_BD)


def divergence(state: BayesState, prior: BayesState) -> Tensor:
    """(B,) KL(state || prior)."""
    ratio_BD = prior.precision / state.precision
    far_BD = prior.precision * (state.mean - prior.mean).square()
    return 0.5 * (ratio_BD - ratio_BD.log() - 1 + far_BD).sum(-1)
