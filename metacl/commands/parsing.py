"""What stands on a command line -> complete configurations, and the folder of what comes of them."""

import math
import os
import re
from dataclasses import dataclass, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from episodes import BENCHMARKS, STREAMS, DataConfig, UserError
from episodes.errors import unknown
from metacl.commands.places import located
from metacl.commands.words import new_folder, recipe_words, split_words, take
from metacl.evaluation.questions import Questions
from metacl.recipes import settings
from metacl.recipes.config import EpisodesConfig, FollowConfig, StreamRunConfig, TrainConfig, check_seeds
from metacl.recipes.presets import LEARNERS, TRAINED, recipe_for, trained_for
from metacl.runs.files import is_run
from metacl.runs.folder import Run
from metacl.runs.group import members

T = TypeVar("T")
FAMILY_QUESTIONS = {"mnist": Questions(asked=1, held_out=500)}
"""What is asked along the streams of a family, as published; of others everything."""


@dataclass(frozen=True)
class NamedData(DataConfig):
    """A data set whose name stands before the options."""

    name: tyro.conf.Suppress[str] = "glyphs"


def parse_train(argv: list[str]) -> tuple[list[TrainConfig], Path]:
    """DATA LEARNER [--recipe NAME] [options] -> a configuration for each seed, and the folder of the runs."""
    names, options = split_words(argv)
    if len(names) != 2:
        raise UserError("First DATA, then LEARNER, then options: python train.py glyphs transformer --steps 1000. See --help.")
    data, learner = names
    recipe = take(options, "--recipe")
    check_order(data, learner)
    if data in STREAMS and data not in BENCHMARKS:
        raise UserError(
            f"{data} is a stream, which is followed: python evaluate.py RUN {data}. To meta-train takes a data set."
        )
    if learner in TRAINED and not LEARNERS[learner].meta:
        raise UserError(f"{learner} is not meta-trained. Evaluate it at once: python evaluate.py {data} {learner}")
    default = recipe_for(learner, recipe, NamedData(data))

    kind = _offered(TrainConfig, data=NamedData, learner=type(default.learner))

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[kind, tyro.conf.arg(name="")]  # type: ignore[valid-type]
        run: Path
        """Folder of the run; an existing one is never overwritten."""
        seeds: tuple[int, ...] = (0,)
        """Seeds of the episodes, the initial weights and dropout. A run for each; several are folders in that of --run."""

    words = f"Meta-train {learner} on {data}. {recipe_words(recipe, LEARNERS[learner].meta)}"
    arguments = Arguments(kind(**vars(default)), new_folder(data, learner))
    parsed = _parse(arguments, options, f"train.py {data} {learner}", words)
    check_seeds(parsed.seeds)
    config = _plain(TrainConfig, parsed.config)
    return [replace(config, seed=seed) for seed in parsed.seeds], parsed.run


def parse_resume(argv: list[str], script: str) -> tuple[Path, str | None]:
    """--resume FOLDER [--data.path DATA] -> the folder of the runs, and where their data are now."""
    words = list(argv)
    folder, data = (take(words, option) if len(argv) > 1 else None for option in ("--resume", "--data.path"))
    if words or not folder:
        raise UserError(
            f"--resume takes a run's folder, and where its data are now: python {script} --resume RUN [--data.path DATA]"
        )
    return Path(folder), data


def parse_evaluate(argv: list[str]) -> tuple[list[FollowConfig], Path, bool]:
    """RUN, RUN STREAM, DATA LEARNER ... or STREAM LEARNER ..., and options -> configurations, the folder of the results, and
    whether they take the place of earlier ones there: RUN/results, where no other folder is named."""
    names, options = split_words(argv)
    if not names:
        raise UserError("First RUN, DATA or STREAM, then options: python evaluate.py runs/demo --tasks 5 20. See --help.")
    if is_run(Path(names[0])):
        return _of_run(names, options)
    if len(names) < 2 and names[0] not in (*STREAMS, *BENCHMARKS) and "/" in names[0] and not Path(names[0]).is_dir():
        raise UserError(
            f"The folder {names[0]} does not exist, so it is no run. Check the path; it is taken from {Path.cwd()}."
        )
    if len(names) < 2 and (names[0] in STREAMS or not Path(names[0]).is_dir()):
        raise UserError(
            f"{names[0]} is no run folder of train.py; a data set or a stream is followed by the names of learners: "
            f"{', '.join(TRAINED)}."
        )
    if len(names) < 2:
        raise UserError(f"{names[0]} is no run: it has no config.json. Give the folder that train.py wrote, or DATA LEARNER.")
    return _from_nothing(names[0], names[1:], options)


