"""The command lines of `evaluate.py` -> complete configurations, and the folder of what comes of them."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from episodes import BENCHMARKS, STREAMS, DataConfig, EpisodeShape, UserError, usual_shape
from episodes.data.places import user_path
from episodes.errors import unknown
from episodes.frozen import read_frozen
from metacl.commands.options import NamedData, check_order, offered, parse, plain
from metacl.commands.words import new_folder, recipe_words, split_words, take
from metacl.evaluation.questions import CLASS_INCREMENTAL, Questions
from metacl.recipes import settings
from metacl.recipes.config import EpisodesConfig, FollowConfig, StreamRunConfig
from metacl.recipes.presets import LEARNERS, TRAINED, trained_for
from metacl.runs.files import is_run
from metacl.runs.folder import Run
from metacl.runs.group import members

FAMILY_QUESTIONS = {"mnist": Questions(asked=1, most_held_out=500), "class-incremental": CLASS_INCREMENTAL}
"""What is asked along the streams of a family, as published; of others everything but the matrix."""


@dataclass(frozen=True)
class Followed:
    """What `evaluate.py` is to do."""

    configs: list[FollowConfig]
    folder: Path
    """Of the results."""
    replaced: bool
    """They take the place of earlier ones there: in RUN/results, where no other folder is named."""
    launch: str | None
    tasks: bool
    """The options, or a file of held-out episodes, say how many tasks there are."""


def parse_evaluate(argv: list[str]) -> Followed:
    """RUN, RUN STREAM, DATA LEARNER ... or STREAM LEARNER ..., and options."""
    names, options = split_words(argv)
    if _gives(options, "--run"):
        raise UserError("evaluate.py has no --run: its results go to the folder that --out names.")
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


def _of_run(names: list[str], options: list[str]) -> Followed:
    """A meta-trained learner, or one for each seed of its meta-training, with the options of one."""
    run, *rest = names
    runs = [Run.open(place) for place in members(Path(run))]
    if missing := [own.folder.name for own in runs if len(runs) > 1 and not own.steps()]:
        raise UserError(f"{', '.join(missing)} of {run} is not trained yet. Go on with: python train.py --resume {run}")
    if len(rest) > 1:
        raise UserError(f"RUN is followed by one stream or data set, or by options, not by {' '.join(rest)}.")
    if rest and rest[0] in LEARNERS:
        raise UserError(f"{rest[0]} is a learner, and a run has its own: python evaluate.py {run}")
    if rest and re.fullmatch(r"[\w-]+", rest[0]) and rest[0] not in (*STREAMS, *BENCHMARKS) and not Path(rest[0]).exists():
        raise unknown("data set or stream", rest[0], {*BENCHMARKS, *STREAMS})
    place = os.path.abspath(run)
    about = {"learner_name": runs[0].config.learner_name, "learner": runs[0].config.learner, "rates": (), "run": place}
    source = _stream(rest[0]) if rest and rest[0] in STREAMS else _episodes_of(runs[0], *rest)
    default = source(**about)
    out = Path(run) / "results" if not rest else new_folder(run, rest[0])
    words = f"Follow {rest[0] if rest else 'held-out episodes'} with the learner of {run}, and ask it questions in between."
    config, folder, launch = _follow(default, out, options, f"evaluate.py {' '.join(names)}", words, "learner", "rates")
    configs = [replace(config, run=os.path.abspath(own.folder), learner=own.config.learner) for own in runs]
    return Followed(configs, folder, not rest and folder == out, launch, _gives(options, "--tasks") or _held_out(config))


def _from_nothing(source: str, learners: list[str], options: list[str]) -> Followed:
    """Learners without meta-training, with the same options; those of a learner itself only where there is one."""
    recipe = take(options, "--recipe")
    check_order(source, learners[0])
    if source not in (*STREAMS, *BENCHMARKS) and re.fullmatch(r"[\w-]+", source) and not Path(source).is_dir():
        raise unknown("data set or stream", source, {*BENCHMARKS, *STREAMS})
    for name in learners:
        _check_trained(source, name)
    if len(set(learners)) < len(learners):
        raise UserError(f"A learner is named twice: {' '.join(learners)}.")
    if len(learners) > 1 and (own := [word for word in options if word.startswith("--learner.")]):
        raise UserError(
            f"{own[0]} is an option of one learner, and {len(learners)} are named: leave it out, or name one alone."
        )
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
    config, folder, launch = _follow(default, out, options, prog, words, *hidden)
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
    return Followed(configs, folder, False, launch, _gives(options, "--tasks") or _held_out(config))


def _gives(options: list[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in options)


def _held_out(config: FollowConfig) -> bool:
    return isinstance(config, EpisodesConfig) and config.held_out is not None


def _check_trained(source: str, name: str) -> None:
    preset = LEARNERS.get(name)
    if preset is not None and not preset.trained:
        where = (
            f"along {source}: python evaluate.py RUN {source}" if source in STREAMS else "on episodes: python evaluate.py RUN"
        )
        raise UserError(f"{name} is meta-trained first: python train.py DATA {name}; then it is followed {where}.")


def _episodes(data: str, recipe: str | None) -> Any:
    """Short streams, few episodes; the published size has streams of 20 tasks."""
    own = _shaped(usual_shape(data)) | ({"tasks": (20,)} if recipe == "paper" else {})
    return lambda **about: EpisodesConfig(NamedData(data), **about, **own, episodes=128)


def _episodes_of(run: Run, other: str | None = None) -> Any:
    """As in meta-training; of another data set images of the size and channels that the learner knows."""
    own, data = _shaped(run.config.episodes), run.config.data
    if other is not None and other != data.name:
        data = DataConfig(other, size=data.size, channels=None if other == "glyphs" else data.channels)
    return lambda **about: EpisodesConfig(NamedData(**vars(data)), **about, **own)


def _shaped(shape: EpisodeShape) -> dict[str, Any]:
    """The fields of an evaluation that say how large its episodes are."""
    own = {name: value for name, value in vars(shape).items() if name != "tasks_least"}
    return own | {"tasks": (shape.tasks,)}


def _stream(name: str) -> Any:
    named = STREAMS[name]
    asked = FAMILY_QUESTIONS.get(named.family, Questions())
    return lambda **about: StreamRunConfig(named.config, **about, questions=asked, arrival=named.schedule)


def _follow(default: FollowConfig, out: Path, options: list[str], prog: str, words: str, *hidden: str) -> tuple[Any, ...]:
    """The configuration after the options, the folder, and how to launch. Fields that mean nothing here are hidden, not
    refused."""
    kinds: dict[str, Any] = {"learner": type(default.learner), "rates": tuple[float, ...]}
    kinds |= {"data": NamedData} if isinstance(default, EpisodesConfig) else {"stream": type(default.stream)}
    also = {"rates": ("rate_episodes", "sweep_tasks")}
    for name in [part for own in hidden for part in (own, *also.get(own, ()))]:
        if hasattr(default, name):
            kinds[name] = Annotated[kinds.get(name, Any), tyro.conf.Suppress]
    kind = offered(type(default), **kinds)

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[kind, tyro.conf.arg(name="")]  # type: ignore[valid-type]
        out: Path
        """Folder of the results; an existing one is never overwritten, but for RUN/results where no other is named."""
        launch: str | None = None
        """Several learners or runs as jobs: `local:2`, two at a time on this machine, or `slurm:slurm_partition=NAME,...`, as
        of train.py. None: one after the other."""

    parsed = parse(Arguments(kind(**vars(default)), out), options, prog, words)
    config = plain(type(default), parsed.config)
    if isinstance(config, EpisodesConfig) and config.held_out is not None:
        config = _on_held_out(config, options)
    return config, parsed.out, parsed.launch


def _on_held_out(config: EpisodesConfig, options: list[str]) -> EpisodesConfig:
    """The configuration of an evaluation on the episodes of a file.

    Raises:
        UserError: the file is none, says what an option says too, or is of other data or of another vocabulary.
    """
    file = read_frozen(str(config.held_out))
    for name in ("tasks", "shots", "queries", "episodes", "seeds", "split", "schedule"):
        if any(word.startswith(f"--{name}") for word in options):
            raise UserError(f"--held-out {config.held_out} says what --{name} says: leave one of them out.")
    if config.data.name != file.data.name and user_path(config.data.name).name != user_path(file.data.name).name:
        raise UserError(f"{config.held_out} has episodes of {file.data.name}, not of {config.data.name}.")
    if config.run is not None and config.vocabulary != file.shape.vocabulary:
        raise UserError(
            f"{config.held_out} has labels from {file.shape.vocabulary} symbols, and the learner was meta-trained with "
            f"{config.vocabulary}. Meta-train one with --episodes.vocabulary {file.shape.vocabulary}."
        )
    shape = file.shape
    return replace(
        config,
        data=replace(file.data, name=config.data.name, path=config.data.path, also=config.data.also or file.data.also),
        tasks=(shape.tasks,),
        shots=shape.shots,
        queries=shape.queries,
        vocabulary=shape.vocabulary,
        schedule=shape.schedule,
        episodes=file.episodes,
        seeds=(file.seed,),
        split="test",
    )
