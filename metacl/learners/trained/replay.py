"""Backpropagation with examples of the past: experience replay, dark experience replay, and the buffer of query-only attention.

`replay` (finetune.py) is akin to `er`: SGD with one example a step, which weighs as much as all that is replayed beside it; the
encoder of meta-trained learners; and a reservoir that draws by fixed lots (lots.py), where `er` has a generator for each
learner.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.learners.buffers import append_, empty_buffer, reservoir_, sampled
from metacl.learners.trained.backprop import KEPT, REPLAY, Backprop, BackpropConfig, drawn_for
from metacl.learners.trained.online_state import Memory, Work


@dataclass(frozen=True)
class ReplayConfig(BackpropConfig):
    """Experience replay (Chaudhry et al. 2019): each update is on the block and on examples of a reservoir together."""

    buffer: int = 2000
    """Examples that the reservoir keeps, a uniform sample of all so far."""
    replayed: int = 10
    """Examples of the reservoir in each draw, with replacement."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "buffer", "replayed")

    def build(self, spec: EpisodeSpec) -> "Replay":
        return Replay(self, spec)


class Replay(Backprop):
    """The mean loss over the block and what is replayed: one mini-batch, in which every example weighs the same."""

    config: ReplayConfig

    def remember(self, flat_BP: Tensor) -> Memory:
        return super().remember(flat_BP) | {"buffer": empty_buffer(self.spec, flat_BP, len(flat_BP), self.config.buffer)}

    @property
    def drawn(self) -> int:
        """Examples of the reservoir that an update takes."""
        return self.config.replayed

    def loss_gradient(self, work: Work, x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        buffer, N = work.memory["buffer"], x.shape[1]
        if not bool(buffer["count"].all()):
            return super().loss_gradient(work, x, y)
        old = sampled(buffer, generators(work, REPLAY), self.drawn)
        work.used += self.drawn

        def loss(flat_BP: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
            answers, hidden = self.network(self.named(flat_BP), torch.cat([x, old["x"]], 1))
            return self.mixed(answers[:, :N], y, answers[:, N:], old), (answers[:, :N], [h[:, :N] for h in hidden])

        return self.gradient(work.flat, loss)

    def mixed(self, answers: Tensor, y: Tensor, again: Tensor, old: dict[str, Tensor]) -> Tensor:
        """(B,) the loss of an update: of answers (B, N, F) to the block, and (B, R, F) to what was drawn, `old`."""
        return torch.cat([self.losses(answers, y), self.losses(again, old["y"])], 1).mean(1)

    def after(self, work: Work, x: Tensor, y: Tensor, answers: Tensor, hidden: list[Tensor]) -> None:
        kept = {name: new for name, new in (("x", x), ("y", y), ("answers", answers)) if name in work.memory["buffer"]}
        reservoir_(work.memory["buffer"], generators(work, KEPT), **kept)


@dataclass(frozen=True)
class DarkReplayConfig(ReplayConfig):
    """Dark experience replay (Buzzega et al. 2020): the reservoir also keeps the answers that the network gave then.

    DER asks for these answers again (`answers`), DER++ for the labels of a second draw as well (`labels`).
    """

    answers: float = 0.5
    """Weight of |answers to replayed examples now - answers when they were kept|^2, averaged over the outputs (alpha). So it
    is in the authors' code; in the paper's equation outputs are summed."""
    labels: float = 0.0
    """Weight of the loss on the labels of examples of another draw: beta of DER++. 0 is DER, which makes no such draw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "answers", "labels")

    def build(self, spec: EpisodeSpec) -> "DarkReplay":
        return DarkReplay(self, spec)


class DarkReplay(Replay):
    """loss(block) + answers * |answers to the first draw - those of then|^2 + labels * loss(second draw)."""

    config: DarkReplayConfig

    def remember(self, flat_BP: Tensor) -> Memory:
        memory = super().remember(flat_BP)
        outputs = self.shapes[f"layers.{self.network.depth}.bias"][0]
        memory["buffer"]["answers"] = flat_BP.new_zeros(len(flat_BP), self.config.buffer, outputs)
        return memory

    @property
    def drawn(self) -> int:
        """Of draws with replacement any part is a draw of its own: the first half is for answers, the second for labels."""
        return self.config.replayed * (2 if self.config.labels else 1)

    def mixed(self, answers: Tensor, y: Tensor, again: Tensor, old: dict[str, Tensor]) -> Tensor:
        R = self.config.replayed
        loss_B = self.losses(answers, y).mean(1)
        loss_B = loss_B + self.config.answers * (again[:, :R] - old["answers"][:, :R]).square().mean((1, 2))
        if self.config.labels:
            loss_B = loss_B + self.config.labels * self.losses(again[:, R:], old["y"][:, R:]).mean(1)
        return loss_B


@dataclass(frozen=True)
class SameBufferConfig(BackpropConfig):
    """A control: an update sees what query-only attention sees, examples drawn from a buffer of the newest, and no others."""

    buffer: int = 1000
    """Newest examples that the buffer keeps. The block is among them."""
    replayed: int = 200
    """Examples in each update, drawn with replacement: as many as support and query of query-only attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "buffer", "replayed")

    def build(self, spec: EpisodeSpec) -> "SameBuffer":
        return SameBuffer(self, spec)


class SameBuffer(Backprop):
    """The block goes into the buffer, then the update is on a sample of it."""

    config: SameBufferConfig

    def remember(self, flat_BP: Tensor) -> Memory:
        return super().remember(flat_BP) | {"buffer": empty_buffer(self.spec, flat_BP, len(flat_BP), self.config.buffer)}

    def apart(self, asked: int) -> bool:
        return True

    def update(self, work: Work, x: Tensor, y: Tensor) -> None:
        append_(work.memory["buffer"], x=x, y=y)
        drawn = sampled(work.memory["buffer"], generators(work, REPLAY), self.config.replayed)
        super().update(work, drawn["x"], drawn["y"])


def generators(work: Work, what: int) -> list[np.random.Generator]:
    """A generator for each learner at this update. `what`: one of the marks in backprop.py."""
    return [drawn_for(work, b, what) for b in range(len(work.flat))]
