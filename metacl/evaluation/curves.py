"""Records of many tasks as curves over tasks: a value for each row (seed or episode) at each task."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from metacl.evaluation.metrics import deviation
from metacl.evaluation.questions import Record

Curve = tuple[np.ndarray, np.ndarray]
"""The tasks (T,) at which something was measured, and the values (T, B) of each row; NaN where there was none."""


def curves(records: Iterable[Record | dict[str, Any]], together: bool = False) -> dict[str, Curve]:
    """By name: "prequential accuracy", "forward loss", "backward 5 loss", "backward 5 with support loss", "drift
    relative" (the mean over earlier tasks), "diagnostics X".

    Arguments:
        together: where the matrix was asked "all so far accuracy" too, on the examples of all tasks so far.
    """
    points: dict[str, list[tuple[int, list[float]]]] = {}

    def add(name: str, index: int, found: Mapping[str, Any]) -> None:
        for score, values in found.items():
            row = [float("nan") if value is None else float(value) for value in values]
            points.setdefault(f"{name} {score}", []).append((index, row))

    for record in (dict[str, Any](record) for record in records):
        index = record["task"]
        for name in ("prequential", "forward"):
            add(name, index, record.get(name, {}))
        if together and "together" in record:
            add("all so far", index, {"accuracy": record["together"]["accuracy"]})
        for part, words in (("backward", "backward {}"), ("backward_with_support", "backward {} with support")):
            for lag, found in record.get(part, {}).items():
                add(words.format(lag), index, found)
        add("drift", index, {name: numbers(rows).mean(1) for name, rows in record.get("drift", {}).items()})
        add("diagnostics", index, record.get("diagnostics", {}))
    return {name: (np.array([t for t, _ in rows]), np.array([row for _, row in rows])) for name, rows in points.items()}


SLOPE = 100
"""Tasks over which a slope is told."""
FEW = 10
"""Of fewer measurements there is none."""


def ends(curve: Curve, block: int) -> dict[str, Any]:
    """Mean over rows, and standard deviation between them, of the first and the last block of tasks, of all tasks ("all": of
    "forward accuracy" it is AAT, the average accuracy across tasks, each just after it was learnt), and of the slope."""
    task_T, values_TB = curve
    width = in_block(task_T, block)
    parts = {"first": values_TB[:width].mean(0), "last": values_TB[-width:].mean(0)}
    parts |= {"all": values_TB.mean(0), "slope": slope(curve)}
    return {name: {"mean": number(part_B.mean()), "std": number(deviation(part_B))} for name, part_B in parts.items()}


def slope(curve: Curve) -> np.ndarray:
    """(B,) by how much a line through all measurements (least squares) rises over 100 tasks; NaN where there are few."""
    task_T, values_TB = curve
    if len(task_T) < FEW:
        return np.full(values_TB.shape[1], np.nan)
    apart_T = task_T - task_T.mean()
    return SLOPE * (apart_T @ values_TB) / (apart_T @ apart_T)


def smoothed(curve: Curve, block: int) -> dict[str, list[Any]]:
    """Means over a block of tasks that ends at each task: their mean over rows, and the standard deviation between rows."""
    task_T, values_TB = curve
    width = in_block(task_T, block)
    smooth_TB = np.stack([np.convolve(row, np.ones(width) / width, "valid") for row in values_TB.T], axis=1)
    return {
        "tasks": task_T[width - 1 :].tolist(),
        "mean": [number(value) for value in smooth_TB.mean(1)],
        "std": [number(value) for value in deviation(smooth_TB, 1)],
    }


def in_block(task_T: np.ndarray, block: int) -> int:
    """How many measurements fall into a block of tasks: one at least."""
    gap = int(task_T[1] - task_T[0]) if len(task_T) > 1 else 1
    return min(max(1, block // gap), len(task_T))


def numbers(values: Any) -> np.ndarray:
    """What a record has, as it is in memory or in a file, where NaN is null."""
    return np.array(values.tolist() if isinstance(values, Tensor) else values, dtype=float)


def number(value: float) -> float | None:
    """A JSON number; None for what is not finite."""
    return float(value) if np.isfinite(value) else None
