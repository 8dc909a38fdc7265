"""What a study is made of: cells, each some command lines, and what is kept of their run folders."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from episodes import DataConfig, UserError, load_benchmark
from metacl.runs.environment import environment
from metacl.runs.files import is_run, read_json, write_json
from metacl.runs.folder import Run
from metacl.runs.group import members
from metacl.runs.signals import exit_status

ROOT = Path(__file__).parents[2]


class FailedError(UserError):
    """A command line ended with an error."""


@dataclass(frozen=True)
class Command:
    """A command line of `train.py` or `evaluate.py`, and the folder of what comes of it."""

    script: str
    words: Sequence[str]
    """What comes after the script; the option that names the folder is added."""
    folder: Path

    @property
    def line(self) -> list[str]:
        """All of it, as it is first run."""
        return [self.script, *self.words, "--run" if self.script == "train.py" else "--out", str(self.folder)]


@dataclass(frozen=True)
class Cell:
    """One entry in the raw figures of a study."""

    name: str
    """What it is called; its run folders are in a folder of this name."""
    commands: Callable[[Path], list[Command]]
    """From that folder to the command lines, in their order."""
    kept: Callable[[], bool]
    """Whether its raw figures are there."""
    keep: Callable[[Path], None]
    """From that folder to the raw figures, which it writes."""


def write_raw(file: Path, values: dict[str, Any]) -> None:
    """Raw figures; the folder of the first ones of a study is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, values)


def make(cell: Cell, folder: Path, threads: int | None = None) -> None:
    """Runs what is not done yet of a cell, and keeps its raw figures."""
    for command in cell.commands(folder):
        if not finished(command):
            run(command, threads)
    cell.keep(folder)


def run(command: Command, threads: int | None = None) -> None:
    """Runs a command line, or goes on where it was stopped.

    Raises:
        FailedError: it ended with an error, which it has told.
        UserError: the folder is a run of another command line.
    """
    line = command.line
    if is_run(command.folder):
        begun = [member for member in members(command.folder) if (member / "config.json").exists()]
        if any(read_json(member / "environment.json")["command"] not in (line, _resumed(command)) for member in begun):
            raise UserError(f"{command.folder} is a run of other options than {' '.join(line)}. Move it away.")
        if command.script == "train.py" and begun == [command.folder] and not Run.open(command.folder).steps():
            shutil.rmtree(command.folder)  # it was stopped before its first checkpoint
        else:
            line = _resumed(command)
    print("python", *line, flush=True)
    status = call(line, threads)
    if status == exit_status(signal.SIGINT):
        raise KeyboardInterrupt
    if status:
        raise FailedError(f"{' '.join(line)} ended with status {status}.")


def call(line: list[str], threads: int | None) -> int:
    """The exit status of a command line, in a process of its own."""
    few = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return subprocess.run([sys.executable, str(ROOT / line[0]), *line[1:]], env=os.environ | few).returncode


def finished(command: Command) -> bool:
    """Whether a command line has done all of its work."""
    if not is_run(command.folder):
        return False
    if command.script == "evaluate.py":
        return (command.folder / "results.json").exists()
    return all((member / "config.json").exists() and _at_end(Run.open(member)) for member in members(command.folder))


def _resumed(command: Command) -> list[str]:
    return [command.script, "--resume", str(command.folder)]


def _at_end(run: Run) -> bool:
    return run.steps()[-1:] == [run.config.steps]


def results_of(folder: Path) -> list[dict[str, Any]]:
    """What an evaluation found, one entry for each length of stream."""
    found: list[dict[str, Any]] = read_json(folder / "results.json")["results"]
    return found


def brief(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what is there for each pair of tasks, for each place in the stream and for each class."""
    return {name: value for name, value in result.items() if name not in ("matrix", "positions", "classes", "chance")}


def environment_of(folder: Path) -> dict[str, Any]:
    """Commit, versions and hardware of a run."""
    found = read_json(folder / "environment.json")
    return {name: found[name] for name in environment()}


def training_seconds(run: Run) -> float:
    """The time of all steps of a meta-training, without meta-validation."""
    lines = [line for line in run.metrics() if "episodes_per_second" in line]
    before = [0, *(line["step"] for line in lines)]
    return sum(
        (line["step"] - last) * run.config.batch_size / line["episodes_per_second"]
        for line, last in zip(lines, before, strict=False)
    )


def validated(run: Run) -> dict[int, float]:
    """Meta-validation accuracy by step."""
    return {line["step"]: line["validation_accuracy"] for line in run.metrics() if "validation_accuracy" in line}


def parameters(learner: Any, data: DataConfig, symbols: int) -> tuple[int, str]:
    """How many parameters a learner has on this data, and the fingerprint of the data."""
    benchmark = load_benchmark(data, symbols)
    return sum(p.numel() for p in learner.build(benchmark.test.spec).parameters()), benchmark.fingerprint
