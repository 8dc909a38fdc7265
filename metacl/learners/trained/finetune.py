"""Learning without meta-learning: one network, trained from scratch on each stream. What meta-learning is compared with.

`online` takes one step for each example, in order; `replay` does so with a few examples of a reservoir beside it; `offline`
keeps the stream and trains on all of it, in shuffled epochs, from the initial weights.

The B networks of a batch are trained in one computation (torch.func.vmap). Nothing is random once the network is made: order
and replay are functions of how many examples an episode has seen.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from episodes import EpisodeSpec, Examples, UserError
from episodes.errors import above_zero, at_least
from metacl.learners.lots import lots, shuffled
from metacl.learners.protocol import DivergedError, Learner
from metacl.learners.trained.adam import adam_
from metacl.nets.encoders import EncoderConfig
from metacl.nets.scratch import Network, Weights


@dataclass(frozen=True)
class FinetuneConfig:
    """A network with the usual encoder and a linear layer, trained by gradient descent on the stream alone."""

    mode: Literal["online", "offline", "replay"] = "online"
    """`online`: one pass, one example at a time. `replay`: with examples of a buffer. `offline`: epochs over all so far."""
    rates: tuple[float, ...] = (1e-2, 1e-3, 3e-3, 3e-2, 1e-1, 3e-1)
    """Learning rates, of which evaluate.py takes the best on meta-validation episodes; a single one is taken as it is."""
    optimiser: Literal["adam", "sgd"] = "sgd"
    """Five steps in a new direction do not turn Adam's running means around: for one pass SGD is better."""
    width: int = 128
    """D, features before the last layer."""
    epochs: int = 20
    """Of `offline`: passes over the stream."""
    batch_size: int = 16
    """Of `offline`: examples in a step."""
    buffer: int = 50
    """Of `replay`: examples that are kept, a uniform sample of all so far."""
    replayed: int = 8
    """Of `replay`: examples of the buffer in each step, beside the new one."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "width", "epochs", "batch_size", "buffer", "replayed")
        if not self.rates:
            raise UserError("learner.rates needs one learning rate or more.")
        above_zero("learner.rates", *self.rates)

    def build(self, spec: EpisodeSpec) -> "Finetune":
        """With the first of the rates."""
        return Finetune(self, spec)


class FinetuneState(NamedTuple):
    """A network in training."""

    weights: Weights
    moments: tuple[Weights, ...]
    """Adam's running means of the gradient and of its square; nothing of them is kept for SGD and `offline`."""
    seen: Tensor
    """(B,) int64, valid examples so far."""
    x: Tensor
    """(B, R, *x_shape), the examples that are kept: none, R = buffer, or all."""
    y: Tensor
    kept: Tensor
    """(B, R) bool, where there is one."""


