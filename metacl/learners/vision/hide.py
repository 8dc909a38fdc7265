"""HiDe-Prompt (Wang et al. 2023) and NoRGa (Le et al. 2024): a prefix for each task, and a network that says which to take.

A task is learnt in three stages. The task-identity network is trained on features of the plain transformer and aligned on what
is kept of all classes. The task's prefix, and the head that all tasks share, are trained on its images, among its classes
alone. Then the head is aligned on features, drawn from what is kept of all classes, each under the prefix of its own task.

NoRGa changes the scores of the prefix by a non-linear residual gate, of which each block with a prefix has two numbers, tau and
alpha. They are trained in the first task and stay. Settings and their sources: the official code of both papers. Unlike there,
the task-identity network sees whole images, not random views of them, and an alignment uses all that is drawn for an epoch.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from episodes import EpisodeSpec, UserError
from episodes.errors import at_least
from metacl.learners.vision.base import VisionLearner, among
from metacl.learners.vision.class_statistics import ClassStatistics, Kind, means, no_statistics, with_classes
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.fitting import fit, groups, trainable
from metacl.learners.vision.identity import (
    Weights,
    aligned,
    drawn_identity,
    head_logits,
    identity_logits,
    no_head,
    no_identity,
    present,
    trained_identity,
)
from metacl.learners.vision.trunk import TOGETHER
from metacl.nets.vit import Added, gate, prefixed

TEMPERATURE = 0.8
"""Of the contrastive term."""


@dataclass(frozen=True)
class AlignmentConfig:
    """How a classifier is aligned on features that are drawn from what is kept of each class."""

    rate: float = 0.005
    """Learning rate of SGD with momentum 0.9, down to zero by a cosine."""
    epochs: int = 30
    samples: int = 128
    """Features drawn of each class for an epoch; the size of a batch too."""

    def __post_init__(self) -> None:
        at_least(1, self, "learner.alignment.", "samples")
        at_least(0, self, "learner.alignment.", "epochs")


@dataclass(frozen=True)
class HidePromptConfig(FittingConfig):
    """A prefix for each task on a frozen vision transformer, chosen for each image by a task-identity network."""

    gate: Literal["none", "tanh", "sigmoid", "gelu"] = "none"
    """The activation of NoRGa's residual gate on the scores of a prefix; `none` is HiDe-Prompt."""
    alpha: float = 1.0
    """The gate's first alpha; at 0 with `learn_gate` off it changes nothing."""
    learn_gate: bool = True
    """Whether alpha and tau are trained in the first task."""
    length: int = 5
    """Tokens of a prefix (L)."""
    blocks: int = 5
    """The first blocks, which have prefixes."""
    momentum: float = 0.01
    """Share of the mean of all earlier prefixes in the prefix of a later task."""
    contrast: float = 0.1
    """Weight of the term that keeps features apart from each other and from the means of earlier classes."""
    rate: float = 0.015
    """Learning rate of prefixes and gates (Adam)."""
    head_rate: float = 0.1
    """Rate of the head, as a part of `rate`."""
    identity_rate: float = 5e-4
    """Learning rate of the task-identity network (Adam)."""
    identity_epochs: int = 20
    statistics: Kind = "full"
    """What is kept of the features of a class: `full`, mean and covariance; `diagonal`, mean and variances; `k-means`, ten
    centres with variances."""
    identity_alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    alignment: AlignmentConfig = field(default_factory=lambda: AlignmentConfig(samples=640))
    published_batching: bool = False
    """Mix the prefixes of a batch up as the published code does (half of the images take keys for values): for comparisons."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "blocks", "identity_epochs")
        at_least(0, self, "learner.", "length", "contrast")
        at_least(0, self, "learner.", "momentum", most=1)

    def build(self, spec: EpisodeSpec) -> "HidePrompt":
        return HidePrompt(self, spec)


class HideState(NamedTuple):
    """Of one row (and with B before each shape, of all)."""

    key: Tensor
    """() the row's seed."""
    rate: Tensor
    """() learning rate."""
    tasks: Tensor
    """() int64, tasks so far."""
    task_of: Tensor
    """(V,) int64, the latest task that had each symbol; -1: none."""
    prefixes: Tensor
    """(T, P, 2, L, H, E) keys and values of each task and block."""
    gates: Tensor
    """(P, 2) tau and alpha of each block."""
    head: Weights
    identity: Weights
    plain: ClassStatistics
    """Of the features of the plain transformer."""
    instructed: ClassStatistics
    """Of the features under the prefix of each class's task."""


