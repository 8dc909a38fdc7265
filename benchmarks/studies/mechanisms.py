"""Each attention mechanism as a continual learner: the same episodes, budget and shell on Omniglot, three seeds."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metacl.attention import ATTENTION
from metacl.evaluation.metrics import deviation
from metacl.evaluation.result import as_defined
from metacl.recipes.files import to_json
from metacl.report.figures import figure
from metacl.report.plots import CHANCE
from metacl.runs.files import write_json
from metacl.runs.folder import Run
from studies.cells import Cell, Command, environment_of, parameters, results_of, training_seconds, validated
from studies.words import BENCHMARKS, kib, raw, spread, table

FOLDER = BENCHMARKS / "mechanisms"

MECHANISMS = list(ATTENTION)
BESIDE = "pn"
"""The learner beside them that is no sequence learner."""
SEEDS = (0, 1, 2)
TRAINED, LENGTHS = 20, (10, 20, 40, 100)
"""Tasks in the streams that a learner is meta-trained on, and in those that it is tested on."""
LONGER = LENGTHS[-1]
EPISODES = {10: 256, 20: 256, 40: 128, 100: 64}
OPTIONS = f"--episodes.tasks {TRAINED} --episodes.vocabulary {LONGER} --steps 600"
OPTIONS += " --validation.every 100 --validation.episodes 32 --precision fp32"
TICKS = (128, 256, 512, 1024)


def cells(data: Path) -> list[Cell]:
    """A cell for each mechanism and seed."""
    names = [BESIDE, *MECHANISMS]
    return [cell(mechanism, seed, ["--data.path", str(data / "omniglot")]) for seed in SEEDS for mechanism in names]


def cell(mechanism: str, seed: int, options: list[str], folder_of_raw: Path = FOLDER, data: str = "omniglot") -> Cell:
    file = folder_of_raw / f"{mechanism}-{seed}.json"
    learner = [mechanism] if mechanism == BESIDE else ["transformer", "--learner.attention", mechanism]

    def commands(folder: Path) -> list[Command]:
        words = [data, *learner, *OPTIONS.split(), "--seeds", str(seed)]
        tests = [
            Command("evaluate.py", [str(folder / "train"), *asked(tasks, episodes)], folder / f"{tasks}-tasks")
            for tasks, episodes in EPISODES.items()
        ]
        return [Command("train.py", [*words, *options], folder / "train"), *tests]

    def keep(folder: Path) -> None:
        write_json(file, {"mechanism": mechanism, "seed": seed} | figures(folder))

    return Cell(file.stem, commands, file.exists, keep)


def asked(tasks: int, episodes: int) -> list[str]:
    """At the trained length it is asked after every task, so that there is forgetting; at the others at the end alone."""
    return f"--tasks {tasks} --episodes {episodes}".split() + ["--at-end"] * (tasks != TRAINED)


def figures(folder: Path) -> dict[str, Any]:
    """What is kept of one meta-training and its two tests."""
    run = Run.open(folder / "train")
    config, accuracy = to_json(run.config), validated(run)
    config["data"]["path"] = None
    size, fingerprint = parameters(run.config.learner, run.config.data, run.config.episodes.symbols)
    return {
        "configuration": config,
        "environment": environment_of(run.folder),
        "data_fingerprint": fingerprint,
        "parameters": size,
        "seconds": training_seconds(run),
        "validation_accuracy": accuracy,
        "test": {str(tasks): results_of(folder / f"{tasks}-tasks")[0] for tasks in EPISODES},
    }


def runs(mechanism: str) -> list[dict[str, Any]]:
    return [raw(f"mechanisms/{mechanism}-{seed}.json") for seed in SEEDS]


def errors(mechanism: str, tasks: int) -> list[float]:
    """Per cent of wrong answers at the end of the stream, for each seed."""
    return [100 * (1 - run["test"][str(tasks)]["measures"]["final"]["mean"]) for run in runs(mechanism)]


def state_bytes(mechanism: str) -> float:
    return runs(mechanism)[0]["test"][str(LONGER)]["state_bytes"]


def forgotten(test: dict[str, Any]) -> float:
    mean = as_defined(test["measures"])["forgetting"]["mean"]
    return math.nan if mean is None else mean


def results() -> str:
    """Error and forgetting in %, mean ± standard deviation over seeds."""
    lines = []
    for mechanism in MECHANISMS:
        lost = [100 * forgotten(run["test"][str(LONGER)]) for run in runs(mechanism)]
        found = [errors(mechanism, TRAINED), errors(mechanism, LONGER), lost]
        lines.append([mechanism, *map(spread, found), kib(state_bytes(mechanism))])
    columns = [f"error, {TRAINED} tasks", f"error, {LONGER} tasks", f"forgetting, {LONGER} tasks", f"state at {LONGER} tasks"]
    return table(["mechanism", *columns], lines)


def training() -> str:
    """When each seed left the plateau, and what meta-training took."""
    lines = []
    for mechanism in MECHANISMS:
        left = [run["left_plateau_at"] for run in runs(mechanism)]
        steps = ", ".join("never" if step is None else str(step) for step in left)
        seconds = statistics.mean(run["seconds"] for run in runs(mechanism))
        lines.append([mechanism, steps, f"{seconds:.0f} s", f"{runs(mechanism)[0]['parameters']:,}"])
    return table(["mechanism", "off the plateau at step", "training", "parameters"], lines)


def draw(path: Path) -> None:
    """Error against the size of the state after 40 tasks, at both lengths of stream."""
    picture = figure(10, 4.6)
    for axes, tasks in zip(picture.subplots(1, 2), (TRAINED, LONGER), strict=True):
        for number, mechanism in enumerate(MECHANISMS):
            found, size = errors(mechanism, tasks), state_bytes(mechanism) / 1024
            axes.errorbar(size, statistics.mean(found), yerr=deviation(found), fmt="o", color=f"C{number % 10}")
        _label(axes, tasks)
        axes.axhline(100 * (1 - 1 / tasks), **CHANCE)
        axes.annotate("chance", (800, 100 * (1 - 1 / tasks)), fontsize="x-small", color="0.4", ha="right", va="bottom")
        axes.set_xscale("log")
        axes.set_xlim(25, 900)
        axes.set_xticks(TICKS, map(str, TICKS))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.set(title=f"streams of {tasks} tasks", xlabel=f"KiB of state after {LONGER} tasks", ylabel="error in %")
    picture.savefig(path, dpi=120)


def _label(axes: Any, tasks: int) -> None:
    """The names beside their dots; those of states of the same size are pushed apart."""
    least = (axes.get_ylim()[1] - axes.get_ylim()[0]) / 24
    sizes = {mechanism: state_bytes(mechanism) / 1024 for mechanism in MECHANISMS}
    for size in {round(size, -1) for size in sizes.values()}:
        places = sorted((statistics.mean(errors(m, tasks)), m) for m in MECHANISMS if round(sizes[m], -1) == size)
        heights: list[float] = []
        for place, _ in places:
            heights.append(max(place, heights[-1] + least) if heights else place)
        off = statistics.mean(heights) - statistics.mean(place for place, _ in places)
        for height, (_, mechanism) in zip(heights, places, strict=True):
            axes.annotate(mechanism, (sizes[mechanism] * 1.08, height - off), fontsize="small", va="center")


TABLES: dict[str, Callable[[], str]] = {"mechanisms": results, "mechanisms-training": training}
PICTURES: dict[str, Callable[[Path], None]] = {"mechanisms/errors.png": draw}
