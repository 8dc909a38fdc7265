"""The results of an evaluation, of any kind: results.json first, then the table on the screen, then the pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metacl.evaluation.result import Result
from metacl.report.display import say, show_table
from metacl.report.plots import draw
from metacl.report.tables import cost_in_words, tables
from metacl.runs.files import read_json, write_json


def write_results(results: Sequence[Result], about: dict[str, Any], folder: Path, title: str) -> None:
    """Writes results.json, and only then shows the tables and draws the pictures: what fails there loses nothing.

    Arguments:
        about: what stands beside the results: configuration, environment, fingerprints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    write_json(path, about | {"results": [result.to_json() for result in results]})
    show(results, title)
    files = [path, *draw(results, folder, title)]
    say("Written: " + ", ".join(str(file) for file in files))


def show(results: Sequence[Result], title: str) -> None:
    """The tables on the screen."""
    for table in tables(results, title):
        show_table(table)
    for result in results:
        if words := cost_in_words(result):
            say(f"{result.learner}: {words}")


def read_results(folder: Path) -> list[Result]:
    """The results that `write_results` left in a folder."""
    return [Result(**values) for values in read_json(folder / "results.json")["results"]]
