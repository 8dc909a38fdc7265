"""Learners on a pre-trained vision transformer along class-incremental streams, and baselines on its frozen features."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metacl.recipes.files import to_json
from metacl.runs.folder import Run
from metacl.runs.following import Following
from studies.cells import Cell, Command, environment_of, results_of, training_seconds, validated, write_raw
from studies.words import BENCHMARKS, raw, spread, table

FOLDER = BENCHMARKS / "vision"
BACKBONE = "vit-s14-98"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Stream:
    """A class-incremental stream, cut to what two cores can do."""

    name: str
    folder: str
    tasks: int
    images: int
    """Of each class, to learn from."""
    asked: int
    """Held-out images of each task."""
    others: str
    """The data set with other classes, on which what is meta-trained is meta-trained."""


KEPT = ("incremental", "matrix", "state_bytes", "seconds_a_task")
STREAMS = {
    "cifar100": Stream("split-cifar100", "cifar100", 10, 20, 100, "tiny-imagenet"),
    "tiny-imagenet": Stream("incremental-tiny-imagenet", "tiny-imagenet", 20, 10, 50, "cifar100"),
}
ON_FEATURES = {"ncm": "ncm", "ranpac": "ranpac", "linear-probe": "linear-probe"}
META_TRAINED = {"pn": "pn", "gemcl": "gemcl", "transformer": "transformer"}
"""On the same features of other classes."""
META_TRAINING = "--recipe features --episodes.tasks 20 --episodes.vocabulary 200 --steps 80 --validation.every 20"
NORGAS_ALIGNMENT = "--learner.alignment.rate 0.05 --learner.alignment.epochs 27"
ON_IMAGES = {
    "vit-finetune": "vit-finetune",
    "vit-joint": "vit-joint",
    "prefix": "prefix",
    "l2p": "l2p",
    "dualprompt": "dualprompt",
    "s-prompt": "s-prompt",
    "coda-prompt": "coda-prompt",
    "hide-prompt": "hide-prompt",
    "hide-prompt, norga's alignment": f"hide-prompt {NORGAS_ALIGNMENT}",
    "norga": "norga",
    "norga, sigmoid": "norga --learner.gate sigmoid",
    "norga, gelu": "norga --learner.gate gelu",
    "norga, alpha 0": "norga --learner.alpha 0 --learner.no-learn-gate",
    "lora-sequential": "lora-sequential",
    "inf-lora": "inf-lora",
    "lora-drs": "lora-drs",
}
"""A name -> learner and options."""


def cells(data: Path) -> list[Cell]:
    """A cell for each stream, seed and learner; of the cheap ones first."""
    methods = [*ON_FEATURES, *META_TRAINED, *ON_IMAGES]
    return [cell(stream, method, seed, data) for stream in STREAMS for seed in SEEDS for method in methods]


def cell(stream: str, method: str, seed: int, data: Path) -> Cell:
    about, file = STREAMS[stream], FOLDER / f"{name_of(stream, method, seed)}.json"
    backbone = str(data / BACKBONE)
    learner, *own = (ON_FEATURES | META_TRAINED | ON_IMAGES)[method].split()
    shown = ["--learner.trunk.backbone", backbone] if method in ON_IMAGES else ["--stream.data.features", backbone]
    along = ["--tasks", str(about.tasks), "--most-held-out", str(about.asked), "--stream.images", str(about.images)]
    along += ["--seeds", str(seed), "--save-every", "1", "--stream.data.path", str(data / about.folder), *shown]
    along += ["--learner.tasks", str(about.tasks)] if method == "inf-lora" else []
    others = ["--data.path", str(data / about.others), "--data.features", backbone, "--seeds", str(seed)]

    def commands(folder: Path) -> list[Command]:
        if method not in META_TRAINED:
            return [Command("evaluate.py", [about.name, learner, *own, *along], folder / "run")]
        train = Command("train.py", [about.others, learner, *own, *META_TRAINING.split(), *others], folder / "train")
        return [train, Command("evaluate.py", [str(folder / "train"), about.name, *along], folder / "run")]

    def keep(folder: Path) -> None:
        trained = {"meta_training": meta_training(folder / "train")} if method in META_TRAINED else {}
        write_raw(file, {"stream": stream, "method": method, "seed": seed} | trained | figures(folder / "run"))

    return Cell(file.stem, commands, file.exists, keep)


def name_of(stream: str, method: str, seed: int) -> str:
    return f"{stream}-{method.replace(', ', '-').replace(' ', '-').replace(chr(39), '')}-{seed}"


def figures(folder: Path, kept: Sequence[str] = KEPT) -> dict[str, Any]:
    """What is kept of a run; of its result, what `kept` names."""
    following, result = Following.open(folder), results_of(folder)[0]
    config = to_json(following.config)
    config["stream"]["data"]["path"] = config["run"] = None
    if "trunk" in config["learner"]:
        config["learner"]["trunk"]["backbone"] = BACKBONE
    else:
        config["stream"]["data"]["features"] = BACKBONE
    return {"configuration": config, "environment": environment_of(folder)} | {name: result[name] for name in kept}


def meta_training(folder: Path) -> dict[str, Any]:
    """What is kept of a meta-training."""
    run = Run.open(folder)
    config = to_json(run.config)
    config["data"] |= {"path": None, "features": BACKBONE}
    return {"configuration": config, "best_step": run.best(), "seconds": training_seconds(run), "validation": validated(run)}


def runs(stream: str, method: str) -> list[dict[str, Any]]:
    """What is there, one entry for each seed."""
    files = [FOLDER / f"{name_of(stream, method, seed)}.json" for seed in SEEDS]
    return [raw(f"vision/{file.name}") for file in files if file.exists()]


def values(stream: str, method: str, measure: str) -> list[float]:
    """In per cent, for each seed."""
    return [100 * run["incremental"][measure]["mean"] for run in runs(stream, method)]


def results(stream: str) -> str:
    """Accuracies in % by learner, mean ± standard deviation over seeds; the best first."""
    found = [method for method in (*ON_FEATURES, *META_TRAINED, *ON_IMAGES) if runs(stream, method)]
    lines = []
    for method in sorted(found, key=lambda name: -statistics.mean(values(stream, name, "FA"))):
        seconds = statistics.mean(run["seconds_a_task"] for run in runs(stream, method))
        lines.append([method, *(spread(values(stream, method, name)) for name in ("FA", "CA", "FM")), f"{seconds:.0f} s"])
    return table(["learner", "FA", "CA", "FM", "a task"], lines)


def _table(stream: str) -> Callable[[], str]:
    return lambda: results(stream)


TABLES = {f"vision-{stream}": _table(stream) for stream in STREAMS}
