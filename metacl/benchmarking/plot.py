"""Time and memory against length, both logarithmic."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metacl.benchmarking.measure import Result, Row, varied
from metacl.report.figures import figure

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes

Style = dict[str, Any]
"""How a line looks, by matplotlib's names."""
MARKERS = "os^vDPX<>*hp"


def plot(result: Result, axis: str, path: Path) -> None:
    """A column for each kind of pass: time and, where it was measured, peak memory against `axis`."""
    panels = list(dict.fromkeys(row.labels.get("pass", "") for row in result.rows))
    memory = any(row.peak_bytes for row in result.rows)
    whole = figure(4.5 * len(panels) + 2.5, 3.6 * (1 + memory))
    grid = whole.subplots(1 + memory, len(panels), squeeze=False)
    names = [name for name in varied(row.labels for row in result.rows) if name not in (axis, "pass")]
    styles = _styles([_name(row, names) or result.subject for row in result.rows])
    for column, panel in enumerate(panels):
        rows = [row for row in result.rows if row.labels.get("pass", "") == panel]
        for name, style in styles.items():
            own = [row for row in rows if (_name(row, names) or result.subject) == name]
            _lines(list(grid[:, column]), axis, own, style)
        grid[0, column].set(title=str(panel), ylabel="seconds")
        if memory:
            grid[1, column].set(ylabel="peak memory, MiB")
        places = sorted({float(row.labels[axis]) for row in result.rows})
        for axes in grid[:, column]:
            _scales(axes, axis, places)
    handles = [grid[0, 0].plot([], [], label=name, **style)[0] for name, style in styles.items()]
    whole.legend(handles=handles, loc="outside right center", fontsize="small")
    whole.savefig(path, dpi=110)


def _name(row: Row, names: list[str]) -> str:
    return ", ".join(str(row.labels[name]) for name in reversed(names) if name in row.labels)


def _styles(names: list[str]) -> dict[str, Style]:
    """A colour and a marker for each line; those with a whole matrix are broken."""
    from matplotlib import colormaps

    tab20 = [colormaps["tab20"](i) for i in range(20)]
    colours = itertools.cycle(tab20[::2] + tab20[1::2])
    looks = zip(dict.fromkeys(names), colours, itertools.cycle(MARKERS), strict=False)
    return {
        name: {"color": colour, "marker": marker, "markersize": 4, "linestyle": "--" if "N x N" in name else "-"}
        for name, colour, marker in looks
    }


def _lines(panels: "Sequence[Axes]", axis: str, rows: list[Row], style: Style) -> None:
    """Medians as a line, the middle half of the repetitions as a band; below it the memory."""
    places = [float(row.labels[axis]) for row in rows]
    panels[0].plot(places, [row.median for row in rows], **style)
    low, high = ([np.quantile(row.seconds, share) for row in rows] for share in (0.25, 0.75))
    panels[0].fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if len(panels) > 1:
        panels[1].plot(places, [(row.peak_bytes or 0) / 2**20 for row in rows], **style)


def _scales(axes: "Axes", axis: str, places: list[float]) -> None:
    axes.set(xscale="log", yscale="log", xlabel=axis)
    axes.set_xticks(places, [f"{place:g}" for place in places], minor=False)
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