class HidePrompt(VisionLearner):
    """See above. It need not be told which task a query is of."""

    def __init__(self, config: HidePromptConfig, spec: EpisodeSpec):
        super().__init__(config, spec)
        shape = self.trunk.shape
        if config.blocks > shape.depth:
            raise UserError(f"learner.blocks {config.blocks} are more than the transformer has: {shape.depth}.")
        self.prefix_shape = (config.blocks, 2, config.length, shape.heads, shape.width // shape.heads)

    def fresh(self, key: Tensor, rate: Tensor) -> HideState:
        V, D, kind, zero = self.spec.symbols, self.trunk.shape.width, self.config.statistics, torch.zeros_like(rate)
        gates = torch.stack([torch.ones_like(rate), zero + self.config.alpha]).expand(self.config.blocks, 2).clone()
        nothing = no_statistics(V, D, kind, zero)
        return HideState(
            key,
            rate,
            torch.zeros_like(key),
            torch.full((V,), -1, device=key.device),
            zero.new_zeros(0, *self.prefix_shape),
            gates,
            no_head(V, D, zero),
            no_identity(V, D, zero),
            nothing,
            nothing,
        )

    def learn_row(self, state: HideState, x_NCHW: Tensor, y_N: Tensor) -> HideState:
        task = int(state.tasks)
        state = state._replace(prefixes=state.prefixes[:task])
        state = self._identity_learnt(state, x_NCHW, y_N)
        before = state.task_of >= 0
        state = self._prefix_learnt(state, x_NCHW, y_N, before)
        task_of = torch.where(present(y_N, self.spec.symbols), task, state.task_of)
        return self._aligned(state._replace(task_of=task_of, tasks=state.tasks + 1), x_NCHW, y_N)

    def answer_row(self, state: HideState, x_MCHW: Tensor) -> Tensor:
        seen_V = state.task_of >= 0
        task_M = self.tasks_of(state, x_MCHW)
        h_MD = self.trunk.features(x_MCHW, lambda part: self.added(state.prefixes[task_M[part]], state.gates))
        return among(head_logits(state.head, h_MD), seen_V)

    def tasks_of(self, state: HideState, x_MCHW: Tensor) -> Tensor:
        """(M,) the task that each image is taken for, of one row."""
        logits_MV = among(identity_logits(state.identity, self.trunk.features(x_MCHW)), state.task_of >= 0)
        return state.task_of[logits_MV.argmax(1)]

    def added(self, prefixes: Tensor, gates_P2: Tensor) -> list[Added]:
        """What a batch of prefixes (N, P, 2, L, H, E), or one for all images (N = 1), adds to the first blocks."""
        if self.config.published_batching:  # axes P, 2, N laid out anew as N, P, 2 without being exchanged
            blocks = prefixes.permute(1, 2, 0, 3, 4, 5).contiguous()
            prefixes = blocks.view(len(blocks), blocks.shape[2], 2, *blocks.shape[3:]).transpose(0, 1)
        activation = self.config.gate
        if activation == "none":
            return prefixed(prefixes)
        return prefixed(prefixes, [partial(gate, tau=tau, alpha=alpha, activation=activation) for tau, alpha in gates_P2])

    def _of_one(self, prefix: Tensor, gates_P2: Tensor, number: int) -> list[Added]:
        """What one prefix adds for some images. The published batching mixes the keys and values of a batch up even so."""
        return self.added(prefix.expand(number if self.config.published_batching else 1, *prefix.shape), gates_P2)

    def _identity_learnt(self, state: HideState, x_NCHW: Tensor, y_N: Tensor) -> HideState:
        """Task-identity inference."""
        config, rng = self.config, self.draws(state, "identity")
        weights = drawn_identity(state.identity, rng) if int(state.tasks) == 0 else state.identity
        h_ND = self.trunk.features(x_NCHW)
        weights = trained_identity(weights, h_ND, y_N, config.identity_rate, config.identity_epochs, config.batch_size, rng)
        plain = with_classes(state.plain, h_ND, y_N, config.statistics, rng)
        if int(state.tasks):
            seen_V, how = (state.task_of >= 0) | present(y_N, self.spec.symbols), config.identity_alignment
            weights = aligned(identity_logits, weights, plain, seen_V, how.rate, how.epochs, how.samples, rng)
        return state._replace(identity=weights, plain=plain)

    def _prefix_learnt(self, state: HideState, x_NCHW: Tensor, y_N: Tensor, before_V: Tensor) -> HideState:
        """Within-task prediction. Adds the prefix of this task."""
        config, rng, first = self.config, self.draws(state, "prefix"), int(state.tasks) == 0
        start = rng.uniform(-1, 1, self.prefix_shape).astype(np.float32) if first else None
        initial = torch.from_numpy(start).to(state.head["bias"]) if start is not None else state.prefixes[-1]
        own = trainable({"prefix": initial, "gates": state.gates, **state.head})
        learn_gate = first and config.gate != "none" and config.learn_gate
        prompts = [own["prefix"], own["gates"]] if learn_gate else [own["prefix"]]
        head = [own["weight"], own["bias"]]
        rate, new_V = float(state.rate), present(y_N, self.spec.symbols)
        old_SD = means(state.instructed, before_V & ~new_V)

        def loss(places: np.ndarray) -> Tensor:
            added = self._of_one(self._mixed(own["prefix"], state), own["gates"], len(places))
            h_ND = self.trunk(self.trunk.view(x_NCHW[places], rng), added)
            error = F.cross_entropy(among(head_logits(own, h_ND), new_V), y_N[places])
            return error + config.contrast * _contrast(h_ND, old_SD) if config.contrast else error

        optimiser = torch.optim.Adam(groups([(prompts, rate), (head, config.head_rate * rate)]))
        fit(optimiser, loss, len(y_N), config.epochs, config.batch_size, rng, config.schedule, config.clip)
        prefix = self._mixed(own["prefix"].detach(), state)[None]
        new_head = {name: own[name].detach() for name in ("weight", "bias")}
        return state._replace(prefixes=torch.cat([state.prefixes, prefix]), gates=own["gates"].detach(), head=new_head)

    def _mixed(self, prefix: Tensor, state: HideState) -> Tensor:
        """The prefix that is used: some of the mean of all earlier ones is in it."""
        share = self.config.momentum
        return (1 - share) * prefix + share * state.prefixes.mean(0) if len(state.prefixes) else prefix

    def _aligned(self, state: HideState, x_NCHW: Tensor, y_N: Tensor) -> HideState:
        """Task-adaptive prediction."""
        config, rng = self.config, self.draws(state, "alignment")
        sizes = [len(part) for part in x_NCHW.split(TOGETHER)]
        h_ND = self.trunk.features(
            x_NCHW, lambda part: self._of_one(state.prefixes[-1], state.gates, sizes[part.start // TOGETHER])
        )
        instructed = with_classes(state.instructed, h_ND, y_N, config.statistics, rng)
        head, seen_V, how = state.head, state.task_of >= 0, config.alignment
        if int(state.tasks) > 1:
            head = aligned(head_logits, head, instructed, seen_V, how.rate, how.epochs, how.samples, rng)
        return state._replace(instructed=instructed, head=head)


def _contrast(h_ND: Tensor, old_SD: Tensor) -> Tensor:
    """Each feature, and each mean of an earlier class, should be most like itself (HiDe-Prompt's contrastive term)."""
    rows = torch.cat([old_SD, h_ND])
    return F.cross_entropy(rows @ rows.T / TEMPERATURE, torch.arange(len(rows), device=rows.device))
