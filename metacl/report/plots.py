"""Results as pictures, PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metacl.evaluation.result import Result
from metacl.report.figures import figure, head, lines_of, plain
from metacl.report.heat_maps import heat_maps
from metacl.report.tables import classes_of, in_number, told_apart

Panel = Mapping[str, dict[str, Any]]
"""A curve for each name: `tasks`, `mean` and `std`, as in a result."""
AMONG = "chance among the classes so far"
"""What a thin line is: where answers are taken from all symbols, a learner can be right less often."""
CHANCE = {"color": "0.5", "linestyle": ":", "linewidth": 1}
"""How the line of who guesses looks."""


def draw(results: Sequence[Result], folder: Path, title: str) -> list[Path]:
    """All pictures of one learner's results, or of several beside each other; the files."""
    learners = list(dict.fromkeys(result.learner for result in results))
    return _of_one(results, folder, title) if len(learners) == 1 else _of_several(results, folder, title)


def _of_one(results: Sequence[Result], folder: Path, title: str) -> list[Path]:
    files = []
    for result in results:
        about, words = file_words(result, results), f"{title}, {in_number(result.tasks, 'tasks')}"
        words += "" if result.shots is None else f" x {in_number(result.shots, 'shots')}"
        end = "" if len(results) == 1 and result.rows == "seeds" else f"-{about}"
        if result.positions:
            files += [folder / f"positions-{about}.png", folder / f"matrix-{about}.png"]
            plot_positions({"": result}, files[-2], words)
            plot_matrix(result, files[-1], words)
        scores = {name: curve for name, curve in result.curves.items() if not name.startswith(("diagnostics", "drift"))}
        for measure in dict.fromkeys(name.rsplit(" ", 1)[1] for name in scores):
            own = {name.removesuffix(f" {measure}"): curve for name, curve in scores.items() if name.endswith(f" {measure}")}
            files.append(folder / f"{measure}{end}.png")
            plot_curves({measure: own}, result.block, files[-1], title, spread_in_words(results), result.chance)
        if moved := _drift(result):
            files.append(folder / f"drift{end}.png")
            plot_curves(moved, result.block, files[-1], title, spread_in_words(results))
        if measured := _diagnostics(result):
            files.append(folder / f"diagnostics{end}.png")
            plot_curves(measured, result.block, files[-1], title, spread_in_words(results))
        files += heat_maps(result, folder, end, title)
    return files


def _of_several(results: Sequence[Result], folder: Path, title: str) -> list[Path]:
    """The end of the stream by place, for each length; and a panel for each curve."""
    files = []
    for tasks in dict.fromkeys(result.tasks for result in results if result.positions):
        own = {told_apart(result, results): result for result in results if result.tasks == tasks}
        files.append(folder / f"positions-{tasks}-tasks.png")
        plot_positions(own, files[-1], f"{title}, {in_number(tasks, 'tasks')}")
    names = dict.fromkeys(name for result in results for name in result.curves)
    panels = {name: {told_apart(r, results): r.curves[name] for r in results if name in r.curves} for name in names}
    if panels:
        files.append(folder / "learners.png")
        chance = max((result.chance or [] for result in results), key=len)
        plot_curves(panels, results[0].block, files[-1], title, spread_in_words(results), chance)
    return files


DRIFT = {"drift distance": "distance that features of old tasks have moved", "drift relative": "the same, in their own lengths"}


def _drift(result: Result) -> dict[str, Panel]:
    """A panel for each measure of how far the features of earlier tasks have moved."""
    return {words: {"": result.curves[name]} for name, words in DRIFT.items() if name in result.curves}


def _diagnostics(result: Result) -> dict[str, Panel]:
    """A panel for each measure; that of an estimate from several probes says how far these are from each other."""
    found = {name.split(" ", 1)[1]: curve for name, curve in result.curves.items() if name.startswith("diagnostics")}
    panels: dict[str, Panel] = {}
    for name, curve in found.items():
        if between := found.get(f"{name}_between_probes"):
            panels[f"{name} (± {_mean(between['mean']):.2g} between probes)"] = {"": curve}
        elif not name.endswith("_between_probes"):
            panels[name] = {"": curve}
    return panels


def file_words(result: Result, results: Sequence[Result]) -> str:
    """What tells one picture from those of the other results: the length, and the seed where there are several."""
    words = f"{result.tasks}-tasks"
    for name, words_of in (("run_seed", "run"), ("seed", "seed")):
        if len({getattr(own, name) for own in results}) > 1:
            words += f"-{words_of}-{getattr(result, name)}"
    return words


def plot_positions(results: Mapping[str, Result], path: Path, title: str) -> None:
    """The score of each task by its place in the stream: of one learner just after the task and at the end, of several at the
    end. Bands are 95 % intervals; of a few streams, one standard deviation. In classification a thin line is chance."""
    picture, every = figure(6, 3.6), list(results.values())
    axes = picture.subplots()
    for name, result in results.items():
        whens = ("just after", "at the end") if len(results) == 1 else ("at the end",)
        for when, words in zip(whens, ("just after the task", "after the whole stream") if not name else (name,), strict=True):
            found, place = result.positions[when], np.arange(1, result.tasks + 1)
            band = "std" if result.rows == "seeds" else "half_width"
            mean, half = (np.array([own[part] for own in found], dtype=float) for part in ("mean", band))
            (line,) = axes.plot(place, mean, marker="o", markersize=3, label=words)
            axes.fill_between(place, mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)
    if chance := next((result.chance for result in every if result.chance), None):
        _draw_chance(axes, chance, len(results) == 1)
    axes.set(xlabel="task, by its place in the stream", ylabel=_score(every[0]))
    head(picture, title, band_in_words(every))
    _whole_numbers(axes.xaxis)
    axes.legend(fontsize="small")
    picture.savefig(path, dpi=150)


