"""Sequence learners and a mean per class on Omniglot: the same encoder, augmentation, episodes and steps, three seeds."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metacl.runs.folder import Run
from metacl.runs.group import members
from studies.cells import Cell, Command, brief, environment_of, results_of, training_seconds, validated, write_raw
from studies.words import BENCHMARKS, kib, raw, spread, table

FOLDER = BENCHMARKS / "omniglot"
LEARNERS = {
    "transformer": ["transformer"],
    "transformer (attention gla)": ["transformer", "--learner.attention", "gla"],
    "transformer (256 wide)": ["transformer", "--learner.width", "256"],
    "pn": ["pn"],
}
SEEDS = ("0", "1", "2")
TRAINED, OTHERS = 20, (5, 40)
OPTIONS = f"--episodes.tasks {TRAINED} --steps 600 --validation.every 100"
TESTS = {"trained": f"--tasks {TRAINED} --episodes 1024", "others": f"--tasks {OTHERS[0]} {OTHERS[1]} --episodes 256"}
"""The meta-tests. At every length all tasks so far are asked after each task; the tables show the end."""


def cells(data: Path) -> list[Cell]:
    """A cell for each learner."""
    return [cell(name, ["--data.path", str(data / "omniglot")]) for name in LEARNERS]


def file_of(name: str) -> str:
    return {"transformer (attention gla)": "gla", "transformer (256 wide)": "wide"}.get(name, name) + ".json"


def cell(
    name: str, options: list[str], folder_of_raw: Path = FOLDER, data: str = "omniglot", tests: dict[str, str] = TESTS
) -> Cell:
    file = folder_of_raw / file_of(name)

    def commands(folder: Path) -> list[Command]:
        train = [data, *LEARNERS[name], *OPTIONS.split(), *options, "--seeds", *SEEDS]
        asked = [
            Command("evaluate.py", [str(folder / "train"), *words.split()], folder / test) for test, words in tests.items()
        ]
        return [Command("train.py", train, folder / "train"), *asked]

    def keep(folder: Path) -> None:
        runs = [Run.open(member) for member in members(folder / "train")]
        about = {"learner": name, "environment": environment_of(runs[0].folder), "seconds": [training_seconds(r) for r in runs]}
        found = [brief(result) for test in tests for result in results_of(folder / test)]
        write_raw(file, about | {"validation_accuracy": [validated(run) for run in runs], "tests": found})

    return Cell(Path(file.name).stem, commands, file.exists, keep)


def tested(name: str, tasks: int) -> list[dict[str, Any]]:
    """The results at one length, one for each seed of the run."""
    found = raw(f"omniglot/{file_of(name)}")["tests"]
    return sorted((test for test in found if test["tasks"] == tasks), key=lambda test: int(test["run_seed"]))


def errors(name: str, tasks: int) -> list[float]:
    return [100 * (1 - test["measures"]["final"]["mean"]) for test in tested(name, tasks)]


def results() -> str:
    """Error in %, mean ± standard deviation over seeds."""
    lines = []
    for name in LEARNERS:
        first = tested(name, TRAINED)[0]
        minutes = statistics.mean(raw(f"omniglot/{file_of(name)}")["seconds"]) / 60
        found = [spread(errors(name, tasks), 2) for tasks in (OTHERS[0], TRAINED, OTHERS[1])]
        lines.append([name, *found, kib(first["state_bytes"]), f"{minutes:.0f} min"])
    lengths = [f"{tasks} tasks" for tasks in (OTHERS[0], TRAINED, OTHERS[1])]
    return table(["learner", *lengths, f"state at {TRAINED}", "meta-training of a seed"], lines)


def paired() -> str:
    """What each errs more than pn on the same episodes, in points, for each seed and their mean ± standard deviation."""
    lines = []
    for name in LEARNERS:
        more = [own - pn for own, pn in zip(errors(name, TRAINED), errors("pn", TRAINED), strict=True)]
        if name != "pn":
            lines.append([name, *(f"{points:+.2f}" for points in more), spread(more, 2)])
    return table(["learner", *(f"seed {seed}" for seed in SEEDS), "mean"], lines)


TABLES: dict[str, Callable[[], str]] = {"omniglot-learners": results, "omniglot-paired": paired}
