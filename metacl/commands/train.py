"""`train.py`: meta-trains a learner, once for each seed, or goes on where that stopped; pre-trains a backbone."""

import shutil
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from episodes import Benchmark, UserError, load_benchmark
from metacl.commands.data_of import found_data, met_by_backbones
from metacl.commands.jobs import as_jobs, check_launch
from metacl.commands.learner_of import built
from metacl.commands.parse_resume import Resumed, parse_resume
from metacl.commands.parse_train import Training, parse_train
from metacl.commands.places import with_data_at
from metacl.commands.pretrain import pretrain_backbone, resume_pretraining
from metacl.commands.words import asks_for_the_first_page, data_in_words, shorter_in_words, train_help
from metacl.recipes.config import TrainConfig
from metacl.recipes.presets import title
from metacl.report.display import say
from metacl.runs.environment import environment, unlike
from metacl.runs.files import must_be_new
from metacl.runs.folder import Run
from metacl.runs.group import begin_all, members
from metacl.runs.lock import locked
from metacl.runs.pretraining import is_pretraining
from metacl.runs.signals import exit_status
from metacl.runs.trained_on import keep_trained_on, trained_on_digest, warn_of_other_data
from metacl.training.meta_training import generators, make_accelerator, meta_train
from metacl.training.processes import from_first, machine


def train(argv: list[str]) -> None:
    """The command, from its words on."""
    if argv[:1] == ["pretrain"]:
        pretrain_backbone(argv[1:])
    elif asks_for_the_first_page(argv, 2):
        say(train_help())
    elif argv[0] == "--resume":
        asked = parse_resume(argv, "train.py")
        if is_pretraining(asked.folder):
            resume_pretraining(asked)
        else:
            _resume(asked)
    else:
        _start(parse_train(argv))


def _start(asked: Training) -> None:
    """New runs, whose folders are made after all that can fail at once has been tried."""
    check_launch(asked.launch, len(asked.configs))
    folder, (first, *_) = asked.folder, asked.configs.values()
    accelerator, benchmark = _prepared(first)
    about = (
        environment()
        | machine(accelerator)
        | {
            "data_fingerprint": benchmark.fingerprint,
            "meta_train_classes": benchmark.classes("train"),
            "trained_on": trained_on_digest(benchmark),
        }
    )
    if accelerator.is_main_process:
        held_out = [*benchmark.pools("validation"), *benchmark.pools("test")]
        for words in [*benchmark.shared_images(), *met_by_backbones(first, held_out)]:
            say(f"Note: {words}")
    with ExitStack() as held:

        def begin() -> Path:
            advice = f"Go on with --resume {folder}, or name another folder with --run."
            must_be_new(folder, advice)
            if there := folder.is_dir():  # empty: nobody else is to begin in it
                held.enter_context(locked(folder))
                must_be_new(folder, advice)
            runs = {name: replace(config, data=found_data(config.data, benchmark)) for name, config in asked.configs.items()}
            new = [(name, config, about) for name, config in runs.items()]
            begin_all(folder, new, lambda place: keep_trained_on(place, benchmark))
            if not there:
                held.enter_context(locked(folder))
            return folder

        made = from_first(accelerator, begin)
        runs = [Run.open(place) for place in members(made)]
        try:
            _train_all(runs, made, accelerator, asked.launch)
        finally:  # of jobs there are logs, and on a cluster they may still be waiting
            if accelerator.is_main_process and asked.launch is None and all(run.is_empty() for run in runs):
                shutil.rmtree(made, ignore_errors=True)
                say(f"{made} is removed: nothing was done in it yet.")


