"""Query-only attention beside full attention, BP and its remedies, along the three streams of its paper."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metacl.report.streams import Curve, in_block, plot_curves
from studies.stream_groups import GROUPS, PUBLISHED
from studies.words import BENCHMARKS, raw, spread, table

FOLDER = BENCHMARKS / "streams"
LAG = 5
"""Tasks that lie between a task and the look back at it."""
PANELS = {
    "forward {}": "forward {}",
    "backward (5) {}": "backward 5 {}",
    "with its support": "backward 5 with support {}",
    "last layer: Hessian's rank": "diagnostics last_layer_rank",
    "features: rank": "diagnostics feature_rank",
    "dormant units": "diagnostics dormant",
}
"""Curves by the words at their panel; {} is the measure."""


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
    shown = {
        words.format(measure): {
            name: run["curves"][curve.format(measure)] for name, run in runs.items() if curve.format(measure) in run["curves"]
        }
        for words, curve in PANELS.items()
    }
    block = max(run["tasks_in_a_block"] for run in runs.values())
    plot_curves({words: own for words, own in shown.items() if own}, block, path, GROUPS[group].title)


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
