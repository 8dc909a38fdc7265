"""Query-only attention on episodes: y = sum_j score(q, s_j) y_j over examples s_j of the stream (Bekal, Pujari, Kelly 2025).

There are no keys and values, only scores of pairs, so a prediction takes time linear in the stream. The state is the support.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from episodes import EpisodeSpec, Examples, UserError
from episodes.errors import at_least
from metacl.learners.distributed import Distributed
from metacl.learners.protocol import Learner
from metacl.learners.similarity.pairwise import PairNetwork, ScoreConfig, pair_scores, read_out
from metacl.learners.similarity.supports import Support, add
from metacl.learners.symbols import symbol_codes
from metacl.nets.encoders import EncoderConfig, build_encoder

CODE = 32
"""Features of the fixed random code that a label symbol has in a pair: the vocabulary has no limit and no weights."""


@dataclass(frozen=True)
class QueryOnlyConfig:
    """A meta-learned similarity of a query to each example of the stream."""

    width: int = 128
    """Features of an example (D)."""
    score: ScoreConfig = field(default_factory=lambda: ScoreConfig(128, 3, normalise="softmax", pair="difference"))
    """The score of a pair. Without softmax logits grow with the stream, and a symbol without examples has the logit 0."""
    bound: Literal["all", "fifo", "reservoir", "balanced"] = "all"
    """Examples that are the support: `all`, the latest (`fifo`), a uniform sample (`reservoir`), or equally many of each class,
    a uniform sample of it (`balanced`)."""
    support: int = 100
    """Examples that are kept, unless `bound` is `all`."""
    distributed: Distributed = None
    """When meta-training asks a query. None: at the end of the stream. `random`: once, after a random task from its own on.
    `every`: after each task from its own on."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "width", "support")

    def build(self, spec: EpisodeSpec) -> "QueryOnlyLearner":
        return QueryOnlyLearner(self, spec)


class QueryOnlyLearner(Learner):
    """The order of the stream only matters for which examples a bounded support keeps."""

    codes_VL: Tensor

    def __init__(self, config: QueryOnlyConfig, spec: EpisodeSpec):
        super().__init__(spec, config.distributed)
        if config.bound == "balanced" and not spec.classification:
            raise UserError(
                "--learner.bound balanced keeps as many of each class; this is a regression. Take fifo or reservoir."
            )
        self.config, self.constant_state = config, config.bound != "all"
        self.encoder = build_encoder(config.encoder, spec, config.width)
        label_width = CODE if spec.classification else spec.outputs
        self.register_buffer("codes_VL", symbol_codes(spec.symbols, CODE), persistent=False)
        self.score = PairNetwork(config.score, config.width, label_width if config.score.label else 0)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).to(self.codes_VL.dtype)  # out of autocast

    def init_state(self, batch_size: int) -> Support:
        spec, places = self.spec, self.config.support if self.constant_state else 0
        z = self.codes_VL.new_zeros(batch_size, places, self.config.width)
        y = z.new_zeros(batch_size, places, *spec.y_shape, dtype=torch.int64 if spec.classification else z.dtype)
        classes = spec.symbols if self.config.bound == "balanced" else 0
        seen = torch.zeros(batch_size, dtype=torch.int64, device=z.device)
        kept = torch.zeros(batch_size, places, dtype=torch.bool, device=z.device)
        return Support(z, y, kept, seen, seen.new_zeros(batch_size, classes))

    def learn_features(self, state: Support, z_BND: Tensor, examples: Examples) -> Support:
        return add(state, z_BND, examples, self.config.bound)

    def predict_features(self, state: Support, z_BMD: Tensor) -> Tensor:
        """A class without support never is the answer with `softmax`, and has the logit 0 with `none`."""
        with torch.autocast(z_BMD.device.type, enabled=False):
            if self.spec.classification:
                y_BNF, label_BNL = F.one_hot(state.y, self.spec.symbols).to(z_BMD.dtype), self.codes_VL[state.y]
            else:
                y_BNF = label_BNL = state.y.flatten(2).to(z_BMD.dtype)
            score = self.config.score
            weights = {name: p[None] for name, p in self.score.named_parameters()}
            d_BMN = pair_scores(weights, z_BMD, state.z, label_BNL if score.label else None, score.pair)
            answer_BMF = read_out(d_BMN, y_BNF, state.kept, score, self.spec)
        return self.shaped(answer_BMF)
