"""`train.py`: meta-trains a learner, once for each seed, or goes on where that stopped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from episodes import Benchmark, UserError, load_benchmark
from metacl.commands.parsing import parse_train
from metacl.commands.words import train_help
from metacl.recipes.config import TrainConfig
from metacl.recipes.presets import title
from metacl.report.display import INTERRUPTED, say
from metacl.runs.environment import environment
from metacl.runs.files import read_json
from metacl.runs.folder import Run
from metacl.runs.group import make_group, members
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
        places = make_group(folder, [f"seed-{config.seed}" for config in configs]) if len(configs) > 1 else [folder]
        for config, place in zip(configs, places, strict=True):
            _meta_train(config, place, folder)
        _say_done(places, folder)


def _resume(folder: Path) -> None:
    """Each run that is not at its end; in a group, those that were not begun are begun with the options of the first."""
    places = members(folder)
    first = Run.open(places[0])
    for place in places:
        if (place / "config.json").is_file():
            run = Run.open(place)
            if len(places) == 1 or not run.steps() or run.last() < run.config.steps:
                _meta_train(run.config, run, folder)
        else:
            _meta_train(replace(first.config, seed=int(place.name.removeprefix("seed-"))), place, folder)
    _say_done(places, folder)


def _say_done(places: list[Path], folder: Path) -> None:
    if len(places) > 1:
        say(f"All {len(places)} seeds are done. Now: python evaluate.py {folder}")


def _meta_train(config: TrainConfig, place: Run | Path, whole: Path) -> None:
    """Starts a run in the folder `place`, or resumes the run `place`. `whole`: the folder that --resume takes."""
    accelerator = make_accelerator(config.precision)
    if config.batch_size % accelerator.num_processes:
        raise UserError(f"--batch-size {config.batch_size} cannot be shared among {accelerator.num_processes} processes.")
    with accelerator.main_process_first():
        benchmark = load_benchmark(config.data, config.episodes.symbols)
    config.learner.build(benchmark.train.spec)  # what cannot be built or drawn fails before a folder is made
    validation = generators(config, benchmark)[1]
    speak = say if accelerator.is_main_process else _silent
    if isinstance(place, Run):
        run = place
        warn_of_other_data(run, benchmark, speak)
    else:
        about = {
            "device": str(accelerator.device),
            "precision": accelerator.mixed_precision,
            "data_fingerprint": benchmark.fingerprint,
            "meta_train_classes": benchmark.classes("train"),
        }
        if accelerator.is_main_process:
            Run.create(place, config, environment() | about)
        accelerator.wait_for_everyone()
        run = Run.open(place)
    name = title(config.learner_name, config.learner)
    speak(f"{name} on {config.data.name}, {config.steps} steps, in {run.folder}")
    if validation.shape != config.episodes:
        speak(f"Meta-validation has {validation.shape.tasks} classes: its streams have {validation.shape.tasks} tasks.")
    begun = isinstance(place, Run) and (bool(run.steps()) or run.folder == whole)
    if meta_train(run, benchmark, accelerator, resume=begun):
        speak(f"Done. The best checkpoint is of step {run.best()}. Now: python evaluate.py {run.folder}")
    else:
        speak(f"Stopped and saved at step {run.last()}. Go on with: python train.py --resume {whole}")
        raise SystemExit(INTERRUPTED)


def warn_of_other_data(run: Run, benchmark: Benchmark, speak: Callable[[str], None]) -> None:
    """A run goes with the data that it was started on.

    Raises:
        UserError: classes that it was meta-trained on are now meant to be held out.
    """
    path = run.folder / "environment.json"
    about = read_json(path) if path.exists() else {}
    before = about.get("data_fingerprint")
    if before == benchmark.fingerprint:
        return
    for split in ("validation", "test"):
        if shared := sorted(set(about.get("meta_train_classes", ())) & set(benchmark.classes(split))):
            raise UserError(
                f"The data have changed: meta-{split} has {len(shared)} classes that this run was meta-trained on, such as "
                f"{shared[0]}. Put the data back as they were, or train anew."
            )
    speak(f"Note: {benchmark.name} is not the data that the run was started on (now {benchmark.fingerprint}, then {before}).")


def _silent(words: str) -> None:
    """What the other processes of a run say."""
