"""Low-rank weights task after task, and what LoRA-DRS (Liu and Chang 2025) is made of: a grid of its parts, and feature drift.

Cut to about two minutes of one core a cell: images of 70 pixels (26 tokens), eight of each class to learn from (four of Tiny
ImageNet), four epochs in batches of 16, and few held-out images of each task. So differences of a point or two say nothing
without several seeds.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metacl.evaluation.metrics import deviation
from metacl.report.plots import plot_curves
from studies.cells import Cell, Command, write_raw
from studies.vision import along, figures
from studies.words import BENCHMARKS, spread, table

FOLDER = BENCHMARKS / "lora"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Stream:
    """A class-incremental stream, cut."""

    about: str
    name: str
    folder: str
    tasks: int
    classes: int
    """In a task."""
    images: int
    """Of each class, to learn from."""
    asked: int
    """Held-out images of each task."""


STREAMS = {
    "cifar100-10": Stream("split CIFAR-100, 10 tasks", "split-cifar100", "cifar100", 10, 10, 8, 40),
    "cifar100-50": Stream("split CIFAR-100, 50 tasks", "split-cifar100", "cifar100", 50, 2, 8, 4),
    "cifar100-20": Stream("split CIFAR-100, 20 tasks", "split-cifar100", "cifar100", 20, 5, 8, 20),
    "tiny-imagenet-20": Stream("Tiny ImageNet, 20 tasks", "incremental-tiny-imagenet", "tiny-imagenet", 20, 10, 4, 20),
}
WHOLE_GRID = "cifar100-10"
"""The stream along which all arms are followed; along the others some."""
SPACES = {"plain": "no pairs", "added": "old pairs added", "subtracted": "old pairs subtracted"}
STEPS = {"normalised": "--learner.normalise", "not": "--learner.no-normalise", "shrunk": "--learner.shrink"}
"""`shrunk` is the control: no projection, steps as much smaller as `normalised` makes them with old pairs subtracted."""
TRIPLET = {True: "--learner.triplet 0.05", False: "--learner.triplet 0"}


def arm(space: str, steps: str, triplet: bool) -> str:
    """The name of a cell of the grid."""
    return "-".join([space, *([steps] if steps else []), *(["triplet"] if triplet else [])])


GRID = {arm("none", "", with_triplet): f"lora-drs --learner.space none {words}" for with_triplet, words in TRIPLET.items()} | {
    arm(space, steps, with_triplet): f"lora-drs --learner.space {space} {how} {words}"
    for space in ("subtracted", "plain", "added")
    for steps, how in STEPS.items()
    for with_triplet, words in TRIPLET.items()
    if steps != "shrunk" or space == "subtracted"
}
"""A name -> learner and options. `none` without the loss is LoRA and no more."""
OTHERS = {name: name for name in ("inf-lora", "adam-nscl", "ease")}
DRS = arm("subtracted", "normalised", True)
"""LoRA-DRS, as its code is."""
ALONG_ALL = (
    arm("none", "", False),
    arm("none", "", True),
    DRS,
    arm("subtracted", "normalised", False),
    arm("plain", "normalised", True),
    arm("subtracted", "shrunk", True),
    "inf-lora",
)
"""What is followed along all streams."""


def cells(data: Path) -> list[Cell]:
    """A cell for each seed, stream and learner; one seed of all before the next."""
    return [cell(stream, name, seed, data) for seed in SEEDS for stream in STREAMS for name in methods(stream)]


def methods(stream: str) -> list[str]:
    """EASE and Adam-NSCL are followed along the whole grid's stream alone: they cost several times as much."""
    return [*GRID, *OTHERS] if stream == WHOLE_GRID else list(ALONG_ALL)


def cell(stream: str, method: str, seed: int, data: Path) -> Cell:
    about, file = STREAMS[stream], FOLDER / f"{stream}-{method}-{seed}.json"
    words = [about.name, *(GRID | OTHERS)[method].split(), *along(data, about.folder), "--seeds", str(seed)]
    words += ["--tasks", str(about.tasks), "--stream.classes", str(about.classes), "--stream.images", str(about.images)]
    words += ["--most-held-out", str(about.asked)]
    words += [] if method == "ease" else ["--drift"]
    words += ["--learner.tasks", str(about.tasks)] if method == "inf-lora" else []

    def commands(folder: Path) -> list[Command]:
        return [Command("evaluate.py", words, folder / "run")]

    def keep(folder: Path) -> None:
        about_it = {"stream": stream, "method": method, "seed": seed}
        write_raw(file, about_it | figures(folder / "run", ("incremental", "drift", "state_bytes", "seconds_a_task")))

    return Cell(f"{stream}/{method}/{seed}", commands, file.exists, keep)


