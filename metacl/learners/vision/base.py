"""What all learners on a vision transformer share: rows one after another, each a learner of its own that takes whole tasks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from episodes import EpisodeSpec, Examples, UserError
from episodes.rng import random_numbers
from metacl.learners.inputs import check_inputs, check_support
from metacl.learners.protocol import Learner, State
from metacl.learners.trained.online import check_rates
from metacl.learners.vision.trunk import Trunk

UNSEEN = -1e9
"""Logit of a symbol that has not been seen."""


class VisionLearner(Learner):
    """Base of learners on a vision transformer. A family writes `fresh`, `learn_row` and `answer_row`; or, where learning
    changes the features of an image, and `has_features` is set, `features_row` and `logits` in place of the last.

    The transformer's weights are no part of the state, but of the learner, and shared by all rows; or else they train. The
    state is a NamedTuple with at least `key` and `tasks`. All of it that has grown with the tasks of a row has them on its
    first axis.
    """

    encodes = False
    chunkable = False
    constant_state = False
    whole_tasks = True
    has_rate = True
    trains = False  # as one network, with its curvature, it is not measured; by module where it is a `TrainedTransformer`
    counted = 0
    support = 0

    def __init__(self, config: Any, spec: EpisodeSpec):
        super().__init__(spec)
        if not spec.classification:
            raise UserError(f"{type(config).__name__} is for classification; this is a regression. Take a transformer.")
        self.config = config
        self.trunk = Trunk(config.trunk, spec)
        self.network: nn.Module = self.trunk.network

    # What a family writes

    def fresh(self, key: Tensor, rate: Tensor) -> State:
        """The state of one row before its first task, without the axis B.

        Arguments:
            key: () int64, the row's seed.
            rate: () learning rate.
        """
        raise NotImplementedError

    def learn_row(self, state: State, x_NCHW: Tensor, y_N: Tensor) -> State:
        """The state of one row after another task, of one example or more."""
        raise NotImplementedError

    def answer_row(self, state: State, x_MCHW: Tensor) -> Tensor:
        """Logits (M, V) of one row, after one task or more."""
        return self.logits(state, self.features_row(state, x_MCHW))

    def logits(self, state: State, h_MD: Tensor) -> Tensor:
        """Logits (M, V) of one row, from its features, after one task or more."""
        raise NotImplementedError

    def features_row(self, state: State, x_MCHW: Tensor) -> Tensor:
        """Features (M, D) of one row, after any number of tasks."""
        raise NotImplementedError

    # What all of them do

    def encode(self, x: Tensor) -> Tensor:
        """The images as they are."""
        return x

    def init_state(self, batch_size: int) -> State:
        return self.start(range(batch_size))

    def start(self, seeds: Sequence[int], rates: Sequence[float] | None = None, alike: bool = False) -> State:
        """Nothing is drawn before the first task, so that rows always start alike."""
        rates = [self.config.rate] * len(seeds) if rates is None else rates
        check_rates(seeds, rates)
        device = next(self.network.parameters()).device
        pairs = zip(seeds, rates, strict=True)
        return stacked([self.fresh(torch.tensor(s, device=device), torch.tensor(float(r), device=device)) for s, r in pairs])

    @torch.no_grad()
    def learn_features(self, state: State, z_BND: Tensor, examples: Examples) -> State:
        """One more task. What is not valid is left out before anything else."""
        rows = []
        for b in range(len(z_BND)):
            own, x, y = row(state, b), z_BND[b], examples.y[b]
            if examples.valid is not None:
                x, y = x[examples.valid[b]], y[examples.valid[b]]
            with torch.autocast(x.device.type, enabled=False):
                rows.append(self.learn_row(own, x, y) if len(x) else own)
        return stacked(rows)

    @torch.no_grad()
    def predict_features(self, state: State, z_BMD: Tensor) -> Tensor:
        return self._answers(self.answer_row, state, z_BMD)

    @torch.no_grad()
    def features(self, state: State, x: Tensor) -> Tensor:
        check_inputs(x, self.spec)
        with torch.autocast(x.device.type, enabled=False):
            return torch.stack([self.features_row(row(state, b), x_MCHW) for b, x_MCHW in enumerate(x)])

    @torch.no_grad()
    def predict_and_features(self, state: State, x: Tensor) -> tuple[Tensor, Tensor]:
        """With one pass of the images through the transformer."""
        h_BMD = self.features(state, x)
        return self._answers(self.logits, state, h_BMD), h_BMD

    def _answers(self, answer: Callable[[State, Tensor], Tensor], state: State, asked_BM: Tensor) -> Tensor:
        """What `answer` says of each row, or before its first task zeros."""
        with torch.autocast(asked_BM.device.type, enabled=False):
            rows = [(row(state, b), asked_M) for b, asked_M in enumerate(asked_BM)]
            zeros_MV = asked_BM.new_zeros(asked_BM.shape[1], self.spec.symbols, dtype=torch.float32)
            return torch.stack([answer(own, asked_M) if int(own.tasks) else zeros_MV for own, asked_M in rows])

    def predict_with(self, state: State, support: Examples, x: Tensor) -> Tensor:
        """`predict`: there is no use for examples at hand."""
        check_support(support, self.spec)
        check_inputs(x, self.spec)
        return self.predict(state, x)

    def draws(self, state: State, purpose: str) -> np.random.Generator:
        """The random numbers of one row's next task, for one purpose."""
        return random_numbers(f"{type(self).__name__}/{int(state.key)}/{purpose}", int(state.tasks))


def row(state: State, b: int) -> State:
    """One row, without the axis B; what has grown, as long as the row's own number of tasks."""
    return pytree.tree_map(lambda t: t[b], state)


def stacked(rows: Sequence[State]) -> State:
    """Rows beside each other; those that have had fewer tasks get zeros where others have more."""

    def stack(*parts: Tensor) -> Tensor:
        longest = max(part.shape[0] for part in parts) if parts[0].ndim else 0
        return torch.stack([_longer(part, longest) if part.ndim else part for part in parts])

    return pytree.tree_map(stack, *rows)


def _longer(part: Tensor, length: int) -> Tensor:
    return part if len(part) == length else F.pad(part, [0, 0] * (part.ndim - 1) + [0, length - len(part)])


def among(logits_MV: Tensor, seen_V: Tensor) -> Tensor:
    """Logits of which only those of some symbols count."""
    return logits_MV.masked_fill(~seen_V, UNSEEN)
