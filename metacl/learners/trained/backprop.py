"""Networks trained online by backpropagation, as they are and with the usual remedies for the loss of plasticity.

`online` (finetune.py) is nearly `bp`: SGD in place of Adam, one example a step, and the encoder of meta-trained learners.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from episodes import EpisodeSpec, Examples, UserError
from episodes.errors import above_zero, at_least
from metacl.learners.inputs import check_inputs, check_support
from metacl.learners.similarity.kernels import RARE, nearest_only, squared_distances, weighted
from metacl.learners.trained.online import OnlineLearner
from metacl.learners.trained.online_state import Memory, OnlineConfig, OnlineState, Work, random_numbers
from metacl.nets.scratch import Weights
from metacl.nets.side_by_side import NetworkConfig, OnlineNetwork, over_examples

NOISE, CHOICE, ANEW, REPLAY, KEPT, UNITS = range(6)
"""Marks of the random numbers that are drawn for one purpose each."""


@dataclass(frozen=True)
class BackpropConfig(OnlineConfig):
    """A network and Adam. With all remedies off (0) it is plain backpropagation."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    l2: float = 0.0
    """Strength of L2 regularisation: l2 * |weights|^2 is added to the loss."""
    l2_init: float = 0.0
    """Strength of a pull to the start: l2-init * |weights - initial ones|^2 is added to the loss (Kumar et al. 2023)."""
    shrink: float = 0.0
    """Share of weights and biases that is taken away after each update, as in shrink and perturb (Ash and Adams 2020). Scales
    and shifts of LayerNorm, which start at 1 and 0, are left alone."""
    perturb: float = 0.0
    """Share of newly drawn initial weights that is added after each update, as in shrink and perturb. So noise is as strong as
    the initial weights of its layer are, and there is none where nothing is drawn: in biases of linear layers, in LayerNorm."""
    reinit: bool = False
    """Take a new network after each task. The learner is told where tasks end."""
    one: bool = False
    """Learn one example of each block alone, of a label that is drawn uniformly: as many as query-only attention learns."""
    support: int = 0
    """Labelled examples of an old task that may be used when it is asked about again, as attention does. 0: none."""
    use: Literal["tune", "knn"] = "tune"
    """How the `support` examples of an old task are used. `tune`: a copy of the weights is trained on them. `knn`: the nearest
    of them in the last hidden layer answer."""
    tune_steps: int = 20
    """Steps of Adam that `use tune` takes on all support examples."""
    tune_rate: float = 1e-3
    """Learning rate of `use tune`."""
    neighbours: int = 5
    """Neighbours that `use knn` averages."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "l2", "l2_init", "shrink", "perturb", "support", "tune_steps")
        at_least(1, self, "learner.", "neighbours")
        above_zero("learner.tune-rate", self.tune_rate)
        if self.shrink >= 1:
            raise UserError(f"learner.shrink must be below 1, not {self.shrink}: nothing would be left of the weights.")

    def build(self, spec: EpisodeSpec) -> "Backprop":
        return Backprop(self, spec)


class Backprop(OnlineLearner):
    """One step of Adam on the loss of each block, and what the remedies add to it."""

    config: BackpropConfig
    network: OnlineNetwork
    has_features = True

    def __init__(self, config: BackpropConfig, spec: EpisodeSpec):
        super().__init__(config, spec)
        self.support = config.support
        last = f"layers.{self.network.depth}"
        self.last_layer = {f"{last}.weight": ..., f"{last}.bias": ...}
        bounds = zip(self.network.bounds().values(), self.sizes, strict=True)
        self.spread = torch.cat([torch.full((size,), bound) for bound, size in bounds])
        """(P,) how far from 0 each initial weight may be drawn."""

    def make(self) -> OnlineNetwork:
        return OnlineNetwork(self.config.network, self.spec)

    def remember(self, flat_BP: Tensor) -> Memory:
        return {"start": flat_BP.clone()} if self.config.l2_init else {}

    def answer(self, weights: Weights, memory: Memory, x: Tensor) -> Tensor:
        return self.network(weights, x)[0]

    def hidden(self, state: OnlineState, x: Tensor) -> list[Tensor]:
        """Activations (B, N, W) of each hidden layer; each place of an image counts as an example."""
        return [over_examples(h) for h in self.network(state.weights, x)[1]]

    @torch.no_grad()
    def features(self, state: OnlineState, x: Tensor) -> Tensor:
        """The last hidden layer, flat."""
        check_inputs(x, self.spec)
        return self.network(state.weights, x)[1][-1].flatten(2)

    def apart(self, asked: int) -> bool:
        return self.config.one

    def update(self, work: Work, x: Tensor, y: Tensor) -> Tensor | None:
        if self.config.one:
            x, y = self.chosen(work, x, y)
        gradient_BP, (answers, hidden) = self.loss_gradient(work, x, y)
        work.adam(self.regularised(work, gradient_BP))
        self.perturbed(work)
        self.after(work, x, y, answers, hidden)
        work.used += x.shape[1]
        return answers

    def loss_gradient(self, work: Work, x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        """(B, P) the gradient of the loss on a block; the answers (B, N, F) to it, and the activations of each hidden layer."""

        def loss(flat_BP: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
            answers, hidden = self.network(self.named(flat_BP), x)
            return self.losses(answers, y).mean(1), (answers, hidden)

        return self.gradient(work.flat, loss)

    def after(self, work: Work, x: Tensor, y: Tensor, answers: Tensor, hidden: list[Tensor]) -> None:
        """What a method does after the step of Adam, in place. Answers and activations are from before the step."""

    def regularised(self, work: Work, gradient_BP: Tensor) -> Tensor:
        """(B, P): the gradient of the loss plus the gradients of the penalties on the weights."""
        if self.config.l2:
            gradient_BP = gradient_BP + 2 * self.config.l2 * work.flat
        if self.config.l2_init:
            gradient_BP = gradient_BP + 2 * self.config.l2_init * (work.flat - work.memory["start"])
        return gradient_BP

    def perturbed(self, work: Work) -> None:
        """weights <- (1 - shrink) weights + perturb * initial weights drawn anew, in place."""
        if self.config.shrink:
            for name, weight in self.named(work.flat).items():
                if name.startswith("layers."):
                    weight *= 1 - self.config.shrink
        if self.config.perturb:
            size = work.flat.shape[1]
            rows = [drawn_for(work, b, NOISE).random(size, dtype=np.float32) * 2 - 1 for b in range(len(work.flat))]
            work.flat += self.config.perturb * self.spread.to(work.flat) * torch.from_numpy(np.stack(rows)).to(work.flat)

    def chosen(self, work: Work, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x, y (B, 1, ...): one example of each block, of a label that is drawn among the labels in it."""
        places = []
        for b in range(len(x)):
            rng = drawn_for(work, b, CHOICE)
            if self.spec.classification:
                labels = y[b].cpu().numpy()
                places.append(int(rng.choice(np.flatnonzero(labels == rng.choice(np.unique(labels))))))
            else:
                places.append(int(rng.integers(x.shape[1])))
        row, place = torch.arange(len(x), device=x.device), torch.tensor(places, device=x.device)
        return x[row, place][:, None], y[row, place][:, None]

    def task_ends(self, state: OnlineState) -> OnlineState:
        if not self.config.reinit:
            return state
        seeds = [int(random_numbers(key, seen, ANEW).integers(2**63)) for key, seen in _rows(state)]
        drawn = [self.drawn_weights(seed) for seed in seeds]
        weights = {name: torch.stack([own[name] for own in drawn]) for name in self.shapes}
        return self.fresh(weights, state.key, state.rate)._replace(seen=state.seen, used=state.used)

    def predict_with(self, state: OnlineState, support: Examples, x: Tensor) -> Tensor:
        if not self.support:
            return self.predict(state, x)
        check_support(support, self.spec)
        check_inputs(x, self.spec)
        return self._by_neighbours(state, support, x) if self.config.use == "knn" else self._tuned(state, support, x)

    @torch.no_grad()
    def _tuned(self, state: OnlineState, support: Examples, x: Tensor) -> Tensor:
        state = self.fresh(state.weights, state.key, torch.full_like(state.rate, self.config.tune_rate))
        work = self.working(state)
        for _ in range(self.config.tune_steps):
            work.adam(self.loss_gradient(work, support.x, self.typed(support.y))[0])
        return self.shaped(self.answer(self.named(work.flat), work.memory, x))

    @torch.no_grad()
    def _by_neighbours(self, state: OnlineState, support: Examples, x: Tensor) -> Tensor:
        near, far = (self.network(state.weights, part)[1][-1].flatten(2) for part in (support.x, x))
        every_BN = torch.ones(near.shape[:2], dtype=torch.bool, device=near.device)
        nearest_BMN = nearest_only(-squared_distances(far, near), every_BN, self.config.neighbours)
        share_BMF = weighted(nearest_BMN.masked_fill(nearest_BMN.isfinite(), 0), self.targets(support.y))
        return self.shaped(share_BMF.clamp_min(RARE).log() if self.spec.classification else share_BMF)


def drawn_for(work: Work, b: int, what: int) -> np.random.Generator:
    """The generator of learner b at this update. `what`: one of the marks NOISE to UNITS."""
    return random_numbers(int(work.key[b]), int(work.seen[b]), what)


def _rows(state: OnlineState) -> list[tuple[int, int]]:
    """The key and the number of examples seen, of each learner."""
    return list(zip(state.key.tolist(), state.seen.tolist(), strict=True))
