"""Each attention mechanism as a continual learner: the same episodes, budget and shell on Omniglot, three seeds.

The study `length` has some of them again, meta-trained on streams five times as long.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.ticker import NullFormatter

from metacl.attention import ATTENTION
from metacl.evaluation.metrics import deviation
from metacl.recipes.files import to_json
from metacl.report.figures import figure
from metacl.runs.folder import Run
from studies import speed
from studies.cells import Cell, Command, brief, environment_of, parameters, results_of, training_seconds, validated, write_raw
from studies.words import BENCHMARKS, kib, raw, spread, table

FOLDER = BENCHMARKS / "mechanisms"

MECHANISMS = list(ATTENTION)
BESIDE = "pn"
"""The learner beside them that is no sequence learner."""
SEEDS = (0, 1, 2)
SHOWN = ("50", "100", "150")
"""Steps whose meta-validation the page shows."""
WIDE = 0.4
"""Room that a name takes in the picture, as a part of a factor e along x."""
TIMED = 4096
"""Tokens in the streams that a layer is timed on."""
TRAINED, OTHERS = 20, (10, 40, 100)
"""Tasks in the streams that a learner is meta-trained on, and in the others that it is tested on."""
LENGTHS = tuple(sorted((TRAINED, *OTHERS)))
LONGER = LENGTHS[-1]
BUDGET = "--steps 150 --validation.every 50 --validation.episodes 32 --precision fp32"
TESTS = {
    "trained": f"--tasks {TRAINED} --episodes 256",
    "others": f"--tasks {' '.join(map(str, OTHERS))} --episodes 128 --no-matrix --at-end",
}
"""At the trained length it is asked after every task, so that there is forgetting; at the others at the end alone."""
LENGTH_FOLDER = BENCHMARKS / "length"
LONG = ("softmax", "gla", "mesa")
"""Mechanisms that are meta-trained on the longest streams too."""


def cells(data: Path) -> list[Cell]:
    """A cell for each mechanism and seed."""
    names = [BESIDE, *MECHANISMS]
    return [cell(mechanism, seed, _of(data)) for seed in SEEDS for mechanism in names]


def long_cells(data: Path) -> list[Cell]:
    """The same for some, meta-trained on the longest streams; a step has a quarter of the episodes, and more images."""
    return [cell(mechanism, seed, _of(data), LENGTH_FOLDER, tasks=LONGER, batch=2) for seed in SEEDS for mechanism in LONG]


def _of(data: Path) -> list[str]:
    return ["--data.path", str(data / "omniglot")]


def cell(
    mechanism: str,
    seed: int,
    options: list[str],
    folder_of_raw: Path = FOLDER,
    data: str = "omniglot",
    tasks: int = TRAINED,
    batch: int = 8,
) -> Cell:
    file = folder_of_raw / f"{mechanism}-{seed}.json"
    learner = [mechanism] if mechanism == BESIDE else ["transformer", "--learner.attention", mechanism]
    shape = f"--episodes.tasks {tasks} --episodes.vocabulary {LONGER} --batch-size {batch}".split()

    def commands(folder: Path) -> list[Command]:
        words = [data, *learner, *shape, *BUDGET.split(), "--seeds", str(seed)]
        tests = [
            Command("evaluate.py", [str(folder / "train"), *asked.split()], folder / test) for test, asked in TESTS.items()
        ]
        return [Command("train.py", [*words, *options], folder / "train"), *tests]

    def keep(folder: Path) -> None:
        write_raw(file, {"mechanism": mechanism, "seed": seed} | figures(folder))

    return Cell(file.stem, commands, file.exists, keep)


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
        "test": {str(found["tasks"]): brief(found) for test in TESTS for found in results_of(folder / test)},
    }


def runs(mechanism: str, study: str = "mechanisms") -> list[dict[str, Any]]:
    """What is there of a mechanism, one entry for each seed."""
    names = [f"{study}/{mechanism}-{seed}.json" for seed in SEEDS]
    return [raw(name) for name in names if (BENCHMARKS / name).exists()]


def measured() -> list[str]:
    """The mechanisms of which something is there, and `pn`."""
    return [name for name in [BESIDE, *MECHANISMS] if runs(name)]


def errors(mechanism: str, tasks: int, study: str = "mechanisms") -> list[float]:
    """Per cent of wrong answers at the end of the stream, for each seed."""
    return [100 * (1 - run["test"][str(tasks)]["measures"]["final"]["mean"]) for run in runs(mechanism, study)]


def state_bytes(mechanism: str) -> float:
    """After 100 tasks."""
    return runs(mechanism)[0]["test"][str(LONGER)]["state_bytes"]


def results() -> str:
    """Error in % at each length, mean ± standard deviation over seeds; the best first."""
    lines = []
    for mechanism in sorted(measured(), key=lambda name: statistics.mean(errors(name, TRAINED))):
        found = [spread(errors(mechanism, tasks)) for tasks in LENGTHS]
        lines.append([mechanism, *found, kib(state_bytes(mechanism))])
    return table(["mechanism", *(f"{tasks} tasks" for tasks in LENGTHS), f"state at {LONGER}"], lines)


def lengths() -> str:
    """Error in % on the longest streams of those meta-trained on short ones and on long ones, and how many times as large."""
    lines = []
    for mechanism in (name for name in LONG if runs(name, "length")):
        short, long = errors(mechanism, LONGER), errors(mechanism, LONGER, "length")
        ratio = [of_short / of_long for of_short, of_long in zip(short, long, strict=True)]
        lines.append([mechanism, spread(short), spread(long), spread(ratio, 2)])
    return table(["mechanism", f"meta-trained on {TRAINED}", f"meta-trained on {LONGER}", "ratio"], lines)


def training() -> str:
    """Meta-validation errors as meta-training goes on, and the size of the learner."""
    lines = []
    for mechanism in measured():
        found = [spread([100 * (1 - run["validation_accuracy"][step]) for run in runs(mechanism)]) for step in SHOWN]
        lines.append([mechanism, *found, f"{runs(mechanism)[0]['parameters']:,}"])
    return table(["mechanism", *(f"step {step}" for step in SHOWN), "parameters"], lines)


def draw(path: Path) -> None:
    """Errors at both ends of the lengths, against the size of the state and against the time of a layer."""
    size = {name: state_bytes(name) / 1024 for name in measured()}
    time = {name: speed.layer_ms(name, TIMED) for name in measured() if name != BESIDE}
    lines = {f"KiB of state after {LONGER} tasks": size, f"ms forward and back of a layer 512 wide, {TIMED} tokens": time}
    picture = figure(12, 14)
    for row, (label, places) in zip(picture.subplots(2, 2), lines.items(), strict=True):
        for axes, tasks in zip(row, (TRAINED, LONGER), strict=True):
            _panel(axes, places, tasks, label)
    picture.savefig(path, dpi=110)


def _panel(axes: Any, places: dict[str, float], tasks: int, label: str) -> None:
    for number, mechanism in enumerate(places):
        found = errors(mechanism, tasks)
        axes.errorbar(places[mechanism], statistics.mean(found), yerr=deviation(found), fmt="o", color=f"C{number % 10}")
    axes.set(xscale="log", yscale="log", title=f"streams of {tasks} tasks", xlabel=label, ylabel="error in %")
    ends = min(places.values()), max(places.values())
    axes.set_ylim(top=axes.get_ylim()[1] * 1.8)
    axes.set_xlim(ends[0] / 1.2, ends[1] * 2.2)
    for axis, ticks in ((axes.xaxis, _ticks(*ends)), (axes.yaxis, _ticks(*axes.get_ylim()))):
        axis.set_ticks(ticks, map(str, ticks))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    _label(axes, places, tasks)


def _ticks(low: float, high: float) -> list[int]:
    """1, 2, 5, 10 ... between two ends."""
    return [n * 10**power for power in range(4) for n in (1, 2, 5) if low <= n * 10**power <= high]


def _label(axes: Any, places: dict[str, float], tasks: int) -> None:
    """The names beside their dots, with a line to each where they are pushed apart."""
    low, high = (math.log(end) for end in axes.get_ylim())
    least, taken = (high - low) / 45, list[tuple[float, float]]()
    for mechanism in sorted(places, key=lambda name: statistics.mean(errors(name, tasks))):
        x, error = math.log(places[mechanism]), statistics.mean(errors(mechanism, tasks))
        height = max([math.log(error), *(above + least for other, above in taken if abs(x - other) < WIDE)])
        taken.append((x, height))
        moved = {"arrowprops": {"arrowstyle": "-", "linewidth": 0.4, "color": "0.5"}} if height > math.log(error) else {}
        where = math.exp(x + WIDE / 5), math.exp(height)
        axes.annotate(mechanism, (places[mechanism], error), where, fontsize="x-small", va="center", **moved)


TABLES: dict[str, Callable[[], str]] = {"mechanisms": results, "mechanisms-training": training, "mechanisms-length": lengths}
PICTURES: dict[str, Callable[[Path], None]] = {"mechanisms/errors.png": draw}
