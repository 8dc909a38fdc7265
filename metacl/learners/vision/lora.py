"""Low-rank weights task after task (LoRA, Hu et al. 2022), and LoRA-DRS (Liu and Chang 2025).

Each task has a pair A (R, D), B (D, R) beside the keys' and the values' weights of every block. Those of earlier tasks stay as
they are; all are added up. A class is told by the nearest mean of features, each mean taken when its task was learnt.

LoRA-DRS keeps the training of a task to a drift-resistant space. The old pairs are *subtracted* from the pre-trained weights,
as if to forget them; the images of the new task pass this transformer once; and the directions that make up nearly all of what
comes into its attention are those in which the new pair may move. What paper and code disagree on is an option.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from episodes import EpisodeSpec, UserError
from episodes.errors import at_least
from metacl.learners.vision.base import VisionLearner, among
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.fitting import Schedule, fit, trainable
from metacl.learners.vision.identity import head_logits, no_head, present
from metacl.learners.vision.pairs import beside, merged, new_pair, pair_shape
from metacl.learners.vision.second_moments import principal, second_moments
from metacl.learners.vision.triplet import augmented_triplet_loss
from metacl.optimisers.projected import ProjectedAdam

Space = Literal["none", "plain", "added", "subtracted"]
"""The transformer that tells in which directions a later task may move: none, in all; with no pair, with the old pairs added
(as it is), or with them subtracted (LoRA-DRS)."""


@dataclass(frozen=True)
class LoraConfig(FittingConfig):
    """Low-rank weights for each task on a frozen vision transformer; a class is the mean of its features."""

    joint: bool = False
    """Train one pair on all images so far, which are then kept: the upper line."""
    space: Space = "none"
    """Of the directions in which a later task may move: `subtracted` is LoRA-DRS; `plain` and `added` take them from the
    transformer without pairs, or with those so far; `none`: all."""
    share: float = 0.99
    """Of the second moments that these directions make up."""
    normalise: bool = True
    """Divide the projection by its Frobenius norm, the root of their number, as the published code does and the paper does not:
    it makes the steps of later tasks smaller."""
    project: Literal["update", "gradient"] = "update"
    """What is projected: Adam's update (published code) or the gradient (paper). Adam divides each number by its own size: of a
    gradient it does not see how large it is, so that `normalise` does nothing, and its update leads out of the space."""
    project_b: bool = True
    """B is projected too, as in the published code."""
    shrink: bool = False
    """No projection at all, but steps of later tasks as much smaller as `normalise` makes them: a control."""
    triplet: float = 0.0
    """Weight of the augmented triplet loss."""
    margin: float = 1.0
    """Of that loss."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    rank: int = 10
    """R, of a pair."""
    rate: float = 5e-4
    """Learning rate (Adam) of the pairs."""
    head_rate: float = 4.0
    """Rate of the head, in rates of the pairs. The head is for training alone."""
    schedule: Schedule = "quarter"
    """Of the rate over the epochs: `quarter`, a quarter of a cosine's period, nearly to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "rank")
        at_least(0, self, "learner.", "triplet", "margin", "head_rate")
        if not 0 < self.share <= 1:
            raise UserError(f"learner.share is above 0 and at most 1, not {self.share:g}.")
        if self.shrink and self.project == "gradient":
            raise UserError("learner.shrink means nothing where gradients are projected: Adam does not see how large they are.")

    def build(self, spec: EpisodeSpec) -> "Lora":
        return Lora(self, spec)


class LoraState(NamedTuple):
    """Of one row (and with B before each shape, of all)."""

    key: Tensor
    """() the row's seed."""
    rate: Tensor
    """() learning rate."""
    tasks: Tensor
    """() int64, tasks so far."""
    seen: Tensor
    """(V,) bool, the symbols so far."""
    pairs: Tensor
    """(T, P, 2, 2, R, D): of each task and block, for keys and values, A and the transpose of B."""
    prototypes: Tensor
    """(V, D) mean features."""
    x: Tensor
    """(N, C, H, W) uint8, the images so far; kept where training is joint, and none else."""
    y: Tensor
    number: Tensor
    """() how many they are."""


class Training(NamedTuple):
    """What is trained on a task, and how."""

    parts: dict[str, Tensor]
    """Of each block, such as "0 A" and "0 B": (2, R, D), for keys and values; B as its transpose."""
    optimiser: ProjectedAdam
    loss: Callable[[np.ndarray], Tensor]
    """Of the images at some places."""


