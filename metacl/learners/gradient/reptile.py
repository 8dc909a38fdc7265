"""Reptile: initial weights go part of the way to where SGD on each stream ends (Nichol 2018)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import functional_call

from episodes import Episode, EpisodeSpec, Examples
from episodes.errors import above_zero, at_least
from metacl.learners.gradient.inner_loop import Fast, InnerConfig, initial_fast, sgd
from metacl.learners.inputs import check_symbols
from metacl.learners.losses import MetaLoss, mean_loss
from metacl.learners.protocol import Learner
from metacl.nets.encoders import EncoderConfig
from metacl.nets.fast import PredictionNetwork, predict_batch


@dataclass(frozen=True)
class ReptileConfig:
    """SGD on a whole network, an example at a time; the outer step is interpolation, --optimiser.rate of the way."""

    rate: float = 0.01
    """Inner learning rate. It is not meta-learned, because interpolation gives it no gradient."""
    width: int = 128
    """Width of the linear layers that vectors pass. For images the channels of the convolutions decide it."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Convolutions of the network, without BatchNorm. They are fast too."""

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "width")
        above_zero("learner.rate", self.rate)

    def build(self, spec: EpisodeSpec) -> "Reptile":
        return Reptile(self, spec)


class Reptile(Learner):
    """State: all weights, phi_n after n steps from phi. Outer step: phi <- phi + rate * (mean over episodes of phi_n - phi).

    In training the value of the meta-loss is the loss on the queries, and its gradient is phi - mean phi_n, so that plain SGD
    on it is the interpolation. The queries are only reported: nothing is learnt from them.
    """

    outer_sgd = True

    def __init__(self, config: ReptileConfig, spec: EpisodeSpec):
        super().__init__(spec)
        self.network = PredictionNetwork(config.encoder, spec, config.width)
        self.inner = InnerConfig(rate=config.rate, order=1)

    def encode(self, x: Tensor) -> Tensor:
        return self.network.flat(x)

    def init_state(self, batch_size: int) -> Fast:
        return initial_fast(self.network, batch_size)

    def learn_features(self, state: Fast, z_BND: Tensor, examples: Examples) -> Fast:
        check_symbols(examples, self.spec)
        rates = {name: w.new_tensor(self.inner.rate) for name, w in state.items()}
        return sgd(self._loss, state, rates, z_BND, examples, self.inner)

    def predict_features(self, state: Fast, z_BMD: Tensor) -> Tensor:
        return self.shaped(predict_batch(self.network, state, z_BMD))

    def meta_loss(self, episode: Episode) -> MetaLoss:
        if not self.training:
            return super().meta_loss(episode)
        with torch.no_grad():
            z_stream, z_query = self.encode_episode(episode)
            end = self.learn_features(self.init_state(len(z_stream)), z_stream, episode.stream)
            result = self.query_loss(self.predict_features(end, z_query), episode.queries.y, episode.queries.valid)
        ways = [(p * (p.detach() - end[name].mean(0))).sum() for name, p in self.network.named_parameters()]
        surrogate = torch.stack(ways).sum()
        return MetaLoss(result.loss + surrogate - surrogate.detach(), result.metrics)

    def _loss(self, weights: Fast, z_F: Tensor, y: Tensor) -> Tensor:
        return mean_loss(functional_call(self.network, weights, (z_F,)), y, self.spec)
