"""Learners without meta-training on held-out streams: their configuration, their learning rate, their results."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
import tyro
from accelerate import Accelerator

from episodes import Benchmark, DataConfig, EpisodeShape, UserError, load_benchmark
from episodes.errors import at_least
from metacl.evaluation.episodes import Evaluation, held_out
from metacl.learners import Learner
from metacl.learners.protocol import DivergedError
from metacl.learners.trained.finetune import FinetuneConfig
from metacl.recipes.config import to_json
from metacl.recipes.recipes import LIGHT, PUBLISHED, chosen
from metacl.report.display import bar, console, say
from metacl.report.results import result_table, watched, write_results
from metacl.runs.environment import environment
from metacl.runs.folder import must_be_new
from metacl.training.meta_training import make_accelerator, validate

L = TypeVar("L")
"""The configuration of a learner."""


@dataclass(frozen=True)
class ScratchConfig(Generic[L]):
    """Everything that the results of a learner without meta-training depend on.

    The learner takes in each stream task by task and is asked about all tasks so far after each. Its learning rate is the best
    on meta-validation episodes, for each length of stream.
    """

    data: DataConfig
    learner_name: tyro.conf.Suppress[str]
    """A name of `metacl.learners.FROM_SCRATCH`."""
    learner: L
    """The configuration of that learner."""
    tasks: tuple[int, ...] = (5,)
    """Lengths of the streams."""
    shots: int = 5
    """Stream examples of each task."""
    queries: int = 5
    """Queries of each task."""
    episodes: int = 128
    """Held-out episodes of each length."""
    validation_episodes: int = 32
    """Meta-validation episodes on which the learning rate is chosen."""
    batch_size: int = 16
    """Episodes that are learnt at the same time."""
    seed: int = 0
    """Of the episodes and the initial weights."""
    split: Literal["test", "validation", "train"] = "test"
    """The meta-split whose classes make the episodes."""

    def __post_init__(self) -> None:
        at_least(1, self, "", "shots", "queries", "episodes", "validation_episodes", "batch_size")
        if not self.tasks:
            raise UserError("--tasks needs at least one length.")

    def shape(self, tasks: int) -> EpisodeShape:
        return EpisodeShape(tasks, self.shots, self.queries)


@dataclass(frozen=True)
class RateChoice:
    """How the learning rate of one length of stream was chosen."""

    tasks: int
    rate: float
    scores: dict[str, float | None]
    """At the end of the streams, by rate: accuracy or squared error on meta-validation; None where it diverged. Empty where
    there was nothing to choose."""


def finetune_small(data: DataConfig, mode: Literal["online", "offline", "replay"] = "online") -> ScratchConfig:
    """The encoder of the small recipes of meta-trained learners."""
    return ScratchConfig(data, mode, _offline(FinetuneConfig(mode, encoder=LIGHT)))


def finetune_paper(data: DataConfig, mode: Literal["online", "offline", "replay"] = "online") -> ScratchConfig:
    """The published encoder and width, streams of 20 tasks. For a GPU."""
    return ScratchConfig(data, mode, _offline(FinetuneConfig(mode, width=512, encoder=PUBLISHED)), tasks=(20,))


def _offline(learner: FinetuneConfig) -> FinetuneConfig:
    """Adam where there are steps enough for it."""
    if learner.mode != "offline":
        return learner
    return replace(learner, optimiser="adam", rates=(1e-3, 1e-4, 3e-4, 3e-3, 1e-2, 3e-2))


FINETUNES: dict[str, Callable[..., ScratchConfig]] = {"small": finetune_small, "paper": finetune_paper}
SCRATCH_RECIPES: dict[str, dict[str, Callable[[DataConfig], ScratchConfig]]] = {
    mode: {name: partial(recipe, mode=mode) for name, recipe in FINETUNES.items()} for mode in ("online", "offline", "replay")
}
"""The recipes of each learner of `FROM_SCRATCH`; the first is the default."""


def scratch_recipe_for(learner: str, recipe: str | None, data: DataConfig) -> ScratchConfig:
    """The configuration of a named learner without meta-training; None takes its first recipe.

    Raises:
        UserError: there is no such learner or recipe.
    """
    return chosen("learner without meta-training", learner, recipe, SCRATCH_RECIPES)(data)


def evaluate_scratch(config: ScratchConfig, folder: Path) -> None:
    """Chooses the learning rates, evaluates, shows the table and writes it into `folder`."""
    must_be_new(folder, "Name another folder with --out.")
    accelerator, lengths = make_accelerator("fp32"), list(dict.fromkeys(config.tasks))
    benchmarks = [load_benchmark(config.data, config.shape(tasks).symbols) for tasks in lengths]
    for benchmark, tasks in zip(benchmarks, lengths, strict=True):  # what cannot be drawn or built fails at once
        config.learner.build(held_out(benchmark, config.split, config.shape(tasks), config.seed).family.spec)
    words = f"{config.learner_name} on {config.data.name}, meta-{config.split}"
    choices, evaluations = [], []
    for benchmark, tasks in zip(benchmarks, lengths, strict=True):
        choices.append(choose_rate(config, benchmark, tasks, accelerator))
        evaluations.append(evaluate_length(config, benchmark, choices[-1], accelerator))
    console.print(result_table(evaluations, words))
    about = {
        "config": to_json(config),
        "rates": [vars(choice) for choice in choices],
        "data_fingerprint": benchmarks[0].fingerprint,
        "environment": environment(),
    }
    say("Written: " + ", ".join(str(file) for file in write_results(evaluations, about, folder, words)))


def choose_rate(config: ScratchConfig, benchmark: Benchmark, tasks: int, accelerator: Accelerator) -> RateChoice:
    """The rate with the best score at the end of meta-validation streams, which are shorter where it has fewer classes.

    Raises:
        UserError: every rate diverged.
    """
    rates = sorted(set(config.learner.rates))
    if len(rates) == 1:
        return RateChoice(tasks, rates[0], {})
    most = benchmark.validation.most_tasks
    shape = config.shape(tasks if most is None else min(tasks, most))
    generator, name = held_out(benchmark, "validation", shape, config.seed), ""
    scores: dict[float, float | None] = {}
    with bar(f"learning rate for {tasks} tasks") as progress:
        task = progress.add_task("", total=len(rates), now="rates")
        for rate in rates:
            learner = _built(config, benchmark, rate, accelerator)
            try:
                found = validate(learner, generator, config.validation_episodes, config.batch_size, accelerator)
                name = "accuracy" if "accuracy" in found else "mse"
                scores[rate] = found[name]
            except DivergedError:
                scores[rate] = None
            progress.update(task, advance=1)
    finite = {rate: score for rate, score in scores.items() if score is not None}
    if not finite:
        raise UserError(f"Learning diverged at every one of the rates {_listed(rates)}. Give lower --learner.rates.")
    best = (max if name == "accuracy" else min)(finite, key=lambda rate: finite[rate])
    told = ", ".join(f"{rate:g}: {'diverged' if score is None else f'{score:.4f}'}" for rate, score in scores.items())
    say(f"Learning rate for {tasks} tasks: {best:g}, the best of {_listed(rates)} on meta-validation ({name} {told}).")
    return RateChoice(tasks, best, {f"{rate:g}": score for rate, score in scores.items()})


def evaluate_length(config: ScratchConfig, benchmark: Benchmark, choice: RateChoice, accelerator: Accelerator) -> Evaluation:
    """The scores on held-out streams of one length, at the rate that was chosen."""
    generator = held_out(benchmark, config.split, config.shape(choice.tasks), config.seed)
    learner = _built(config, benchmark, choice.rate, accelerator)
    return watched(learner, generator, config.episodes, config.batch_size)


def _built(config: ScratchConfig, benchmark: Benchmark, rate: float, accelerator: Accelerator) -> Learner:
    torch.manual_seed(config.seed)
    learner: Any = replace(config.learner, rates=(rate,)).build(benchmark.train.spec)
    return learner.to(accelerator.device)


def _listed(rates: list[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
