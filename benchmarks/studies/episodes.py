"""The tables of meta-trained learners that `evaluate.py` followed along held-out episodes: demo, omniglot and short."""

from collections.abc import Callable
from functools import partial
from typing import Any

from studies.words import kib, raw, table

COLUMNS = {"final": "at the end", "learned": "just after its task", "forgetting": "forgetting"}
SHORT = {
    "short-omniglot": ("omniglot-transformer", "omniglot-linear-transformer", "omniglot-pn"),
    "short-sine": ("sine-transformer", "sine-linear-transformer"),
}
"""Files of the study `short`, by table."""


def lengths(folder: str) -> str:
    """A row for each length of stream; means over episodes ± half of the 95 % confidence interval."""
    columns = COLUMNS | {"backward_transfer": "backward transfer"}
    lines = [[_shape(result), *_cells(result, columns)] for result in raw(f"{folder}/results.json")["results"]]
    return table(["tasks x shots", *columns.values(), "state"], lines)


def short(*names: str) -> str:
    """A row for each learner and length of stream."""
    lines = []
    for name in names:
        learner = name.split("-", 1)[1]
        for result in raw(f"short/{name}.json")["results"]:
            lines.append([learner, _shape(result), *_cells(result, COLUMNS)])
    return table(["learner", "tasks x shots", *COLUMNS.values(), "state"], lines, words=2)


def _shape(result: dict[str, Any]) -> str:
    return f"{result['episodes']['tasks']} x {result['episodes']['shots']}"


def _cells(result: dict[str, Any], columns: dict[str, str]) -> list[str]:
    scale, digits = (100, 1) if result["score"] == "accuracy" else (1, 4)
    found = [result["measures"][name] for name in columns]
    words = [f"{scale * f['mean']:.{digits}f} ± {scale * f['half_width']:.{digits}f}" for f in found]
    return [*words, kib(result["state_bytes"])]


TABLES: dict[str, Callable[[], str]] = {folder: partial(lengths, folder) for folder in ("demo", "omniglot")}
TABLES |= {name: partial(short, *files) for name, files in SHORT.items()}
