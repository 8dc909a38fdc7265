"""The command lines of `train.py` -> complete configurations, and the folder of what comes of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from episodes import BENCHMARKS, STREAMS, UserError
from metacl.commands.grid import grid_words, run_name, take_grid
from metacl.commands.options import NamedData, check_order, offered, parse, plain
from metacl.commands.words import new_folder, recipe_words, split_words, take
from metacl.recipes.config import TrainConfig, check_seeds
from metacl.recipes.presets import LEARNERS, TRAINED, recipe_for


@dataclass(frozen=True)
class Training:
    """What `train.py` is to do: runs by the names that their folders have where there are several."""

    configs: dict[str, TrainConfig]
    folder: Path
    launch: str | None


def parse_train(argv: list[str]) -> Training:
    """DATA LEARNER [--recipe NAME] [options]: a run for each seed, and for each combination of a grid."""
    names, options = split_words(argv)
    if any(word.split("=")[0] == "--out" for word in options):
        raise UserError("train.py has no --out: the folder of a run is what --run names.")
    if len(names) != 2:
        raise UserError("First DATA, then LEARNER, then options: python train.py glyphs transformer --steps 1000. See --help.")
    data, learner = names
    recipe, grid = take(options, "--recipe"), take_grid(options)
    check_order(data, learner)
    if data in STREAMS and data not in BENCHMARKS:
        raise UserError(
            f"{data} is a stream, which is followed: python evaluate.py RUN {data}. To meta-train takes a data set."
        )
    if learner in TRAINED and not LEARNERS[learner].meta:
        raise UserError(f"{learner} is not meta-trained. Evaluate it at once: python evaluate.py {data} {learner}")
    default = recipe_for(learner, recipe, NamedData(data, features=take(options, "--data.features")))

    kind = offered(TrainConfig, data=NamedData, learner=type(default.learner))

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[kind, tyro.conf.arg(name="")]  # type: ignore[valid-type]
        run: Path
        """Folder of the run; an existing one is never overwritten."""
        seeds: tuple[int, ...] = (0,)
        """Seeds of the episodes, the initial weights and dropout. A run for each; several are folders in that of --run. So are
        those of a grid: --grid.optimiser.rate 1e-3 3e-3 is a run for each value, of any option."""
        launch: str | None = None
        """Several runs as jobs: `local:2`, two at a time on this machine, or `slurm:slurm_partition=NAME,timeout_min=600`, with
        what submitit calls what a job is to have. None: one after the other."""

    words = f"Meta-train {learner} on {data}. {recipe_words(recipe, LEARNERS[learner].meta)}"
    arguments = Arguments(kind(**vars(default)), new_folder(data, learner))
    configs: dict[str, TrainConfig] = {}
    for chosen in grid:
        parsed = parse(arguments, [*options, *grid_words(chosen)], f"train.py {data} {learner}", words)
        check_seeds(parsed.seeds)
        config = plain(TrainConfig, parsed.config)
        configs |= {run_name(chosen, seed): replace(config, seed=seed) for seed in parsed.seeds}
    return Training(configs, parsed.run, parsed.launch)
