"""Results as tables on the screen."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from metacl.evaluation.curves import SLOPE, number
from metacl.evaluation.incremental import INCREMENTAL
from metacl.evaluation.metrics import deviation
from metacl.evaluation.resampling import ClassSums, classes_in, half_width_over_seeds
from metacl.evaluation.result import Result

MEASURES = {
    "final": "at the end",
    "learned": "just after\nits task",
    "interference": "interference",
    "forgetting": "forgetting",
}
LOST = "lost since just after its task"
DEFINED = {
    "interference": f"interference: {LOST}, among the {{labels}} known then",
    "forgetting": f"forgetting: {LOST}",
}
"""Of the measures whose names do not say it; in full in `metrics`. `labels` are called classes where each task is one."""

ENDS = ("first", "last", "all", "slope")
"""What is told of a curve."""
FEW = 8
"""Classes below which an interval over them is said to be rough."""


def tables(results: Sequence[Result], title: str) -> list[Table]:
    """One of what comes from the matrix, one of the same by the names of papers, one of curves along tasks; what was not asked
    for is left out."""
    measured = [result for result in results if result.measures]
    drawn = [result for result in results if any(not name.startswith("diagnostics") for name in result.curves)]
    found = [matrix_table(measured, title)] if measured else []
    found += [incremental_table(own, title)] if (own := [result for result in results if result.incremental]) else []
    return found + ([curve_table(drawn, title)] if drawn else [])


def matrix_table(results: Sequence[Result], title: str) -> Table:
    """A row for each learner and length of stream; where it has several seeds, the mean over them."""
    groups: dict[tuple[str, int, int | None], list[Result]] = {}
    for result in results:
        groups.setdefault((result.learner, result.tasks, result.shots), []).append(result)
    asked = {name for result in results for name in result.measures}
    columns = {name: words for name, words in MEASURES.items() if name in asked or name != "interference"}
    table = _table(title, _matrix_caption(list(groups.values()), asked))
    named = len({learner for learner, *_ in groups}) > 1
    for words in (*["learner"] * named, "tasks\nx shots", *columns.values(), "state"):
        table.add_column(words, justify="left" if words == "learner" else "right", no_wrap=True)
    for (learner, tasks, shots), group in groups.items():
        percent = group[0].score == "accuracy"
        cells = [_over_seeds(group, name, percent) for name in columns]
        length = str(tasks) if shots is None else f"{tasks} x {shots}"
        table.add_row(*[learner] * named, length, *cells, size_in_words(group[0].state_bytes))
    return table


def incremental_table(results: Sequence[Result], title: str) -> Table:
    """A row for each measure of class-incremental work, a column for each learner; where it has several seeds, the mean over
    them."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        several = len({own.tasks for own in results if own.learner == result.learner}) > 1
        words = f"{result.learner}, {in_number(result.tasks, 'tasks')}" if several else result.learner
        groups.setdefault(words, []).append(result)
    spreads = dict.fromkeys(_spread([replace(own, classes=None) for own in group], "") for group in groups.values())
    table = _table(title, f"accuracy in %, {', or '.join(spreads)}{_among(results)}")
    for words in ("", "accuracy ...", *groups):
        table.add_column(words, justify="right" if words in groups else "left", no_wrap=words not in groups)
    for name, words in INCREMENTAL.items():
        if any(name in result.incremental for result in results):
            cells = [_mean_and_spread([own.incremental.get(name) for own in group]) for group in groups.values()]
            table.add_row(name, words, *cells)
    return table


def _mean_and_spread(found: Sequence[dict[str, float | None] | None]) -> str:
    """Of one result, or of several seeds of meta-training, the mean and the standard deviation between rows, or seeds."""
    own = [value for value in found if value is not None]
    if not own:
        return "-"
    means = [np.nan if value["mean"] is None else value["mean"] for value in own]
    std = own[0]["std"] if len(own) == 1 else number(deviation(means))
    return cell({"mean": number(float(np.mean(means))), "std": std}, percent=True)


def _among(results: Sequence[Result]) -> str:
    """Which labels an answer could be, where papers ask so."""
    return "; answers among the classes so far" if any(result.among == "seen" for result in results) else ""


def curve_table(results: Sequence[Result], title: str) -> Table:
    """A row for each learner and curve but the diagnostics': its first and its last block of tasks, all of them, and the slope;
    where a learner has several results (lengths, seeds of its meta-training), a row for each."""
    percent = "accuracy in %; " * any(name.endswith("accuracy") for result in results for name in result.curves)
    told = dict.fromkeys(_curve_words(result) for result in results)
    table, names = _table(title, percent + ", or ".join(told)), [told_apart(result, results) for result in results]
    named = len(set(names)) > 1
    for words in (*["learner"] * named, "", *ENDS):
        table.add_column(words, justify="right" if words in ENDS else "left", no_wrap=True)
    for name, result in zip(names, results, strict=True):
        for words, curve in result.curves.items():
            if not words.startswith("diagnostics"):
                cells = (_end(curve, part, words.endswith("accuracy")) for part in ENDS)
                table.add_row(*[name] * named, words, *cells)
    return table


def _end(curve: dict[str, Any], part: str, percent: bool) -> str:
    """Of few measurements there is no slope."""
    if part not in curve or (part == "slope" and curve[part]["mean"] is None):  # results of before have no slope either
        return "-"
    return cell(curve[part], percent)


