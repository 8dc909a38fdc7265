"""The outer loop: episodes in, meta-parameters out. Every step is a function of (seed, step), so a resume changes nothing."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from episodes import Benchmark, Episode, EpisodeGenerator, UserError
from episodes.augment.episodes import augmented, with_rotations
from episodes.generator import numbers_in
from metacl.evaluation.episodes import validate
from metacl.learners import Learner
from metacl.learners.precision import fast_bf16
from metacl.nets.shared_batch import shared_batch
from metacl.recipes.config import OptimiserConfig, TrainConfig
from metacl.report.display import TrainingDisplay
from metacl.runs.folder import Run
from metacl.runs.signals import stops_noted
from metacl.training.tracking import EventWriter

LOG_EVERY = 10
"""Steps between two lines of metrics.jsonl, each an average over them."""


class MetaTrainingError(UserError):
    """The loss is not finite any more."""


def meta_train(run: Run, benchmark: Benchmark, accelerator: Accelerator, resume: bool = False) -> int:
    """Meta-trains the learner of a run, or goes on from its newest sound checkpoint.

    Returns:
        0 when all steps are done; else the number of the signal that asked to stop (Ctrl-C, SIGTERM, SIGHUP), after which the
        step was finished and saved.

    Raises:
        MetaTrainingError: the loss or the meta-gradient is not finite; the last good checkpoint stays.
    """
    config = run.config
    torch.manual_seed(config.seed)
    learner = config.learner.build(benchmark.train.spec)
    learner.smoothing = config.smoothing
    optimiser = make_optimiser(learner, config.optimiser)
    first = run.last() if resume else 0
    pending = run.restore(first, learner, optimiser) if resume else []
    model, optimiser = accelerator.prepare(learner, optimiser)
    loop = _Loop(run, accelerator, model, optimiser, benchmark)
    loop.pending = [{name: torch.tensor(value) for name, value in metrics.items()} for metrics in pending]
    return loop.run_from(first)


@dataclass
class _Loop:
    """What the steps of one call of `meta_train` share."""

    run: Run
    accelerator: Accelerator
    model: nn.Module
    optimiser: Any
    benchmark: Benchmark
    pending: list[dict[str, Tensor]] = field(default_factory=list)
    """The metrics of the steps since the last line was logged."""

    def __post_init__(self) -> None:
        self.config = self.run.config
        self.learner: Learner = self.accelerator.unwrap_model(self.model)
        self.train, self.validation = generators(self.config, self.benchmark)

    def run_from(self, first: int) -> int:
        config, main = self.config, self.accelerator.is_main_process
        batches = self._batches(first)
        display = TrainingDisplay(config.steps, first, config.batch_size, enabled=main)
        with display, EventWriter(self.run.folder, first, enabled=main) as events, stops_noted() as signals:
            since, since_step = time.perf_counter(), first
            for step in range(first, config.steps):
                self.pending.append(self._step(step, next(batches)))
                if step == first and main:
                    self.run.forget_after(first)
                done = step + 1
                stop = self._agreed(signals)
                validate = done % config.validation.every == 0 or done == config.steps
                if done % LOG_EVERY == 0 or validate:
                    record = {"step": done} | self._average(done)
                    record["episodes_per_second"] = (done - since_step) * config.batch_size / (time.perf_counter() - since)
                    self._log(record, events, display)
                    since, since_step = time.perf_counter(), done
                if validate:
                    self._validate(done, events, display)
                    since = time.perf_counter()
                elif stop:
                    self._save(done)
                if stop and done < config.steps:
                    return stop
        return 0

    def _step(self, step: int, episode: Episode) -> dict[str, Tensor]:
        config = self.config
        torch.manual_seed(_step_seed(config.seed, step))
        self.model.train()
        self.learner.step = step
        rate = learning_rate(config.optimiser, step, config.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["part"]
        episode = self._augmented(step, episode.to(self.accelerator.device, non_blocking=True))
        episode = episode.first_tasks(curriculum_tasks(config, step)) if step < config.curriculum else episode
        with shared_batch(*self._part()):
            result = self.model(episode)
            self.optimiser.zero_grad()
            self.accelerator.backward(result.loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), config.optimiser.clip or math.inf)
        self.optimiser.step()
        return result.metrics | {"gradient_norm": norm, "rate": torch.tensor(rate)}

    def _batches(self, first: int) -> Iterator[Episode]:
        config, accelerator = self.config, self.accelerator
        workers = config.workers if config.workers is not None else 2 * (accelerator.device.type == "cuda")
        return self.train.batches(config.batch_size, first, config.steps, self._part(), workers)

    def _augmented(self, step: int, episode: Episode) -> Episode:
        numbers = numbers_in(step, self.config.batch_size, self._part())
        return augmented(episode, numbers, self.train, self.config.augment)

    def _part(self) -> tuple[int, int]:
        """Which of the processes this is, and their number."""
        return self.accelerator.process_index, self.accelerator.num_processes

    def _average(self, done: int) -> dict[str, Any]:
        """The mean of the pending metrics over steps and processes, which are pending no more."""
        names, values_SM = self._over_processes(done)
        self.pending.clear()
        return dict(zip(names, values_SM.mean(0).tolist(), strict=True))

    def _over_processes(self, done: int) -> tuple[list[str], Tensor]:
        """The names of the pending metrics, and their values (steps, metrics); raises at the first step that was not finite."""
        names = sorted({name for metrics in self.pending for name in metrics})
        table = [
            torch.stack([m.get(name, torch.tensor(0.0)).float().to(self.accelerator.device) for name in names])
            for m in self.pending
        ]
        values_SM = self.accelerator.reduce(torch.stack(table), "mean").cpu()
        broken = (~values_SM.isfinite()).any(1).nonzero()
        if len(broken):
            self._stop_broken(done - len(self.pending) + int(broken[0]) + 1)
        return names, values_SM

    def _stop_broken(self, step: int) -> None:
        steps = self.run.steps()
        kept = f"The checkpoint of step {steps[-1]} is kept in {self.run.folder}." if steps else "There was no checkpoint yet."
        raise MetaTrainingError(
            f"The loss or its gradient is not finite at step {step}. {kept} "
            "Try a lower --optimiser.rate, a longer --optimiser.warmup, --optimiser.clip 1 or --precision fp32."
        )

    def _validate(self, done: int, events: EventWriter, display: TrainingDisplay) -> None:
        if self.accelerator.is_main_process:
            config = self.config
            metrics = validate(self.learner, self.validation, config.validation.episodes, config.batch_size, self.accelerator)
            self._log({"step": done} | {f"validation_{name}": value for name, value in metrics.items()}, events, display)
            score = metrics["accuracy"] if "accuracy" in metrics else -metrics["mse"]
            self.run.save(done, self.learner, self.optimiser, score, metrics["loss"])
        self.accelerator.wait_for_everyone()

    def _save(self, done: int) -> None:
        """Without a meta-validation, with what no line of metrics has yet."""
        names, values_SM = self._over_processes(done) if self.pending else ([], torch.zeros(0))
        if self.accelerator.is_main_process:
            pending = [dict(zip(names, row, strict=True)) for row in values_SM.tolist()]
            self.run.save(done, self.learner, self.optimiser, None, pending=pending)
        self.accelerator.wait_for_everyone()

    def _log(self, record: dict[str, Any], events: EventWriter, display: TrainingDisplay) -> None:
        if self.accelerator.is_main_process:
            self.run.log(record)
            events.write(record)
            display.update(record)

    def _agreed(self, signals: list[int]) -> int:
        """The number of a signal that any process was sent; 0 where none was."""
        own = max(signals, default=0)
        if self.accelerator.num_processes == 1:
            return own
        told = self.accelerator.gather(torch.tensor([own], device=self.accelerator.device))
        return int(told.max())


def generators(config: TrainConfig, benchmark: Benchmark) -> tuple[EpisodeGenerator, EpisodeGenerator]:
    """The episodes of meta-training and of meta-validation; the latter are shorter where it has fewer classes, and have always
    all tasks.

    Raises:
        UserError: meta-train has too few classes, or a class of any meta-split too few images, or cannot be augmented.
    """
    shape = config.episodes
    turned = replace(benchmark, train=with_rotations(benchmark.train, shape, config.augment))
    train = turned.generator("train", shape, config.seed)
    whole = replace(shape, tasks_least=None)
    validation = turned.generator("validation", whole.fitting(benchmark.validation.most_tasks), config.seed)
    turned.generator("test", whole.fitting(benchmark.test.most_tasks), config.seed)  # fails now, not after the meta-training
    return train, validation


def make_optimiser(learner: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """AdamW in one kernel for all tensors, or plain SGD where the learner asks for it; `learning_rate` sets the rate before
    each step, of which each group of weights takes its `part`."""
    split: dict[float, list[nn.Parameter]] = {}
    for name, weight in learner.named_parameters():
        split.setdefault(1.0 if name.startswith("encoder.") else config.behind_encoder, []).append(weight)
    if config.behind_encoder != 1 and 1.0 not in split:
        raise UserError(
            "optimiser.behind-encoder is the part of the rate that all weights but the encoder's have, and a "
            f"{type(learner).__name__} has no encoder of its own. Leave it out, and set optimiser.rate."
        )
    groups = [{"params": weights, "part": part} for part, weights in split.items()]
    if isinstance(learner, Learner) and learner.outer_sgd:
        return torch.optim.SGD(groups, lr=config.rate)
    return torch.optim.AdamW(groups, lr=config.rate, weight_decay=config.weight_decay, fused=True)


def curriculum_tasks(config: TrainConfig, step: int) -> int:
    """Tasks in the streams of a step: two at first, all of them after `curriculum` steps, as many more at each step between."""
    full = config.episodes.tasks
    return full if step >= config.curriculum else min(full, 2 + (full - 1) * step // config.curriculum)


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """The rate of step `step` (from 0): warm-up, then the schedule."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "halving":
        return config.rate * warm * 0.5 ** (step // config.halve_every)
    return config.rate * warm * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * step / steps)))


def make_accelerator(precision: str) -> Accelerator:
    """The device and its precision: `auto` takes bf16 where it is fast. Without a GPU the processes of `torchrun` are one run
    too."""
    AcceleratorState._reset_state()  # one process may meta-train several runs, each in its own precision
    cpu = not torch.accelerator.is_available()
    bf16 = precision == "bf16" or (precision == "auto" and fast_bf16(PartialState(cpu=cpu).device.type))
    return Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=cpu)


def _step_seed(seed: int, step: int) -> int:
    """A seed for the randomness inside a step (dropout, attachments): nothing of it need be saved. It is that of all processes:
    what differs between their episodes is drawn for all of them."""
    return (seed * 1_000_003 + step) * 1_009 % 2**63
