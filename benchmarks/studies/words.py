"""Figures in words: Markdown tables, and means with their spread."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metacl.evaluation.metrics import deviation

BENCHMARKS = Path(__file__).parents[1]


def raw(name: str) -> Any:
    """A file of raw figures, by its path in benchmarks/."""
    return json.loads((BENCHMARKS / name).read_text(encoding="utf-8"))


def table(columns: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> str:
    """A Markdown table whose first columns, as many as `words`, stand to the left, and the figures to the right."""
    rule = "|" + "---|" * words + "--:|" * (len(columns) - words)
    return "\n".join([_line(columns), rule, *map(_line, lines)]) + "\n"


def spread(values: Sequence[float], digits: int = 1, scale: float = 1) -> str:
    """The mean, and ± the deviation where there are several values."""
    if not all(map(math.isfinite, values)):
        return "not finite"
    words = f"{scale * statistics.mean(values):.{digits}f}"
    return words if len(values) < 2 else f"{words} ± {scale * float(deviation(values)):.{digits}f}"


def slug(name: str) -> str:
    """A name in words as a part of the name of a file."""
    return name.replace(", ", "-").replace(" ", "-")


def kib(size: float) -> str:
    """Bytes in KiB."""
    return f"{size / 1024:,.1f} KiB"


def mib(size: float) -> str:
    """Bytes in MiB."""
    return f"{size / 2**20:.0f} MiB"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
