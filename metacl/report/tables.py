"""Results as tables on the screen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from metacl.evaluation.metrics import deviation
from metacl.evaluation.result import Result

MEASURES = {
    "final": "at the end",
    "learned": "just after\nits task",
    "forgetting": "forgetting",
    "backward_transfer": "backward\ntransfer",
}


def tables(results: Sequence[Result], title: str) -> list[Table]:
    """One of what comes from the matrix, one of curves along tasks; the one that was not asked for is left out."""
    measured = [result for result in results if result.measures]
    drawn = [result for result in results if any(not name.startswith("diagnostics") for name in result.curves)]
    found = [matrix_table(measured, title)] if measured else []
    return found + ([curve_table(drawn, title)] if drawn else [])


def matrix_table(results: Sequence[Result], title: str) -> Table:
    """A row for each learner and length of stream; where it has several seeds, the mean over them."""
    groups: dict[tuple[str, int, int | None], list[Result]] = {}
    for result in results:
        groups.setdefault((result.learner, result.tasks, result.shots), []).append(result)
    several = max(len(group) for group in groups.values())
    number, rows = results[0].number, results[0].rows
    counted = f"{number} {rows if number > 1 else rows.removesuffix('s')}"
    spread = f"mean over {counted}" + " ± half of the 95 % confidence interval" * (number > 1)
    if several > 1:
        spread = f"mean over {several} seeds of {counted} each ± the standard deviation between seeds"
    elif rows == "seeds" and number > 1:
        spread = f"mean over {counted} ± the standard deviation between them"
    table = _table(title, f"{_unit(results[0])}, {spread}")
    named = len({learner for learner, *_ in groups}) > 1
    for words in (*["learner"] * named, "tasks\nx shots", *MEASURES.values(), "state"):
        table.add_column(words, justify="left" if words == "learner" else "right", no_wrap=True)
    for (learner, tasks, shots), group in groups.items():
        percent = group[0].score == "accuracy"
        cells = [_over_seeds(group, name, percent) for name in MEASURES]
        length = str(tasks) if shots is None else f"{tasks} x {shots}"
        table.add_row(*[learner] * named, length, *cells, size_in_words(group[0].state_bytes))
    return table


def curve_table(results: Sequence[Result], title: str) -> Table:
    """A row for each learner and curve but the diagnostics': its first and its last block of tasks; where a learner has several
    results (lengths, seeds of its meta-training), a row for each."""
    first = results[0]
    caption = f"mean of the first and the last {f'{first.block} tasks' if first.block > 1 else 'task'}"
    number, rows = first.number, first.rows
    caption += f", ± the standard deviation between {number} {rows}" if number > 1 else f"; one {rows.removesuffix('s')}"
    table, names = _table(title, caption), [told_apart(result, results) for result in results]
    named = len(set(names)) > 1
    for words in (*["learner"] * named, "", "first", "last"):
        table.add_column(words, justify="right" if words in ("first", "last") else "left", no_wrap=True)
    for name, result in zip(names, results, strict=True):
        for words, curve in result.curves.items():
            if not words.startswith("diagnostics"):
                cells = (cell(curve[part], words.endswith("accuracy")) for part in ("first", "last"))
                table.add_row(*[name] * named, words, *cells)
    return table


def told_apart(result: Result, results: Sequence[Result]) -> str:
    """The learner, with the length and the seeds where others of it have other ones."""
    words = result.learner
    for name, told in (("tasks", "{} tasks"), ("run_seed", "run {}"), ("seed", "seed {}")):
        if len({getattr(own, name) for own in results if own.learner == result.learner}) > 1:
            words += ", " + told.format(getattr(result, name))
    return words


def cell(value: dict[str, Any], percent: bool, digits: int = 4) -> str:
    """A mean and its spread between rows (`std`; None: there is one row), in words; a loss with so many digits."""
    if value["mean"] is None:
        return "not finite"
    scale, digits = (100, 1) if percent else (1, digits)
    spread = f" ± {scale * value['std']:.{digits}f}" if value["std"] is not None else ""
    return f"{scale * value['mean']:.{digits}f}{spread}"


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
    found = [result.measures[name] for result in group if name in result.measures]
    if not found:
        return "-"
    means = [np.nan if value["mean"] is None else value["mean"] for value in found]
    alone = found[0]["std" if group[0].rows == "seeds" else "half_width"]
    return cell({"mean": float(np.mean(means)), "std": float(deviation(means)) if len(found) > 1 else alone}, percent)


def _unit(result: Result) -> str:
    return "accuracy in %" if result.score == "accuracy" else "mean squared error"


def _table(title: str, caption: str) -> Table:
    return Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
