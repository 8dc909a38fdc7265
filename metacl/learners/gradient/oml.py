"""OML: an encoder that holds still and a head of fast weights, trained on the stream by SGD (Javed and White 2019)."""

from dataclasses import dataclass, field

from torch import Tensor

from episodes import Episode, EpisodeSpec, Examples
from episodes.errors import at_least
from metacl.learners.gradient import fast_mlp
from metacl.learners.gradient.inner_loop import Fast, InnerConfig, InnerRates, initial_fast
from metacl.learners.inputs import check_symbols
from metacl.learners.losses import MetaLoss
from metacl.learners.protocol import Learner
from metacl.nets.encoders import EncoderConfig, build_encoder
from metacl.nets.fast import mlp, predict_batch


@dataclass(frozen=True)
class OMLConfig(InnerConfig):
    """SGD on the head, an example at a time; encoder, initial head and inner rate are meta-trained through it."""

    width: int = 128
    """Features of an example (D)."""
    hidden: int = 512
    """Width of the hidden layers in the head."""
    layers: int = 2
    """Linear layers of the head. All their weights are fast."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "width", "hidden", "layers")

    def build(self, spec: EpisodeSpec) -> "OML":
        return OML(self, spec)


class OML(Learner):
    """State: the weights of the head. theta_n = theta_(n-1) - rate * grad loss(theta_(n-1); z_n, y_n), one step an example.

    As in CL-Seq the meta-loss is that of the queries alone.
    """

    def __init__(self, config: OMLConfig, spec: EpisodeSpec):
        super().__init__(spec, config.distributed)
        self.config = config
        self.encoder = build_encoder(config.encoder, spec, config.width)
        self.head = mlp([config.width, *[config.hidden] * (config.layers - 1), spec.outputs])
        self.rates = InnerRates(config, [name for name, _ in self.head.named_parameters()])

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).to(self.rates.log.dtype)  # out of autocast: steps are small

    def init_state(self, batch_size: int) -> Fast:
        return initial_fast(self.head, batch_size)

    def learn_features(self, state: Fast, z_BND: Tensor, examples: Examples) -> Fast:
        check_symbols(examples, self.spec)
        return fast_mlp.learn(state, self.rates(), z_BND, self._flat(examples), self.config)

    def predict_features(self, state: Fast, z_BMD: Tensor) -> Tensor:
        return self.shaped(predict_batch(self.head, state, z_BMD))

    def meta_loss(self, episode: Episode) -> MetaLoss:
        """In one pass over the stream, which never builds the weights of an episode and shares the initial ones."""
        most = min(fast_mlp.PIECE, self.config.truncate or fast_mlp.PIECE)
        if (self.distributed and self.training) or len(episode.stream) > most:
            return super().meta_loss(episode)
        z_stream, z_query = self.encode_episode(episode)
        check_symbols(episode.stream, self.spec)
        rates = self.rates()
        layers = fast_mlp.as_layers(dict(self.head.named_parameters()), rates)
        updates = fast_mlp.run(layers, rates, z_stream, self._flat(episode.stream), self.config)
        return self.query_loss(
            self.shaped(fast_mlp.forward(layers, updates, z_query)), episode.queries.y, episode.queries.valid
        )

    def _flat(self, examples: Examples) -> Examples:
        """The examples with flat targets (B, N, F)."""
        if self.spec.classification:
            return examples
        return Examples(examples.x, examples.y.flatten(2), examples.task, examples.valid)
