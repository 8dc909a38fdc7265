"""The tables of what `benchmark.py` measured: attention mechanisms (attention-cost) and training steps (training-cost)."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from studies.words import mib, raw, table

MECHANISMS = "attention-cost/mechanisms-cpu"


def times(least: int, most: int, slope: bool) -> str:
    """Milliseconds of forward + backward at the lengths from `least` to `most`; with the slope over all lengths."""
    result = _result(MECHANISMS)
    rows = [row for row in result["rows"] if row["pass"] == "fwd + bwd"]
    sizes = sorted({row["tokens"] for row in rows if least <= row["tokens"] <= most})
    lines = []
    for form in dict.fromkeys(row["form"] for row in rows):
        time = {row["tokens"]: _ms(row) for row in rows if row["form"] == form}
        steepness = [_figure(result, "slope of time", f"fwd + bwd, {form}")] if slope else []
        lines.append([form, *(time.get(N, "") for N in sizes), *steepness])
    return table(["ms", *map(str, sizes), *["slope"] * slope], lines)


def memory() -> str:
    """Memory of forward + backward, and the size of the state, at the longest length."""
    result, rows, _, last = _longest()
    lines = [
        [
            form,
            mib(rows[form, "fwd + bwd", last]["peak_bytes"]),
            _figure(result, "slope of peak memory", f"fwd + bwd, {form}"),
            f"{rows[form, 'one token', last]['state_bytes'] / 1024:,.0f} KiB",
        ]
        for form in _forms(rows, last)
    ]
    return table([f"at {last}", "peak memory", "its slope", "state"], lines)


def products() -> str:
    """How far forward + backward are from their matrix products, and what a streaming step takes."""
    _, rows, first, last = _longest()
    lines = [
        [
            form,
            f"{rows[form, 'fwd + bwd', last]['products_seconds'] * 1e3:.0f} ms",
            f"{rows[form, 'fwd + bwd', last]['times_products']:.1f}",
            *(f"{rows[form, 'one token', N]['median_seconds'] * 1e3:.2f}" for N in (first, last)),
        ]
        for form in _forms(rows, last)
    ]
    steps = [f"one token after {first}, ms", f"after {last}, ms"]
    return table([f"at {last}", "products alone", "time / products", *steps], lines)


def layer_ms(form: str, tokens: int) -> float:
    """Milliseconds of forward and backward of one layer with its projections."""
    rows = _result(MECHANISMS)["rows"]
    (found,) = [row for row in rows if (row["form"], row["pass"], row["tokens"]) == (form, "fwd + bwd", tokens)]
    return 1e3 * float(found["median_seconds"])


def core(name: str, tokens: int) -> str:
    """Times and memory of bare mechanisms against the first row of their precision."""
    lines = [
        [
            row["precision"],
            row["form"],
            _ms(row),
            f"{row['times_row_0']:.1f}",
            mib(row["peak_bytes"]),
            f"{row['times_products']:.1f}",
        ]
        for row in _result(f"attention-cost/{name}")["rows"]
        if row["pass"] == "fwd + bwd" and row["tokens"] == tokens
    ]
    return table(["precision", "form", "ms", "x row 0", "peak memory", "time / products"], lines, words=2)


def steps(*names: str) -> str:
    """A training step of each form; the ratio is the median over interleaved rounds."""
    lines = []
    for name in names:
        result = _result(f"training-cost/{name}")
        for row in result["rows"]:
            if row.get("pass", "training step") != "training step" or row["form"] == "drawing the episodes":
                continue
            ratio = f"{row['times_row_0']:.1f}" if row["times_row_0"] else ""
            which = result["options"]["recipe"] or row["learner"]
            lines.append([which, row["form"], _ms(row), f"{100 * _spread(row):.0f} %", ratio, mib(row["peak_bytes"])])
    repeats = result["options"]["repeats"]
    return table(["", "form", f"ms (median of {repeats})", "spread", "times as fast", "peak memory"], lines, words=2)


def drawing() -> str:
    """What drawing the episodes takes of a training step."""
    lines = []
    for name in ("training-steps", "published-step", "oml-step-paper", "oml-step-small"):
        for words, share in _result(f"training-cost/{name}")["figures"].items():
            learner, _, precision = words.split(": ")[1].split(", ")
            lines.append([f"[{name}]({name}/result.json)", learner, precision, f"{100 * share:.1f} %"])
    return table(["raw", "learner", "precision", "drawing / training step"], lines, words=3)


def vision() -> str:
    """What 32 images cost a vision transformer, forward, and trained."""
    lines = [
        [
            row["form"],
            _ms(row),
            f"{row['images_per_second']:.0f}",
            f"{1 / row['times_products']:.2f}",
            f"{100 * _spread(row):.0f} %",
            mib(row["peak_bytes"]),
        ]
        for row in _result("training-cost/vision-step")["rows"]
    ]
    return table(["", "ms (median of 3)", "images/s", "products alone / time", "spread", "peak memory"], lines)


def _longest() -> tuple[dict[str, Any], dict[tuple, dict[str, Any]], int, int]:
    result = _result(MECHANISMS)
    rows = {(row["form"], row["pass"], row["tokens"]): row for row in result["rows"]}
    return result, rows, min(N for *_, N in rows), max(N for *_, N in rows)


def _forms(rows: dict[tuple, dict[str, Any]], last: int) -> list[str]:
    return list(dict.fromkeys(form for form, _, N in rows if last == N))


def _result(folder: str) -> dict[str, Any]:
    return raw(f"{folder}/result.json")


def _figure(result: dict[str, Any], what: str, of: str) -> str:
    value = result["figures"].get(f"{what}: {of}")
    return "" if value is None else f"{value:.2f}"


def _ms(row: dict[str, Any]) -> str:
    return f"{row['median_seconds'] * 1e3:.0f}"


def _spread(row: dict[str, Any]) -> float:
    """(max - min) / median, as `benchmark.py` has it."""
    return (max(row["seconds"]) - min(row["seconds"])) / statistics.median(row["seconds"])


TABLES: dict[str, Callable[[], str]] = {
    "short-lengths": partial(times, 256, 2048, slope=False),
    "long-lengths": partial(times, 4096, 16384, slope=True),
    "memory": memory,
    "products": products,
    "wide": partial(core, "core-wide", 4000),
    "narrow-4096": partial(core, "core-narrow", 4096),
    "narrow-16384": partial(core, "core-narrow", 16384),
    "published-step": partial(steps, "published-step"),
    "training-steps": partial(steps, "training-steps"),
    "oml-steps": partial(steps, "oml-step-paper", "oml-step-small"),
    "drawing": drawing,
    "vision-steps": vision,
}
