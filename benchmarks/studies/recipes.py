"""Why the default recipe is what it is: each of its parts changed, on glyphs, by meta-validation."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metacl.evaluation.metrics import deviation
from metacl.runs.files import read_json
from metacl.runs.folder import Run
from metacl.runs.group import members
from studies.cells import Cell, Command, environment_of, write_raw
from studies.words import BENCHMARKS, raw, spread, table

FILE = BENCHMARKS / "recipes" / "recipes.json"
STEPS, BATCH = 200, 8
SEEDS = ("0", "1")
VARIANTS = {
    "default": "",
    "queries hold inputs": "--learner.query input",
    "one rate for all weights": "--optimiser.behind-encoder 1",
    "no label smoothing": "--smoothing 0",
    "four heads": "--learner.heads 4",
    "no LayerNorm": "--learner.no-norm",
    "queries and keys start alike, the rest at random": "--learner.start alike",
    "interleaved tokens": "--learner.layout interleaved",
}
"""The options that change a part back."""
LEARNING = 0.3
"""Meta-train accuracy at which a learner has begun to learn: who only knows the symbols of the stream is right once in 5."""


def cells(data: Path) -> list[Cell]:
    """A cell for each variant; `data` is not looked at."""
    return [cell(name, options.split()) for name, options in VARIANTS.items()]


def cell(name: str, options: list[str], steps: int = STEPS, batch: int = BATCH, file: Path = FILE) -> Cell:
    length = ["--steps", str(steps), "--batch-size", str(batch), "--validation.every", str(steps), "--seeds", *SEEDS]

    def commands(folder: Path) -> list[Command]:
        return [Command("train.py", ["glyphs", "transformer", *options, *length], folder / "train")]

    def kept() -> bool:
        return file.exists() and name in read_json(file)["variants"]

    def keep(folder: Path) -> None:
        runs = [Run.open(member) for member in members(folder / "train")]
        new: dict[str, Any] = {"steps": steps, "environment": environment_of(runs[0].folder), "variants": {}}
        found = read_json(file) if file.exists() else new
        found["variants"][name] = {"options": options} | summarised([run.metrics() for run in runs])
        write_raw(file, found)

    return Cell(name.replace(",", "").replace(" ", "-"), commands, kept, keep)


def summarised(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Meta-validation accuracy at the last step, mean and standard deviation over seeds, and when each run began to learn."""
    final = [run[-1]["validation_accuracy"] for run in runs]
    begun = [next((record["step"] for record in run if record.get("accuracy", 0) > LEARNING), None) for run in runs]
    return {"accuracy": statistics.mean(final), "spread": float(deviation(final)), "of_each_seed": final, "started_at": begun}


def results() -> str:
    """Meta-validation accuracy in % at the last step, and the step at which each seed began to learn."""
    lines = []
    for name, found in raw("recipes/recipes.json")["variants"].items():
        begun = ", ".join("never" if step is None else str(step) for step in found["started_at"])
        lines.append([name, spread(found["of_each_seed"], scale=100), begun])
    return table(["variant", "meta-validation accuracy in %", "over 30 % at step"], lines)


TABLES: dict[str, Callable[[], str]] = {"recipes": results}
