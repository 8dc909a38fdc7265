"""One network, trained from scratch on each stream: what meta-learning is compared with.

`online` takes one step for each example, in order; `replay` does so with a few examples of a reservoir beside it; `offline`
keeps the stream and trains on all of it, in shuffled epochs, from the initial weights.

`online` is nearly `bp` (backprop.py) with SGD in place of Adam and a block of one example, and `replay` is nearly `er`
(replay.py) with the same changes. What differs: the network has the encoder of the meta-trained learners, with GroupNorm; an
example of the reservoir weighs 1 / `replayed`; and nothing is random once the network is made, since order and replay are
functions of how many examples a stream has had.

The B networks of a batch are trained in one computation (torch.func.vmap).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from episodes import EpisodeSpec, Examples
from episodes.errors import above_zero, at_least
from metacl.learners.losses import example_losses
from metacl.learners.lots import lots, reservoir_places, shuffled
from metacl.learners.protocol import DivergedError, Learner
from metacl.learners.trained.online import check_rates
from metacl.learners.trained.weighted_step import weighted_step_
from metacl.nets.encoders import EncoderConfig
from metacl.nets.scratch import Network, Weights


@dataclass(frozen=True)
class FinetuneConfig:
    """A network with the usual encoder and a linear layer, trained by gradient descent on the stream alone."""

    mode: Literal["online", "offline", "replay"] = "online"
    """`online`: one pass, one example at a time. `replay`: with examples of a buffer. `offline`: epochs over all so far."""
    rate: float = 1e-2
    """Learning rate of the optimiser."""
    optimiser: Literal["adam", "sgd"] = "sgd"
    """Five steps in a new direction do not turn Adam's running means around: for one pass SGD is better."""
    width: int = 128
    """D, features before the last layer. 0: no layers before it, for frozen features (a linear probe)."""
    epochs: int = 20
    """Passes that `offline` makes over the whole stream so far."""
    batch_size: int = 16
    """Examples in a step of `offline`."""
    buffer: int = 50
    """Examples that `replay` keeps, a uniform sample of all so far."""
    replayed: int = 8
    """Kept examples in each step of `replay`, beside the new one."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        at_least(0, self, "learner.", "width")
        at_least(1, self, "learner.", "epochs", "batch_size", "buffer", "replayed")
        above_zero("learner.rate", self.rate)

    def build(self, spec: EpisodeSpec) -> "Finetune":
        return Finetune(self, spec)


class FinetuneState(NamedTuple):
    """A network in training."""

    weights: Weights
    moments: tuple[Weights, ...]
    """Adam's running means of the gradient and of its square; nothing of them is kept for SGD and `offline`."""
    rate: Tensor
    """(B,) learning rates."""
    seen: Tensor
    """(B,) int64, valid examples so far."""
    x: Tensor
    """(B, R, *x_shape), the examples that are kept: none, R = buffer, or all."""
    y: Tensor
    kept: Tensor
    """(B, R) bool, where there is one."""
    drawn: Tensor
    """(B,) int64, the seeds of the initial weights, which `offline` starts from again; -1: the module's own."""


