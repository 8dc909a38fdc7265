"""Query-only attention trained online along one endless stream (Bekal, Pujari, Kelly 2025): y = sum_j score(q, s_j) y_j.

The buffer holds the latest examples; the newest of them support a prediction. An example is never in its own support while it
is learnt from: `block` asks about a block before it is stored, `one` takes its query out of the window first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from episodes import EpisodeSpec, Examples, UserError
from episodes.errors import at_least
from metacl.learners.buffers import append_, empty_buffer, newest
from metacl.learners.similarity.pairwise import PairNetwork, ScoreConfig, hidden_units, pair_scores, read_out
from metacl.learners.trained.online import OnlineLearner
from metacl.learners.trained.online_state import OnlineConfig, OnlineState, Work, random_numbers
from metacl.nets.encoders import FeatureEncoder
from metacl.nets.scratch import Weights

WINDOW = 1
"""Marks the random numbers that draw a window."""
PAIRS = 20_000
"""Pairs at which `hidden` looks, at most."""


@dataclass(frozen=True)
class OnlineQueryOnlyConfig(OnlineConfig):
    """A learnt similarity to the latest labelled examples, whose weights all tasks share."""

    support: int = 100
    """Labelled examples that a query is compared with."""
    buffer: int = 100
    """Latest examples that are kept. The newest of them are the support; while `queries one` learns, a window of them."""
    queries: Literal["block", "one"] = "block"
    """Queries of an update. `block`: all examples of a block, before it is stored. `one` (the paper on images): one query,
    after the block is stored. The first example of each label in a random window of the buffer is set aside; one of these is
    the query, and the rest of the window is its support."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    """The score of a pair, and how scores become an answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "support", "buffer")
        if self.buffer < self.support:
            raise UserError(
                f"learner.buffer {self.buffer} is smaller than learner.support {self.support}: a support set is taken from the "
                "buffer. Raise the buffer or lower the support."
            )

    def build(self, spec: EpisodeSpec) -> "OnlineQueryOnly":
        return OnlineQueryOnly(self, spec)


class QueryOnlyNetwork(nn.Module):
    """The encoder and the score. An image is encoded once, not once a pair."""

    def __init__(self, config: ScoreConfig, spec: EpisodeSpec):
        super().__init__()
        self.encoder = FeatureEncoder(spec)
        self.score = PairNetwork(config, self.encoder.width, spec.outputs if config.label else 0)


