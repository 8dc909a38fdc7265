"""A benchmark's result: a table on the screen, and a folder with the figures, their provenance and a plot."""

import csv
import time
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from metacl.benchmarking.measure import Json, Label, Result, Row, varied
from metacl.benchmarking.plot import plot
from metacl.runs.environment import environment
from metacl.runs.files import write_json

CAPTION = """time: median; spread: (max - min) / median; x row 0: how many times as fast as the first row of its block"""
X_PRODUCTS = """; x products: time / time of its matrix products alone"""


def result_table(result: Result) -> Table:
    """A row for each case, a line between one comparison and the next. A label that all rows share stands in the title."""
    labels = varied(row.labels for row in result.rows)
    extra = list(dict.fromkeys(name for row in result.rows for name in row.extra))
    products = any(row.products for row in result.rows)
    table = table_of(", ".join([f"benchmark: {result.subject}", *_shared(result, labels)]), labels)
    table.caption = CAPTION + X_PRODUCTS * products
    numbers = ["time", "spread", "x row 0", *["x products"] * products, f"{result.unit}/s", "memory"]
    for name in (*numbers, *(n.removesuffix("_bytes") for n in extra)):
        table.add_column(name, justify="right", no_wrap=True)
    for row, following in zip(result.rows, [*result.rows[1:], None], strict=True):
        cells = [str(row.labels.get(name, "")) for name in labels] + _cells(row, products)
        cells += [_bytes(row.extra[name]) if name in row.extra else "-" for name in extra]
        table.add_row(*cells, end_section=following is not None and _block(following) != _block(row))
    return table


def table_of(title: str, labels: list[str]) -> Table:
    """An empty table in the style of all, with its first columns."""
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    for name in labels:
        table.add_column(name, no_wrap=name != "form", overflow="fold")
    return table


def result_lines(result: Result) -> list[str]:
    """The figures that follow from the rows, and what was left out."""
    figures: dict[str, list[str]] = {}
    for name, value in result.figures.items():
        figure, of = name.split(": ", 1)
        figures.setdefault(of, []).append(f"{figure} {round(value, 4) + 0.0:.3g}")
    return [f"{of}: {', '.join(found)}" for of, found in figures.items()] + [
        f"left out: {what}: {why}" for what, why in result.left_out.items()
    ]


def to_json(result: Result) -> Json:
    """All of it as JSON values, with hardware, threads, versions and commit."""
    return {
        "subject": result.subject,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(),
        **result.about,
        "left_out": result.left_out,
        "figures": result.figures,
        "rows": [_values(row, result.unit) | {"seconds": row.seconds} for row in result.rows],
    }


def _values(row: Row, unit: str) -> Json:
    products = {}
    if row.products is not None:
        products = {"products_seconds": row.products, "times_products": row.times_products}
    return {
        **row.labels,
        "median_seconds": row.median,
        "spread": row.spread,
        "times_row_0": row.speed,
        "peak_bytes": row.peak_bytes,
        f"{unit}_per_second": row.rate,
        f"{unit}_per_call": row.units,
        **products,
        **row.extra,
    }


def write_result(result: Result, folder: Path) -> list[Path]:
    """Writes result.json, result.csv and, where the rows have an axis, plot.png; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "result.json", folder / "result.csv"]
    values = to_json(result)
    write_json(files[0], values)
    _write_csv(values, files[1])
    if result.axis is not None:
        files.append(folder / "plot.png")
        plot(result, result.axis, files[-1])
    return files


def _write_csv(values: Json, path: Path) -> None:
    """The rows, each with what tells one file from another: date, options and environment."""
    around = {"subject": values["subject"], "date": values["date"]}
    around |= {f"option {name}": _plain(value) for name, value in values.get("options", {}).items()}
    around |= {name: _plain(value) for name, value in values["environment"].items() if not isinstance(value, dict)}
    around |= values["environment"]["packages"] | values.get("kernels", {})
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in values["rows"]]
    columns = list(dict.fromkeys(name for row in (*rows, around) for name in row))
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:  # a command may name any file
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | around for row in rows)


def _plain(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _shared(result: Result, shown: list[str]) -> list[str]:
    """The labels that are the same in all rows."""
    labels = {name: label for row in result.rows for name, label in row.labels.items()}
    return [f"{name} {value}" for name, value in labels.items() if name not in shown]


def _block(row: Row) -> list[Label]:
    """All labels but form and back end: rows that share them were measured in turns and are compared."""
    return [label for name, label in row.labels.items() if name not in ("form", "backend")] if "form" in row.labels else []


def _cells(row: Row, products: bool) -> list[str]:
    speed = "-" if row.speed is None else f"{row.speed:.2f}"
    times = "-" if row.times_products is None else f"{row.times_products:.1f}"
    rate = f"{row.rate:,.0f}"
    memory = "-" if row.peak_bytes is None else _bytes(row.peak_bytes)
    return [seconds_in_words(row.median), f"{row.spread:.0%}", speed, *[times] * products, rate, memory]


def seconds_in_words(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _bytes(size: int) -> str:
    return (
        f"{size / 1024:,.1f} KiB"
        if size < 1024**2
        else f"{size / 1024**2:,.1f} MiB"
        if size < 1024**3
        else f"{size / 1024**3:.2f} GiB"
    )
