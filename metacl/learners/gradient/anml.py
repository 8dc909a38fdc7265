"""ANML: a prediction network that is all fast, with a meta-learned gate on its features (Beaulieu 2020)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import functional_call

from episodes import EpisodeSpec, Examples
from episodes.errors import at_least
from metacl.learners.gradient.inner_loop import Fast, InnerConfig, InnerRates, initial_fast, sgd
from metacl.learners.inputs import check_symbols
from metacl.learners.losses import mean_loss
from metacl.learners.protocol import Learner
from metacl.nets.encoders import EncoderConfig, build_encoder
from metacl.nets.fast import PredictionNetwork, predict_batch


@dataclass(frozen=True)
class ANMLConfig(InnerConfig):
    """SGD on a whole network, an example at a time, whose last layer sees its features through a gate."""

    rate: float = 0.01
    """Inner learning rate when meta-training starts. It is meta-learned, as start * exp(parameter) and as in CL-Seq; ANML was
    published with a fixed one."""
    width: int = 128
    """Width of the linear layers that vectors pass. For images the channels of the convolutions decide it."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Convolutions of the prediction network, and of the network that makes the gate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "width")

    def build(self, spec: EpisodeSpec) -> "ANML":
        return ANML(self, spec)


class ANML(Learner):
    """State: the weights of the prediction network, answer(features(x) * gate(x)); so the gate is in their gradient too.

    The neuromodulating network, gate = sigmoid(g(x)), holds still in the inner loop. Its gates and the inputs together are
    the "features" that the prediction network works on.
    """

    def __init__(self, config: ANMLConfig, spec: EpisodeSpec):
        super().__init__(spec, config.distributed)
        self.config = config
        self.network = PredictionNetwork(config.encoder, spec, config.width)
        self.modulator = build_encoder(config.encoder, spec, self.network.width)
        self.rates = InnerRates(config, [name for name, _ in self.network.named_parameters()])

    def encode(self, x: Tensor) -> Tensor:
        """(B, N, F + gates): the inputs flat, and the gates."""
        flat = self.network.flat(x)
        return torch.cat([flat, self.modulator(x).sigmoid().to(flat.dtype)], dim=-1)

    def init_state(self, batch_size: int) -> Fast:
        return initial_fast(self.network, batch_size)

    def learn_features(self, state: Fast, z_BND: Tensor, examples: Examples) -> Fast:
        check_symbols(examples, self.spec)
        return sgd(self._loss, state, self.rates(), z_BND, examples, self.config)

    def predict_features(self, state: Fast, z_BMD: Tensor) -> Tensor:
        return self.shaped(predict_batch(self.network, state, *self._parts(z_BMD)))

    def _loss(self, weights: Fast, z_D: Tensor, y: Tensor) -> Tensor:
        return mean_loss(functional_call(self.network, weights, self._parts(z_D)), y, self.spec)

    def _parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gates = self.network.width
        return z[..., :-gates], z[..., -gates:]