class Lora(VisionLearner):
    """See above. It need not be told which task a query is of."""

    has_features = True

    def __init__(self, config: LoraConfig, spec: EpisodeSpec):
        super().__init__(config, spec)
        self.pair_shape = pair_shape(self.trunk.shape, config.rank)

    def fresh(self, key: Tensor, rate: Tensor) -> LoraState:
        V, D, device = self.spec.symbols, self.trunk.shape.width, key.device
        return LoraState(
            key,
            rate,
            torch.zeros_like(key),
            torch.zeros(V, dtype=torch.bool, device=device),
            torch.zeros(0, *self.pair_shape, device=device),
            torch.zeros(V, D, device=device),
            torch.zeros(0, *self.spec.x_shape, dtype=torch.uint8, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
            torch.zeros_like(key),
        )

    def learn_row(self, state: LoraState, x_NCHW: Tensor, y_N: Tensor) -> LoraState:
        seen = state.seen | present(y_N, self.spec.symbols)
        if self.config.joint:
            kept = slice(int(state.number))
            x_NCHW, y_N = torch.cat([state.x[kept], x_NCHW]), torch.cat([state.y[kept], y_N])
            state = state._replace(x=x_NCHW, y=y_N, number=torch.full_like(state.number, len(y_N)))
            start = self.fresh(state.key, state.rate)
        else:
            start = state = state._replace(pairs=state.pairs[: int(state.tasks)])
        pairs = torch.cat([start.pairs, self._trained(start, x_NCHW, y_N)[None]])
        state = state._replace(tasks=state.tasks + 1, seen=seen, pairs=pairs)
        return state._replace(prototypes=self._means(state, x_NCHW, y_N))

    def logits(self, state: LoraState, h_MD: Tensor) -> Tensor:
        """Cosine similarities to the mean of each class."""
        return among(F.normalize(h_MD, dim=-1) @ F.normalize(state.prototypes, dim=-1).T, state.seen)

    def features_row(self, state: LoraState, x_NCHW: Tensor) -> Tensor:
        return self.trunk.features(x_NCHW, weights=merged(self.trunk, state.pairs))

    def projections(self, state: LoraState, x_NCHW: Tensor) -> Tensor | None:
        """(P, D, D) by which the rows of a new pair's steps are multiplied; None: they are free, as those of a first task."""
        config = self.config
        if not len(state.pairs) or (config.space == "none" and not config.shrink):
            return None
        sign = {"none": 0.0, "plain": 0.0, "added": 1.0, "subtracted": -1.0}[config.space]
        moments = second_moments(self.trunk, x_NCHW, merged(self.trunk, state.pairs, sign))
        found = []
        for moment in moments:
            basis_Dk = principal(moment, config.share)
            own = torch.eye(len(basis_Dk), device=basis_Dk.device) if config.shrink else basis_Dk @ basis_Dk.T
            found.append(own / basis_Dk.shape[1] ** 0.5 if config.normalise or config.shrink else own)
        return torch.stack(found)

    def prepared(self, state: LoraState, x_NCHW: Tensor, y_N: Tensor, rng: np.random.Generator) -> Training:
        """A new pair of these images before its first step."""
        config, rate = self.config, float(state.rate)
        right = self.projections(state, x_NCHW)
        new = new_pair(self.pair_shape, rng).to(state.prototypes)
        parts = trainable({f"{i} {'AB'[j]}": new[i, :, j] for i in range(len(new)) for j in range(2)})
        head = trainable(no_head(self.spec.symbols, self.trunk.shape.width, new[0, 0, 0, 0]))
        some_V = present(y_N, self.spec.symbols)
        old_SD = state.prototypes[state.seen & ~some_V]
        weights = merged(self.trunk, state.pairs) if len(state.pairs) else None

        def loss(places: np.ndarray) -> Tensor:
            added = [beside(parts[f"{i} A"], parts[f"{i} B"]) for i in range(len(new))]
            h_ND = self.trunk(self.trunk.view(x_NCHW[places], rng), added, weights=weights)
            error = F.cross_entropy(among(head_logits(head, h_ND), some_V), y_N[places])
            if not config.triplet:
                return error
            return error + config.triplet * augmented_triplet_loss(h_ND, y_N[places], old_SD, config.margin)

        groups = [
            {
                "params": [parts[f"{i} {name}"]],
                "right": right[i] if right is not None and (name == "A" or config.project_b) else None,
                "raw": config.project == "gradient",
            }
            for i in range(len(new))
            for name in "AB"
        ]
        optimiser = ProjectedAdam([*groups, {"params": list(head.values()), "lr": config.head_rate * rate}], rate)
        return Training(parts, optimiser, loss)

    def _trained(self, state: LoraState, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
        """The pair (P, 2, 2, R, D) of these images."""
        config, rng = self.config, self.draws(state, "train")
        parts, optimiser, loss = self.prepared(state, x_NCHW, y_N, rng)
        fit(optimiser, loss, len(y_N), config.epochs, config.batch_size, rng, config.schedule, config.clip)
        blocks = range(self.pair_shape[0])
        return torch.stack([torch.stack([parts[f"{i} {name}"].detach() for name in "AB"], 1) for i in blocks])

    def _means(self, state: LoraState, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
        """The prototypes, those of the classes of these images taken anew."""
        h_ND, new = self.features_row(state, x_NCHW), state.prototypes.clone()
        for c in y_N.unique().tolist():
            new[c] = h_ND[y_N == c].mean(0)
        return new
