"""Query-only attention beside full attention, BP and its remedies, along the three streams of its paper."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metacl.evaluation.curves import Curve, curves, in_block, smoothed
from metacl.recipes.files import to_json
from metacl.report.plots import plot_curves
from metacl.runs.following import Following
from studies.cells import Cell, Command, environment_of, results_of
from studies.stream_groups import GROUPS, PUBLISHED
from studies.words import BENCHMARKS, raw, spread, table

FOLDER = BENCHMARKS / "streams"
DIGITS = 5
"""Significant ones that are kept of each measurement."""
LAG = 5
"""Tasks that lie between a task and the look back at it."""
CHANCE = {"permuted-mnist": 1 / 10, "split-tiny-imagenet": 1 / 2}
"""What guessing among the classes of a task gets right, by stream."""
PANELS = {
    "forward {}": "forward {}",
    "backward (5) {}": "backward 5 {}",
    "with its support, {}": "backward 5 with support {}",
    "last layer: Hessian's rank": "diagnostics last_layer_rank",
    "features: rank": "diagnostics feature_rank",
    "dormant units": "diagnostics dormant",
}
"""Curves by the words at their panel; {} is the measure."""


def cells(data: Path) -> list[Cell]:
    """A cell for each run of each group."""
    return [cell(group, run, data) for group in GROUPS for run in GROUPS[group].runs]


def cell(group: str, run: str, data: Path) -> Cell:
    file, images = made(group, run), GROUPS[group].images
    path = [] if images is None else ["--stream.data.path", str(data / images)]

    def commands(folder: Path) -> list[Command]:
        return [Command("evaluate.py", [*words(group, run), *path], folder / "run")]

    def keep(folder: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures(folder / "run")) + "\n")  # in one line, less than half as long

    return Cell(f"{group}/{file.stem}", commands, file.exists, keep)


def words(group: str, run: str) -> list[str]:
    """Stream, learner and options, those of the run after those of all."""
    about = GROUPS[group]
    learner, *own = about.runs[run].split()
    return [about.stream, learner, *about.options.split(), *own]


def figures(folder: Path) -> dict[str, Any]:
    """What is kept of a run: its configuration, costs, and curves with the values of each seed."""
    following, result = Following.open(folder), results_of(folder)[0]
    config = to_json(following.config)
    if "data" in config["stream"]:
        config["stream"]["data"]["path"] = None
    found = {"config": config, "environment": environment_of(folder), "compute": result["compute"]}
    found |= {"seconds_a_task": result["seconds_a_task"], "tasks_in_a_block": result["block"]}
    found["curves"] = {name: packed(curve) for name, curve in curves(following.records()).items()}
    if result["rates"]:
        found["rates"] = result["rates"]["scores"]
        config["learner"]["rate"] = result["rates"]["rate"]
    return found


def packed(curve: Curve) -> dict[str, list[Any]]:
    task_T, values_TB = curve
    return {"tasks": task_T.tolist(), "seeds": [[float(f"{v:.{DIGITS}g}") for v in row] for row in values_TB.T]}


def made(group: str, run: str) -> Path:
    """Where the raw figures of a run are."""
    return FOLDER / group / f"{run.replace(' ', '-')}.json"


def finished(group: str) -> dict[str, dict[str, Any]]:
    """The runs that are there, with `curves` as arrays."""
    found = {run: raw(str(made(group, run))) for run in GROUPS[group].runs if made(group, run).exists()}
    for run in found.values():
        run["curves"] = {name: (np.array(c["tasks"]), np.array(c["seeds"]).T) for name, c in run["curves"].items()}
    return found


def forward(group: str) -> str:
    """Held-out examples of a task at its end: first and last block of tasks, mean ± standard deviation over seeds."""
    measure, published = _measure(group), PUBLISHED.get(group, {})
    lines = [
        [name, *(_block(run, f"forward {measure}", part, group) for part in ("first", "last")), published.get(key, ("",))[0]]
        for key, name, run in _named(group)
    ]
    return _table(group, ["forward", "first", "last", "published"], lines)


def backward(group: str) -> str:
    """The same of the task five before: by the learner as it is, and given labelled examples of that task."""
    measure, published = _measure(group), PUBLISHED.get(group, {})
    lines = []
    for key, name, run in _named(group):
        cells = [
            _block(run, f"backward {LAG}{support} {measure}", part, group)
            for support in ("", " with support")
            for part in ("first", "last")
        ]
        lines.append([name, *cells, published.get(key, ("", ""))[1]])
    columns = ["5 tasks ago", "as it is: first", "last", "with its support: first", "last", "published"]
    return _table(group, columns, lines)


def ranks(group: str) -> str:
    """First and last measurement of what shows plasticity, means over seeds; for networks."""
    names = ("last_layer_rank", "feature_rank", "hessian_rank")
    lines = []
    for _, name, run in _named(group):
        cells = [_course(run, f"diagnostics {rank}") for rank in names] + [_course(run, "diagnostics dormant", 100)]
        if between := _course(run, "diagnostics hessian_rank_between_probes"):
            cells[2] += f" (± {between} between probes)"
        if any(cells):
            lines.append([name, *cells])
    return table(["", "last layer's rank", "features' rank", "Hessian's rank", "dormant units, %"], lines)


def cost(group: str) -> str:
    """Time for all seeds side by side, multiply-adds for an example, and gradients of examples for each one learnt."""
    lines = []
    for _, name, run in _named(group):
        adds = [f"{run['compute'][f'multiply_adds_to_{part}']:.2g}" for part in ("learn", "predict")]
        lines.append([name, f"{run['seconds_a_task']:.2f}", *adds, f"{run['compute']['gradient_examples']:.3g}"])
    return table(["", "s a task", "multiply-adds to learn", "to predict", "gradients"], lines)


def draw(group: str, path: Path) -> None:
    """Forward, backward without and with the old task's support, ranks and dormant units."""
    runs, measure = finished(group), _measure(group)
    block = max(run["tasks_in_a_block"] for run in runs.values())
    panels: dict[str, dict[str, Any]] = {}
    for title, name in PANELS.items():
        found = {run: own["curves"].get(name.format(measure)) for run, own in runs.items()}
        if shown := {run: smoothed(curve, block) for run, curve in found.items() if curve is not None}:
            panels[title.format(measure)] = shown
    seeds = {len(run["config"]["seeds"]) for run in runs.values()}
    note = "means over seeds; band: ± one standard deviation between them" if max(seeds) > 1 else "one seed"
    longest = max(int(curve["tasks"][-1]) for own in panels.values() for curve in own.values()) + 1
    chance = [CHANCE[GROUPS[group].stream]] * longest if measure == "accuracy" else None
    plot_curves(panels, block, path, GROUPS[group].title, note, chance)