class Finetune(Learner):
    """The meta-parameters are the initial weights; every stream starts from them, and they are never meta-trained."""

    def __init__(self, config: FinetuneConfig, spec: EpisodeSpec):
        super().__init__(spec)
        self.config, self.rate = config, config.rates[0]
        self.network = Network(config.encoder, spec, config.width)
        self.constant_state = config.mode != "offline"

    def encode(self, x: Tensor) -> Tensor:
        """The inputs as they are: the encoder is part of what learns."""
        return x

    def init_state(self, batch_size: int) -> FinetuneState:
        spec, some = self.spec, next(self.parameters())
        weights = {name: p.expand(batch_size, *p.shape) for name, p in self.network.named_parameters()}
        adam = self.config.optimiser == "adam" and self.config.mode != "offline"
        moments = tuple({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2 * adam))
        shape = batch_size, self.config.buffer if self.config.mode == "replay" else 0
        x = some.new_zeros(*shape, *spec.x_shape, dtype=torch.uint8 if spec.x_kind == "image" else some.dtype)
        y = some.new_zeros(*shape, *spec.y_shape, dtype=torch.int64 if spec.classification else some.dtype)
        kept = torch.zeros(shape, dtype=torch.bool, device=some.device)
        return FinetuneState(weights, moments, kept.new_zeros(batch_size, dtype=torch.int64), x, y, kept)

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
            answers_BMF = vmap(lambda w, x: functional_call(self.network, w, x))(state.weights, self._scaled(z_BMD))
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
            good.append(self._step(state.weights, state.moments, seen_B, *batch))
            if self.config.mode == "replay":
                self._keep(state, x[:, n], y[:, n], valid_BN[:, n])
            seen_B += valid_BN[:, n]
        self._check(state.weights, good)
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
        drawn_B = (lots(seen_B * (self.config.replayed + 1)) * (seen_B + 1)).long()
        place_B = torch.where(seen_B < self.config.buffer, seen_B, drawn_B)
        row = (valid_B & (place_B < self.config.buffer)).nonzero()[:, 0]
        for kept, new in ((state.x, x), (state.y, y), (state.kept, valid_B)):
            kept[row, place_B[row]] = new[row]

    def _learn_all(self, state: FinetuneState, x: Tensor, y: Tensor, valid_BN: Tensor) -> FinetuneState:
        """Shuffled epochs over the whole stream so far, from the initial weights."""
        x, y = torch.cat([state.x, x], 1), torch.cat([state.y, y], 1)
        kept_BN = torch.cat([state.kept, valid_BN], 1)
        fresh = pytree.tree_map(torch.clone, self.init_state(len(x)).weights)
        moments = tuple(pytree.tree_map(torch.zeros_like, fresh) for _ in range(2 * (self.config.optimiser == "adam")))
        seen_B, most, good = kept_BN.sum(1), int(kept_BN.sum(1).max()), []
        steps_B = torch.zeros_like(seen_B)
        row = torch.arange(len(x), device=x.device)[:, None]
        for epoch in range(self.config.epochs):
            order_BN = shuffled(kept_BN, epoch)
            for first in range(0, most, self.config.batch_size):
                index = order_BN[:, first : min(first + self.config.batch_size, most)]
                use = torch.arange(first, first + index.shape[1], device=x.device) < seen_B[:, None]
                good.append(self._step(fresh, moments, steps_B, x[row, index], y[row, index], use))
                steps_B += use.any(1)
        self._check(fresh, good)
        return FinetuneState(fresh, (), seen_B, x, y, kept_BN)

    def _step(
        self, weights: Weights, moments: tuple[Weights, ...], before_B: Tensor, x: Tensor, y: Tensor, weight: Tensor
    ) -> Tensor:
        """One step on n examples, in place; an episode in which none has a weight stays as it is.

        Arguments:
            before_B: steps that each episode has taken.
            weight: (B, n), of each example in the loss.

        Returns:
            (B,) whether the losses are finite.
        """
        gradients, loss_B = vmap(grad_and_value(self._loss))(weights, self._scaled(x), y, weight)
        idle = (~weight.any(1)).nonzero()[:, 0]
        before = [{name: w[idle] for name, w in part.items()} for part in [weights, *moments]] if len(idle) else []
        if moments:
            adam_(weights, moments, gradients, before_B + 1, self.rate)
        else:
            for name, gradient in gradients.items():
                weights[name] -= self.rate * gradient
        for part, old in zip([weights, *moments], before, strict=False):
            for name, rows in old.items():
                part[name][idle] = rows
        return loss_B.isfinite()

    def _loss(self, weights: Weights, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Mean over the examples of one episode, each with its weight."""
        answer = functional_call(self.network, weights, x)
        if self.spec.classification:
            loss = F.cross_entropy(answer, y, reduction="none")
        else:
            loss = (answer - y.flatten(1)).square().mean(1)
        return (loss * weight).sum() / weight.sum().clamp_min(1)

    def _scaled(self, x: Tensor) -> Tensor:
        x = x.to(self.network.answer.weight.dtype)
        return x / 127.5 - 1 if self.spec.x_kind == "image" else x.flatten(2)

    def _check(self, weights: Weights, good: list[Tensor]) -> None:
        bad = (~torch.stack(good)).any(1).nonzero() if good else torch.zeros(0)
        if len(bad) or not all(w.isfinite().all() for w in weights.values()):
            step = int(bad[0]) + 1 if len(bad) else len(good)
            raise DivergedError(
                f"Learning from the stream diverged at step {step}: its loss is not finite at the learning rate {self.rate:g}. "
                "Give lower --learner.rates."
            )
