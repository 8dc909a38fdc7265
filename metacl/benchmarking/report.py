"""A benchmark's result: a table on the screen, and a folder with the figures, their provenance and a plot."""

import time
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from metacl.benchmarking.measure import Result, Row
from metacl.checkpoint import write_json
from metacl.environment import environment


def result_table(result: Result) -> Table:
    """A row for each case, a line between one comparison and the next."""
    labels = list(dict.fromkeys(name for row in result.rows for name in row.labels))
    extra = list(dict.fromkeys(name for row in result.rows for name in row.extra))
    caption = "time: median; spread: (max - min) / median; x row 0: how many times as fast as the first row of its block"
    left: dict[str, Any] = {"title_justify": "left", "caption_justify": "left"}
    table = Table(title=f"benchmark: {result.subject}", caption=caption, box=SIMPLE_HEAD, collapse_padding=True, **left)
    for name in labels:
        table.add_column(name, overflow="fold")
    for name in ("time", "spread", "x row 0", f"{result.unit}/s", "memory", *(n.removesuffix("_bytes") for n in extra)):
        table.add_column(name, justify="right", no_wrap=True)
    for row, following in zip(result.rows, [*result.rows[1:], None], strict=True):
        cells = [str(row.labels.get(name, "")) for name in labels] + _cells(row)
        cells += [_bytes(row.extra[name]) if name in row.extra else "-" for name in extra]
        table.add_row(*cells, end_section=following is not None and _block(following) != _block(row))
    return table


def result_lines(result: Result) -> list[str]:
    """The figures that follow from the rows."""
    return [f"{name}: {value:.4g}" for name, value in result.figures.items()]


def to_json(result: Result) -> dict[str, Any]:
    """All of it as JSON values, with hardware, threads, versions and commit."""
    return {
        "subject": result.subject,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(),
        **result.about,
        "figures": result.figures,
        "rows": [
            row.labels
            | {"median_seconds": row.median, "seconds": row.seconds, "times_row_0": row.speed, "peak_bytes": row.peak_bytes}
            | {f"{result.unit}_per_second": row.rate, f"{result.unit}_per_call": row.units}
            | row.extra
            for row in result.rows
        ],
    }


def write_result(result: Result, folder: Path) -> list[Path]:
    """Writes result.json and, where the rows have an axis, plot.png; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "result.json"]
    write_json(files[0], to_json(result))
    if result.axis is not None:
        files.append(folder / "plot.png")
        _plot(result, result.axis, files[-1])
    return files


def _plot(result: Result, axis: str, path: Path) -> None:
    """Time and, where it was measured, peak memory against `axis`, both logarithmic; a column for each kind of pass."""
    panels = list(dict.fromkeys(row.labels.get("pass", "") for row in result.rows))
    memory = any(row.peak_bytes for row in result.rows)
    figure = Figure(figsize=(5 * len(panels), 3.4 * (1 + memory)), layout="constrained")
    grid = figure.subplots(1 + memory, len(panels), squeeze=False)
    for column, panel in enumerate(panels):
        rows = [row for row in result.rows if row.labels.get("pass", "") == panel]
        forms = list(dict.fromkeys(str(row.labels.get("form", result.subject)) for row in rows))
        for form in forms:
            own = [row for row in rows if str(row.labels.get("form", result.subject)) == form]
            _line(grid[0, column], axis, own, form)
            if memory:
                places = [float(row.labels[axis]) for row in own]
                grid[1, column].plot(
                    places, [(row.peak_bytes or 0) / 2**20 for row in own], marker="o", markersize=3, label=form
                )
        grid[0, column].set(title=str(panel), ylabel="seconds")
        if memory:
            grid[1, column].set(ylabel="peak memory, MiB")
        for axes in grid[:, column]:
            axes.set(xscale="log", yscale="log", xlabel=axis)
            places = sorted({float(row.labels[axis]) for row in result.rows})
            axes.set_xticks(places, [f"{place:g}" for place in places], minor=False)
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)
    grid[0, 0].legend(fontsize="small")
    figure.savefig(path, dpi=150)


def _line(axes: Any, axis: str, rows: list[Row], form: str) -> None:
    """Medians as a line, from the fastest to the slowest repetition as a band."""
    places = [float(row.labels[axis]) for row in rows]
    (line,) = axes.plot(places, [row.median for row in rows], marker="o", markersize=3, label=form)
    low, high = [min(row.seconds) for row in rows], [max(row.seconds) for row in rows]
    axes.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def _block(row: Row) -> list[str | int]:
    """All labels but the form: rows that share them were measured in turns and are compared."""
    return [label for name, label in row.labels.items() if name != "form"] if "form" in row.labels else []


def _cells(row: Row) -> list[str]:
    time = f"{row.median:.3g} s" if row.median >= 1 else f"{1e3 * row.median:.3g} ms"
    spread = f"{(max(row.seconds) - min(row.seconds)) / row.median:.0%}"
    speed = "-" if row.speed is None else f"{row.speed:.2f}"
    return [time, spread, speed, f"{row.rate:,.0f}", "-" if row.peak_bytes is None else _bytes(row.peak_bytes)]


def _bytes(size: int) -> str:
    return f"{size / 1024:,.1f} KiB" if size < 1024**2 else f"{size / 1024**2:,.1f} MiB"
