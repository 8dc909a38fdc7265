"""What was measured of each module, as layer x task heat maps: a picture for each measure, a panel for each module."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metacl.evaluation.modules import MEASURES
from metacl.evaluation.result import Result
from metacl.report.figures import figure, head
from metacl.report.tables import in_number

ROW, TICKS = 4, 5
"""Most panels in a row where one is enough, and most numbers at an axis."""


def heat_maps(result: Result, folder: Path, end: str, title: str) -> list[Path]:
    """The pictures of one result, "modules-MEASURE" and `end`; none where no module was measured."""
    files = []
    for measure, modules in result.modules.items():
        files.append(folder / f"modules-{measure}{end}.png")
        words = f"{title}: {MEASURES.get(measure, measure)}"
        note = f"mean over {in_number(result.number, result.rows)}; layer 1 is the first after the patches"
        plot_heat_maps(modules, files[-1], words, measure.replace("_", " "), note)
    return files


def plot_heat_maps(modules: Mapping[str, Mapping[str, Any]], path: Path, title: str, measure: str, note: str) -> None:
    """One measure of all modules. Each has its own scale of colours, whose ends stand above it: modules differ by orders of
    magnitude, and one scale would hide what changes in most of them. What is not finite is white.

    Arguments:
        modules: by name `tasks`, from 0, and `mean`, for each task a number for each layer.
        measure: its name, beside the colours.
    """
    values = {module: np.array(own["mean"], dtype=float).T for module, own in modules.items()}
    columns = len(values) if len(values) <= ROW else -(-len(values) // 2)
    rows = -(-len(values) // columns)
    picture = figure(max(5.0, 1.2 + 2.3 * columns), 1.3 + 1.7 * rows)
    every = picture.subplots(rows, columns, squeeze=False)
    for axes in every.flat[len(values) :]:
        axes.set_axis_off()
    for place, (module, part_LT) in enumerate(values.items()):
        axes, (least, most) = every.flat[place], _scale(part_LT)
        image = axes.imshow(part_LT, "viridis", origin="lower", aspect="auto", interpolation="nearest", vmin=least, vmax=most)
        axes.set_title(f"{module}: {_ends(part_LT)}", fontsize="small")
        _ticks(axes.xaxis, [task + 1 for task in modules[module]["tasks"]])
        _ticks(axes.yaxis, ["last"] if len(part_LT) == 1 else range(1, len(part_LT) + 1))
        if place % columns == 0:
            axes.set_ylabel("layer", fontsize="small")
        if place + columns >= len(values):
            axes.set_xlabel("after task", fontsize="small")
    bar = picture.colorbar(image, ax=every, fraction=0.05, pad=0.02)
    bar.set_label(f"{measure}, in each panel", fontsize="small")
    bar.set_ticks([least, most], labels=["least", "most"], fontsize="small")
    head(picture, title, note)
    picture.savefig(path, dpi=150)


def _scale(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest of what is finite; where all of it is the same, from 0 or below to 1 or above."""
    told = [0.0, *values[np.isfinite(values)], 1.0]
    own = told[1:-1]
    return (min(own), max(own)) if len(set(own)) > 1 else (min(told), max(told))


def _ends(values: np.ndarray) -> str:
    """The least and the largest of what is finite in words."""
    own = values[np.isfinite(values)]
    if not own.size:
        return "nothing finite"
    least, most = own.min(), own.max()
    digits = next((n for n in range(3, 8) if f"{least:.{n}g}" != f"{most:.{n}g}"), 3)  # as many as tell them apart
    return " to ".join(dict.fromkeys(f"{end:.{digits}g}" for end in (least, most)))


def _ticks(axis: Any, names: Any) -> None:
    """At most `TICKS` of the names, evenly spread, the first among them."""
    names = list(names)
    places = range(0, len(names), -(-len(names) // TICKS))
    axis.set_ticks(list(places), labels=[str(names[i]) for i in places], fontsize="small")
