"""The results of an evaluation: a table on the screen, a JSON file and two plots for each length of stream."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from episodes import EpisodeGenerator
from metacl.evaluation.episodes import Evaluation, evaluate
from metacl.evaluation.metrics import Estimate
from metacl.learners import Learner
from metacl.report.display import bar
from metacl.report.plots import plot_matrix, plot_positions
from metacl.runs.folder import write_json

COLUMNS = {
    "final": "at the end",
    "learned": "just after\nits task",
    "forgetting": "forgetting",
    "backward_transfer": "backward\ntransfer",
}


def result_table(evaluations: list[Evaluation], title: str) -> Table:
    """A row for each length of stream; means over episodes with 95 % confidence intervals."""
    classification, episodes = evaluations[0].classification, len(evaluations[0].scores_ETT)
    score = "accuracy in %" if classification else "mean squared error"
    caption = f"{score}, mean over {episodes} episodes ± half of the 95 % confidence interval"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for words in ("tasks\nx shots", *COLUMNS.values(), "state"):
        table.add_column(words, justify="right", no_wrap=True)
    for evaluation in evaluations:
        measures, shape = evaluation.measures, evaluation.shape
        cells = [_cell(measures[name], classification) if name in measures else "-" for name in COLUMNS]
        table.add_row(f"{shape.tasks} x {shape.shots}", *cells, _bytes(evaluation.state_bytes))
    return table


def watched(learner: Learner, generator: EpisodeGenerator, episodes: int, batch_size: int) -> Evaluation:
    """`evaluate` on the device of the learner, with progress and the time left on the screen."""
    with bar(f"{generator.shape.tasks} tasks") as progress:
        task = progress.add_task("", total=episodes, now="episodes")
        device = next(learner.parameters()).device
        return evaluate(learner, generator, episodes, batch_size, device, lambda done: progress.update(task, completed=done))


def write_results(evaluations: list[Evaluation], about: dict[str, Any], folder: Path, title: str) -> list[Path]:
    """Writes results.json and the plots into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "results.json"]
    write_json(files[0], about | {"results": [evaluation.to_json() for evaluation in evaluations]})
    for evaluation in evaluations:
        tasks = evaluation.shape.tasks
        for name, plot in (("positions", plot_positions), ("matrix", plot_matrix)):
            files.append(folder / f"{name}-{tasks}-tasks.png")
            plot(evaluation, files[-1], f"{title}, {tasks} tasks x {evaluation.shape.shots} shots")
    return files


def _cell(value: Estimate, classification: bool) -> str:
    return (
        f"{100 * value.mean:.1f} ± {100 * value.half_width:.1f}"
        if classification
        else f"{value.mean:.4f} ± {value.half_width:.4f}"
    )


def _bytes(size: int) -> str:
    return f"{size / 1024:.1f} KiB" if size < 1024**2 else f"{size / 1024**2:.1f} MiB"
