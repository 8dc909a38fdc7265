"""Following held-out episodes: every length and seed in its turn."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState

from episodes import Benchmark, EpisodeGenerator, UserError, load_benchmark
from episodes.frozen import read_frozen
from metacl.commands.learner_of import learner_in_words, learner_of
from metacl.evaluation.episodes import evaluate, held_out
from metacl.evaluation.rates import RateChoice, in_words, on_episodes
from metacl.evaluation.result import Evaluation, Result
from metacl.recipes.config import EpisodesConfig
from metacl.report.display import bar, say
from metacl.runs.folder import Run
from metacl.runs.following import Following
from metacl.runs.trained_on import warn_of_other_data
from metacl.training.meta_training import make_accelerator


def check_episodes(config: EpisodesConfig) -> str:
    """The fingerprint of the data.

    Raises:
        UserError: episodes cannot be drawn, the learner not be built, or it was meta-trained on what is to be held out.
    """
    for tasks in config.tasks:
        benchmark = _benchmark(config, tasks)
        if config.held_out is not None:
            read_frozen(config.held_out).check(benchmark)
        generator = held_out(benchmark, config.split, config.shape(tasks), config.seeds[0])
        learner_of(config, generator.family.spec)
        if len(set(config.rates)) > 1:
            _to_choose_on(config, benchmark, tasks, config.seeds[0])
    if config.run is not None:
        warn_of_other_data(Run.open(Path(config.run)), benchmark, say)
    return benchmark.fingerprint


def follow_episodes(run: Following, whole: Path) -> list[Result]:
    """A result for each length and seed; those that metrics.jsonl has are not made again."""
    config = run.config
    assert isinstance(config, EpisodesConfig)
    done = {(found.tasks, found.seed): found for found in _found(run)}
    for seed in config.seeds:
        for tasks in dict.fromkeys(config.tasks):
            if (tasks, seed) not in done:
                try:
                    done[tasks, seed] = _followed(run, config, tasks, seed)
                except KeyboardInterrupt:
                    say(f"Stopped. Go on with: python evaluate.py --resume {whole}")
                    raise
                run.log(done[tasks, seed].to_json())
    return [done[tasks, seed] for seed in config.seeds for tasks in dict.fromkeys(config.tasks)]


def _found(run: Following) -> list[Result]:
    """The results that are there already."""
    try:
        return [Result(**line) for line in run.sound_records()]
    except TypeError as error:
        raise UserError(f"{run.folder} is an evaluation of another version of metacl: {error}. Start anew.") from error


def _followed(run: Following, config: EpisodesConfig, tasks: int, seed: int) -> Result:
    benchmark = _benchmark(config, tasks)
    choice = _rate(run, config, benchmark, tasks, seed) if config.rates else None
    generator = held_out(benchmark, config.split, config.shape(tasks), seed)
    learner = learner_of(config, generator.family.spec, seed, None if choice is None else choice.rate)
    with bar(f"{tasks} tasks") as progress:
        shown = progress.add_task("", total=config.episodes, now="episodes")

        def tick(number: int) -> None:
            progress.update(shown, completed=number)

        device = PartialState().device
        found: Evaluation = evaluate(learner, generator, config.episodes, config.batch_size, device, tick, config.questions)
    about: dict[str, Any] = {"seed": seed, "rates": None if choice is None else asdict(choice)}
    if config.run is not None:
        about["run_seed"] = Run.open(Path(config.run)).config.seed
    return found.result(learner_in_words(config), **about)


def _rate(run: Following, config: EpisodesConfig, benchmark: Benchmark, tasks: int, seed: int) -> RateChoice:
    """The best of the rates on meta-validation streams, which are shorter where it has fewer classes."""
    purpose = f"{tasks} tasks, seed {seed}"
    if purpose in (noted := run.rates()):
        return RateChoice(**noted[purpose])
    rates = sorted(set(config.rates))
    if len(rates) == 1:
        return RateChoice(rates[0], "", {})
    generator = _to_choose_on(config, benchmark, tasks, seed)
    with bar(f"learning rate for {tasks} tasks") as progress:
        shown = progress.add_task("", total=len(rates), now="rates")
        choice = on_episodes(
            lambda rate: learner_of(config, benchmark.train.spec, seed, rate),
            rates,
            generator,
            config.rate_episodes,
            config.batch_size,
            make_accelerator("fp32"),
            lambda: progress.update(shown, advance=1),
        )
    say(f"Learning rate for {tasks} tasks: {in_words(choice)}, on meta-validation.")
    run.note_rate(purpose, asdict(choice))
    return choice


def _to_choose_on(config: EpisodesConfig, benchmark: Benchmark, tasks: int, seed: int) -> EpisodeGenerator:
    """The meta-validation streams on which a learning rate is chosen, which are shorter where there are fewer classes.

    Raises:
        UserError: a class has too few images.
    """
    return held_out(benchmark, "validation", config.shape(tasks).fitting(benchmark.validation.most_tasks), seed)


def _benchmark(config: EpisodesConfig, tasks: int) -> Benchmark:
    return load_benchmark(config.data, config.shape(tasks).symbols)
