"""The runs behind the comparison of all learners: each on its data, at its length of stream, with three seeds."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metacl.recipes.config import EpisodesConfig
from metacl.runs.folder import Run
from metacl.runs.following import Following
from studies.cells import Cell, Command, environment_of, parameters, results_of, training_seconds
from studies.learners import DATA, FILE, TASKS, lines

SEEDS = (0, 1, 2)
ANYWHERE = [
    "transformer",
    "linear-transformer",
    "query-only",
    "sb-mcl",
    "sb-mcl-map",
    "oml",
    "anml",
    "maml",
    "meta-sgd",
    "anil",
]
ANYWHERE += ["reptile", "online", "replay", "offline"]
LEARNERS = {"omniglot": (*ANYWHERE, "pn", "gemcl", "gemcl-map"), "sine": (*ANYWHERE, "alpaca")}
"""The learners that are made for the targets of each data set."""
FROM_NOTHING = ("online", "replay", "offline")
"""Those that are not meta-trained: no classes are theirs, and only those of the meta-test are asked."""
ENCODER = "--learner.encoder.channels 16 32 64 64 --learner.encoder.strides 2 2 2 2"
"""The encoder of all learners: half as wide as that of the small recipes."""


@dataclass(frozen=True)
class Budget:
    """What each learner gets."""

    steps: int = 150
    """Steps of meta-training; streams grow from two tasks over the first third of them."""
    batch_size: int = 8
    episodes: int = 96
    """Held-out episodes behind each error; `offline`, which is trained anew after each task of each, has a third of them."""
    validation: int = 24
    """Episodes of a meta-validation, and of the choice of a learning rate."""


def cells(data: Path) -> list[Cell]:
    """A cell for each seed, number of tasks, data set and learner."""
    return list(every(Budget(), {"omniglot": ["--data.path", str(data / "omniglot")]}))


def every(budget: Budget, options: dict[str, list[str]], file: Path = FILE) -> Iterator[Cell]:
    for seed, tasks, data in itertools.product(SEEDS, TASKS, DATA):
        for learner in LEARNERS[data]:
            yield cell(data, tasks, learner, seed, budget, options.get(data, []), file)


def cell(data: str, tasks: int, learner: str, seed: int, budget: Budget, options: list[str], file: Path = FILE) -> Cell:
    case = {"benchmark": data, "tasks": tasks, "learner": learner, "seed": seed}
    case |= {"steps": budget.steps, "batch_size": budget.batch_size}

    def commands(folder: Path) -> list[Command]:
        own = [learner, *ENCODER.split(), *options]
        meta = learner not in FROM_NOTHING
        train = [Command("train.py", [data, *own, *training(tasks, seed, budget)], folder / "train")] if meta else []
        source = [str(folder / "train")] if meta else [data, *own, *choosing(seed, budget)]
        number = max(1, budget.episodes // 3) if learner == "offline" else budget.episodes
        size = f"--tasks {tasks} --queries 5 --episodes {number} --batch-size {budget.batch_size} --no-matrix --at-end".split()
        splits = ("train", "test") if meta else ("test",)
        tests = [Command("evaluate.py", [*source, *size, "--split", split], folder / f"meta-{split}") for split in splits]
        return train + tests

    def kept() -> bool:
        return any(case.items() <= line.items() for line in lines(file))

    def keep(folder: Path) -> None:
        add_line(file, case | figures(folder))

    return Cell(f"{data}-{tasks}/{learner}/{seed}", commands, kept, keep)


def training(tasks: int, seed: int, budget: Budget) -> list[str]:
    """Options of meta-training: two queries a task, four meta-validations."""
    words = f"--episodes.tasks {tasks} --episodes.queries 2 --curriculum {budget.steps // 3} --steps {budget.steps}"
    words += f" --validation.every {max(1, budget.steps // 4)} --validation.episodes {budget.validation}"
    return f"{words} --batch-size {budget.batch_size} --seeds {seed}".split()


def choosing(seed: int, budget: Budget) -> list[str]:
    """Options of a learner that is not meta-trained, and takes the best of its learning rates."""
    return f"--rate-episodes {budget.validation} --seeds {seed}".split()


def figures(folder: Path) -> dict[str, Any]:
    """What is kept of a meta-training and of an evaluation on new episodes of its classes, where there was one, and of an
    evaluation on other classes."""
    splits = [split for split in ("train", "test") if (folder / f"meta-{split}").exists()]
    tests = {split: results_of(folder / f"meta-{split}")[0] for split in splits}
    final = {split: found["measures"]["final"]["mean"] for split, found in tests.items()}
    right = tests["test"]["score"] == "accuracy"
    about: dict[str, Any] = {f"meta_{split}_error": 1 - value if right else value for split, value in final.items()}
    about["measure"] = "error in %" if right else "squared error"
    following = Following.open(folder / "meta-test")
    config = following.config
    assert isinstance(config, EpisodesConfig)
    if (folder / "train").exists():
        run = Run.open(folder / "train")
        about |= {"training_seconds": round(training_seconds(run), 1), "best_step": run.best()}
    else:
        about |= {"training_seconds": 0.0, "rate": tests["test"]["rates"]["rate"]}
    size, _ = parameters(config.learner, config.data, config.shape(config.tasks[0]).symbols)
    return about | {
        "state_bytes": tests["test"]["state_bytes"],
        "parameters": size,
        "environment": environment_of(following.folder),
    }


def add_line(path: Path, values: dict[str, Any]) -> None:
    """In one write, on a line of its own: several processes may do so."""
    cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut_off + json.dumps(values) + "\n")
