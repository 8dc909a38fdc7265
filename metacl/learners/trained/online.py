"""Learners that train online along one endless stream: B of them side by side, each with weights, optimiser, learning rate and
random numbers of its own in its state.

One update is one gradient of the sum of B losses in the flat weights (B, P), and one step of Adam on them: three seeds, or a
sweep of learning rates, are one computation. F is the width of an answer: V logits, or a target, flat.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from episodes import EpisodeSpec, Examples, UserError
from episodes.errors import above_zero
from metacl.learners.inputs import check_examples, check_inputs, check_support
from metacl.learners.losses import example_losses
from metacl.learners.protocol import DivergedError, Learner
from metacl.learners.trained.online_state import Memory, OnlineState, Work
from metacl.nets.scratch import Weights


class OnlineLearner(Learner):
    """Base of learners that train online. A family writes `make`, `update`, and `answer`; or, where it answers from a support,
    `support_in` and `answer_from` in place of the last.

    The network's parameters are the initial weights of `init_state`; `start` draws others for each seed.
    """

    encodes = False
    has_rate = True
    support = 0
    own_counts = False
    """Each weight has its own count of Adam's steps."""

    def __init__(self, config: Any, spec: EpisodeSpec):
        super().__init__(spec)
        self.config, self.block, self.chunkable = config, config.block, config.block == 1
        self.network = self.make()
        self.shapes = {name: p.shape for name, p in self.network.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]

    # What a family writes

    def make(self) -> nn.Module:
        """The network, its initial weights drawn anew with torch's generator."""
        raise NotImplementedError

    def remember(self, flat_BP: Tensor) -> Memory:
        """The memory before the first example."""
        return {}

    def answer(self, weights: Weights, memory: Memory, x: Tensor) -> Tensor:
        """(B, M, *x_shape) -> (B, M, F); every query on its own."""
        return self.answer_from(weights, x, *self.support_in(memory))

    def support_in(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """The support of an answer, where there is one: x, y (B, N, ...), and which are filled (B, N)."""
        raise NotImplementedError

    def answer_from(self, weights: Weights, x: Tensor, x_s: Tensor, y_s: Tensor, filled_BN: Tensor) -> Tensor:
        """(B, M, *x_shape) -> (B, M, F), with a support."""
        raise NotImplementedError

    def update(self, work: Work, x: Tensor, y: Tensor) -> Tensor | None:
        """One block (B, N, ...) is learnt, in place. The answers (B, N, F) before it, where they were found on the way."""
        raise NotImplementedError

    def predict_with(self, state: OnlineState, support: Examples, x: Tensor) -> Tensor:
        """`predict` with these labelled examples in the place of its support. Networks that use none predict as ever.

        Raises:
            UserError: the support is empty; or it, or x, is of another shape or type than `spec` says.
        """
        if not self.support:
            return self.predict(state, x)
        check_support(support, self.spec)
        check_inputs(x, self.spec)
        filled_BN = torch.ones_like(support.task, dtype=torch.bool)
        return self.shaped(self.answer_from(state.weights, x, support.x, self.typed(support.y), filled_BN))

    # What all of them do

    def encode(self, x: Tensor) -> Tensor:
        """The inputs as they are: the encoder is part of what learns."""
        return x

    def init_state(self, batch_size: int) -> OnlineState:
        weights = {name: p.expand(batch_size, *p.shape) for name, p in self.network.named_parameters()}
        return self.fresh(weights, torch.arange(batch_size), torch.full((batch_size,), self.config.rate))

    def start(self, seeds: Sequence[int], rates: Sequence[float] | None = None, alike: bool = False) -> OnlineState:
        rates = [self.config.rate] * len(seeds) if rates is None else rates
        check_rates(seeds, rates)
        if alike:
            weights = {name: p.expand(len(seeds), *p.shape) for name, p in self.network.named_parameters()}
        else:
            drawn = [self.drawn_weights(seed) for seed in seeds]
            weights = {name: torch.stack([own[name] for own in drawn]) for name in self.shapes}
        return self.fresh(weights, torch.tensor(seeds), torch.tensor(rates, dtype=torch.float32))

    def drawn_weights(self, seed: int) -> Weights:
        """Initial weights of one learner, a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.make()
        some = next(self.parameters())
        return {name: p.detach().to(some) for name, p in network.named_parameters()}

    def fresh(self, weights: Weights, key_B: Tensor, rate_B: Tensor) -> OnlineState:
        """A state before the first example, with these weights."""
        flat_BP = torch.cat([w.detach().flatten(1) for w in weights.values()], 1)
        key_B, rate_B = key_B.to(flat_BP.device), rate_B.to(flat_BP)
        steps = torch.zeros_like(flat_BP if self.own_counts else flat_BP[:, :1])
        nothing, zeros = torch.zeros_like(key_B), torch.zeros_like(flat_BP)
        memory = self.remember(flat_BP)
        return OnlineState(weights, rate_B, key_B, nothing, nothing.clone(), zeros, zeros.clone(), steps, memory)

    def named(self, flat_BP: Tensor) -> Weights:
        """Flat weights as views by name."""
        parts = flat_BP.split(self.sizes, 1)
        return {name: part.view(-1, *shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}

    def predict_features(self, state: OnlineState, z_BMD: Tensor) -> Tensor:
        with torch.autocast(z_BMD.device.type, enabled=False):
            return self.shaped(self.answer(state.weights, state.memory, z_BMD))

    def learn_features(self, state: OnlineState, z_BND: Tensor, examples: Examples) -> OnlineState:
        """In the backward pass the updates count as constants, added to the initial weights."""
        kept = replace(examples, x=z_BND)
        with torch.no_grad(), torch.autocast(z_BND.device.type, enabled=False):
            new = self._at_their_pace(pytree.tree_map(torch.clone, state), kept, 0)[0]
        if torch.is_grad_enabled():
            new = new._replace(weights={name: w + (new.weights[name] - w).detach() for name, w in state.weights.items()})
        return new

    @torch.no_grad()
    def learn_predict(
        self, state: OnlineState, examples: Examples, block: int = 1, asked: int | None = None
    ) -> tuple[OnlineState, Tensor]:
        """As the protocol says; the block is the configuration's."""
        check_examples(examples, self.spec)
        asked = self.config.block if asked is None else min(asked, self.config.block)
        state, answers = self._at_their_pace(state, examples, asked)
        return state, self.shaped(torch.cat(answers, 1) if answers else self._answers(state, examples.x[:, :0]))

    def gradient(self, flat_BP: Tensor, loss: Callable[[Tensor], tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        """(B, P), of the losses (B,) that `loss` finds beside other tensors, which are returned too."""
        leaf_BP = flat_BP.detach().requires_grad_()
        with torch.enable_grad():
            loss_B, beside = loss(leaf_BP)
            gradient_BP = torch.autograd.grad(loss_B.sum(), leaf_BP)[0]
        return gradient_BP, pytree.tree_map(torch.detach, beside)

    def losses(self, answers_BNF: Tensor, y: Tensor) -> Tensor:
        """(B, N) of each example."""
        return example_losses(answers_BNF, y, self.spec)

    def typed(self, y: Tensor) -> Tensor:
        """Targets in the weights' type; symbols as they are."""
        return y if self.spec.classification else y.to(next(self.parameters()).dtype)

    def targets(self, y: Tensor) -> Tensor:
        """(B, N, F): one-hot labels, or targets, flat."""
        dtype = next(self.parameters()).dtype
        return F.one_hot(y, self.spec.symbols).to(dtype) if self.spec.classification else self.typed(y).flatten(2)

    def _answers(self, state: OnlineState, x: Tensor) -> Tensor:
        return self.answer(state.weights, state.memory, x)

    def _at_their_pace(self, state: OnlineState, examples: Examples, asked: int) -> tuple[OnlineState, list[Tensor]]:
        """`_run` of all learners at once; of each alone where they have seen, or are shown, unequally many."""
        valid_BN = examples.valid
        whole = valid_BN is None or bool(valid_BN.all())
        if whole and not bool((state.seen != state.seen[:1]).any()):
            return self._run(state, examples, asked)
        rows = []
        for b in range(len(state.seen)):
            one = examples.row(b)
            one = one if valid_BN is None else one[valid_BN[b].nonzero()[:, 0]]
            rows.append(self._run(pytree.tree_map(lambda t, b=b: t[b : b + 1].clone(), state), one, asked))
        new = pytree.tree_map(lambda *parts: torch.cat(parts), *(own for own, _ in rows))
        return new, [torch.cat(parts) for parts in zip(*(answers for _, answers in rows), strict=True)] if asked else []

    def _run(self, state: OnlineState, examples: Examples, asked: int) -> tuple[OnlineState, list[Tensor]]:
        work = self.working(state)
        y = self.typed(examples.y)
        answers: list[Tensor] = []
        for start in range(0, len(examples), self.config.block):
            x_block, y_block = examples.x[:, start : start + self.config.block], y[:, start : start + self.config.block]
            if asked and self.apart(asked):
                answers.append(self.answer(self.named(work.flat), work.memory, x_block[:, :asked]))
            found = self.update(work, x_block, y_block)
            if asked and not self.apart(asked) and found is not None:
                answers.append(found[:, :asked])
            work.seen += x_block.shape[1]
        return self.finished(work), answers

    def working(self, state: OnlineState) -> Work:
        return Work(torch.cat([w.flatten(1) for w in state.weights.values()], 1), *state[1:])

    def finished(self, work: Work) -> OnlineState:
        """Raises `DivergedError` where no learner has finite weights any more."""
        if len(work.flat) and not bool(work.flat.isfinite().all(1).any()):
            raise self._diverged(work)
        return OnlineState(self.named(work.flat), *(getattr(work, name) for name in OnlineState._fields[1:]))

    def apart(self, asked: int) -> bool:
        """Whether `update` does not find the answers to the first `asked` of a block on the way."""
        return True

    def _diverged(self, work: Work) -> DivergedError:
        rates = ", ".join(f"{rate:g}" for rate in sorted(set(work.rate.tolist())))
        return DivergedError(
            f"Learning from the stream diverged before example {int(work.seen.max())}: no weights are finite any more at the "
            f"learning rate {rates}. Give a lower --learner.rate."
        )


def check_rates(seeds: Sequence[int], rates: Sequence[float]) -> None:
    """Raises `UserError` where rows are not given a seed and a positive rate each."""
    above_zero("learner.rate", *rates)
    if not seeds or len(rates) != len(seeds):
        raise UserError(f"There must be as many seeds as learning rates, and one or more, not {len(seeds)} and {len(rates)}.")
