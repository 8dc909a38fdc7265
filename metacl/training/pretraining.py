"""Supervised training of a vision transformer from nothing. Step i is a function of (seed, i), so a resume changes nothing."""

import math
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from episodes import UserError
from episodes.data.features import shown
from episodes.data.identity import ids_of
from episodes.data.pool import ClassPool
from episodes.rng import random_numbers
from episodes.tasks.parts import labelled
from metacl.nets.views import random_view
from metacl.nets.vit import VisionTransformer, VitConfig
from metacl.report.display import bar, say
from metacl.runs.pretraining import PretrainingRun
from metacl.runs.signals import stops_noted
from metacl.training.meta_training import learning_rate, make_optimiser
from metacl.training.tracking import EventWriter

LOOK_EVERY = 10
"""Steps between two looks at the loss, which the device need not wait for in between."""
TOGETHER = 256
"""Held-out images that pass the network at a time."""


class Classifier(nn.Module):
    """A transformer and a layer of logits on its class token: (B, 3, side, side) -> (B, classes)."""

    def __init__(self, shape: VitConfig, classes: int):
        super().__init__()
        self.network, self.head = VisionTransformer(shape), nn.Linear(shape.width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.network(x_BCHW))


def pretrain(run: PretrainingRun, train: ClassPool, held_out: ClassPool, accelerator: Accelerator, resume: bool = False) -> int:
    """Trains the backbone of a run, or goes on from its newest sound checkpoint.

    Arguments:
        train, held_out: images of the same classes, to learn from and to measure on.

    Returns:
        0 when all epochs are done; else the number of the signal that asked to stop, after which the step was finished and
        saved.

    Raises:
        UserError: the loss is not finite; the last good checkpoint stays.
    """
    return _Pretraining(run, train, held_out, accelerator).run_all(resume)


