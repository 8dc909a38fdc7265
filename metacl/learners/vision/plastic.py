"""A vision transformer that never stops being trained: a new head for each task, and what is done for it to stay plastic.

Tasks follow each other, and the learner is told where they begin; it answers among the labels of the last one. Of a task only
what it can be taught is asked, not what is kept of older ones: the loss of plasticity (Dohare et al., Nature 2024).

A method is an optimiser around another, from `metacl.optimisers`; its state, with that of the other, is part of the learner's,
and goes on from task to task. `plastic_methods` and `plastic_units` have a configuration for each.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.learners.protocol import DivergedError
from metacl.learners.vision.base import among
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.fitting import detached, fit, trainable
from metacl.learners.vision.identity import Weights, head_logits, no_head, present
from metacl.learners.vision.modules import TrainedTransformer
from metacl.nets.vit import NOTHING, Added, VisionTransformer
from metacl.optimisers.around import Around
from metacl.optimisers.hidden import Units
from metacl.optimisers.muon import Together, muon
from metacl.optimisers.state import load_tensors, tensors_of

Optimiser = torch.optim.Optimizer


@dataclass(frozen=True)
class PlasticConfig(FittingConfig):
    """A vision transformer whose weights are trained on, task after task, with a new head for each."""

    base: Literal["adamw", "sgd", "muon"] = "adamw"
    """The optimiser. `sgd`: with momentum. `muon`: Muon for matrices, AdamW for all else."""
    rate: float = 1e-3
    """Learning rate."""
    head_rate: float = 1.0
    """Rate of the head (AdamW, anew in each task), in rates of the transformer."""
    momentum: float = 0.9
    """Of `sgd`."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the transformer."""
    anew: bool = False
    """Take the initial weights anew for each task: there is no plasticity to lose. A line to compare with."""
    keep_head: bool = False
    """Keep the head from task to task, where all tasks have the same classes. With `anew` it is a new one all the same."""
    epochs: int = 4
    """Over the images of a task."""
    batch_size: int = 32
    """Images in a step."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "head_rate", "momentum", "weight_decay")

    def build(self, spec: EpisodeSpec) -> "Plastic":
        return Plastic(self, spec)

    def optimiser(self, network: VisionTransformer, rate: float, seed: int) -> Optimiser:
        """That of the transformer, with what the method does around it.

        Arguments:
            seed: of what a method draws.
        """
        parts = list(network.named_parameters())  # so that errors can name them
        if self.base == "sgd":
            base: Optimiser = torch.optim.SGD(parts, rate, self.momentum, weight_decay=self.weight_decay)
        elif self.base == "muon":
            base = muon(parts, rate, weight_decay=self.weight_decay)
        else:
            base = torch.optim.AdamW(parts, rate, weight_decay=self.weight_decay)
        return self.around(base, network, seed)

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        """What the method makes of the base: nothing but that gradients which are not finite end it."""
        return Around(base)

    def task_begins(self, optimiser: Optimiser) -> None:
        """What the method does where a task begins."""

    def added(self, network: VisionTransformer) -> list[Added]:
        """What the method adds to each block, in training and in answers."""
        return [NOTHING] * len(network.blocks)


class PlasticState(NamedTuple):
    """Of one row (and with B before each shape, of all)."""

    key: Tensor
    """() the row's seed."""
    rate: Tensor
    """() learning rate."""
    tasks: Tensor
    """() int64, tasks so far."""
    weights: Weights
    """Of the transformer."""
    began: Tensor
    """() the seed of its initial weights."""
    head: Weights
    """Of the last task."""
    last: Tensor
    """(V,) bool, the symbols of the last task."""
    kept: dict[str, Tensor]
    """All that the optimiser of the transformer keeps."""