def printed() -> str:
    """What `query_only.py` printed."""
    return "\n".join(f"    {line}" for line in (FOLDER / "cost.txt").read_text(encoding="utf-8").splitlines()) + "\n"


def _named(group: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Runs by name, and the name as it is shown: with the learning rate where one was chosen."""
    found = finished(group).items()
    return [(key, f"{key}, {run['config']['learner']['rate']:g}" if "rates" in run else key, run) for key, run in found]


def _measure(group: str) -> str:
    return "loss" if GROUPS[group].images is None else "accuracy"


def _table(group: str, columns: list[str], lines: list[list[str]]) -> str:
    """The last column, what was published, is left out where nothing was."""
    width = len(columns) - (group not in PUBLISHED)
    return table(columns[:width], [line[:width] for line in lines])


def _block(run: dict[str, Any], name: str, part: str, group: str) -> str:
    """Mean of a block of tasks: of the `first` from task 5 on, where the paper's curves begin, or of the `last`."""
    if name not in run["curves"]:
        return ""
    digits, scale = (1, 100) if name.endswith("accuracy") else (3, 1)
    return spread(of_seeds(run["curves"][name], part, GROUPS[group].block), digits, scale)


def of_seeds(curve: Curve, part: str, block: int) -> list[float]:
    """The mean over the first or the last block of tasks, of each seed."""
    task_T, values_TB = curve
    task_T, values_TB = task_T[task_T >= LAG], values_TB[task_T >= LAG]
    width = in_block(task_T, block)
    return (values_TB[:width] if part == "first" else values_TB[-width:]).mean(0).tolist()


def _course(run: dict[str, Any], name: str, scale: float = 1) -> str:
    """First and last measurement, means over seeds."""
    values_TB = run["curves"][name][1] if name in run["curves"] else []
    shown = values_TB if len(values_TB) < 2 else (values_TB[0], values_TB[-1])
    return " → ".join(f"{scale * values.mean():.1f}" for values in shown)


MEASURED = [group for group, about in GROUPS.items() if "--diagnose-every" in about.options]
TABLES: dict[str, Callable[[], str]] = {"stream-cost": printed}
for _make, _groups in ((forward, GROUPS), (backward, GROUPS), (ranks, MEASURED), (cost, GROUPS)):
    TABLES |= {f"{group}-{_make.__name__}": partial(_make, group) for group in _groups}
PICTURES: dict[str, Callable[[Path], None]] = {f"streams/{group}.png": partial(draw, group) for group in GROUPS}
