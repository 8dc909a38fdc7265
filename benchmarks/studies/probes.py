"""What a mechanism's state can do, in two probes: how many pairs it recalls, and whether it follows swaps along a stream."""

import inspect
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from metacl.attention import ATTENTION
from metacl.evaluation.metrics import deviation
from metacl.recipes.files import to_json
from metacl.report.figures import figure
from metacl.report.plots import CHANCE
from metacl.runs.files import read_json
from metacl.runs.folder import Run
from studies.cells import Cell, Command, environment_of, parameters, results_of, training_seconds, validated, write_raw
from studies.words import BENCHMARKS, spread, table

FOLDER = BENCHMARKS / "probes"
SEEDS = (0, 1, 2)
LINES = {name: f"--learner.attention {name}" for name in ATTENTION} | {
    f"{name}-negative": f"--learner.attention {name} --learner.options negative 1"
    for name, mechanism in ATTENTION.items()
    if "negative" in inspect.signature(mechanism).parameters
}
"""Every mechanism there is, and those that may have negative eigenvalues once more, with them. The options that make it."""
NARROW = "--learner.width 64 --learner.heads 2 --learner.hidden 128 --learner.dropout 0 --learner.attention-dropout 0"
NARROW += " --optimiser.behind-encoder 1 --validation.every 100 --validation.episodes 64 --precision fp32"
"""Where there are no convolutions, no weights need a lower rate."""


@dataclass(frozen=True)
class Probe:
    """How a benchmark is learnt, and at which lengths it is tested."""

    benchmark: str
    training: str
    length: str
    """What a length counts."""
    trained: int
    lengths: tuple[int, ...]
    chance: float
    """The error of who guesses."""
    evaluations: Callable[[tuple[int, ...]], dict[tuple[int, ...], str]]
    """From the lengths to the options of each evaluation, by the lengths that come of it in their order."""

    @property
    def tests(self) -> dict[tuple[int, ...], str]:
        return self.evaluations(self.lengths)


def _of_pairs(lengths: tuple[int, ...]) -> dict[tuple[int, ...], str]:
    """All lengths at once: a pair is a task."""
    return {lengths: f"--tasks {' '.join(map(str, lengths))} --episodes 128"}


def _of_swaps(lengths: tuple[int, ...]) -> dict[tuple[int, ...], str]:
    """One length after the other: a swap is a shot, after those that tell what lies in each place."""
    return {(length,): f"--shots {PLACES + length} --episodes 256" for length in lengths}


PLACES, SYMBOLS = 3, 128
PROBES = {
    "recall": Probe(
        "recall",
        f"--learner.layers 1 --episodes.tasks 64 --episodes.vocabulary {SYMBOLS} --steps 300 --batch-size 16",
        "pairs",
        64,
        (8, 16, 32, 64, 128),
        1 - 1 / SYMBOLS,
        _of_pairs,
    ),
    "tracking": Probe(
        "tracking",
        f"--learner.layers 2 --episodes.shots {PLACES + 8} --steps 600 --batch-size 32",
        "swaps",
        8,
        (8, 16, 32, 64),
        1 - 1 / PLACES,
        _of_swaps,
    ),
}


def cells(data: Path) -> list[Cell]:
    """A cell for each probe, seed and mechanism; `data` is not looked at."""
    return [cell(probe, line, seed, []) for seed in SEEDS for probe in PROBES for line in LINES]


def cell(probe: str, line: str, seed: int, options: list[str], folder_of_raw: Path = FOLDER) -> Cell:
    file, about = folder_of_raw / f"{probe}-{line}-{seed}.json", PROBES[probe]

    def commands(folder: Path) -> list[Command]:
        words = f"{about.benchmark} linear-transformer {LINES[line]} {NARROW} {about.training} --seeds {seed}"
        tests = [
            Command("evaluate.py", [str(folder / "train"), *own.split(), "--no-matrix", "--at-end"], folder / _words(lengths))
            for lengths, own in about.tests.items()
        ]
        return [Command("train.py", [*words.split(), *options], folder / "train"), *tests]

    def keep(folder: Path) -> None:
        write_raw(file, {"probe": probe, "mechanism": line, "seed": seed} | figures(folder, about))

    return Cell(file.stem, commands, file.exists, keep)


def figures(folder: Path, probe: Probe) -> dict[str, Any]:
    """What is kept of one meta-training and its tests."""
    run = Run.open(folder / "train")
    size, fingerprint = parameters(run.config.learner, run.config.data, run.config.episodes.symbols)
    found = {
        length: result
        for lengths in probe.tests
        for length, result in zip(lengths, results_of(folder / _words(lengths)), strict=True)
    }
    return {
        "configuration": to_json(run.config),
        "environment": environment_of(run.folder),
        "data_fingerprint": fingerprint,
        "parameters": size,
        "seconds": training_seconds(run),
        "validation_accuracy": validated(run),
        "accuracy": {str(length): result["measures"]["final"] for length, result in found.items()},
        "state_bytes": {str(length): result["state_bytes"] for length, result in found.items()},
    }


def errors(probe: str, line: str, length: int, folder: Path = FOLDER) -> list[float]:
    """Per cent of wrong answers after the whole stream, for each seed that was made."""
    files = [folder / f"{probe}-{line}-{seed}.json" for seed in SEEDS]
    return [100 * (1 - read_json(file)["accuracy"][str(length)]["mean"]) for file in files if file.exists()]


def results(probe: str, folder: Path = FOLDER) -> str:
    """Error in % at each length, mean ± standard deviation over seeds; a line for each mechanism that was run."""
    lengths, lines = PROBES[probe].lengths, []
    for line in LINES:
        found = [errors(probe, line, length, folder) for length in lengths]
        if all(found):
            lines.append([line, *map(spread, found)])
    words = PROBES[probe].length
    return table(["mechanism", *(f"{length} {words}" for length in lengths)], lines)


def draw(path: Path) -> None:
    """Error against the number of pairs, and of swaps: a line for each mechanism that was run."""
    picture, shown = figure(11, 4.8), dict[str, Any]()
    for axes, (name, probe) in zip(picture.subplots(1, 2), PROBES.items(), strict=True):
        for number, line in enumerate(LINES):
            found = [errors(name, line, length, path.parent) for length in probe.lengths]
            if all(found):
                means, widths = map(statistics.mean, found), map(deviation, found)
                look = {
                    "color": f"C{number % 10}",
                    "marker": "os^D"[number // 10 % 4],
                    "markersize": 4,
                    "linewidth": 1,
                    "label": line,
                }
                axes.errorbar(probe.lengths, list(means), yerr=list(widths), **look)
        axes.axhline(100 * probe.chance, **CHANCE, label="chance")
        axes.axvline(probe.trained, color="0.8", linewidth=1, zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(probe.lengths, map(str, probe.lengths))
        axes.set(title=name, xlabel=f"{probe.length} (meta-trained on {probe.trained})", ylabel="error in %", ylim=(-3, 103))
        axes.grid(alpha=0.3)
        shown |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    picture.legend(shown.values(), shown, loc="outside right center", fontsize="small")
    picture.savefig(path, dpi=120)


def _words(lengths: tuple[int, ...]) -> str:
    """The folder of an evaluation."""
    return "test-" + "-".join(map(str, lengths))


TABLES: dict[str, Callable[[], str]] = {f"probes-{probe}": partial(results, probe) for probe in PROBES}
PICTURES: dict[str, Callable[[Path], None]] = {"probes/errors.png": draw}
