"""The results of a run along a stream: a table of its first and last tasks, a JSON file, and curves with bands."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from metacl.recipes.config import to_json
from metacl.recipes.online_recipes import FollowConfig
from metacl.report.display import console
from metacl.runs.environment import environment
from metacl.runs.folder import write_json

Curve = tuple[np.ndarray, np.ndarray]
"""The tasks (T,) at which something was measured, and the values (T, B) for each seed; NaN where there was none."""


def write_report(
    config: FollowConfig, records: list[dict[str, Any]], compute: dict[str, float], folder: Path, title: str
) -> list[Path]:
    """Shows the table; writes results.json and the curves into `folder`; returns the files."""
    found = curves(records)
    block = max(1, min(100, config.tasks // 10))
    seconds = float(np.median([record["seconds"] for record in records]))
    console.print(table(found, block, title, len(config.seeds)))
    console.print(_compute_words(compute, seconds, records), soft_wrap=True)
    about = {"config": to_json(config), "environment": environment(), "compute": compute, "seconds_a_task": seconds}
    files = [folder / "results.json"]
    write_json(files[0], about | {"tasks_in_a_block": block, "curves": {name: ends(c, block) for name, c in found.items()}})
    scores = {name: curve for name, curve in found.items() if not name.startswith("diagnostics")}
    for measure in dict.fromkeys(name.rsplit(" ", 1)[1] for name in scores):
        own = {name.removesuffix(f" {measure}"): curve for name, curve in scores.items() if name.endswith(f" {measure}")}
        files.append(folder / f"{measure}.png")
        plot_curves({measure: own}, block, files[-1], title)
    measured = {name.split(" ", 1)[1]: {"": curve} for name, curve in found.items() if name not in scores}
    if measured:
        files.append(folder / "diagnostics.png")
        plot_curves(measured, block, files[-1], title)
    return files


def curves(records: list[dict[str, Any]]) -> dict[str, Curve]:
    """By name: "prequential accuracy", "forward loss", "backward 5 loss", "backward 5 with support loss", "diagnostics X"."""
    points: dict[str, list[tuple[int, list[float]]]] = {}

    def add(name: str, record: dict[str, Any], scores: dict[str, list]) -> None:
        for score, values in scores.items():
            row = [float("nan") if v is None else v for v in values]
            points.setdefault(f"{name} {score}", []).append((record["task"], row))

    for record in records:
        for name in ("prequential", "forward"):
            add(name, record, record[name])
        for part, words in (("backward", "backward {}"), ("backward_with_support", "backward {} with support")):
            for lag, scores in record.get(part, {}).items():
                add(words.format(lag), record, scores)
        add("diagnostics", record, record.get("diagnostics", {}))
    return {name: (np.array([t for t, _ in rows]), np.array([row for _, row in rows])) for name, rows in points.items()}


def ends(curve: Curve, block: int) -> dict[str, Any]:
    """Mean over seeds and standard deviation between them, of the first and the last block of tasks."""
    task_T, values_TB = curve
    width = in_block(task_T, block)
    first, last = values_TB[:width].mean(0), values_TB[-width:].mean(0)
    return {
        name: {"mean": _number(part.mean()), "std": _number(part.std())} for name, part in (("first", first), ("last", last))
    }


def in_block(task_T: np.ndarray, block: int) -> int:
    """How many measurements fall into a block of tasks: one at least."""
    gap = int(task_T[1] - task_T[0]) if len(task_T) > 1 else 1
    return min(max(1, block // gap), len(task_T))


def table(found: dict[str, Curve], block: int, title: str, seeds: int) -> Table:
    """A row for each curve but the diagnostics'."""
    caption = f"mean of the first and the last {block} tasks"
    caption += f", ± the standard deviation between {seeds} seeds" if seeds > 1 else "; one seed"
    shown = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for words in ("", "first", "last"):
        shown.add_column(words, justify="right" if words else "left", no_wrap=True)
    for name, curve in ((name, curve) for name, curve in found.items() if not name.startswith("diagnostics")):
        found_ends, percent = ends(curve, block), name.endswith("accuracy")
        shown.add_row(name, *(cell(found_ends[part], percent, seeds) for part in ("first", "last")))
    return shown


def plot_curves(panels: dict[str, dict[str, Curve]], block: int, path: Path, title: str) -> None:
    """A panel for each measure. Means over seeds, smoothed over a block of tasks, with bands of one standard deviation.

    A name has the same colour in all panels.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7, 4) if columns == 1 else (4 * columns, 2.6 * rows), layout="constrained")
    figure.suptitle(title)
    every = figure.subplots(rows, columns, squeeze=False).flatten()
    names = list(dict.fromkeys(name for own in panels.values() for name in own))
    lines = {}
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    for axes, (measure, own) in zip(every, panels.items(), strict=False):
        for name, (task_T, values_TB) in own.items():
            width = in_block(task_T, block)
            smooth = np.stack([np.convolve(row, np.ones(width) / width, "valid") for row in values_TB.T], axis=1)
            place, mean, spread = task_T[width - 1 :] + 1, smooth.mean(1), smooth.std(1)
            colour = f"C{names.index(name)}"
            (lines[name],) = axes.plot(place, mean, color=colour)
            axes.fill_between(place, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel=f"tasks (mean over {block})", ylabel=measure)
        if measure == "loss" and all((values > 0).all() for _, values in own.values()):
            axes.set_yscale("log")
    if any(names):
        figure.legend(lines.values(), lines, loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=150)


def _compute_words(compute: dict[str, float], seconds: float, records: list[dict[str, Any]]) -> str:
    whole = sum(record["seconds_in_all"] for record in records)
    return (
        f"{seconds:.2f} s to learn a task, {whole:.0f} s in all; multiply-adds: "
        f"{compute['multiply_adds_to_learn']:.3g} to learn an example, {compute['multiply_adds_to_predict']:.3g} to predict one"
        f"; gradients of {compute['gradient_examples']:.3g} examples for each one learnt"
    )


def cell(value: dict[str, Any], percent: bool, seeds: int, digits: int = 4) -> str:
    """One of the two of `ends`, in words; a loss with so many digits."""
    if value["mean"] is None:
        return "not finite"
    scale, digits = (100, 1) if percent else (1, digits)
    spread = f" ± {scale * value['std']:.{digits}f}" if seeds > 1 else ""
    return f"{scale * value['mean']:.{digits}f}{spread}"


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
