"""`train.py`: meta-trains a learner, once for each seed, or goes on where that stopped."""

from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from episodes import Benchmark, UserError, load_benchmark
from metacl.commands.data_of import found_data
from metacl.commands.parsing import parse_train
from metacl.commands.words import train_help
from metacl.recipes.config import TrainConfig
from metacl.recipes.presets import title
from metacl.report.display import INTERRUPTED, say
from metacl.runs.environment import environment
from metacl.runs.files import must_be_new
from metacl.runs.folder import Run
from metacl.runs.group import make_group, members
from metacl.runs.trained_on import keep_trained_on, warn_of_other_data
from metacl.training.meta_training import generators, make_accelerator, meta_train


def train(argv: list[str]) -> None:
    """The command, from its words on."""
    if not argv or argv[0] in ("-h", "--help"):
        say(train_help())
    elif argv[0] == "--resume":
        if len(argv) != 2:
            raise UserError("--resume takes a run folder and nothing else: python train.py --resume RUN")
        _resume(Path(argv[1]))
    else:
        configs, folder = parse_train(argv)
        _train_all(_begin(configs, folder), folder)


def _resume(folder: Path) -> None:
    """Each run that is not at its end, from its newest checkpoint, or anew where it has none."""
    runs = [Run.open(place) for place in members(folder)]
    todo = [run for run in runs if len(runs) == 1 or not run.steps() or run.last() < run.config.steps]
    _train_all(todo, folder)
    if len(todo) < 2 <= len(runs):
        _say_done(runs, folder)


def _begin(configs: list[TrainConfig], folder: Path) -> list[Run]:
    """The folders of new runs, made by the first process after all that can fail at once has been tried."""
    accelerator, benchmark = _prepared(configs[0])
    names = [f"seed-{config.seed}" for config in configs]
    if accelerator.is_main_process:
        must_be_new(folder, f"Go on with --resume {folder}, or name another folder with --run.")
        about = {
            "device": str(accelerator.device),
            "precision": accelerator.mixed_precision,
            "data_fingerprint": benchmark.fingerprint,
            "meta_train_classes": benchmark.classes("train"),
        }
        for words in benchmark.shared_images():
            say(f"Note: {words}")
        for config, place in zip(configs, make_group(folder, names), strict=True):
            Run.create(place, replace(config, data=found_data(config.data, benchmark)), environment() | about)
            keep_trained_on(place, benchmark)
    accelerator.wait_for_everyone()
    return [Run.open(place) for place in members(folder)]


def _prepared(config: TrainConfig) -> tuple[Accelerator, Benchmark]:
    """Raises `UserError` for what cannot be shared among the processes, read, drawn or built."""
    accelerator = make_accelerator(config.precision)
    if config.batch_size % accelerator.num_processes:
        raise UserError(f"--batch-size {config.batch_size} cannot be shared among {accelerator.num_processes} processes.")
    with accelerator.main_process_first():
        benchmark = load_benchmark(config.data, config.episodes.symbols)
    config.learner.build(benchmark.train.spec)
    generators(config, benchmark)
    return accelerator, benchmark


def _train_all(runs: list[Run], folder: Path) -> None:
    """One after the other. One of several that fails does not keep the others."""
    failed = []
    for run in runs:
        try:
            _meta_train(run, folder)
        except UserError as error:
            if len(runs) == 1:
                raise
            say(f"{run.folder.name}: {error}")
            failed.append(run.folder.name)
    if failed:
        raise UserError(f"{', '.join(failed)} of {folder} did not come to the end: the lines above say why.")
    if len(runs) > 1:
        _say_done(runs, folder)


def _say_done(runs: list[Run], folder: Path) -> None:
    say(f"All {len(runs)} seeds are done. Now: python evaluate.py {folder}")


def _meta_train(run: Run, whole: Path) -> None:
    """From its newest checkpoint, or from the start. `whole`: the folder that --resume takes."""
    config = run.config
    accelerator, benchmark = _prepared(config)
    speak = say if accelerator.is_main_process else _silent
    begun = bool(run.steps())
    warn_of_other_data(run, benchmark, speak)
    speak(f"{title(config.learner_name, config.learner)} on {config.data.name}, {config.steps} steps, in {run.folder}")
    validation = generators(config, benchmark)[1].shape
    if validation != config.episodes:
        speak(f"Meta-validation has {validation.tasks} classes: its streams have {validation.tasks} tasks.")
    if meta_train(run, benchmark, accelerator, resume=begun):
        speak(f"Done. The best checkpoint is of step {run.best()}. Now: python evaluate.py {run.folder}")
    else:
        speak(f"Stopped and saved at step {run.last()}. Go on with: python train.py --resume {whole}")
        raise SystemExit(INTERRUPTED)


def _silent(words: str) -> None:
    """What the other processes of a run say."""
