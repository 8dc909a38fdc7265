"""Two result files side by side, maybe of different machines or commits."""

import json
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from rich.table import Table
from tyro.conf import Positional

from episodes import UserError
from metacl.benchmarking.measure import Json, Label, varied
from metacl.benchmarking.report import seconds_in_words, table_of
from metacl.runs.files import read_json

CAPTION = "time A / B: above 1, B is faster; memory A / B: above 1, B needs less; x row 0: of A and of B"
Rows = dict[tuple[tuple[str, Label], ...], Json]


@dataclass(frozen=True)
class CompareOptions:
    """Two result files side by side, as ratios; files of different machines or commits may be compared.

    Example: python benchmark.py --compare before/result.json after/result.json
    """

    files: Positional[tuple[Path, Path]]
    """Two files result.json, A and B, of one subject."""


@dataclass(frozen=True)
class Comparison:
    """What two files say of the same things."""

    subject: str
    rows: Rows
    """Labels -> figures of both."""
    lines: list[str]
    """What else a reader must know: in what the files differ, and what is only in one."""


def compare(files: tuple[Path, Path]) -> Comparison:
    """Matches the rows of two files by their labels.

    Raises:
        UserError: a file is no result, or they are of different subjects.
    """
    a, b = (_result(file) for file in files)
    if a["subject"] != b["subject"]:
        raise UserError(f"{files[0]} is of the subject {a['subject']}, {files[1]} of {b['subject']}.")
    left, right = _rows(a), _rows(b)
    common = {labels: _figures(left[labels], right[labels]) for labels in left if labels in right}
    lines = [f"A: {files[0]}, {a['date']}", f"B: {files[1]}, {b['date']}", *_differences(a, b)]
    for name, own, other in (("A", left, right), ("B", right, left)):
        lines += [f"only in {name}: {', '.join(str(value) for _, value in labels)}" for labels in own if labels not in other]
    return Comparison(a["subject"], common, lines)


def comparison_table(comparison: Comparison) -> Table:
    """A row for each that both files have."""
    rows = comparison.rows
    shown = varied([dict(labels) for labels in rows])
    table = table_of(f"benchmark: {comparison.subject}, A and B", shown)
    table.caption = CAPTION
    for name in ("time A", "time B", "time A / B", "memory A / B", "x row 0 A", "x row 0 B"):
        table.add_column(name, justify="right", no_wrap=True)
    for labels, figures in rows.items():
        cells = [str(dict(labels).get(name, "")) for name in shown]
        times = [seconds_in_words(figures[name]) for name in ("time A", "time B")]
        others = ("time A / B", "memory A / B", "x row 0 A", "x row 0 B")
        table.add_row(*cells, *times, *("-" if figures[name] is None else f"{figures[name]:.2f}" for name in others))
    return table


def _result(file: Path) -> Json:
    if not file.is_file():
        raise UserError(f"There is no file {file}. --compare takes two files result.json, which --out writes.")
    values = read_json(file)
    if not isinstance(values, dict) or not {"subject", "rows", "environment"} <= values.keys():
        raise UserError(f"{file} is no result of benchmark.py: give a result.json that --out wrote.")
    return values


def _rows(result: Json) -> Rows:
    """Labels stand before the first figure."""
    return {tuple((name, row[name]) for name in takewhile(lambda n: n != "median_seconds", row)): row for row in result["rows"]}


def _figures(a: Json, b: Json) -> dict[str, float | None]:
    memory = a["peak_bytes"] / b["peak_bytes"] if a["peak_bytes"] and b["peak_bytes"] else None
    seconds = {"time A": a["median_seconds"], "time B": b["median_seconds"]}
    ratios = {"time A / B": a["median_seconds"] / b["median_seconds"], "memory A / B": memory}
    return seconds | ratios | {"x row 0 A": a["times_row_0"], "x row 0 B": b["times_row_0"]}


def _differences(a: Json, b: Json) -> list[str]:
    """Options and parts of the environment in which two files differ."""
    left, right = (
        _flat(r.get("options", {})) | _flat(r["environment"]) | _flat({"kernel": r.get("kernels", {})}) for r in (a, b)
    )
    names = [name for name in {**left, **right} if name not in ("out", "command") and left.get(name) != right.get(name)]
    return [f"{name}: A {_words(left.get(name))}, B {_words(right.get(name))}" for name in names]


def _flat(values: Json) -> Json:
    inner = {f"{name} {key}": v for name, value in values.items() if isinstance(value, dict) for key, v in value.items()}
    return {name: value for name, value in values.items() if not isinstance(value, dict)} | inner


def _words(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
