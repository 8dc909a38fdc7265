"""What stands on a command line -> a complete configuration, and the folder of what comes of it."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from episodes import STREAMS, DataConfig, UserError
from metacl.commands.scratch import SCRATCH_RECIPES, ScratchConfig, scratch_recipe_for
from metacl.learners import FROM_SCRATCH, LEARNERS, ONLINE
from metacl.recipes.config import TrainConfig
from metacl.recipes.online_recipes import FollowConfig, online_recipe_for
from metacl.recipes.recipes import RECIPES, recipe_for


def parse_train(argv: list[str]) -> tuple[TrainConfig, Path]:
    """DATA LEARNER [--recipe NAME] [options] -> the complete configuration, and the folder of the run."""
    data, learner, *rest = argv
    recipe = _take(rest, "--recipe")
    if learner in FROM_SCRATCH:
        raise UserError(f"{learner} is not meta-trained. Evaluate it at once: python evaluate.py {data} {learner}")
    default = recipe_for(learner, recipe, DataConfig(name=data))

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[TrainConfig[LEARNERS[learner]], tyro.conf.arg(name="")]  # type: ignore[valid-type]
        run: Path
        """Folder of the run; an existing one is never overwritten."""

    words = f"Meta-train {learner} on {data}. {_recipe_words(recipe, RECIPES[learner])}"
    parsed = tyro.cli(
        Arguments,
        default=Arguments(default, _folder(data, learner)),
        args=rest,
        prog=f"train.py {data} {learner}",
        description=words,
    )
    _check_name(data, parsed.config.data)
    return parsed.config, parsed.run


def parse_scratch(argv: list[str]) -> tuple[ScratchConfig, Path]:
    """DATA LEARNER [--recipe NAME] [options] -> the complete configuration, and the folder of the results."""
    data, learner, *rest = argv
    recipe = _take(rest, "--recipe")
    if learner in ONLINE:
        raise UserError(
            f"{data} is no stream ({', '.join(STREAMS)}). To meta-train {learner} on data: python train.py {data} {learner}"
        )
    if learner in LEARNERS:
        raise UserError(f"{learner} is meta-trained first: python train.py {data} {learner}; then python evaluate.py RUN")
    default = scratch_recipe_for(learner, recipe, DataConfig(name=data))

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[ScratchConfig[FROM_SCRATCH[learner]], tyro.conf.arg(name="")]  # type: ignore[valid-type]
        out: Path
        """Folder of the results."""

    words = f"Evaluate {learner} on {data}, without meta-training. {_recipe_words(recipe, SCRATCH_RECIPES[learner])}"
    prog = f"evaluate.py {data} {learner}"
    parsed = tyro.cli(Arguments, default=Arguments(default, _folder(data, learner)), args=rest, prog=prog, description=words)
    _check_name(data, parsed.config.data)
    return parsed.config, parsed.out


def parse_follow(argv: list[str]) -> tuple[FollowConfig, Path]:
    """STREAM LEARNER [options] -> the complete configuration, and the folder of the run."""
    if len(argv) < 2 or argv[1].startswith("-"):
        raise UserError(f"After {argv[0]} comes the name of a learner that trains online: {', '.join(ONLINE)}.")
    stream, learner, *rest = argv
    default = online_recipe_for(learner, stream)

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[FollowConfig[ONLINE[learner]], tyro.conf.arg(name="")]  # type: ignore[valid-type]
        out: Path
        """Folder of the run; an existing one is never overwritten."""

    words = f"Run {learner} along the stream {stream}, and measure it before, at and after each task."
    prog = f"evaluate.py {stream} {learner}"
    parsed = tyro.cli(Arguments, default=Arguments(default, _folder(stream, learner)), args=rest, prog=prog, description=words)
    if parsed.config.stream.name != stream:
        raise UserError(f"STREAM is {stream}, but --stream.name {parsed.config.stream.name}. Leave --stream.name out.")
    return parsed.config, parsed.out


def _folder(source: str, learner: str) -> Path:
    """Where a run goes that is given no folder."""
    return Path("runs") / f"{Path(source).name}-{learner}-{time.strftime('%Y%m%d-%H%M%S')}"


def _recipe_words(recipe: str | None, recipes: Iterable[str]) -> str:
    return f"Recipe: {recipe or next(iter(recipes))} of {', '.join(recipes)}."


def _check_name(data: str, config: DataConfig) -> None:
    if config.name != data:
        raise UserError(f"DATA is {data}, but --data.name {config.name}. Leave --data.name out.")


def _take(words: list[str], option: str) -> str | None:
    """Removes `option VALUE` (or option=VALUE) from `words`; returns the value."""
    for i, word in enumerate(words):
        if word.startswith(option + "="):
            return words.pop(i).split("=", 1)[1]
        if word == option:
            if i + 1 == len(words):
                raise UserError(f"{option} needs a value.")
            words.pop(i)
            return words.pop(i)
    return None