def _of_run(names: list[str], options: list[str]) -> tuple[list[FollowConfig], Path, bool]:
    """A meta-trained learner, or one for each seed of its meta-training, with the options of one."""
    run, *rest = names
    runs = [Run.open(place) for place in members(Path(run))]
    if missing := [own.folder.name for own in runs if len(runs) > 1 and not own.steps()]:
        raise UserError(f"{', '.join(missing)} of {run} is not trained yet. Go on with: python train.py --resume {run}")
    if len(rest) > 1:
        raise UserError(f"RUN is followed by one stream, or by options, not by {' '.join(rest)}.")
    if rest and rest[0] in (*BENCHMARKS, *LEARNERS) and rest[0] not in STREAMS:
        what = "a learner, and a run has its own" if rest[0] in LEARNERS else "a data set, and a run has its own"
        raise UserError(f"{rest[0]} is {what}: python evaluate.py {run}")
    if rest and rest[0] not in STREAMS:
        raise unknown("stream", rest[0], STREAMS)
    place = os.path.abspath(run)
    about = {"learner_name": runs[0].config.learner_name, "learner": runs[0].config.learner, "rates": (), "run": place}
    source = _episodes_of(runs[0]) if not rest else _stream(rest[0])
    default = source(**about)
    out = Path(run) / "results" if not rest else new_folder(run, rest[0])
    words = f"Follow {rest[0] if rest else 'held-out episodes'} with the learner of {run}, and ask it questions in between."
    config, folder = _follow(default, out, options, f"evaluate.py {' '.join(names)}", words, "learner", "rates")
    configs = [replace(config, run=os.path.abspath(own.folder), learner=own.config.learner) for own in runs]
    return configs, folder, not rest and folder == out


def _from_nothing(source: str, learners: list[str], options: list[str]) -> tuple[list[FollowConfig], Path, bool]:
    """Learners without meta-training, with the same options; those of a learner itself only where there is one."""
    recipe = take(options, "--recipe")
    check_order(source, learners[0])
    if source not in (*STREAMS, *BENCHMARKS) and re.fullmatch(r"[\w-]+", source) and not Path(source).is_dir():
        raise unknown("data set or stream", source, {*BENCHMARKS, *STREAMS})
    for name in learners:
        _check_trained(source, name)
    if len(set(learners)) < len(learners):
        raise UserError(f"A learner is named twice: {' '.join(learners)}.")
    along = settings.along(STREAMS[source]) if source in STREAMS else settings.EPISODES
    known = {name: trained_for(name, recipe, along) for name in learners}
    first, alone = learners[0], len(learners) == 1
    rated = any(LEARNERS[name].rates for name in learners)
    make = _stream(source) if source in STREAMS else _episodes(source, recipe)
    rates = () if source in STREAMS else LEARNERS[first].rates if alone else ()
    default = make(learner_name=first, learner=known[first], rates=rates)
    words = f"Follow {source} with {', '.join(learners)}, and ask questions in between."
    if any(len(LEARNERS[name].trained) > 1 for name in learners):
        words += f" {recipe_words(recipe, LEARNERS[first].trained)}"
    prog = f"evaluate.py {source} {' '.join(learners)}"
    out = new_folder(source, *learners)
    hidden = ["checkpoint", *["learner"] * (not alone), *["rates"] * (not rated)]
    config, folder = _follow(default, out, options, prog, words, *hidden)
    if alone and _gives(options, "--learner.rate"):
        if _gives(options, "--rates"):
            raise UserError("Give --rates, of which the best is taken, or the one --learner.rate, not both.")
        config = replace(config, rates=(config.learner.rate,))
    own_rates = {name: config.rates or (() if source in STREAMS else LEARNERS[name].rates) for name in learners}
    configs = [
        replace(
            config,
            learner_name=name,
            learner=config.learner if alone else known[name],
            rates=own_rates[name] if LEARNERS[name].rates else (),
        )
        for name in learners
    ]
    return configs, folder, False


