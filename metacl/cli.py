"""What `train.py` and `evaluate.py` do. How their command lines are read: `parsing.py`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from accelerate import PartialState

from episodes import BENCHMARKS, STREAMS, Benchmark, EpisodeGenerator, UserError, load_benchmark
from episodes.errors import at_least
from metacl.commands import online_run
from metacl.commands.parsing import parse_follow, parse_scratch, parse_train
from metacl.commands.scratch import evaluate_scratch
from metacl.evaluation.episodes import held_out
from metacl.learners import FROM_SCRATCH, LEARNERS, ONLINE, Learner
from metacl.recipes.config import TrainConfig
from metacl.report.display import INTERRUPTED, console, say, with_plain_errors
from metacl.report.results import result_table, watched, write_results
from metacl.runs.environment import environment
from metacl.runs.folder import Run, read_json
from metacl.training.meta_training import generators, make_accelerator, meta_train

TRAIN_HELP = """\
Meta-train a continual learner on episodes made from a data set.

    python train.py DATA LEARNER [options]      start a run
    python train.py DATA LEARNER --help         every option, with its default
    python train.py --resume RUN                go on where a run stopped

DATA     {benchmarks}; a folder (parquet files, or a sub-folder of images for each class);
         or a Hugging Face hub name like owner/data-set. --data.path names a local copy of a named one.
LEARNER  {learners}
         each with a size: --recipe small (the default) or paper; the transformers also large and published
         without meta-training: python evaluate.py DATA {scratch}
         along one long stream: python evaluate.py STREAM LEARNER; see python evaluate.py --help

Examples
    python train.py glyphs transformer
    python train.py sine linear-transformer --steps 1000
    python train.py omniglot transformer --episodes.tasks 20 --steps 5000 --seed 1 --run runs/omniglot-20
    python train.py path/to/images pn --data.size 32
