"""Prototypical network: a class is the mean of its features (Snell 2017), kept as running means."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from episodes import EpisodeSpec, Examples, UserError
from episodes.errors import at_least
from metacl.learners.distributed import Distributed
from metacl.learners.protocol import Learner
from metacl.learners.statistics.running import UNSEEN, ClassMeans, add_to_means, no_means
from metacl.nets.encoders import EncoderConfig, build_encoder


@dataclass(frozen=True)
class PrototypesConfig:
    """The mean of the features of each class. Only the encoder is meta-trained."""

    width: int = 128
    """Features of an example (D)."""
    distributed: Distributed = None
    """When meta-training asks a query. None: at the end of the stream. `random`: once, after a random task from its own on.
    `every`: after each task from its own on."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "width")

    def build(self, spec: EpisodeSpec) -> "PrototypicalNetwork":
        return PrototypicalNetwork(self, spec)


class PrototypicalNetwork(Learner):
    """logit_v = -|z - mean_v|^2. The order of the stream does not matter."""

    def __init__(self, config: PrototypesConfig, spec: EpisodeSpec):
        super().__init__(spec, config.distributed)
        if not spec.classification:
            raise UserError(
                "The prototypical network is for classification; this benchmark is a regression. Take a transformer."
            )
        self.width = config.width
        self.encoder = build_encoder(config.encoder, spec, config.width)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).to(next(self.parameters()).dtype)  # out of autocast: distances are differences of large numbers

    def init_state(self, batch_size: int) -> ClassMeans:
        return no_means(next(self.parameters()), batch_size, self.spec.symbols, self.width)

    def learn_features(self, state: ClassMeans, z_BND: Tensor, examples: Examples) -> ClassMeans:
        return add_to_means(state, z_BND, examples.y, examples.valid)

    def predict_features(self, state: ClassMeans, z_BMD: Tensor) -> Tensor:
        mean_BVD = state.means
        with torch.autocast(z_BMD.device.type, enabled=False):
            squares_BMV = z_BMD.square().sum(-1, keepdim=True) + mean_BVD.square().sum(-1)[:, None]
            logits_BMV = 2 * z_BMD @ mean_BVD.mT - squares_BMV
        return logits_BMV.masked_fill(state.counts[:, None] == 0, UNSEEN)