def _resume(asked: Resumed) -> None:
    """Each run that is not at its end, from its newest checkpoint, or anew where it has none."""
    folder = asked.folder
    runs = [Run.open(place) for place in members(folder)]
    runs = [Run(run.folder, with_data_at(run.config, asked.data)) for run in runs]
    accelerator = make_accelerator(runs[0].config.precision)
    with ExitStack() as held:
        from_first(accelerator, partial(_hold, held, folder))
        todo = [run for run in runs if len(runs) == 1 or not run.steps() or run.last() < run.config.steps]
        _train_all(todo, folder, accelerator, asked.launch, asked.data)
        if len(todo) < 2 <= len(runs):
            _say_done(runs, folder)


def _prepared(config: TrainConfig) -> tuple[Accelerator, Benchmark]:
    """Raises `UserError` for what cannot be shared among the processes, read, drawn or built."""
    accelerator = make_accelerator(config.precision)
    if config.batch_size % accelerator.num_processes:
        raise UserError(f"--batch-size {config.batch_size} cannot be shared among {accelerator.num_processes} processes.")
    with accelerator.main_process_first():
        benchmark = load_benchmark(config.data, config.episodes.symbols)
    built(config.learner, benchmark.train.spec)
    generators(config, benchmark)
    return accelerator, benchmark


def _train_all(
    runs: list[Run], folder: Path, accelerator: Accelerator, where: str | None = None, data: str | None = None
) -> None:
    """One after the other, or as jobs. One of several that fails does not keep the others."""
    if where and accelerator.num_processes > 1:
        raise UserError("--launch starts processes itself: leave out torchrun, or --launch.")
    failed = as_jobs(where, "train.py", [run.folder for run in runs], data) if where else _in_turn(runs, folder, accelerator)
    if failed:
        raise UserError(f"{', '.join(failed)} of {folder} did not come to the end: the lines above say why.")
    if len(runs) > 1:
        _say_done(runs, folder)


def _in_turn(runs: list[Run], folder: Path, accelerator: Accelerator) -> list[str]:
    """The names of those that failed."""
    failed = []
    for run in runs:
        try:
            with ExitStack() as held:
                if run.folder != folder:
                    from_first(accelerator, partial(_hold, held, run.folder))
                _meta_train(run, folder)
        except UserError as error:
            if len(runs) == 1:
                raise
            say(f"{run.folder.name}: {error}")
            failed.append(run.folder.name)
    return failed


def _hold(held: ExitStack, folder: Path) -> bool:
    held.enter_context(locked(folder))
    return True


def _say_done(runs: list[Run], folder: Path) -> None:
    say(f"All {len(runs)} runs are done. Now: python evaluate.py {folder}")


def _meta_train(run: Run, whole: Path) -> None:
    """From its newest checkpoint, or from the start. `whole`: the folder that --resume takes."""
    config = run.config
    accelerator, benchmark = _prepared(config)
    speak = say if accelerator.is_main_process else _silent
    begun = bool(run.steps())
    if begun and (words := unlike(run.folder, environment() | machine(accelerator))):
        speak(words)
    warn_of_other_data(run, benchmark, speak)
    learner = title(config.learner_name, config.learner, data=config.data)
    speak(f"{learner} on {data_in_words(config.data, config.episodes.schedule)}, {config.steps} steps, in {run.folder}")
    validation = generators(config, benchmark)[1].shape
    if validation.tasks != config.episodes.tasks:
        classes = validation.schedule.rows(validation.tasks)
        speak(f"Meta-validation has {classes} classes: its streams have {validation.tasks} tasks.")
    most = config.episodes.schedule.most_tasks(benchmark.test.most_tasks)
    if most is not None and most < config.episodes.tasks:
        speak(shorter_in_words("test", most, config.episodes.tasks))
    if signal := meta_train(run, benchmark, accelerator, resume=begun):
        speak(f"Stopped and saved at step {run.last()}. Go on with: python train.py --resume {whole}")
        raise SystemExit(exit_status(signal))
    speak(f"Done. The best checkpoint is of step {run.best()}. Now: python evaluate.py {run.folder}")


def _silent(words: str) -> None:
    """What the other processes of a run say."""
