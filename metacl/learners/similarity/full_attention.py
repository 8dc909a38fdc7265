"""Full attention online, with the layers of Wang, Chandra and Zhang (2025): what query-only attention is compared with.

The token of an example is [x, y], that of a query [x, 0]. A token has D features; there are S, for the support and the query.
A layer has no LayerNorm, MLP or positions: Z <- Z + softmax(Q K' / sqrt D) V. After the last layer the part of the query token
that stands for y is the answer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.learners.buffers import append_, empty_buffer, newest
from metacl.learners.trained.online import OnlineLearner
from metacl.learners.trained.online_state import Memory, OnlineConfig, OnlineState, Work
from metacl.nets.encoders import FeatureEncoder
from metacl.nets.scratch import Weights
from metacl.nets.side_by_side import convolved, linear, pooled

MAPS = ("query", "key", "value")
NUMBERS = 2**20
"""Numbers in the tokens that are worked on at a time: queries are answered in groups of that size."""


@dataclass(frozen=True)
class FullAttentionConfig(OnlineConfig):
    """Layers of full attention over the newest examples and a query. Each update is on one query, the newest example."""

    layers: int = 3
    """Layers of attention."""
    support: int = 100
    """Examples right before a query that it attends to."""
    width: int = 128
    """Features of an image in its token. Vectors are taken as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "layers", "support", "width")

    def build(self, spec: EpisodeSpec) -> "FullAttention":
        return FullAttention(self, spec)


class AttentionNetwork(nn.Module):
    """The initial weights: three affine maps D -> D a layer, and for images convolutions and a linear layer."""

    def __init__(self, config: FullAttentionConfig, spec: EpisodeSpec):
        super().__init__()
        encoder = FeatureEncoder(spec)
        images = spec.x_kind == "image"
        self.convolutions = nn.ModuleList(layer for layer in encoder.layers if isinstance(layer, nn.Conv2d))
        self.linear = nn.ModuleList([nn.Linear(encoder.width, config.width)] * images)
        self.outputs = spec.outputs
        D = (config.width if images else encoder.width) + self.outputs
        self.layers = nn.ModuleList(nn.ModuleDict({name: nn.Linear(D, D) for name in MAPS}) for _ in range(config.layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)


class FullAttention(OnlineLearner):
    """The memory is the newest examples: `support` of them, and one more for the query of an update."""

    config: FullAttentionConfig
    network: AttentionNetwork

    def __init__(self, config: FullAttentionConfig, spec: EpisodeSpec):
        super().__init__(config, spec)
        self.support = config.support
        last = slice(-1, None)
        name = f"layers.{config.layers - 1}.query"
        self.last_layer = {f"{name}.weight": last, f"{name}.bias": last}  # the last row, as in the paper on regression

    def make(self) -> AttentionNetwork:
        return AttentionNetwork(self.config, self.spec)

    def remember(self, flat_BP: Tensor) -> Memory:
        return {"newest": empty_buffer(self.spec, flat_BP, len(flat_BP), self.config.support + 1)}

    def update(self, work: Work, x: Tensor, y: Tensor) -> None:
        """The newest example is the query, those right before it are its support; nothing is learnt while they are too few."""
        append_(work.memory["newest"], x=x, y=y)
        near, of, filled_BN = newest(work.memory["newest"], self.config.support + 1)
        if not bool(filled_BN.all()):
            return

        def loss(flat_BP: Tensor) -> tuple[Tensor, tuple[()]]:
            weights = self.named(flat_BP)
            z_BND = self.features(weights, near)
            answers = self.attended(weights, z_BND[:, -1:], z_BND[:, :-1], of[:, :-1], filled_BN[:, :-1])[0]
            return self.losses(answers, of[:, -1:]).mean(1), ()

        work.adam(self.gradient(work.flat, loss)[0])
        work.used += 1

    def support_in(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        return newest(memory["newest"], self.config.support)

    def answer_from(self, weights: Weights, x: Tensor, x_s: Tensor, y_s: Tensor, filled_BN: Tensor) -> Tensor:
        support, queries = self.features(weights, x_s), self.features(weights, x)
        at_once = max(1, NUMBERS // (len(x) * (x_s.shape[1] + 1)) // support.shape[2])
        parts = [self.attended(weights, part, support, y_s, filled_BN)[0] for part in queries.split(at_once, 1)]
        return torch.cat(parts, 1)

    def hidden(self, state: OnlineState, x: Tensor) -> list[Tensor]:
        """The token of each query (B, M, D) after each layer."""
        return self._looked_at(state, x)[1]

    def attention_weights(self, state: OnlineState, x: Tensor) -> list[Tensor]:
        """How each query attends to the support and itself (B, M, S) in each layer."""
        return self._looked_at(state, x)[2]

    def features(self, weights: Weights, x: Tensor) -> Tensor:
        """(B, N, *x_shape) -> (B, N, D - outputs)."""
        h = x.to(weights["layers.0.query.weight"].dtype)
        h = h / 255 if self.spec.x_kind == "image" else h
        for i in range(len(self.network.convolutions)):
            h = pooled(convolved(h, weights[f"convolutions.{i}.weight"], weights[f"convolutions.{i}.bias"]).relu())
        h = h.flatten(2)
        return linear(h, weights["linear.0.weight"], weights["linear.0.bias"]) if len(self.network.linear) else h

    def attended(
        self, weights: Weights, q_BMD: Tensor, z_BND: Tensor, y: Tensor, filled_BN: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Answers (B, M, F), and of each layer the tokens (B, M, D) and the attention (B, M, S) of the queries.

        Each query has a copy of the support, whose tokens see the query too.

        Arguments:
            q_BMD: features of the queries, of width D - F.
            z_BND: features of the support, of width D - F.
            y: targets of the support.
            filled_BN: which places of the support are filled.
        """
        tokens_BND = torch.cat([z_BND, self.targets(y)], 2)
        query_BMD = F.pad(q_BMD, (0, self.network.outputs))
        z_BMSD = torch.cat([tokens_BND[:, None].expand(-1, q_BMD.shape[1], -1, -1), query_BMD[:, :, None]], 2)
        hidden_B1S = ~F.pad(filled_BN, (0, 1), value=True)[:, None, None]
        tokens, attention = [], []
        for layer in range(self.config.layers):
            names = [f"layers.{layer}.{name}" for name in MAPS]
            flat = z_BMSD.flatten(1, 2)
            q, k, v = (linear(flat, weights[f"{n}.weight"], weights[f"{n}.bias"]).view_as(z_BMSD) for n in names)
            scores_BMSS = (q @ k.mT * z_BMSD.shape[-1] ** -0.5).masked_fill(hidden_B1S, -torch.inf)
            a_BMSS = scores_BMSS.softmax(-1)
            z_BMSD = z_BMSD + a_BMSS @ v
            tokens.append(z_BMSD[:, :, -1])
            attention.append(a_BMSS[:, :, -1])
        return tokens[-1][..., -self.network.outputs :], tokens, attention

    def _looked_at(self, state: OnlineState, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        near, y, filled_BN = self.support_in(state.memory)
        queries, support = self.features(state.weights, x), self.features(state.weights, near)
        return self.attended(state.weights, queries, support, y, filled_BN)
