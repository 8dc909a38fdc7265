"""What was measured of modules and layers along the tasks, from the records of `follow`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from metacl.evaluation.curves import number
from metacl.evaluation.metrics import deviation
from metacl.evaluation.questions import Record

Layers = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]
"""By measure and module: the tasks (T,) after which it was measured, and the values (T, B, layers) of each row."""


def layers(records: Iterable[Record | dict[str, Any]]) -> Layers:
    """From records as they are, or as metrics.jsonl has them, where None stands for what is not finite."""
    points: dict[str, dict[str, list[tuple[int, np.ndarray]]]] = {}
    for record in (dict[str, Any](record) for record in records):
        for measure, modules in record.get("modules", {}).items():
            for module, values in modules.items():
                own_BL = np.array([[np.nan if v is None else float(v) for v in row] for row in values])
                points.setdefault(measure, {}).setdefault(module, []).append((record["task"], own_BL))
    return {
        measure: {module: (np.array([t for t, _ in own]), np.stack([v for _, v in own])) for module, own in modules.items()}
        for measure, modules in points.items()
    }


def joined(parts: Sequence[Layers]) -> Layers:
    """Of rows that were followed one batch after another, side by side."""
    return {
        measure: {
            module: (task_T, np.concatenate([part[measure][module][1] for part in parts], 1))
            for module, (task_T, _) in modules.items()
        }
        for measure, modules in parts[0].items()
    }


def layers_json(found: Layers) -> dict[str, dict[str, dict[str, Any]]]:
    """By measure and module `tasks`, and of each of them and each layer `mean` over rows and `std` between them."""

    def told(values_TL: np.ndarray) -> list[list[float | None]]:
        return [[number(value) for value in row] for row in values_TL]

    return {
        measure: {
            module: {"tasks": task_T.tolist(), "mean": told(values.mean(1)), "std": told(deviation(values, 1))}
            for module, (task_T, values) in modules.items()
        }
        for measure, modules in found.items()
    }
