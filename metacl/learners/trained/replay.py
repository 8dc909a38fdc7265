"""Backpropagation with examples of the past: experience replay, dark experience replay, and the buffer of query-only attention.

`replay` (finetune.py) is nearly `er`: SGD with one example a step and the encoder of meta-trained learners, and the reservoir
draws by fixed lots (lots.py) where `er` has a generator for each learner.
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
    """The loss on each block, plus the loss on examples of a reservoir, which is a uniform sample of all so far."""

    buffer: int = 2000
    """Examples that the reservoir keeps."""
    replayed: int = 10
    """Examples of the reservoir in each update, drawn with replacement."""
    labels: float = 0.5
    """Weight of the loss on the labels of replayed examples: beta of DER++ (Buzzega et al. 2020)."""
    answers: float = 0.0
    """Weight of |answers to replayed examples now - answers when they were kept|^2: alpha of DER. 0 is ER."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "buffer", "replayed")
        at_least(0, self, "learner.", "labels", "answers")

    def build(self, spec: EpisodeSpec) -> "Replay":
        return Replay(self, spec)


class Replay(Backprop):
    """loss = loss(block) + labels * loss(replayed) + answers * |answers - answers then|^2."""

    config: ReplayConfig

    def remember(self, flat_BP: Tensor) -> Memory:
        buffer = empty_buffer(self.spec, flat_BP, len(flat_BP), self.config.buffer)
        if self.config.answers:
            outputs = self.shapes[f"layers.{self.network.depth}.bias"][0]
            buffer["answers"] = flat_BP.new_zeros(*buffer["x"].shape[:2], outputs)
        return super().remember(flat_BP) | {"buffer": buffer}

    def loss_gradient(self, work: Work, x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        buffer, N = work.memory["buffer"], x.shape[1]
        if not bool(buffer["count"].all()):
            return super().loss_gradient(work, x, y)
        old = sampled(buffer, generators(work, REPLAY), self.config.replayed)
        work.used += self.config.replayed

        def loss(flat_BP: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
            answers, hidden = self.network(self.named(flat_BP), torch.cat([x, old["x"]], 1))
            loss_B = self.losses(answers[:, :N], y).mean(1)
            loss_B = loss_B + self.config.labels * self.losses(answers[:, N:], old["y"]).mean(1)
            if self.config.answers:
                loss_B = loss_B + self.config.answers * (answers[:, N:] - old["answers"]).square().mean((1, 2))
            return loss_B, (answers[:, :N], [h[:, :N] for h in hidden])

        return self.gradient(work.flat, loss)

    def after(self, work: Work, x: Tensor, y: Tensor, answers: Tensor, hidden: list[Tensor]) -> None:
        kept = {"x": x, "y": y} | ({"answers": answers} if self.config.answers else {})
        reservoir_(work.memory["buffer"], generators(work, KEPT), **kept)


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
