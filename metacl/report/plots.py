"""Pictures of an evaluation, as PNG files."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metacl.evaluation.episodes import Evaluation


def plot_positions(evaluation: Evaluation, path: Path, title: str) -> None:
    """The score of each task by its place in the stream, just after it was learnt and at the end, with 95 % bands."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    place = np.arange(1, evaluation.shape.tasks + 1)
    curves = zip(*evaluation.by_position(), strict=True)
    for words, estimates in zip(("just after the task", "after the whole stream"), curves, strict=True):
        mean, half = (np.array([getattr(e, part) for e in estimates]) for part in ("mean", "half_width"))
        (line,) = axes.plot(place, mean, marker="o", markersize=3, label=words)
        axes.fill_between(place, mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="task, by its place in the stream", ylabel=_score(evaluation), title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    figure.savefig(path, dpi=150)


def plot_matrix(evaluation: Evaluation, path: Path, title: str) -> None:
    """The score on each task (across) after each task (down) as a heat map."""
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    T = evaluation.shape.tasks
    least, most = (0.0, 1.0) if evaluation.classification else (None, None)
    matrix_TT = np.ma.masked_invalid(evaluation.scores_ETT.mean(0).numpy())
    image = axes.imshow(matrix_TT, extent=(0.5, T + 0.5, T + 0.5, 0.5), cmap="viridis", vmin=least, vmax=most)
    axes.set(xlabel="score on task", ylabel="after learning task", title=title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, label=_score(evaluation))
    figure.savefig(path, dpi=150)


def _score(evaluation: Evaluation) -> str:
    return "accuracy" if evaluation.classification else "mean squared error"