"""


@dataclass(frozen=True)
class EvaluateArguments:
    """Evaluate a meta-trained learner on held-out streams of classes that it has never seen.

    Learners without meta-training take DATA and their name in place of RUN: python evaluate.py DATA online|offline|replay.

    Long streams take the name of the stream and of an online learner: python evaluate.py STREAM LEARNER --tasks 1000;
    python evaluate.py --resume FOLDER goes on where such a run stopped. STREAM is slowly-changing-regression, permuted-mnist,
    label-permuted-mnist, label-permuted-cifar100, split-tiny-imagenet, online-cifar100 or incremental-cifar100. LEARNER is
    query-only, full-attention, online-maml, bp (bp-one, bp-same-buffer), cbp, l2, l2-init, shrink-perturb, redo, crelu,
    layernorm, reinit, ewc, er, der, nadaraya-watson or knn.

    The learner takes in each stream task by task and is asked about all tasks so far after each. Written to RUN/results:
    results.json and, for each length, the score by position and the matrix of scores as pictures.
    """

    run: tyro.conf.Positional[Path]
    """The folder that train.py wrote."""
    tasks: tuple[int, ...] = ()
    """Lengths of the streams, also other ones than were trained on. Default: as in meta-training."""
    shots: int | None = None
    """Examples of each task. Default: as in meta-training."""
    episodes: int = 1024
    """Held-out episodes of each length."""
    batch_size: int = 16
    seed: int = 0
    """Of the held-out episodes."""
    split: Literal["test", "validation", "train"] = "test"
    """The meta-split whose classes make the episodes."""
    checkpoint: int | None = None
    """Step of the checkpoint. Default: the best by meta-validation."""
    out: Path | None = None
    """Folder of the results. Default: RUN/results, where a later evaluation takes the place of an earlier one."""
    data_path: str | None = None
    """Where the data set is now, if not where it was in meta-training."""

    def __post_init__(self) -> None:
        at_least(1, self, "", "shots", "episodes", "batch_size")


def train_main(argv: Sequence[str] | None = None) -> None:
    """`train.py`: starts or resumes a run."""
    with_plain_errors(lambda: _train(list(sys.argv[1:] if argv is None else argv)))


def evaluate_main(argv: Sequence[str] | None = None) -> None:
    """`evaluate.py`: the results of a run, or of a learner without meta-training."""
    with_plain_errors(lambda: _evaluate_words(list(sys.argv[1:] if argv is None else argv)))


def _train(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        names = {"benchmarks": ", ".join(BENCHMARKS), "learners": ", ".join(LEARNERS), "scratch": "|".join(FROM_SCRATCH)}
        console.print(TRAIN_HELP.format(**names))
    elif argv[0] == "--resume":
        if len(argv) != 2:
            raise UserError("--resume takes a run folder and nothing else: python train.py --resume RUN")
        run = Run.open(Path(argv[1]))
        _meta_train(run.config, run)
    elif len(argv) < 2 or argv[0].startswith("-") or argv[1].startswith("-"):
        raise UserError("First DATA, then LEARNER, then options: python train.py glyphs transformer --steps 1000. See --help.")
    else:
        config, folder = parse_train(argv)
        _meta_train(config, folder)


def _meta_train(config: TrainConfig, place: Run | Path) -> None:
    """Starts a run in the folder `place`, or resumes the run `place`."""
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
    speak(f"{config.learner_name} on {config.data.name}, {config.steps} steps, in {run.folder}")
    if validation.shape != config.episodes:
        speak(f"Meta-validation has {validation.shape.tasks} classes: its streams have {validation.shape.tasks} tasks.")
    if meta_train(run, benchmark, accelerator, resume=isinstance(place, Run)):
        speak(f"Done. The best checkpoint is of step {run.best()}. Now: python evaluate.py {run.folder}")
    else:
        speak(f"Stopped and saved at step {run.last()}. Go on with: python train.py --resume {run.folder}")
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


def _evaluate_words(argv: list[str]) -> None:
    """RUN [options], DATA LEARNER [options], STREAM LEARNER [options], or --resume FOLDER."""
    if argv and argv[0] == "--resume":
        if len(argv) != 2:
            raise UserError("--resume takes a folder and nothing else: python evaluate.py --resume FOLDER")
        online_run.resume(Path(argv[1]))
    elif argv and (argv[0] in STREAMS or (len(argv) > 1 and argv[1] in ONLINE and argv[1] not in LEARNERS)):
        online_run.start(*parse_follow(argv))
    elif len(argv) < 2 or argv[0].startswith("-") or argv[1].startswith("-") or (Path(argv[0]) / "config.json").is_file():
        _evaluate(tyro.cli(EvaluateArguments, args=argv, prog="evaluate.py"))
    else:
        config, folder = parse_scratch(argv)
        evaluate_scratch(config, folder)


def _evaluate(arguments: EvaluateArguments) -> None:
    run, device = Run.open(arguments.run), PartialState().device
    prepared = [_prepared(run, arguments, tasks) for tasks in dict.fromkeys(arguments.tasks or (run.config.episodes.tasks,))]
    benchmark = prepared[0][0]
    warn_of_other_data(run, benchmark, say)
    evaluations = [
        watched(learner.to(device), generator, arguments.episodes, arguments.batch_size) for _, generator, learner in prepared
    ]
    words = f"{run.config.learner_name} on {run.config.data.name}, meta-{arguments.split}"
    console.print(result_table(evaluations, words))
    about = {
        "run": run.folder.name,
        "checkpoint": arguments.checkpoint or run.best(),
        "data_fingerprint": benchmark.fingerprint,
    }
    files = write_results(evaluations, about | {"environment": environment()}, arguments.out or run.folder / "results", words)
    say("Written: " + ", ".join(str(file) for file in files))


def _prepared(run: Run, arguments: EvaluateArguments, tasks: int) -> tuple[Benchmark, EpisodeGenerator, Learner]:
    """All that can fail for streams of `tasks` tasks."""
    config = run.config
    data = config.data if arguments.data_path is None else replace(config.data, path=arguments.data_path)
    shape = replace(config.episodes, tasks=tasks, shots=arguments.shots or config.episodes.shots)
    benchmark = load_benchmark(data, shape.symbols)
    generator = held_out(benchmark, arguments.split, shape, arguments.seed)
    return benchmark, generator, run.load_learner(generator.family.spec, arguments.checkpoint)
