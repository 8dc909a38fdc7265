"""What learners of prompts share, on a vision transformer whose weights stay as they are: prefixes or tokens, and a head.

A method writes two things. `parts` says which tensors there are (prompts, their keys), how many entries of each a task adds,
and whether later tasks train those too. `chosen` says what an image is given, from all entries and the image's query: the class
token of the plain transformer. The head is shared. In training it answers among the task's own classes, else among all seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from episodes import EpisodeSpec, UserError
from metacl.learners.vision.base import VisionLearner, among
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.fitting import detached, fit, trainable
from metacl.learners.vision.identity import Weights, head_logits, no_head, present
from metacl.learners.vision.trunk import TOGETHER
from metacl.nets.vit import Added

Start = Callable[[Tensor, int, np.random.Generator], Tensor]
"""From the entries so far (K, ...) to so many new ones."""


@dataclass(frozen=True)
class Part:
    """A tensor of a method, with entries on its first axis."""

    shape: tuple[int, ...]
    """Of an entry."""
    number: int
    """Entries that are added, before the first task or before each."""
    each: bool
    """Whether each task adds its own, which stay as they are after it; else those of the first are trained in all tasks."""
    start: Start

    def entries(self, tasks: int) -> int:
        """How many there are after some tasks."""
        return self.number * (tasks if self.each else min(tasks, 1))

    def split(self, there: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """What a task leaves as it is, and what it trains, from what is there before it."""
        if len(there) and not self.each:
            return there[:0], there
        return there, self.start(there, self.number, rng)


class Chosen(NamedTuple):
    """What a batch of N images is given."""

    added: Sequence[Added] = ()
    """To the first blocks."""
    prompts_NLD: Tensor | None = None
    """Beside the patches."""
    penalty: Tensor | float = 0.0
    """What is added to the loss."""


class PromptState(NamedTuple):
    """Of one row (and with B before each shape, of all)."""

    key: Tensor
    """() the row's seed."""
    rate: Tensor
    """() learning rate."""
    tasks: Tensor
    """() int64, tasks so far."""
    seen: Tensor
    """(V,) bool: the symbols so far."""
    parts: Weights
    """Each (K, ...), entries of all tasks."""
    head: Weights


class PromptLearner(VisionLearner):
    """Base of the methods. One writes `parts` and `chosen`. It need not be told which task a query is of."""

    queries = True
    """Whether `chosen` looks at what it is asked with."""

    def __init__(self, config: FittingConfig, spec: EpisodeSpec):
        super().__init__(config, spec)
        self.described = self.parts()

    # What a method writes

    def parts(self) -> dict[str, Part]:
        raise NotImplementedError

    def chosen(self, parts: Weights, query_ND: Tensor | None, learning: bool) -> Chosen:
        """What each image is given.

        Arguments:
            parts: all entries (K, ...) by name; those of the task that is trained are the last.
            query_ND: class tokens of the plain transformer; None where the method does not ask.
            learning: whether the images are those of the task that is trained.
        """
        raise NotImplementedError

    def read(self, tokens_NTD: Tensor) -> Tensor:
        """What the head sees (N, D) of the last tokens: the class token."""
        return tokens_NTD[:, 0]

    # What all of them do

    def fresh(self, key: Tensor, rate: Tensor) -> PromptState:
        V, zero = self.spec.symbols, torch.zeros_like(rate)
        parts = {name: zero.new_zeros(0, *part.shape) for name, part in self.described.items()}
        seen_V = torch.zeros(V, dtype=torch.bool, device=key.device)
        return PromptState(key, rate, torch.zeros_like(key), seen_V, parts, no_head(V, self.trunk.shape.width, zero))

    def learn_row(self, state: PromptState, x_NCHW: Tensor, y_N: Tensor) -> PromptState:
        config, rng = self.config, self.draws(state, "prompts")
        there, new_V = self.entries(state), present(y_N, self.spec.symbols)
        split = {name: part.split(there[name], rng) for name, part in self.described.items()}
        kept = {name: old for name, (old, _) in split.items()}
        own, head = trainable({name: new for name, (_, new) in split.items()}), trainable(state.head)

        def loss(places: np.ndarray) -> Tensor:
            x = self.trunk.view(x_NCHW[places], rng)
            chosen = self.chosen(joined(kept, own), self.query(x), learning=True)
            logits_NV = head_logits(head, self.feature(x, chosen))
            return F.cross_entropy(among(logits_NV, new_V), y_N[places]) + chosen.penalty

        optimiser = torch.optim.Adam([*own.values(), *head.values()], float(state.rate))
        fit(optimiser, loss, len(y_N), config.epochs, config.batch_size, rng, config.schedule, config.clip)
        return state._replace(
            tasks=state.tasks + 1, seen=state.seen | new_V, parts=joined(kept, detached(own)), head=detached(head)
        )

    def answer_row(self, state: PromptState, x_MCHW: Tensor) -> Tensor:
        parts, found = self.entries(state), []
        for some in x_MCHW.split(TOGETHER):
            x = self.trunk.view(some)
            h_ND = self.feature(x, self.chosen(parts, self.query(x), learning=False))
            found.append(among(head_logits(state.head, h_ND), state.seen))
        return torch.cat(found)

    def entries(self, state: PromptState) -> Weights:
        """The entries of a row, without the zeros that stand where other rows have had more tasks."""
        tasks = int(state.tasks)
        return {name: state.parts[name][: part.entries(tasks)] for name, part in self.described.items()}

    @torch.no_grad()
    def query(self, x_NCHW: Tensor) -> Tensor | None:
        return self.trunk(x_NCHW) if self.queries else None

    def feature(self, x_NCHW: Tensor, chosen: Chosen) -> Tensor:
        """(N, D) in float32."""
        with self.trunk.autocast():
            tokens_NTD = self.trunk.network.tokens(x_NCHW, chosen.added, chosen.prompts_NLD)
        return self.read(tokens_NTD).float()

    def prefix_shape(self, blocks: int, length: int) -> tuple[int, int, int, int, int]:
        """Of a prefix for each of some blocks (P, 2, L, H, E)."""
        shape = self.trunk.shape
        return blocks, 2, length, shape.heads, shape.width // shape.heads

    def check_blocks(self, words: str, blocks: int) -> None:
        """Raises `UserError` where the transformer has fewer blocks than are to have prefixes."""
        if blocks > (depth := self.trunk.shape.depth):
            raise UserError(
                f"{words} are more than the transformer has: {depth}. Give fewer, or a deeper --learner.trunk.backbone."
            )


def joined(kept: Weights, own: Weights) -> Weights:
    """All entries, those that are trained last."""
    return {name: torch.cat([kept[name], own[name]]) if len(kept[name]) else own[name] for name in own}


def uniform(there: Tensor, number: int, rng: np.random.Generator) -> Tensor:
    """Entries between -1 and 1, as in the PyTorch code of L2P, DualPrompt and HiDe-Prompt."""
    return torch.from_numpy(rng.uniform(-1, 1, (number, *there.shape[1:])).astype(np.float32)).to(there)


def continued(there: Tensor, number: int, rng: np.random.Generator) -> Tensor:
    """The last entries once more, with which a task begins where the one before it ended; uniform ones at first."""
    return there[-number:].clone() if len(there) else uniform(there, number, rng)


def cosines(query_ND: Tensor, key_KD: Tensor) -> Tensor:
    """(N, K) cosines of the angles between queries and keys."""
    return F.normalize(query_ND, dim=1) @ F.normalize(key_KD, dim=1).T
