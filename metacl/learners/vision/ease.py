"""EASE (Zhou et al. 2024): an adapter for each task, so that each opens a space of features of its own that never moves.

A task trains its adapter, a bottleneck beside the feed-forward half of each block, with a head of cosines that is thrown away.
Then its images pass the transformer once with each adapter so far: a class has a prototype, its mean feature, in the space of
its own task and in all earlier ones. In a later space, where none of its images can be shown any more, it is given a mixture of
the prototypes of classes that have been there, weighted by how like it they are in its own space (semantic mapping).

An image is compared with a class in all spaces. The cosine in the space of the class's own task counts one, and the mean of the
others `others`. That costs a pass for each task so far. The published dropout in the adapters is left out.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.learners.vision.base import VisionLearner, among
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.fitting import Schedule, detached, fit, trainable
from metacl.learners.vision.identity import Weights, present
from metacl.nets.vit import Added, bottleneck


@dataclass(frozen=True)
class EaseConfig(FittingConfig):
    """An adapter for each task, and prototypes in the space of each."""

    rank: int = 64
    """R, width of a bottleneck."""
    scale: float = 0.1
    """Of what an adapter adds."""
    others: float = 0.1
    """What the spaces of other tasks count, in what a class's own one counts."""
    rate: float = 0.025
    """Learning rate (SGD with momentum 0.9) of adapter and head."""
    weight_decay: float = 5e-4
    """Of both."""
    batch_size: int = 48
    """Images in a step."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    schedule: Schedule = "cosine"
    """Of the rate over the epochs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "rank")
        at_least(0, self, "learner.", "scale", "others", "weight_decay")

    def build(self, spec: EpisodeSpec) -> "Ease":
        return Ease(self, spec)


class EaseState(NamedTuple):
    """Of one row (and with B before each shape, of all)."""

    key: Tensor
    """() the row's seed."""
    rate: Tensor
    """() learning rate."""
    tasks: Tensor
    """() int64, tasks so far."""
    task_of: Tensor
    """(V,) int64, the task that each symbol was last in; -1: none yet."""
    adapters: Weights
    """Of each task and block: `down` (T, P, R, D) and `up` (T, P, D, R), with biases."""
    prototypes: Tensor
    """(T, V, D) in the space of each task; zeros in those of tasks after the symbol's own."""


