"""MAML online, with replay (Bekal et al. 2025, algorithm 2): initial weights from which a few steps on a support set suffice.

The buffer is cut into T regions by age, as if each were a task. B learners with T regions each are B * T networks side by side.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from episodes import EpisodeSpec, UserError
from episodes.errors import above_zero, at_least
from metacl.learners.buffers import append_, empty_buffer, newest
from metacl.learners.trained.online import OnlineLearner
from metacl.learners.trained.online_state import Memory, OnlineConfig, OnlineState, Work, random_numbers
from metacl.nets.scratch import Weights
from metacl.nets.side_by_side import NetworkConfig, OnlineNetwork, over_examples

REGIONS = 0
"""Marks the random numbers that draw runs of examples from the regions."""


@dataclass(frozen=True)
class OnlineMAMLConfig(OnlineConfig):
    """A network that takes a few gradient steps on the newest examples before it answers. `rate` belongs to the outer loop."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    inner_rate: float = 1e-2
    """Learning rate of the inner steps."""
    inner_steps: int = 5
    """Inner gradient steps before an answer, each on all of the support."""
    support: int = 10
    """Newest examples, which the inner steps learn from."""
    queries: int = 10
    """Examples of each region in the outer loss."""
    regions: int = 5
    """Regions by age into which the buffer is cut (T)."""
    buffer: int = 20_000
    """Examples that the buffer keeps. There is no update before it is full."""
    keep_every: int = 1
    """Every how many stream examples one is put into the buffer."""
    updates: float = 1.0
    """Updates for each block, on average."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "support", "queries", "regions", "buffer", "keep_every")
        at_least(0, self, "learner.", "inner_steps", "updates")
        above_zero("learner.inner-rate", self.inner_rate)
        if self.buffer < self.regions * (self.support + self.queries):
            raise UserError(
                f"learner.buffer {self.buffer} is too small: each of {self.regions} regions needs {self.support} examples of "
                f"support and {self.queries} queries, {self.regions * (self.support + self.queries)} in all."
            )

    def build(self, spec: EpisodeSpec) -> "OnlineMAML":
        return OnlineMAML(self, spec)


class OnlineMAML(OnlineLearner):
    """Answers with weights that are adapted to the newest examples. The outer gradient is of second order."""

    config: OnlineMAMLConfig
    network: OnlineNetwork

    def __init__(self, config: OnlineMAMLConfig, spec: EpisodeSpec):
        super().__init__(config, spec)
        self.support = config.support
        last = f"layers.{self.network.depth}"
        self.last_layer = {f"{last}.weight": ..., f"{last}.bias": ...}

    def make(self) -> OnlineNetwork:
        return OnlineNetwork(self.config.network, self.spec)

    def remember(self, flat_BP: Tensor) -> Memory:
        B, config = len(flat_BP), self.config
        recent = empty_buffer(self.spec, flat_BP, B, config.support)
        return {"buffer": empty_buffer(self.spec, flat_BP, B, config.buffer), "recent": recent}

    def update(self, work: Work, x: Tensor, y: Tensor) -> None:
        before, N = int(work.seen.max()), x.shape[1]
        append_(work.memory["recent"], x=x, y=y)
        kept = (before + torch.arange(N, device=x.device)) % self.config.keep_every == 0
        append_(work.memory["buffer"], x=x[:, kept], y=y[:, kept])
        if int(work.memory["buffer"]["count"].min()) < self.config.buffer:
            return
        block = before // self.config.block
        for number in range(int(self.config.updates * (block + 1)) - int(self.config.updates * block)):
            x_BTN, y_BTN = self.regions(work, number)
            work.adam(self.outer_gradient(work.flat, x_BTN, y_BTN))
            work.used += self.config.regions * (self.config.support + self.config.queries)

    def regions(self, work: Work, number: int) -> tuple[Tensor, Tensor]:
        """x, y (B, T, support + queries, ...): a random run of neighbours from each region of the buffer, the oldest first."""
        buffer, config, run = work.memory["buffer"], self.config, self.config.support + self.config.queries
        length = config.buffer // config.regions
        starts = []
        for key, seen in zip(work.key.tolist(), work.seen.tolist(), strict=True):
            rng = random_numbers(key, seen * 4096 + number, REGIONS)
            starts.append(rng.integers(length - run + 1, size=config.regions) + length * np.arange(config.regions))
        age_BTN = (torch.from_numpy(np.stack(starts))[..., None] + torch.arange(run)).to(buffer["x"].device)
        place_BTN = (buffer["count"][:, None, None] + age_BTN) % config.buffer
        row = torch.arange(len(place_BTN), device=place_BTN.device)[:, None, None]
        return buffer["x"][row, place_BTN], buffer["y"][row, place_BTN]

    def outer_gradient(self, flat_BP: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(B, P): the gradient of the mean loss on the queries of all regions, through the inner steps on their supports."""
        B, T, n = *x.shape[:2], self.config.support
        x, y = x.flatten(0, 1), y.flatten(0, 1)

        def loss(flat_BP: Tensor) -> tuple[Tensor, tuple[()]]:
            flat = self.adapted(flat_BP.repeat_interleave(T, 0), x[:, :n], y[:, :n])
            answers = self.network(self.named(flat), x[:, n:])[0]
            return self.losses(answers, y[:, n:]).mean(1).view(B, T).mean(1), ()

        return self.gradient(flat_BP, loss)[0]

    def adapted(self, flat_BP: Tensor, x: Tensor, y: Tensor, filled_BN: Tensor | None = None) -> Tensor:
        """(B, P): the weights after the inner steps on the filled examples. Differentiable wherever grad mode is on."""
        create = torch.is_grad_enabled()
        weight_BN = torch.ones(x.shape[:2], device=x.device) if filled_BN is None else filled_BN
        weight_BN = weight_BN / weight_BN.sum(1, keepdim=True).clamp_min(1)
        with torch.enable_grad():
            for _ in range(self.config.inner_steps):
                at = flat_BP if create else flat_BP.detach().requires_grad_()
                loss = (self.losses(self.network(self.named(at), x)[0], y) * weight_BN).sum()
                flat_BP = at - self.config.inner_rate * torch.autograd.grad(loss, at, create_graph=create)[0]
        return flat_BP if create else flat_BP.detach()

    def support_in(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        return newest(memory["recent"], self.config.support)

    def answer_from(self, weights: Weights, x: Tensor, x_s: Tensor, y_s: Tensor, filled_BN: Tensor) -> Tensor:
        return self.network(self._adapted_to(weights, x_s, y_s, filled_BN), x)[0]

    def hidden(self, state: OnlineState, x: Tensor) -> list[Tensor]:
        """Activations (B, N, W) of each hidden layer, after the inner steps; each place of an image counts as an example."""
        weights = self._adapted_to(state.weights, *self.support_in(state.memory))
        return [over_examples(h) for h in self.network(weights, x)[1]]

    def _adapted_to(self, weights: Weights, x: Tensor, y: Tensor, filled_BN: Tensor | None = None) -> Weights:
        flat_BP = torch.cat([w.flatten(1) for w in weights.values()], 1)
        if torch.is_grad_enabled() and not flat_BP.requires_grad:
            flat_BP = flat_BP.detach().requires_grad_()
        return self.named(self.adapted(flat_BP, x, y, filled_BN))