def runs(stream: str, method: str) -> list[dict[str, Any]]:
    """What is there, one entry for each seed."""
    files = [FOLDER / f"{stream}-{method}-{seed}.json" for seed in SEEDS]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def drift(run: dict[str, Any]) -> list[float]:
    """In per cent of their own lengths, how far features of earlier tasks have moved; after each task from the second on."""
    found = run["drift"].get("relative", [])
    return [100 * statistics.mean(row[:t]) for t, row in enumerate(found) if t]


def measures(stream: str, method: str) -> list[str]:
    """FA, CA and drift after the last task, or where there is nothing yet, nothing."""
    found = runs(stream, method)
    if not found:
        return []
    scores = [spread([100 * run["incremental"][name]["mean"] for run in found]) for name in ("FA", "CA")]
    moved = [drift(run)[-1] for run in found if run["drift"]]
    return [*scores, spread(moved) if moved else "-"]


def grid(stream: str) -> str:
    """In %, by what tells the space, how long steps are, and the loss; then other methods."""
    lines = [
        ["all directions", "-", *_loss(own), *found] for own in TRIPLET if (found := measures(stream, arm("none", "", own)))
    ]
    for space, words in SPACES.items():
        for steps in STEPS:
            for own in TRIPLET:
                if found := measures(stream, arm(space, steps, own)):
                    lines.append([words, steps, *_loss(own), *found])
    lines += [[name, "", "", *found] for name in OTHERS if (found := measures(stream, name))]
    return table(["space", "steps", "triplet loss", "FA", "CA", "drift"], lines, words=3)


def _loss(triplet: bool) -> list[str]:
    return ["with" if triplet else "without"]


def lengths() -> str:
    """FA in % by the number of tasks of split CIFAR-100."""
    streams = {tasks: f"cifar100-{tasks}" for tasks in (10, 20, 50)}
    names = {DRS: "LoRA-DRS", arm("plain", "normalised", True): "LoRA-DRS, space of the transformer without pairs"}
    names |= {arm("subtracted", "shrunk", True): "LoRA-DRS, shorter steps in place of the space"}
    names |= {arm("subtracted", "normalised", False): "LoRA-DRS without the triplet loss"}
    names |= {arm("none", "", False): "LoRA", arm("none", "", True): "LoRA with the triplet loss"}
    names |= OTHERS
    lines = []
    for method, words in names.items():
        found = [measures(stream, method)[:1] or ["-"] for stream in streams.values()]
        if any(own != ["-"] for own in found):
            lines.append([words, *(own[0] for own in found)])
    return table(["learner", *(f"{tasks} tasks" for tasks in streams)], lines)


def draw(path: Path) -> None:
    """How far features have moved, by task: LoRA-DRS, what it is compared with, and other methods."""
    names = {arm("none", "", False): "LoRA", DRS: "LoRA-DRS", arm("plain", "normalised", True): "LoRA-DRS, no pairs"}
    names |= {
        arm(space, "normalised", False): f"{space}, without the triplet loss" for space in ("subtracted", "plain", "added")
    }
    names |= {name: name for name in OTHERS if name != "ease"}
    panels = {}
    for stream, about in STREAMS.items():
        found = {words: curve for method, words in names.items() if (curve := _curve(stream, method))}
        if found:
            panels[about.about] = found
    plot_curves(
        panels, 1, path, "how far features of old tasks have moved, in % of their length", f"{len(SEEDS)} seeds at most"
    )


def _curve(stream: str, method: str) -> dict[str, Any]:
    rows = [drift(run) for run in runs(stream, method) if run["drift"]]
    if not rows:
        return {}
    mean, std = np.mean(rows, 0), deviation(np.array(rows).T, 1)
    return {"tasks": list(range(1, len(mean) + 1)), "mean": mean.tolist(), "std": std.tolist()}


def _table(stream: str) -> Callable[[], str]:
    return lambda: grid(stream)


TABLES = {f"lora-{stream}": _table(stream) for stream in STREAMS} | {"lora-lengths": lengths}
PICTURES = {"lora/drift.png": draw} if any(FOLDER.glob("*.json")) else {}
"""There is no picture before the first figures."""
