"""The tables of meta-trained learners that `evaluate.py` followed along held-out episodes: demo and short."""

from collections.abc import Callable
from functools import partial
from typing import Any

from metacl.evaluation.result import as_defined
from metacl.report.tables import MEASURES, cell
from studies.words import kib, raw, table

COLUMNS = {name: words.replace("\n", " ") for name, words in MEASURES.items()}
SHORT = {
    "short-omniglot": ("omniglot-transformer", "omniglot-linear-transformer", "omniglot-pn"),
    "short-sine": ("sine-transformer", "sine-linear-transformer"),
}
"""Files of the study `short`, by table."""


def lengths(folder: str) -> str:
    """A row for each length of stream; means over episodes ± half of the 95 % interval of the raw figures."""
    return _table([("", result) for result in raw(f"{folder}/results.json")["results"]])


def short(*names: str) -> str:
    """A row for each learner and length of stream."""
    results = [(name.split("-", 1)[1], result) for name in names for result in raw(f"short/{name}.json")["results"]]
    return _table(results)


def _table(results: list[tuple[str, dict[str, Any]]]) -> str:
    """The name of the learner, where it has one; the length, where it is not the same in all rows; and what was measured."""
    found = [as_defined(result["measures"]) for _, result in results]
    columns = {name: words for name, words in COLUMNS.items() if any(name in own for own in found)}
    named, several = bool(results[0][0]), len({_shape(result) for _, result in results}) > 1
    lines = [
        [*[learner] * named, *[_shape(result)] * several, *_cells(own, result["score"], columns), kib(result["state_bytes"])]
        for (learner, result), own in zip(results, found, strict=True)
    ]
    heads = [*["learner"] * named, *["tasks x shots"] * several]
    return table([*heads, *columns.values(), "state"], lines, words=len(heads))


def _shape(result: dict[str, Any]) -> str:
    return f"{result['episodes']['tasks']} x {result['episodes']['shots']}"


def _cells(measures: dict[str, dict[str, Any]], score: str, columns: dict[str, str]) -> list[str]:
    found = [measures.get(name) for name in columns]
    return ["-" if f is None else cell({"mean": f["mean"], "std": f["half_width"]}, score == "accuracy") for f in found]


TABLES: dict[str, Callable[[], str]] = {folder: partial(lengths, folder) for folder in ("demo",)}
TABLES |= {name: partial(short, *files) for name, files in SHORT.items()}