class Plastic(TrainedTransformer):
    """See above."""

    config: PlasticConfig

    def start(self, seeds: Sequence[int], rates: Sequence[float] | None = None, alike: bool = False) -> PlasticState:
        """Rows that start alike have the weights of seed 0."""
        state = super().start([0] * len(seeds) if alike else seeds, rates)
        return state._replace(key=torch.tensor(seeds).to(state.key))

    def fresh(self, key: Tensor, rate: Tensor) -> PlasticState:
        network = self._network(self.trunk.initial(int(key)))
        optimiser = self.config.optimiser(network, float(rate), int(key))
        none = torch.zeros(self.spec.symbols, dtype=torch.bool, device=key.device)
        head = no_head(self.spec.symbols, self.trunk.shape.width, torch.zeros_like(rate))
        return PlasticState(
            key, rate, torch.zeros_like(key), _weights(network), key, head, none, _copied(tensors_of(optimiser))
        )

    def learn_row(self, state: PlasticState, x_NCHW: Tensor, y_N: Tensor) -> PlasticState:
        config, rng = self.config, self.draws(state, "train")
        start = self._anew(state) if config.anew else state
        network = self._network(start.weights)
        body = config.optimiser(network, float(state.rate), int(state.key))
        load_tensors(body, start.kept)
        config.task_begins(body)
        head = trainable(self._first_head(state))
        weights = dict(network.named_parameters())
        added, last = _watched(self.added(), body), present(y_N, self.spec.symbols)

        def loss(places: np.ndarray) -> Tensor:
            h_ND = self.trunk(self.trunk.view(x_NCHW[places], rng), added, weights=weights)
            return F.cross_entropy(among(head_logits(head, h_ND), last), y_N[places])

        of_head = torch.optim.AdamW(list(head.items()), config.head_rate * float(state.rate), weight_decay=0.0)
        both = Together([body, of_head])
        try:
            fit(both, loss, len(y_N), config.epochs, config.batch_size, rng, config.schedule, config.clip)
        except FloatingPointError as error:
            raise DivergedError(f"At the learning rate {float(state.rate):g} {error}. Give a lower --learner.rate.") from None
        kept = _copied(tensors_of(body))
        return state._replace(tasks=state.tasks + 1, weights=_weights(network), head=detached(head), last=last, kept=kept)

    def added(self) -> list[Added]:
        return self.config.added(self.trunk.network)

    def logits(self, state: PlasticState, h_MD: Tensor) -> Tensor:
        """Among the symbols of the last task."""
        return among(head_logits(state.head, h_MD), state.last)

    def before_first_task(self, state: PlasticState) -> PlasticState:
        return self.fresh(state.began, state.rate)

    def _anew(self, state: PlasticState) -> PlasticState:
        """Initial weights: others for each task where the transformer is not pre-trained."""
        return self.fresh(state.key * 1_000_003 + state.tasks, state.rate)

    def _network(self, weights: Weights) -> VisionTransformer:
        """A transformer of its own with these weights, which are trained."""
        network = deepcopy(self.trunk.network).requires_grad_(True)
        network.load_state_dict(weights)
        return network

    def _first_head(self, state: PlasticState) -> Weights:
        """With which a task begins."""
        kept = self.config.keep_head and not self.config.anew and int(state.tasks)
        return state.head if kept else self._new_head(state)

    def _new_head(self, state: PlasticState) -> Weights:
        """Small random weights."""
        noise = self.draws(state, "head").standard_normal(state.head["weight"].shape, dtype=np.float32)
        weight = 0.02 * torch.from_numpy(noise).to(state.head["weight"])
        return {"weight": weight, "bias": torch.zeros_like(state.head["bias"])}


def _watched(added: Sequence[Added], body: Optimiser) -> list[Added]:
    """What is added to the blocks; an optimiser that looks at hidden units is shown them."""
    if not isinstance(body, Units):
        return list(added)

    def shown(i: int, name: str, part: Tensor) -> None:
        if name == "mlp hidden":
            body.observe(i, part)

    return [replace(own, tap=partial(shown, i)) for i, own in enumerate(added)]


def _weights(network: nn.Module) -> Weights:
    return {name: part.detach().clone() for name, part in network.named_parameters()}


def _copied(tree: Weights) -> Weights:
    return {name: part.detach().clone() for name, part in tree.items()}