def _draw_chance(axes: Any, chance: Sequence[float | None], just_after: bool) -> None:
    """Among the classes so far: of each task just after it, where that is another, and at the end."""
    values_T = np.array(chance, dtype=float)
    places = np.arange(1, len(values_T) + 1)
    if just_after and (values_T != values_T[-1]).any():
        axes.plot(places, values_T, label=f"{AMONG}, just after the task", marker="." if len(places) == 1 else "", **CHANCE)
        axes.axhline(values_T[-1], label=f"{AMONG}, after the whole stream", **CHANCE | {"linestyle": "--"})
    else:
        axes.axhline(values_T[-1], label=AMONG, **CHANCE)


def band_in_words(results: Sequence[Result]) -> str:
    """What the means by place are over, and what the bands are."""
    if results[0].rows == "seeds":
        return spread_in_words(results)
    counted = in_number(results[0].number, "episodes")
    if all(own.classes for own in results):
        return f"mean over {counted}; band: 95 % interval, {classes_of(results)} drawn again and again"
    return f"mean over {counted}" + "; band: 95 % interval over episodes" * (results[0].number > 1)


def spread_in_words(results: Sequence[Result]) -> str:
    """What the means of curves are over, and what the bands are."""
    most = max(results, key=lambda result: result.number)
    words = f"mean over {in_number(most.number, most.rows)}"
    return words + f"; band: ± one standard deviation between single {most.rows}" * (most.number > 1)


def plot_matrix(result: Result, path: Path, title: str) -> None:
    """The score on each task (across) after each task (down) as a heat map."""
    picture = figure(5, 4.2)
    axes, T = picture.subplots(), result.tasks
    least, most = (0.0, 1.0) if result.score == "accuracy" else (None, None)
    matrix_TT = np.ma.masked_invalid(np.array(result.matrix, dtype=float))
    image = axes.imshow(matrix_TT, extent=(0.5, T + 0.5, T + 0.5, 0.5), cmap="viridis", vmin=least, vmax=most)
    axes.set(xlabel="score on task", ylabel="after learning task")
    head(picture, title, f"mean over {in_number(result.number, result.rows)}")
    for axis in (axes.xaxis, axes.yaxis):
        _whole_numbers(axis)
    picture.colorbar(image, label=_score(result))
    picture.savefig(path, dpi=150)


def plot_curves(
    panels: Mapping[str, Panel],
    block: int,
    path: Path,
    title: str,
    note: str = "",
    chance: Sequence[float | None] | None = None,
) -> None:
    """A panel for each measure: means over rows, smoothed over a block of tasks, with bands of one standard deviation.

    A name has the same colour in all panels. A curve of one point is a dot.

    Arguments:
        note: what means and bands are over, in words.
        chance: what guessing gets right after each task, for panels of accuracy; None: not known.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    picture = figure(7, 4) if columns == 1 else figure(4 * columns, 2.6 * rows)
    every = picture.subplots(rows, columns, squeeze=False).flatten()
    names = list(dict.fromkeys(name for own in panels.values() for name in own))
    lines: dict[str, Any] = {}
    head(picture, title, "" if any(names) else note)
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    for axes, (measure, own) in zip(every, panels.items(), strict=False):
        for name, curve in own.items():
            place = np.array(curve["tasks"]) + 1
            mean, spread = (np.array(curve[part], dtype=float) for part in ("mean", "std"))
            colour = f"C{names.index(name)}"
            (lines[name],) = axes.plot(place, mean, color=colour, marker="o" if len(place) == 1 else "")
            axes.fill_between(place, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        if chance and measure.endswith("accuracy"):
            tasks = max((curve["tasks"] for curve in own.values()), key=len)
            smooth = [np.array(chance[max(0, t + 1 - block) : t + 1], dtype=float).mean() for t in tasks]
            (lines[AMONG],) = axes.plot(np.array(tasks) + 1, smooth, marker="." if len(tasks) == 1 else "", **CHANCE)
        axes.set(xlabel=f"tasks (mean over {block})" if block > 1 else "tasks", ylabel="\n".join(lines_of(measure, 24)))
        _whole_numbers(axes.xaxis)
        if measure.endswith("loss") and all((np.array(c["mean"], dtype=float) > 0).all() for c in own.values()):
            axes.set_yscale("log")
    if any(lines):  # the one curve of a panel of diagnostics has no name
        look: dict[str, Any] = {"loc": "outside lower center", "ncols": 4, "fontsize": "small", "title_fontsize": "x-small"}
        picture.legend(lines.values(), lines, title=plain(note), **look)
    picture.savefig(path, dpi=150)


def _score(result: Result) -> str:
    return "accuracy" if result.score == "accuracy" else "mean squared error"


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None] or [np.nan]))


def _whole_numbers(axis: Any) -> None:
    axis.get_major_locator().set_params(integer=True, min_n_ticks=1)
