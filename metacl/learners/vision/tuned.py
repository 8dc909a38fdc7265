"""All weights of a vision transformer are trained: task after task (lower line), or on all images so far (upper line)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.learners.vision.base import VisionLearner, among
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.fitting import Schedule, detached, fit, groups, trainable
from metacl.learners.vision.identity import Weights, head_logits, no_head, present


@dataclass(frozen=True)
class TunedConfig(FittingConfig):
    """A vision transformer and a head, all weights of which are trained."""

    mode: Literal["sequential", "joint"] = "sequential"
    """`sequential`: on each task from where the last one ended, among its classes alone. `joint`: on all images so far, from
    the pre-trained weights; they are kept in the state."""
    rate: float = 5e-5
    """Learning rate (AdamW) of the transformer."""
    head_rate: float = 20.0
    """Rate of the head, in rates of the transformer."""
    weight_decay: float = 0.05
    """Decoupled weight decay of the transformer."""
    epochs: int = 5
    """Over the images that are trained on."""
    batch_size: int = 32
    """Images in a step."""
    schedule: Schedule = "cosine"
    """Of the rate over the epochs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "head_rate", "weight_decay")

    def build(self, spec: EpisodeSpec) -> "Tuned":
        return Tuned(self, spec)


class TunedState(NamedTuple):
    """Of one row (and with B before each shape, of all)."""

    key: Tensor
    """() the row's seed."""
    rate: Tensor
    """() learning rate."""
    tasks: Tensor
    """() int64, tasks so far."""
    seen: Tensor
    """(V,) bool, the symbols so far."""
    weights: Weights
    """Of the transformer."""
    head: Weights
    x: Tensor
    """(N, C, H, W) uint8, the images so far; of `sequential` none are kept."""
    y: Tensor
    """(N,) their labels."""
    number: Tensor
    """() how many they are: rows that have fewer than others have zeros behind them."""


class Tuned(VisionLearner):
    """See above. Its weights are not looked at by the measures of plasticity (`trains` is False)."""

    has_features = True

    def fresh(self, key: Tensor, rate: Tensor) -> TunedState:
        own = {name: part.detach() for name, part in self.trunk.network.named_parameters()}
        V = self.spec.symbols
        return TunedState(
            key,
            rate,
            torch.zeros_like(key),
            torch.zeros(V, dtype=torch.bool, device=key.device),
            own,
            no_head(V, self.trunk.shape.width, torch.zeros_like(rate)),
            torch.zeros(0, *self.spec.x_shape, dtype=torch.uint8, device=key.device),
            torch.zeros(0, dtype=torch.int64, device=key.device),
            torch.zeros_like(key),
        )

    def learn_row(self, state: TunedState, x_NCHW: Tensor, y_N: Tensor) -> TunedState:
        if self.config.mode == "joint":
            kept = slice(int(state.number))
            x, y = torch.cat([state.x[kept], x_NCHW]), torch.cat([state.y[kept], y_N])
            state = state._replace(x=x, y=y, number=state.number + len(y_N))
            start = self.fresh(state.key, state.rate)
            weights, head = self._trained(start, state.x, state.y)
        else:
            weights, head = self._trained(state, x_NCHW, y_N)
        seen = state.seen | present(y_N, self.spec.symbols)
        return state._replace(tasks=state.tasks + 1, seen=seen, weights=weights, head=head)

    def answer_row(self, state: TunedState, x_MCHW: Tensor) -> Tensor:
        return among(head_logits(state.head, self.features_row(state, x_MCHW)), state.seen)

    def features_row(self, state: TunedState, x_NCHW: Tensor) -> Tensor:
        return self.trunk.features(x_NCHW, weights=state.weights)

    def _trained(self, state: TunedState, x_NCHW: Tensor, y_N: Tensor) -> tuple[Weights, Weights]:
        """Transformer and head after these images, among whose classes alone they answer meanwhile."""
        config, rng = self.config, self.draws(state, "train")
        weights, head = trainable(state.weights), trainable(state.head)
        some_V = present(y_N, self.spec.symbols)

        def loss(places: np.ndarray) -> Tensor:
            h_ND = self.trunk(self.trunk.view(x_NCHW[places], rng), weights=weights)
            return F.cross_entropy(among(head_logits(head, h_ND), some_V), y_N[places])

        rate = float(state.rate)
        own = groups([(list(weights.values()), rate), (list(head.values()), config.head_rate * rate)])
        own[-1]["weight_decay"] = 0.0  # the head has rows of other tasks
        optimiser = torch.optim.AdamW(own, weight_decay=config.weight_decay)
        fit(optimiser, loss, len(y_N), config.epochs, config.batch_size, rng, config.schedule, config.clip)
        return detached(weights), detached(head)
