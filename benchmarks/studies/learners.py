"""All learners beside each other: the same episodes, encoder, number of steps and batch, three seeds."""

import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from metacl.evaluation.metrics import deviation
from metacl.report.figures import figure
from metacl.report.plots import CHANCE
from studies.words import BENCHMARKS, kib, spread, table

FILE = BENCHMARKS / "learners" / "learners.jsonl"
"""A line for each benchmark, number of tasks, learner and seed."""
DATA, TASKS = ("omniglot", "sine"), (20,)


def lines(path: Path = FILE) -> list[dict[str, Any]]:
    """The lines that are there; one that a killed process cut off is not."""
    text = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in text if line.endswith("}")]


def errors(data: str, tasks: int, path: Path = FILE) -> str:
    """Means over seeds ± standard deviation, the learner with the fewest errors first."""
    learners = ranked(data, tasks, path)
    measure = next(runs[0]["measure"] for runs in learners.values())
    columns = ["learner", f"meta-test, {measure}", "meta-train", "training", "state", "parameters"]
    return table(columns, [row(*item) for item in learners.items()])


def ranked(data: str, tasks: int, path: Path = FILE) -> dict[str, list[dict[str, Any]]]:
    """The runs of each learner, the learner with the fewest errors first; one that cannot be trained at the end."""
    learners: dict[str, list[dict[str, Any]]] = {}
    for line in lines(path):
        if (line["benchmark"], line["tasks"]) == (data, tasks):
            learners.setdefault(line["learner"], []).append(line)
    return dict(sorted(learners.items(), key=lambda item: _order(item[1])))


def row(learner: str, runs: list[dict[str, Any]]) -> list[str]:
    done = [run for run in runs if "error" not in run]
    if not done:
        return [learner, runs[0]["error"], "", "", "", ""]
    digits, scale = (1, 100) if done[0]["measure"].endswith("%") else (4, 1)
    each = [[run[f"meta_{part}_error"] for run in done if f"meta_{part}_error" in run] for part in ("test", "train")]
    found = [spread(own, digits, scale) if own else "-" for own in each]
    seconds = statistics.mean(run["training_seconds"] for run in done)
    return [learner, *found, f"{seconds:.0f} s", kib(done[0]["state_bytes"]), f"{done[0]['parameters']:,}"]


def draw(path: Path) -> None:
    """A dot for each learner: the mean error in the meta-test (full) and in meta-training's classes (empty)."""
    picture = figure(12, 4.5)
    for axes, (tasks, data) in zip(
        picture.subplots(len(TASKS), len(DATA), squeeze=False).flatten(), [(T, d) for T in TASKS for d in DATA], strict=True
    ):
        learners = ranked(data, tasks)
        scale = 100 if data != "sine" else 1
        for part, look in (("train", {"mfc": "white", "color": "C7"}), ("test", {"color": "C0"})):
            every = [
                [scale * run[f"meta_{part}_error"] for run in runs if f"meta_{part}_error" in run] for runs in learners.values()
            ]
            shown = {place: own for place, own in enumerate(every) if own}
            means, widths = [statistics.mean(v) for v in shown.values()], [deviation(v) for v in shown.values()]
            axes.errorbar(means, list(shown), xerr=widths, fmt="o", markersize=5, label=f"meta-{part}", **look)
        if data != "sine":
            axes.axvline(100 * (1 - 1 / tasks), label="chance", **CHANCE)
        axes.set_yticks(range(len(learners)), learners)
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        axes.set(title=f"{data}, {tasks} tasks", xlabel="error in %" if scale > 1 else "squared error")
        axes.set_xscale("linear" if scale > 1 else "log")
    for axes in picture.axes[:: len(DATA)]:
        axes.legend(fontsize="small", loc="upper right")
    picture.savefig(path, dpi=110)


def _order(runs: list[dict[str, Any]]) -> float:
    found = [run["meta_test_error"] for run in runs if "error" not in run]
    return statistics.mean(found) if found else float("inf")


TABLES: dict[str, Callable[[], str]] = {f"learners-{d}-{T}": partial(errors, d, T) for T in TASKS for d in DATA}
PICTURES: dict[str, Callable[[Path], None]] = {"learners/errors.png": draw}
