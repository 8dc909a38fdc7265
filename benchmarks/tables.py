"""The tables of benchmarks/README.md that are made from the raw figures beside it: writes them between their marks.

    python benchmarks/tables.py

A table stands between <!-- table: NAME --> and <!-- end -->. A test holds that the page has what the raw figures say.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import learners
import mechanisms
import plateau
import streams

from metacl.runs.folder import read_json

HERE = Path(__file__).parent
PAGE = HERE / "README.md"


def lengths() -> str:
    """Time of forward + backward at each length, in ms, and its slope."""
    result = _result("mechanisms-cpu")
    rows = [row for row in result["rows"] if row["pass"] == "fwd + bwd"]
    sizes = sorted({row["tokens"] for row in rows})
    lines = []
    for form in dict.fromkeys(row["form"] for row in rows):
        time = {row["tokens"]: _ms(row) for row in rows if row["form"] == form}
        slope = _figure(result, "slope of time", f"fwd + bwd, {form}")
        lines.append([form, *(time.get(N, "") for N in sizes), slope])
    return _markdown(["ms", *map(str, sizes), "slope"], lines)


def costs() -> str:
    """What else a mechanism costs at the longest length."""
    result = _result("mechanisms-cpu")
    rows = {(row["form"], row["pass"], row["tokens"]): row for row in result["rows"]}
    first, last = min(N for *_, N in rows), max(N for *_, N in rows)
    lines = []
    for form in dict.fromkeys(form for form, _, N in rows if last == N):
        both, step = rows[form, "fwd + bwd", last], rows[form, "one token", last]
        before = rows[form, "one token", first]
        lines.append(
            [
                form,
                f"{both['peak_bytes'] / 2**20:.0f} MiB",
                _figure(result, "slope of peak memory", f"fwd + bwd, {form}"),
                f"{both['products_seconds'] * 1e3:.0f} ms",
                f"{both['times_products']:.1f}",
                f"{step['state_bytes'] / 1024:,.0f} KiB",
                f"{before['median_seconds'] * 1e3:.2f}",
                f"{step['median_seconds'] * 1e3:.2f}",
            ]
        )
    heads = [f"at {last}", "peak memory", "its slope", "products alone", "time / products", "state"]
    return _markdown([*heads, f"one token after {first}, ms", f"after {last}, ms"], lines)


def core(name: str) -> str:
    """Times and memory of bare mechanisms against the first row of each block."""
    lines = [
        [
            str(row["tokens"]),
            row["precision"],
            row["form"],
            _ms(row),
            f"{row['times_row_0']:.1f}",
            f"{row['peak_bytes'] / 2**20:.0f} MiB",
            f"{row['times_products']:.1f}",
        ]
        for row in _result(name)["rows"]
        if row["pass"] == "fwd + bwd"
    ]
    return _markdown(["N", "", "form", "ms", "x row 0", "peak memory", "time / products"], lines)


def oml() -> str:
    """OML's training step, by recipe, against the textbook form."""
    lines = [
        [
            recipe,
            row["form"],
            _ms(row),
            f"{100 * row['spread']:.0f} %",
            f"{row['times_row_0']:.1f}",
            f"{row['peak_bytes'] / 2**20:.0f} MiB",
        ]
        for recipe in ("paper", "small")
        for row in _result(f"oml-step-{recipe}")["rows"]
        if row["pass"] == "training step" and row["times_row_0"]
    ]
    return _markdown(["recipe", "form", "ms (median of 5)", "spread", "times as fast", "peak memory"], lines)


TABLES: dict[str, Callable[[], str]] = {
    "lengths": lengths,
    "costs": costs,
    "wide": lambda: core("core-wide"),
    "narrow": lambda: core("core-narrow"),
    "oml": oml,
    "learners": learners.page,
    "mechanisms": mechanisms.table,
    "plateau": plateau.table,
}
TABLES |= {group: partial(streams.table, group) for group in streams.GROUPS}


def filled(page: str) -> str:
    """The page with every table as the raw figures have it."""
    return re.sub(
        r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)",
        lambda m: m[1] + "\n" + TABLES[m[2]]() + "\n" + m[3],
        page,
        flags=re.DOTALL,
    )


def _result(name: str) -> dict[str, Any]:
    return read_json(HERE / name / "result.json")


def _figure(result: dict[str, Any], what: str, of: str) -> str:
    value = result["figures"].get(f"{what}: {of}")
    return "" if value is None else f"{value:.2f}"


def _ms(row: dict[str, Any]) -> str:
    return f"{row['median_seconds'] * 1e3:.0f}"


def _markdown(columns: list[str], lines: list[list[str]]) -> str:
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(head + ["| " + " | ".join(line) + " |" for line in lines]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
