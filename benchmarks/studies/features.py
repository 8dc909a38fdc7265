"""Learners on frozen features of natural images: the same vectors, episodes and steps, three seeds."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from metacl.runs.folder import Run
from metacl.runs.group import members
from studies.cells import Cell, Command, brief, environment_of, results_of, training_seconds, validated, write_raw
from studies.words import BENCHMARKS, kib, raw, spread, table

FOLDER = BENCHMARKS / "features"
DATA = ("cifar100", "tiny-imagenet")
UNTRAINED = "nearest class mean"
"""`pn` whose encoder turns the features and is never trained: distances are those of the features."""
LEARNERS = {
    UNTRAINED: "pn --learner.width 1280 --optimiser.rate 0 --steps 1 --validation.every 1 --seeds 0",
    "pn": "pn",
    "pn (128 wide)": "pn --learner.width 128",
    "gemcl": "gemcl",
    "transformer": "transformer",
    "transformer (attention mesa)": "transformer --learner.attention mesa",
}
FEATURES = "--recipe features --data.features efficientnet-lite0 --data.features-size 96"
TRAINED, LENGTHS = 10, (5, 20, 40)
"""Tasks of a stream in meta-training (CIFAR-100 has ten classes for meta-validation), and in the meta-test."""
BUDGET = "--steps 80 --validation.every 20 --seeds 0 1 2"
TEST = f"--tasks {' '.join(map(str, LENGTHS))} --episodes 256 --no-matrix --at-end"


def cells(data: Path) -> list[Cell]:
    """A cell for each data set and learner."""
    return [cell(name, learner, ["--data.path", str(data / name)]) for name in DATA for learner in LEARNERS]


def file_of(data: str, learner: str) -> str:
    short = {UNTRAINED: "mean", "pn (128 wide)": "narrow", "transformer (attention mesa)": "mesa"}.get(learner, learner)
    return f"{data}-{short}.json"


def cell(data: str, learner: str, options: list[str], folder_of_raw: Path = FOLDER, features: str = FEATURES) -> Cell:
    file = folder_of_raw / file_of(data, learner)

    def commands(folder: Path) -> list[Command]:
        own = LEARNERS[learner] if learner == UNTRAINED else f"{LEARNERS[learner]} {BUDGET}"
        train = [data, *own.split(), *features.split(), "--episodes.tasks", str(TRAINED), *options]
        test = Command("evaluate.py", [str(folder / "train"), *TEST.split()], folder / "test")
        return [Command("train.py", train, folder / "train"), test]

    def keep(folder: Path) -> None:
        runs = [Run.open(member) for member in members(folder / "train")]
        about: dict[str, Any] = {"data": data, "learner": learner, "environment": environment_of(runs[0].folder)}
        about |= {"seconds": [training_seconds(run) for run in runs], "best_step": [run.best() for run in runs]}
        found = [brief(result) for result in results_of(folder / "test")]
        write_raw(file, about | {"validation_accuracy": [validated(run) for run in runs], "tests": found})

    return Cell(file.stem, commands, file.exists, keep)


def errors(data: str, learner: str, tasks: int) -> list[float]:
    """Per cent of wrong answers at the end of the stream, for each seed."""
    found: list[dict[str, Any]] = raw(f"features/{file_of(data, learner)}")["tests"]
    return [100 * (1 - test["measures"]["final"]["mean"]) for test in found if test["tasks"] == tasks]


def state_bytes(data: str, learner: str) -> float:
    """After the longest stream."""
    return max(test["state_bytes"] for test in raw(f"features/{file_of(data, learner)}")["tests"])


def results(data: str) -> str:
    """Error in %, mean ± standard deviation over seeds."""
    lines = []
    for learner in LEARNERS:
        seconds = raw(f"features/{file_of(data, learner)}")["seconds"]
        time = "-" if learner == UNTRAINED else f"{sum(seconds) / len(seconds):.0f} s"
        found = [spread(errors(data, learner, tasks)) for tasks in LENGTHS]
        lines.append([learner, *found, kib(state_bytes(data, learner)), time])
    columns = ["learner", *(f"{tasks} tasks" for tasks in LENGTHS), f"state at {LENGTHS[-1]}", "meta-training"]
    return table(columns, lines)


TABLES: dict[str, Callable[[], str]] = {f"features-{data}": partial(results, data) for data in DATA}
