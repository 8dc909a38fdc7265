"""Adam-NSCL (Wang et al. 2021): weights are trained where the inputs of earlier tasks hardly reach them.

What is trained are the weights of attention in each block: one layer to queries, keys and values, and the one behind the heads
(the paper trains all layers of a ResNet; here those whose inputs are no wider than the tokens, so that what is kept of these
inputs stays small). Of each layer the mean of x x^T over the inputs of all tasks so far is kept, which is all there is of old
images. From the second task on Adam's updates are projected on its approximate null space: the eigenvectors whose eigenvalues
are at most `times` the smallest one. Norms and biases stay as they were pre-trained.

What comes out of a LayerNorm is all but constant in one direction, one over its scales, however the images are: of these inputs
that eigenvalue is far below all others, and by the rule as it is nothing else would be free. It is left out of the rule, which
for them starts from the second smallest.

Classes are told by one head over all of them, each row of which is trained on its own task, among whose classes it answers
then. In the paper each task has a head of its own, and a query comes with its task; here it does not.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from episodes import EpisodeSpec, UserError
from episodes.errors import at_least
from metacl.learners.vision.base import VisionLearner, among
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.fitting import Schedule, detached, fit, trainable
from metacl.learners.vision.identity import Weights, head_logits, no_head, present
from metacl.learners.vision.second_moments import moments_at, nearly_null
from metacl.optimisers.projected import ProjectedAdam

LAYERS = {"attention in": "blocks.{}.attn.qkv.weight", "heads": "blocks.{}.attn.proj.weight"}
"""The name of what comes in -> the weights it comes to."""
FORCED = {"attention in": 1, "heads": 0}
"""Of what comes in, directions in which it is all but constant by its making."""


@dataclass(frozen=True)
class AdamNsclConfig(FittingConfig):
    """The weights of attention, trained in the approximate null space of the inputs of earlier tasks."""

    times: float = 10.0
    """Eigenvalues of a null space are at most so many times the smallest one that counts."""
    normalise: bool = True
    """Divide the projection by its Frobenius norm, the root of the number of its directions, as the published code does and the
    paper does not: it makes the steps of later tasks smaller."""
    rate: float = 5e-5
    """Learning rate (Adam) of the transformer."""
    head_rate: float = 20.0
    """Rate of the head, in rates of the transformer."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    schedule: Schedule = "cosine"
    """Of the rate over the epochs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "head_rate")
        if self.times < 1:
            raise UserError(
                f"learner.times is 1 or more, not {self.times:g}: below it not even the smallest eigenvalue counts."
            )

    def build(self, spec: EpisodeSpec) -> "AdamNscl":
        return AdamNscl(self, spec)


class AdamNsclState(NamedTuple):
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
    """Those of attention."""
    head: Weights
    moments: dict[str, Tensor]
    """By what comes in, of each block (P, D, D): the mean of x x^T over the tokens of all images so far."""
    images: Tensor
    """() int64, how many they are."""


class AdamNscl(VisionLearner):
    """See above. It need not be told which task a query is of."""

    has_features = True

    def fresh(self, key: Tensor, rate: Tensor) -> AdamNsclState:
        shape, V, device = self.trunk.shape, self.spec.symbols, key.device
        names = [layer.format(i) for i in range(shape.depth) for layer in LAYERS.values()]
        return AdamNsclState(
            key,
            rate,
            torch.zeros_like(key),
            torch.zeros(V, dtype=torch.bool, device=device),
            {name: self.trunk.network.get_parameter(name).detach() for name in names},
            no_head(V, shape.width, torch.zeros_like(rate)),
            {place: torch.zeros(shape.depth, shape.width, shape.width, device=device) for place in LAYERS},
            torch.zeros_like(key),
        )

    def learn_row(self, state: AdamNsclState, x_NCHW: Tensor, y_N: Tensor) -> AdamNsclState:
        weights, head = self._trained(state, x_NCHW, y_N)
        images = state.images + len(y_N)
        found, share = moments_at(self.trunk, x_NCHW, LAYERS, weights), float(len(y_N) / images)
        moments = {name: old.lerp(found[name].float(), share) for name, old in state.moments.items()}
        seen = state.seen | present(y_N, self.spec.symbols)
        return AdamNsclState(state.key, state.rate, state.tasks + 1, seen, weights, head, moments, images)

    def logits(self, state: AdamNsclState, h_MD: Tensor) -> Tensor:
        return among(head_logits(state.head, h_MD), state.seen)

    def features_row(self, state: AdamNsclState, x_NCHW: Tensor) -> Tensor:
        return self.trunk.features(x_NCHW, weights=state.weights)

    def projections(self, state: AdamNsclState) -> dict[str, Tensor]:
        """By the name of weights, (D, D) by which the rows of their steps are multiplied; none before the second task."""
        found: dict[str, Tensor] = {}
        for place, layer in LAYERS.items() if int(state.tasks) else ():
            for i, moment_DD in enumerate(state.moments[place]):
                basis_Dk = nearly_null(moment_DD, self.config.times, FORCED[place])
                norm = basis_Dk.shape[1] ** 0.5 if self.config.normalise else 1.0
                found[layer.format(i)] = basis_Dk @ basis_Dk.T / norm
        return found

    def _trained(self, state: AdamNsclState, x_NCHW: Tensor, y_N: Tensor) -> tuple[Weights, Weights]:
        """Weights and head after these images, among whose classes alone they answer meanwhile."""
        config, rng, rate = self.config, self.draws(state, "train"), float(state.rate)
        weights, head, right = trainable(state.weights), trainable(state.head), self.projections(state)
        some_V = present(y_N, self.spec.symbols)

        def loss(places: np.ndarray) -> Tensor:
            h_ND = self.trunk(self.trunk.view(x_NCHW[places], rng), weights=weights)
            return F.cross_entropy(among(head_logits(head, h_ND), some_V), y_N[places])

        groups = [{"params": [part], "right": right.get(name)} for name, part in weights.items()]
        optimiser = ProjectedAdam([*groups, {"params": list(head.values()), "lr": config.head_rate * rate}], rate)
        fit(optimiser, loss, len(y_N), config.epochs, config.batch_size, rng, config.schedule, config.clip)
        return detached(weights), detached(head)