def check_order(source: str, learner: str) -> None:
    """Raises `UserError` where a learner stands in the place of the data, and the data in the place of a learner."""
    if source in LEARNERS and learner in (*BENCHMARKS, *STREAMS):
        raise UserError(f"First the data, then the learner: {learner} {source}, not {source} {learner}.")


def _gives(options: list[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in options)


def _check_trained(source: str, name: str) -> None:
    preset = LEARNERS.get(name)
    if preset is not None and not preset.trained:
        where = (
            f"along {source}: python evaluate.py RUN {source}" if source in STREAMS else "on episodes: python evaluate.py RUN"
        )
        raise UserError(f"{name} is meta-trained first: python train.py DATA {name}; then it is followed {where}.")


def _episodes(data: str, recipe: str | None) -> Any:
    """Short streams, few episodes; the published size has streams of 20 tasks."""
    tasks = (20,) if recipe == "paper" else (5,)
    return lambda **about: EpisodesConfig(NamedData(data), **about, tasks=tasks, episodes=128)


def _episodes_of(run: Run) -> Any:
    """As in meta-training."""
    shape, data = run.config.episodes, NamedData(**vars(run.config.data))
    own: dict[str, Any] = {
        "tasks": (shape.tasks,),
        "shots": shape.shots,
        "queries": shape.queries,
        "vocabulary": shape.vocabulary,
    }
    return lambda **about: EpisodesConfig(data, **about, **own)


def _stream(name: str) -> Any:
    named = STREAMS[name]
    asked = FAMILY_QUESTIONS.get(named.family, Questions())
    return lambda **about: StreamRunConfig(named.config, **about, questions=asked, schedule=named.schedule)


def _follow(default: FollowConfig, out: Path, options: list[str], prog: str, words: str, *hidden: str) -> tuple[Any, Path]:
    """The configuration after the options, and the folder. Fields that mean nothing here are hidden, not refused."""
    kinds: dict[str, Any] = {"learner": type(default.learner), "rates": tuple[float, ...]}
    kinds |= {"data": NamedData} if isinstance(default, EpisodesConfig) else {"stream": type(default.stream)}
    also = {"rates": ("rate_episodes", "sweep_tasks")}
    for name in [part for own in hidden for part in (own, *also.get(own, ()))]:
        if hasattr(default, name):
            kinds[name] = Annotated[kinds.get(name, Any), tyro.conf.Suppress]
    kind = _offered(type(default), **kinds)

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[kind, tyro.conf.arg(name="")]  # type: ignore[valid-type]
        out: Path
        """Folder of the results; an existing one is never overwritten, but for RUN/results where no other is named."""

    parsed = _parse(Arguments(kind(**vars(default)), out), options, prog, words)
    return _plain(type(default), parsed.config), parsed.out


def _offered(kind: type[Any], **kinds: Any) -> Any:
    """The same dataclass with other types of some fields: what its options are depends on what stands before them."""
    return make_dataclass(kind.__name__, list(kinds.items()), bases=(kind,), frozen=True)


def _plain(kind: type[T], offered: Any) -> T:
    """What was read as one that was offered, as itself. Folders are named from the root, so that a run can be gone on with
    from any folder.

    Raises:
        UserError: a number is not finite.
    """
    _check_finite(offered)
    values = {part.name: getattr(offered, part.name) for part in fields(offered)}
    if "data" in values:
        values["data"] = located(values["data"])
    stream: Any = values.get("stream")
    if hasattr(stream, "data"):
        values["stream"] = replace(stream, data=located(stream.data))
    return kind(**values)


def _check_finite(options: Any, prefix: str = "--") -> None:
    """Raises `UserError` where a number of a configuration, or of one within it, is not finite."""
    for part in fields(options):
        value = getattr(options, part.name)
        if is_dataclass(value):
            _check_finite(value, f"{prefix}{part.name.replace('_', '-')}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{prefix}{part.name.replace('_', '-')} must be a finite number, not {number}.")


def _parse(default: T, options: list[str], prog: str, words: str) -> T:
    return tyro.cli(type(default), default=default, args=options, prog=prog, description=words)