class Ease(VisionLearner):
    """See above. It need not be told which task a query is of."""

    def __init__(self, config: EaseConfig, spec: EpisodeSpec):
        super().__init__(config, spec)
        P, D, R = self.trunk.shape.depth, self.trunk.shape.width, config.rank
        self.shapes = {"down": (P, R, D), "down_bias": (P, R), "up": (P, D, R), "up_bias": (P, D)}

    def fresh(self, key: Tensor, rate: Tensor) -> EaseState:
        V, D, device = self.spec.symbols, self.trunk.shape.width, key.device
        none = {name: torch.zeros(0, *shape, device=device) for name, shape in self.shapes.items()}
        task_of = torch.full((V,), -1, dtype=torch.int64, device=device)
        return EaseState(key, rate, torch.zeros_like(key), task_of, none, torch.zeros(0, V, D, device=device))

    def learn_row(self, state: EaseState, x_NCHW: Tensor, y_N: Tensor) -> EaseState:
        task = int(state.tasks)
        new = self._trained(state, x_NCHW, y_N)
        adapters = {name: torch.cat([state.adapters[name][:task], part[None]]) for name, part in new.items()}
        prototypes = F.pad(state.prototypes[:task], (0, 0, 0, 0, 0, 1))
        for c in y_N.unique().tolist():
            prototypes[:, c] = self.spaces(adapters, x_NCHW[y_N == c]).mean(1)
        task_of = torch.where(present(y_N, self.spec.symbols), task, state.task_of)
        return EaseState(state.key, state.rate, state.tasks + 1, task_of, adapters, prototypes)

    def answer_row(self, state: EaseState, x_MCHW: Tensor) -> Tensor:
        """Sums of cosines over the spaces."""
        T = int(state.tasks)
        adapters = {name: part[:T] for name, part in state.adapters.items()}
        every_TVD = with_mapped(state.prototypes[:T], state.task_of)
        h_TMD = F.normalize(self.spaces(adapters, x_MCHW), dim=-1)
        cosine_TMV = h_TMD @ F.normalize(every_TVD, dim=-1).mT
        own_TV = state.task_of == torch.arange(T, device=x_MCHW.device)[:, None]
        weight_TV = torch.where(own_TV, 1.0, self.config.others / max(1, T - 1))
        return among((weight_TV[:, None] * cosine_TMV).sum(0), state.task_of >= 0)

    def spaces(self, adapters: Weights, x_NCHW: Tensor) -> Tensor:
        """(T, N, D): the features of some images with each of T adapters."""
        T = len(adapters["down"])
        added = [self._added({name: part[t] for name, part in adapters.items()}) for t in range(T)]
        return torch.stack([self.trunk.features(x_NCHW, lambda part, own=own: own) for own in added])  # type: ignore[misc]

    def _added(self, adapter: Weights) -> list[Added]:
        parts = zip(*(adapter[name] for name in ("down", "down_bias", "up", "up_bias")), strict=True)
        return [bottleneck(down, down_bias, up, up_bias, self.config.scale) for down, down_bias, up, up_bias in parts]

    def _trained(self, state: EaseState, x_NCHW: Tensor, y_N: Tensor) -> Weights:
        """The adapter of these images. It adds nothing at first: `up` starts at zero, `down` as layers of torch do."""
        config, rng, rate, D = self.config, self.draws(state, "train"), float(state.rate), self.trunk.shape.width
        start = {name: torch.zeros(shape, device=x_NCHW.device) for name, shape in self.shapes.items()}
        start["down"] = _uniform(rng, self.shapes["down"], D).to(x_NCHW.device)
        adapter = trainable(start)
        rows_VD = _uniform(rng, (self.spec.symbols, D), D).to(x_NCHW.device).requires_grad_()
        sharpness = torch.ones((), device=x_NCHW.device, requires_grad=True)
        some_V = present(y_N, self.spec.symbols)

        def loss(places: np.ndarray) -> Tensor:
            h_ND = self.trunk(self.trunk.view(x_NCHW[places], rng), self._added(adapter))
            cosine_NV = F.normalize(h_ND, dim=-1) @ F.normalize(rows_VD, dim=-1).T
            return F.cross_entropy(among(sharpness * cosine_NV, some_V), y_N[places])

        parts = [*adapter.values(), rows_VD, sharpness]
        optimiser = torch.optim.SGD(parts, rate, momentum=0.9, weight_decay=config.weight_decay)
        fit(optimiser, loss, len(y_N), config.epochs, config.batch_size, rng, config.schedule, config.clip)
        return detached(adapter)


def with_mapped(prototypes_TVD: Tensor, task_of_V: Tensor) -> Tensor:
    """(T, V, D): in the spaces of tasks after its own a class gets a mixture of the prototypes of classes that have been there,
    with the softmax of their cosines to it in its own space as weights."""
    found = prototypes_TVD.clone()
    for later in range(1, len(found)):
        real = (task_of_V >= later).nonzero()[:, 0]
        for task in range(later if len(real) else 0):
            old = (task_of_V == task).nonzero()[:, 0]
            unit_VD = F.normalize(prototypes_TVD[task], dim=-1)
            found[later, old] = (unit_VD[old] @ unit_VD[real].T).softmax(1) @ prototypes_TVD[later, real]
    return found


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], width: int) -> Tensor:
    return torch.from_numpy(rng.uniform(-(width**-0.5), width**-0.5, shape).astype(np.float32))
