"""The table of a meta-trained learner that `evaluate.py` followed along held-out episodes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from metacl.evaluation.result import as_defined
from metacl.report.tables import MEASURES, cell
from studies.words import kib, raw, table

COLUMNS = {name: words.replace("\n", " ") for name, words in MEASURES.items()}


def lengths(folder: str) -> str:
    """A row for each length of stream; means over episodes ± half of the 95 % interval of the raw figures."""
    results = raw(f"{folder}/results.json")["results"]
    found = [as_defined(result["measures"]) for result in results]
    columns = {name: words for name, words in COLUMNS.items() if any(name in own for own in found)}
    lines = [
        [_shape(result), *_cells(own, result["score"], columns), kib(result["state_bytes"])]
        for result, own in zip(results, found, strict=True)
    ]
    return table(["tasks x shots", *columns.values(), "state"], lines)


def _shape(result: dict[str, Any]) -> str:
    return f"{result['episodes']['tasks']} x {result['episodes']['shots']}"


def _cells(measures: dict[str, dict[str, Any]], score: str, columns: dict[str, str]) -> list[str]:
    found = [measures.get(name) for name in columns]
    return ["-" if f is None else cell({"mean": f["mean"], "std": f["half_width"]}, score == "accuracy") for f in found]


TABLES: dict[str, Callable[[], str]] = {folder: partial(lengths, folder) for folder in ("demo",)}
