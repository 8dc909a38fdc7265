"""Learners meta-trained on Omniglot, tested on characters of other data sets: Chinese handwriting, and letters of print."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metacl.runs.folder import Run
from metacl.runs.group import members
from studies.cells import Cell, Command, brief, environment_of, results_of, training_seconds, validated, write_raw
from studies.words import BENCHMARKS, raw, spread, table

FOLDER = BENCHMARKS / "transfer"
LEARNERS = ("transformer", "pn")
CONTROL = "knn"
"""The nearest five examples by what random convolutions make of them: nothing of it is learnt."""
SOURCE = "omniglot"
TARGETS = (SOURCE, "casia-hwdb-95", "glyphs")
LENGTHS = (5, 15)
"""Tasks in the meta-test; casia-hwdb-95 has nineteen classes for it."""
TRAINING = "--episodes.tasks 20 --steps 300 --batch-size 8 --validation.every 100 --validation.episodes 64 --seeds 0 1"
TEST = f"--tasks {' '.join(map(str, LENGTHS))} --episodes 256 --no-matrix --at-end"


def cells(data: Path) -> list[Cell]:
    """A cell for each learner, and one for the control."""
    places = {name: ["--data.path", str(data / name)] for name in TARGETS if name != "glyphs"}
    return [cell(learner, places) for learner in (*LEARNERS, CONTROL)]


def cell(
    learner: str, places: dict[str, list[str]], training: str = TRAINING, folder_of_raw: Path = FOLDER, source: str = SOURCE
) -> Cell:
    """A learner that is meta-trained on `source`, or the control, and its tests; `places` are the options of the data sets."""
    file = folder_of_raw / f"{learner}.json"
    trained, targets = learner != CONTROL, dict.fromkeys((source, *TARGETS[1:]))

    def commands(folder: Path) -> list[Command]:
        train = Command("train.py", [source, learner, *training.split(), *places.get(source, [])], folder / "train")
        lines = []
        for target in targets:
            own = places.get(target, [])
            words = [str(folder / "train"), target, *own] if trained else [target, learner, "--data.size", "28", *own]
            lines.append(Command("evaluate.py", [*words, *TEST.split()], folder / target))
        return [train, *lines] if trained else lines

    def keep(folder: Path) -> None:
        found = {target: [brief(result) for result in results_of(folder / target)] for target in targets}
        runs = [Run.open(member) for member in members(folder / "train")] if trained else []
        about: dict[str, Any] = {"learner": learner, "environment": environment_of(runs[0].folder if runs else folder / source)}
        about |= {"seconds": [training_seconds(run) for run in runs], "validation_accuracy": [validated(run) for run in runs]}
        about["tests"] = found
        write_raw(file, about)

    return Cell(file.stem, commands, file.exists, keep)


def errors(learner: str, target: str, tasks: int) -> list[float]:
    """Per cent of wrong answers at the end of the stream, for each seed."""
    found = raw(f"transfer/{learner}.json")["tests"][target]
    return [100 * (1 - test["measures"]["final"]["mean"]) for test in found if test["tasks"] == tasks]


def results() -> str:
    """Error in %, mean ± standard deviation over seeds; a line for each data set and length of stream."""
    lines = []
    for target in TARGETS:
        for tasks in LENGTHS:
            found = [spread(errors(learner, target, tasks)) for learner in (*LEARNERS, CONTROL)]
            lines.append([target, str(tasks), *found, f"{100 * (1 - 1 / tasks):.1f}"])
    return table(["meta-tested on", "tasks", *LEARNERS, CONTROL, "chance"], lines, words=2)


TABLES: dict[str, Callable[[], str]] = {"transfer": results}