class Finetune(Learner):
    """The module's parameters are the initial weights of `init_state`; `start` draws others for each seed."""

    encodes = False
    has_rate = True

    def __init__(self, config: FinetuneConfig, spec: EpisodeSpec):
        super().__init__(spec)
        self.config = config
        self.network = self._make()
        self.constant_state, self.whole_tasks = config.mode != "offline", config.mode == "offline"

    def encode(self, x: Tensor) -> Tensor:
        """The inputs as they are: the encoder is part of what learns."""
        return x

    def init_state(self, batch_size: int) -> FinetuneState:
        return self._fresh([-1] * batch_size, [self.config.rate] * batch_size)

    def start(self, seeds: Sequence[int], rates: Sequence[float] | None = None, alike: bool = False) -> FinetuneState:
        rates = [self.config.rate] * len(seeds) if rates is None else rates
        check_rates(seeds, rates)
        return self._fresh([-1] * len(seeds) if alike else seeds, rates)

    def _make(self) -> Network:
        return Network(self.config.encoder, self.spec, self.config.width)

    def _initial(self, drawn: Sequence[int]) -> Weights:
        """The initial weights of each row: a function of its seed, or at -1 the module's own."""
        own = dict(self.network.named_parameters())
        if all(seed == -1 for seed in drawn):
            return {name: p.expand(len(drawn), *p.shape) for name, p in own.items()}
        rows = []
        for seed in drawn:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                rows.append(own if seed == -1 else dict(self._make().named_parameters()))
        return {name: torch.stack([row[name].detach().to(p) for row in rows]) for name, p in own.items()}

    def _fresh(self, drawn: Sequence[int], rates: Sequence[float]) -> FinetuneState:
        """Before the first example."""
        spec, some, weights = self.spec, next(self.parameters()), self._initial(drawn)
        adam = self.config.optimiser == "adam" and self.config.mode != "offline"
        moments = tuple({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2 * adam))
        shape = len(rates), self.config.buffer if self.config.mode == "replay" else 0
        x = some.new_zeros(*shape, *spec.x_shape, dtype=torch.uint8 if spec.x_kind == "image" else some.dtype)
        y = some.new_zeros(*shape, *spec.y_shape, dtype=torch.int64 if spec.classification else some.dtype)
        kept = torch.zeros(shape, dtype=torch.bool, device=some.device)
        seeds = torch.tensor(drawn, dtype=torch.int64, device=some.device)
        return FinetuneState(weights, moments, some.new_tensor(rates), torch.zeros_like(seeds), x, y, kept, seeds)

    def learn_features(self, state: FinetuneState, z_BND: Tensor, examples: Examples) -> FinetuneState:
        """In the backward pass the steps count as constants, added to the initial weights."""
        valid_BN = torch.ones_like(examples.task, dtype=torch.bool) if examples.valid is None else examples.valid
        y = examples.y if self.spec.classification else examples.y.to(state.y)
        learn = self._learn_all if self.config.mode == "offline" else self._learn_in_order
        with torch.no_grad(), torch.autocast(z_BND.device.type, enabled=False):
            new = learn(state, z_BND.to(state.x), y, valid_BN)
        if torch.is_grad_enabled():
            new = new._replace(weights={name: w + (new.weights[name] - w).detach() for name, w in state.weights.items()})
        return new

    def predict_features(self, state: FinetuneState, z_BMD: Tensor) -> Tensor:
        with torch.autocast(z_BMD.device.type, enabled=False):
            answers_BMF = vmap(self._answers)(state.weights, z_BMD)
        return self.shaped(answers_BMF)

    def _learn_in_order(self, state: FinetuneState, x: Tensor, y: Tensor, valid_BN: Tensor) -> FinetuneState:
        """One step for each example, in order."""
        state = pytree.tree_map(lambda t: t.clone(memory_format=torch.contiguous_format), state)
        seen_B, good = state.seen, []
        for n in range(x.shape[1]):
            parts = [(x[:, n : n + 1], y[:, n : n + 1], valid_BN[:, n : n + 1])]
            if self.config.mode == "replay":
                parts.append(self._replayed(state, valid_BN[:, n]))
            batch = (torch.cat(part, 1) for part in zip(*parts, strict=True))
            good.append(weighted_step_(self._loss, state.weights, state.moments, state.rate, seen_B, *batch))
            if self.config.mode == "replay":
                self._keep(state, x[:, n], y[:, n], valid_BN[:, n])
            seen_B += valid_BN[:, n]
        self._check(state, good)
        return state

    def _replayed(self, state: FinetuneState, valid_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`replayed` draws from what is kept, which together weigh as much as the new example."""
        number = self.config.replayed
        place = state.seen[:, None] * (number + 1) + torch.arange(1, number + 1, device=valid_B.device)
        index = (lots(place) * state.kept.sum(1, keepdim=True)).long()
        row = torch.arange(len(index), device=index.device)[:, None]
        weight_BR = (state.kept[row, index] & valid_B[:, None]) / number
        return state.x[row, index], state.y[row, index], weight_BR

    def _keep(self, state: FinetuneState, x: Tensor, y: Tensor, valid_B: Tensor) -> None:
        """Reservoir sampling, in place: the n-th example takes a place of R with probability R / n (Vitter 1985)."""
        seen_B = state.seen
        place_B = reservoir_places(seen_B, lots(seen_B * (self.config.replayed + 1)), self.config.buffer)
        row = (valid_B & (place_B < self.config.buffer)).nonzero()[:, 0]
        for kept, new in ((state.x, x), (state.y, y), (state.kept, valid_B)):
            kept[row, place_B[row]] = new[row]

    def _learn_all(self, state: FinetuneState, x: Tensor, y: Tensor, valid_BN: Tensor) -> FinetuneState:
        """Shuffled epochs over the whole stream so far, from the initial weights."""
        x, y = torch.cat([state.x, x], 1), torch.cat([state.y, y], 1)
        kept_BN = torch.cat([state.kept, valid_BN], 1)
        fresh = {name: w.detach().clone() for name, w in self._initial(state.drawn.tolist()).items()}
        moments = tuple(pytree.tree_map(torch.zeros_like, fresh) for _ in range(2 * (self.config.optimiser == "adam")))
        seen_B, most, good = kept_BN.sum(1), int(kept_BN.sum(1).max()), []
        steps_B = torch.zeros_like(seen_B)
        row = torch.arange(len(x), device=x.device)[:, None]
        for epoch in range(self.config.epochs):
            order_BN = shuffled(kept_BN, epoch)
            for first in range(0, most, self.config.batch_size):
                index = order_BN[:, first : min(first + self.config.batch_size, most)]
                use = torch.arange(first, first + index.shape[1], device=x.device) < seen_B[:, None]
                some = x[row, index], y[row, index], use
                good.append(weighted_step_(self._loss, fresh, moments, state.rate, steps_B, *some))
                steps_B += use.any(1)
        new = FinetuneState(fresh, (), state.rate, seen_B, x, y, kept_BN, state.drawn)
        self._check(new, good)
        return new

    def _loss(self, weights: Weights, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Mean over the examples of one episode, each with its weight."""
        loss = example_losses(self._answers(weights, x), y, self.spec)
        return (loss * weight).sum() / weight.sum().clamp_min(1)

    def _answers(self, weights: Weights, x: Tensor) -> Tensor:
        """(n, outputs) of one network, on n inputs as they come."""
        x = x.to(self.network.answer.weight.dtype)
        return functional_call(self.network, weights, x / 127.5 - 1 if self.spec.x_kind == "image" else x.flatten(1))

    def _check(self, state: FinetuneState, good: list[Tensor]) -> None:
        bad = (~torch.stack(good)).any(1).nonzero() if good else torch.zeros(0)
        if len(bad) or not all(w.isfinite().all() for w in state.weights.values()):
            step = int(bad[0]) + 1 if len(bad) else len(good)
            rates = ", ".join(f"{rate:g}" for rate in sorted(set(state.rate.tolist())))
            raise DivergedError(
                f"Learning from the stream diverged at step {step}: its loss is not finite at the learning rate {rates}. "
                "Give lower --rates."
            )