def _curve_words(result: Result) -> str:
    first = f"{result.block} tasks" if result.block > 1 else "task"
    words = f"mean of what was asked in the first and the last {first}, and in all; slope: change over {SLOPE} tasks"
    rows = in_number(result.number, result.rows)
    return f"{words}, of {rows}" + f" ± the standard deviation between single {result.rows}" * (result.number > 1)


def told_apart(result: Result, results: Sequence[Result]) -> str:
    """The learner, with the length and the seeds where others of it have other ones."""
    words = result.learner
    told = {"tasks": in_number(result.tasks, "tasks"), "run_seed": f"run {result.run_seed}", "seed": f"seed {result.seed}"}
    for name, own_words in told.items():
        if len({getattr(own, name) for own in results if own.learner == result.learner}) > 1:
            words += f", {own_words}"
    return words


def cell(value: dict[str, Any], percent: bool, digits: int = 4) -> str:
    """A mean and its spread between rows (`std`; None: there is one row), in words; a loss with so many digits."""
    if value["mean"] is None:
        return "not finite"
    scale, digits = (100, 1) if percent else (1, digits)
    spread = f" ± {scale * value['std']:.{digits}f}" if value["std"] is not None else ""
    return f"{round(scale * value['mean'], digits) + 0.0:.{digits}f}{spread}"  # + 0.0: no minus before a zero


def size_in_words(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1024:.1f} KiB" if size < 1024**2 else f"{size / 1024**2:.1f} MiB"


def cost_in_words(result: Result) -> str | None:
    """What a stream cost, in a line; None where it was not measured."""
    if result.seconds_a_task is None:
        return None
    words = f"{result.seconds_a_task:.2f} s to learn a task"
    if result.compute:
        learn, predict = (result.compute[f"multiply_adds_to_{part}"] for part in ("learn", "predict"))
        words += f"; multiply-adds: {learn:.3g} to learn an example, {predict:.3g} to predict one"
    if "gradient_examples" in result.compute:
        words += f"; gradients of {result.compute['gradient_examples']:.3g} examples for each one learnt"
    return words


def _over_seeds(group: Sequence[Result], name: str, percent: bool) -> str:
    own = [result for result in group if name in result.measures]
    if not own:
        return "-"
    found = [result.measures[name] for result in own]
    means = [np.nan if value["mean"] is None else value["mean"] for value in found]
    spread = found[0]["std" if group[0].rows == "seeds" else "half_width"]
    if len(own) > 1:
        spread = number(_half_width(own, name)) if _with_classes(own) else number(deviation(means))
    return cell({"mean": number(float(np.mean(means))), "std": spread}, percent)


def _half_width(group: Sequence[Result], name: str) -> float:
    sums = [ClassSums.read(result.classes[name]) for result in group if result.classes]
    return half_width_over_seeds(sums, [(result.run_seed, result.seed) for result in group])


def _with_classes(group: Sequence[Result]) -> bool:
    return all(result.classes for result in group)


def _fewest_classes(group: Sequence[Result]) -> int:
    return min(classes_in(ClassSums.read(result.classes["final"])) for result in group if result.classes)


def _matrix_caption(groups: Sequence[Sequence[Result]], asked: set[str]) -> str:
    classes = classes_of([result for group in groups for result in group])
    spreads = dict.fromkeys(_spread(group, classes) for group in groups)
    labels = "classes" if all(_with_classes(group) for group in groups) else "labels"
    defined = [words.format(labels=labels) for name, words in DEFINED.items() if name in asked]
    told = [f"{_unit(groups[0][0])}, {', or '.join(spreads)}", *defined]
    if asked >= DEFINED.keys():
        seen = any(result.among == "seen" for group in groups for result in group)
        told[-1] = f"forgetting: the same among {f'the {labels} so far' if seen else f'all {labels}'}, as it was asked"
    return "\n".join(told)


def _spread(group: Sequence[Result], classes: str) -> str:
    """What a row of the table is a mean over, and what its ± is."""
    first = group[0]
    counted = in_number(first.number, "streams" if len(group) > 1 and first.rows == "seeds" else first.rows)
    if len(group) > 1:
        trained = len({result.run_seed for result in group}) == len(group)
        counted = f"{len(group)} seeds{' of meta-training' * trained}, of {counted} each"
    drawn = ["the seeds"] * (len(group) > 1)
    if _with_classes(group):
        drawn.append(classes)
        few = "; so few classes hardly tell what others would give" if _fewest_classes(group) < FEW else ""
        return f"mean over {counted} ± half of the 95 % interval ({' and '.join(drawn)} drawn again and again{few})"
    if drawn:
        return f"mean over {counted} ± the standard deviation between seeds"
    if first.number == 1:
        return f"mean over {counted}"
    over = "half of the 95 % interval over episodes"
    return f"mean over {counted} ± {over if first.rows == 'episodes' else 'the standard deviation between them'}"


def classes_of(results: Sequence[Result]) -> str:
    """How many classes the results are about, in words."""
    counts = [classes_in(ClassSums.read(result.classes["final"])) for result in results if result.classes]
    least, most = min(counts, default=0), max(counts, default=0)
    return f"the {in_number(most, 'classes')}" if least == most else f"the {least} to {most} classes"


def in_number(number: int, many: str) -> str:
    """So many of something in words: 1 class, 2 classes."""
    one = many.removesuffix("es") if many.endswith("sses") else many.removesuffix("s")
    return f"{number} {many if number != 1 else one}"


def _unit(result: Result) -> str:
    return "accuracy in %" if result.score == "accuracy" else "mean squared error"


def _table(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