@dataclass
class _Pretraining:
    """What the steps of one call of `pretrain` share."""

    run: PretrainingRun
    train: ClassPool
    held_out: ClassPool
    accelerator: Accelerator

    def __post_init__(self) -> None:
        self.config, self.device = self.run.config, self.accelerator.device
        self.rows, self.labels = labelled(self.train, range(len(self.train.names)))
        self.batch = min(self.config.batch_size, len(self.rows))
        self.each = len(self.rows) // self.batch  # steps of an epoch; what is left over is shown in another
        self.steps = self.config.epochs * self.each
        self.rates = self.config.optimiser.over(self.steps)
        torch.manual_seed(self.config.seed)
        self.model = Classifier(self.config.shape.vit(), len(self.train.names)).to(self.device)
        self.optimiser = make_optimiser(self.model, self.rates)
        self.order_epoch, self.order = -1, np.empty(0, dtype=np.int64)

    def run_all(self, resume: bool) -> int:
        first = self.run.last() if resume else 0
        self.sums = torch.zeros(3, device=self.device)  # of this epoch so far: loss, images that were right, images
        for saved in self.run.restore(first, self.model, self.optimiser) if resume else []:
            self.sums = torch.tensor(list(saved.values()), device=self.device)
        progress = bar("pre-training")
        shown_task = progress.add_task("", total=self.steps, completed=first, now="")
        with progress, EventWriter(self.run.folder, first) as events, stops_noted() as signals:
            since, since_step = time.perf_counter(), first
            for step in range(first, self.steps):
                self._step(step)
                done, asked = step + 1, list(signals)  # one that comes from here on is for the next step
                if step == first:
                    self.run.forget_after(first)
                if done % LOOK_EVERY == 0 or done % self.each == 0 or asked:
                    progress.update(shown_task, completed=done, now=self._so_far(done))
                if done % self.each == 0:
                    rate = (done - since_step) * self.batch / (time.perf_counter() - since)
                    events.write(self._end_epoch(done, rate))
                    since, since_step = time.perf_counter(), done
                elif asked:
                    names = ("loss", "right", "images")
                    self._save(done, pending=[dict(zip(names, self.sums.tolist(), strict=True))])
                if asked and done < self.steps:
                    return asked[0]
        if first == self.steps:  # killed after its last checkpoint, perhaps before the backbone was written
            self._write_backbone(first)
        return 0

    def _step(self, step: int) -> None:
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.rates, step, self.steps)
        chosen = self._chosen(step)
        x, y = self._fetched(self.train, self.rows[chosen]), torch.from_numpy(self.labels[chosen]).to(self.device)
        config, numbers = self.config, random_numbers(f"pre-training/{self.config.seed}/views", step)
        with self.accelerator.autocast():
            logits = self.model(random_view(x, config.shape.side, numbers, config.area, config.flip)).float()
        loss = F.cross_entropy(logits, y, label_smoothing=config.smoothing)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.optimiser.clip or math.inf)
        self.optimiser.step()
        right = (logits.argmax(1) == y).sum()
        self.sums += torch.stack([loss.detach() * len(y), right, torch.full_like(right, len(y))])

    def _chosen(self, step: int) -> np.ndarray:
        """The images of a step, as places in `rows`: each at most once in an epoch."""
        epoch, place = divmod(step, self.each)
        if epoch != self.order_epoch:
            numbers = random_numbers(f"pre-training/{self.config.seed}/order", epoch)
            self.order_epoch, self.order = epoch, numbers.permutation(len(self.rows))
        return self.order[place * self.batch : (place + 1) * self.batch]

    def _fetched(self, pool: ClassPool, rows: np.ndarray) -> Tensor:
        return pool.fetch(rows[None])[0].to(self.device)

    def _so_far(self, done: int) -> str:
        """The mean loss of this epoch in words. Raises `UserError` where it is not finite."""
        loss, _, images = self.sums.tolist()
        if not math.isfinite(loss):
            steps = self.run.steps()
            kept = (
                f"The checkpoint of step {steps[-1]} is kept in {self.run.folder}." if steps else "There was no checkpoint yet."
            )
            raise UserError(
                f"The loss is not finite at step {done} or shortly before. {kept} Try a lower --optimiser.rate, a longer "
                "--optimiser.warmup or --precision fp32."
            )
        return f"loss {loss / images:.4f}"

    def _end_epoch(self, done: int, rate: float) -> dict[str, float]:
        loss, right, images = self.sums.tolist()
        self.sums.zero_()
        held_loss, held_right = self._measured()
        record = {"step": done, "epoch": done // self.each, "loss": loss / images, "accuracy": right / images}
        record |= {"held_out_loss": held_loss, "held_out_accuracy": held_right, "images_per_second": rate}
        self.run.log(record)
        self._save(done, held_right, held_loss)
        say(
            f"epoch {record['epoch']:3}/{self.config.epochs}  loss {record['loss']:.4f}  accuracy {record['accuracy']:.1%}  "
            f"held out  loss {held_loss:.4f}  accuracy {held_right:.1%}  {rate:.0f} images/s"
        )
        return record

    @torch.no_grad()
    def _measured(self) -> tuple[float, float]:
        """Mean loss and accuracy on all held-out images, each seen whole."""
        self.model.eval()
        rows, labels = labelled(self.held_out, range(len(self.held_out.names)))
        loss, right = 0.0, 0
        for part in (slice(i, i + TOGETHER) for i in range(0, len(rows), TOGETHER)):
            y = torch.from_numpy(labels[part]).to(self.device)
            with self.accelerator.autocast():
                logits = self.model(shown(self._fetched(self.held_out, rows[part]), self.config.shape.side)).float()
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
            right += int((logits.argmax(1) == y).sum())
        return loss / len(rows), right / len(rows)

    def _save(
        self, done: int, score: float | None = None, loss: float = math.inf, pending: list[dict[str, float]] | None = None
    ) -> None:
        self.run.save(done, self.model, self.optimiser, score, loss, pending)
        self._write_backbone(done)

    def _write_backbone(self, done: int) -> None:
        self.run.write_backbone(self.model.network, self.train.names, self._ids, done // self.each)

    @cached_property
    def _ids(self) -> np.ndarray:
        return ids_of([self.train])
