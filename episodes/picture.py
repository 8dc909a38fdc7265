"""An episode as a picture: its phases from left to right, the stream above, what is asked of each task below."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodes.drawing import import_matplotlib
from episodes.types import Episode, EpisodeSpec, Examples

WIDE = 24
"""Inputs beside each other, where there are so many; longer phases go on in the next line."""
CELL, LABEL = 1.0, 0.45
"""Height of an input, and of its label, in inputs."""
INCH = 0.45
"""Inches of an input."""


def draw_episode(episode: Episode, path: Path, title: str, alike: Sequence[int] | None = None) -> None:
    """Writes a picture of the first episode of a batch, a PNG file.

    Frames have the colour of the task; a label that no query of the task has is red, and padding is left white.

    Arguments:
        alike: for each task the number of its colour, so that visits to a task look alike; None: each has its own.
    """
    figure = _figure()
    ends = episode.phases()
    tasks = len(ends)
    colour = list(range(tasks)) if alike is None else list(alike)
    parts = [(episode.stream[start:end].row(0), "stream") for start, end in pairwise([0, *ends])]
    asked = [(episode.queries[episode.queries.task[0] == t].row(0), "queries") for t in range(tasks)]
    columns = max(1, min(max(len(part) for part, _ in parts), WIDE // tasks))
    lines = [max(math.ceil(len(part) / columns) for part, _ in own) for own in (parts, asked)]
    height, width = sum(lines) * (CELL + LABEL) + 2.2, tasks * (columns + 0.7)
    figure.set_size_inches(INCH * (width + 2.2), INCH * (height + 0.8))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-2.2, width), ylim=(height, -0.8))
    axes.axis("off")
    axes.text(-2.1, -0.3, title.replace("$", r"\$"), fontsize=9, va="center", weight="bold")
    for line, own in ((0.9, parts), (1.4 + lines[0] * (CELL + LABEL) + 0.6, asked)):
        axes.text(-2.1, line + CELL / 2, own[0][1], fontsize=8, va="center")
        for t, (part, name) in enumerate(own):
            left = t * (columns + 0.7)
            axes.text(left, line - 0.25, f"phase {t + 1}" if name == "stream" else f"task {t + 1}", fontsize=7, color="0.35")
            _draw_part(axes, part, episode, (left, line), columns, colour)
    figure.savefig(path, dpi=80)


def _draw_part(
    axes: Any, part: Examples, episode: Episode, corner: tuple[float, float], columns: int, colour: list[int]
) -> None:
    spec = episode.spec
    for i in range(len(part)):
        left, top = corner[0] + i % columns, corner[1] + i // columns * (CELL + LABEL)
        valid = part.valid is None or bool(part.valid[0, i])
        task = int(part.task[0, i])
        frame = _colour(colour[task]) if valid else "0.85"
        if valid:
            _draw_input(axes, part.x[0, i], None if spec.classification else part.y[0, i], spec, (left, top))
        corners = ([left + 0.04, left + 0.96, left + 0.96, left + 0.04], [top + 0.04, top + 0.04, top + 0.96, top + 0.96])
        axes.fill(*corners, fill=False, edgecolor=frame, linewidth=1.8, linestyle="-" if valid else ":")
        if valid and spec.classification:
            right = bool((episode.queries.y[0][episode.queries.task[0] == task] == part.y[0, i]).any())
            style = {"color": "black"} if right else {"color": "red", "weight": "bold"}
            axes.text(left + 0.5, top + 1.2, str(int(part.y[0, i])), fontsize=6.5, ha="center", va="center", **style)


def _draw_input(axes: Any, x: Tensor, y: Tensor | None, spec: EpisodeSpec, corner: tuple[float, float]) -> None:
    """An image, or a line for a vector, and in regression one for its target."""
    left, top = corner
    if spec.x_kind == "image":
        grey = x.cpu().float().mean(0, keepdim=True).expand(3, -1, -1)
        image = (x.cpu() if len(x) == 3 else grey).to(torch.uint8).movedim(0, -1).numpy()
        axes.imshow(image, extent=(left + 0.04, left + 0.96, top + 0.96, top + 0.04), interpolation="nearest", aspect="auto")
        return
    for values, style in ((x, "-"), (y, ":")):
        if values is not None:
            line = np.asarray(values.cpu().flatten(), dtype=float)
            most = max(1e-6, np.abs(line).max())
            along = left + 0.5 if len(line) == 1 else np.linspace(left + 0.1, left + 0.9, len(line))
            axes.plot(
                along,
                top + 0.5 - 0.38 * line / most,
                linestyle=style,
                color="0.2",
                linewidth=0.7,
                marker="." * (len(line) == 1),
            )


def _colour(number: int) -> Any:
    return import_matplotlib().colormaps["tab10"](number % 10)


def _figure() -> Any:
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    empty = Figure()
    FigureCanvasAgg(empty)
    return empty