class OnlineQueryOnly(OnlineLearner):
    """The memory is a buffer that is first in, first out (`buffers.py`)."""

    config: OnlineQueryOnlyConfig
    network: QueryOnlyNetwork

    def __init__(self, config: OnlineQueryOnlyConfig, spec: EpisodeSpec):
        super().__init__(config, spec)
        self.support = config.support
        self.score_names = [name for name, _ in self.network.score.named_parameters()]
        last = len(self.network.score.layers) - 1
        self.last_layer = {f"score.layers.{last}.weight": ..., f"score.layers.{last}.bias": ...}

    def make(self) -> QueryOnlyNetwork:
        return QueryOnlyNetwork(self.config.score, self.spec)

    def remember(self, flat_BP: Tensor) -> dict[str, Tensor]:
        return empty_buffer(self.spec, flat_BP, len(flat_BP), self.config.buffer)

    def support_in(self, memory: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return newest(memory, self.config.support)

    def answer_from(self, weights: Weights, x: Tensor, x_s: Tensor, y_s: Tensor, filled_BN: Tensor) -> Tensor:
        return self.compare(weights, x, x_s, self.targets(y_s), None if bool(filled_BN.all()) else filled_BN)

    def hidden(self, state: OnlineState, x: Tensor) -> list[Tensor]:
        """Activations (B, pairs, H) of each hidden layer of the score, of at most `PAIRS` pairs."""
        x_s, y_s, filled_BN = self.support_in(state.memory)
        x_s, y_s = x_s[:, filled_BN.all(0)], y_s[:, filled_BN.all(0)]
        s_BNA, q_BMA = self.encoded(state.weights, x_s, x[:, : max(1, PAIRS // max(1, x_s.shape[1]))])
        own, score = {name: state.weights[f"score.{name}"] for name in self.score_names}, self.config.score
        return hidden_units(own, q_BMA, s_BNA, self.targets(y_s) if score.label else None, score.pair)

    def compare(self, weights: Weights, x: Tensor, x_s: Tensor, y_BNF: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        """(B, M, F): queries (B, M, *x_shape) against a support (B, N, *x_shape) and its `targets`."""
        s_BNA, q_BMA = self.encoded(weights, x_s, x)
        own = {name: weights[f"score.{name}"] for name in self.score_names}
        score = self.config.score
        d_BMN = pair_scores(own, q_BMA, s_BNA, y_BNF if score.label else None, score.pair)
        return read_out(d_BMN, y_BNF, valid_BN, score, self.spec)

    def encoded(self, weights: Weights, x_s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, *x_shape) and (B, M, *x_shape) -> (B, N, A) and (B, M, A), by the encoder of each learner."""
        encoder = self.network.encoder
        if not encoder.image:
            return x_s.flatten(2), x.flatten(2)
        own = {name.removeprefix("encoder."): w for name, w in weights.items() if name.startswith("encoder.")}
        both = torch.cat([x_s, x], dim=1)
        each = [functional_call(encoder, {name: w[b] for name, w in own.items()}, (both[b],)) for b in range(len(both))]
        z_BXA = torch.stack(each)  # on a CPU half the time of one grouped convolution
        return z_BXA[:, : x_s.shape[1]], z_BXA[:, x_s.shape[1] :]

    def update(self, work: Work, x: Tensor, y: Tensor) -> None:
        """In `queries one` the block is stored, and one query of the buffer is learnt from."""
        append_(work.memory, x=x, y=y)
        self._learn_one(work)

    def _run(self, state: OnlineState, examples: Examples, asked: int) -> tuple[OnlineState, list[Tensor]]:
        """In `queries block` buffer and examples are laid out in a row, in which the support of each block stands before it."""
        if self.config.queries == "one":
            return super()._run(state, examples, asked)
        work = self.working(state)
        support, block = self.config.support, self.config.block
        held = min(int(state.seen[0]), support) if len(state.seen) else 0
        x_s, y_s, _ = newest(work.memory, support)
        x = torch.cat([x_s[:, support - held :], examples.x.to(x_s.dtype)], dim=1)
        y = torch.cat([y_s[:, support - held :], examples.y.to(y_s.dtype)], dim=1)
        y_BXF, answers = self.targets(y), []
        for start in range(held, x.shape[1], block):
            own, past = slice(start, start + block), slice(max(0, start - support), start)

            def answer(weights: Weights, own=own, past=past) -> Tensor:
                return self.compare(weights, x[:, own], x[:, past], y_BXF[:, past])

            if start:
                answers.append(self._step(work, answer, y[:, own])[:, :asked])
                work.used += x[:, own].shape[1]
            else:  # nothing is learnt from an empty support
                answers.append(answer(self.named(work.flat))[:, :asked])
            work.seen += x[:, own].shape[1]
        append_(work.memory, x=examples.x, y=examples.y)
        return self.finished(work), answers

    def _learn_one(self, work: Work) -> None:
        """Waits until the buffer is full. A window in which no label has a second example teaches nothing."""
        if bool((work.memory["count"] < self.config.buffer).any()):
            return
        places_BN, query_B, aside_BN = self.window(work)
        row = torch.arange(len(query_B), device=query_B.device)[:, None]
        place_B1 = places_BN.gather(1, query_B[:, None])
        x, y = work.memory["x"][row, place_B1], work.memory["y"][row, place_B1]
        x_s, y_BNF = work.memory["x"][row, places_BN], self.targets(work.memory["y"][row, places_BN])
        self._step(work, lambda weights: self.compare(weights, x, x_s, y_BNF, ~aside_BN), y)
        work.used += 1

    def window(self, work: Work) -> tuple[Tensor, Tensor, Tensor]:
        """A random run of `support` neighbours in the buffer, one of which is the query.

        In classification the first of each label is set aside. The query is one of these whose label has more examples in the
        window, or any of them where no label has. In regression any one example is the query and set aside.

        Returns:
            places_BN: the places of the window in the ring.
            query_B: which of them is the query.
            aside_BN: which of them are set aside, the query among them, so that it is not in its own support.
        """
        size, places, device = self.config.support, self.config.buffer, work.key.device
        draws = [random_numbers(int(key), int(seen), WINDOW).random(2) for key, seen in zip(work.key, work.seen, strict=True)]
        draw_B2 = torch.from_numpy(np.stack(draws)).to(device)
        start_B = (draw_B2[:, 0] * (places - size + 1)).long()
        places_BN = ((work.memory["count"] + start_B)[:, None] + torch.arange(size, device=device)) % places
        if not self.spec.classification:
            query_B = (draw_B2[:, 1] * size).long()
            return places_BN, query_B, torch.arange(size, device=device) == query_B[:, None]
        y_BN = work.memory["y"].gather(1, places_BN)
        first_BV = torch.full((len(y_BN), self.spec.symbols), size, device=device)
        first_BV = first_BV.scatter_reduce(1, y_BN, torch.arange(size, device=device).expand_as(y_BN), "amin")
        number_BV = torch.zeros_like(first_BV).scatter_add(1, y_BN, torch.ones_like(y_BN))
        fit_BV = number_BV > 1
        fit_BV = torch.where(fit_BV.any(1, keepdim=True), fit_BV, number_BV > 0)
        nth_B = (draw_B2[:, 1] * fit_BV.sum(1)).long()
        label_B = ((fit_BV.cumsum(1) > nth_B[:, None]).long()).argmax(1)
        query_B = first_BV.gather(1, label_B[:, None])[:, 0]
        return places_BN, query_B, torch.arange(size, device=device) == first_BV.gather(1, y_BN)

    def _step(self, work: Work, answer: Callable[[Weights], Tensor], y: Tensor) -> Tensor:
        """One step of Adam on the mean loss of `answer(weights)`. Returns the answers before the step."""

        def loss(flat_BP: Tensor) -> tuple[Tensor, Tensor]:
            answers = answer(self.named(flat_BP))
            return self.losses(answers, y).mean(1), answers

        gradient_BP, answers = self.gradient(work.flat, loss)
        work.adam(gradient_BP)
        return answers
