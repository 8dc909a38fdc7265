"""Learners on a pre-trained vision transformer along class-incremental streams, and baselines on its frozen features."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from episodes import UserError
from metacl.recipes.files import to_json
from metacl.runs.folder import Run
from metacl.runs.following import Following
from studies.cells import Cell, Command, environment_of, results_of, training_seconds, validated, write_raw
from studies.words import BENCHMARKS, raw, slug, spread, table

FOLDER = BENCHMARKS / "vision"
BACKBONE = "vit-s14-98"
SEEDS = (0, 1, 2)
SIDE = "70"
"""Of the images in pixels, where the transformer was trained with 98: 26 tokens, less than half of the time."""
EPOCHS, BATCH = 4, "16"


@dataclass(frozen=True)
class Stream:
    """A class-incremental stream, cut to what two cores can do."""

    name: str
    folder: str
    tasks: int
    classes: int
    """In a task."""
    images: int
    """Of each class, to learn from."""
    asked: int
    """Held-out images of each task."""
    others: str
    """The data set on which what is meta-trained is meta-trained."""


KEPT = ("incremental", "matrix", "state_bytes", "seconds_a_task")
STREAMS = {
    "cifar100": Stream("split-cifar100", "cifar100", 10, 10, 8, 40, "tiny-imagenet"),
    "tiny-imagenet": Stream("incremental-tiny-imagenet", "tiny-imagenet", 20, 10, 4, 20, "cifar100"),
}
ON_FEATURES = ("ncm", "ranpac", "linear-probe")
META_TRAINED = ("pn", "gemcl", "transformer")
"""On the same features of another data set."""
META_TRAINING = "--recipe features --episodes.tasks 20 --episodes.vocabulary 200 --steps 80 --validation.every 20"
TUNED = {
    "vit-finetune": 1.25e-5,
    "vit-joint": 5e-5,
    "l2p": 2.5e-3,
    "dualprompt": 2.5e-3,
    "coda-prompt": 1e-3,
    "hide-prompt": 1.5e-2,
    "norga": 1.5e-2,
}
"""Learners on images, each of which gets as many rates to choose from: around that of its recipe."""
FACTORS = (0.25, 1, 4, 16)
VARIANTS = {
    "hide-prompt, gate": ("hide-prompt", "--learner.gate tanh"),
    "hide-prompt, long alignment": ("hide-prompt", "--learner.alignment.rate 0.05 --learner.alignment.epochs 27"),
    "norga, alpha 0": ("norga", "--learner.alpha 0 --learner.no-learn-gate"),
    "norga, sigmoid": ("norga", "--learner.gate sigmoid"),
    "norga, gelu": ("norga", "--learner.gate gelu"),
}
"""With the rate of the learner that each is a variant of. What tells NoRGa from HiDe-Prompt is a gate and longer alignment at
a higher rate: without the one it is HiDe-Prompt with NoRGa's alignment, without the other HiDe-Prompt with a gate. Under
`norga` prefixes have the rate that was chosen for it, under `hide-prompt` another one."""
ONE_STREAM = ("cifar100", ("hide-prompt, gate", "hide-prompt, long alignment", "norga, sigmoid", "norga, gelu"))
"""Variants that are followed along one stream alone."""
TUNING = "cifar100"
"""The data set of the stream on which rates are chosen, in another order of classes."""


def cells(data: Path) -> list[Cell]:
    """The choice of rates first, then a cell for each stream, seed and learner; one seed of all before the next."""
    tuning = [tuning_cell(method, data) for method in TUNED]
    return tuning + [cell(stream, method, seed, data) for seed in SEEDS for stream in STREAMS for method in methods(stream)]


def methods(stream: str) -> list[str]:
    left_out = () if stream == ONE_STREAM[0] else ONE_STREAM[1]
    return [method for method in (*ON_FEATURES, *META_TRAINED, *TUNED, *VARIANTS) if method not in left_out]


def tuning_cell(method: str, data: Path) -> Cell:
    """The choice of a rate: twice the images and half the epochs, so that some can be kept apart, and as many steps."""
    file, tasks = FOLDER / f"tuning-{method}.json", 1 if method == "vit-joint" else 5
    words = [*along(data, STREAMS[TUNING].folder, EPOCHS // 2), "--stream.images", "16", "--seeds", "1000"]
    rates = [f"{TUNED[method] * factor:g}" for factor in FACTORS]
    words += ["--tasks", "1", "--most-held-out", "10", "--rates", *rates, "--sweep-tasks", str(tasks)]
    words += ["--stream.classes", "50" if method == "vit-joint" else "10"]

    def commands(folder: Path) -> list[Command]:
        return [Command("evaluate.py", [STREAMS[TUNING].name, method, *words], folder / "run")]

    def keep(folder: Path) -> None:
        write_raw(file, {"method": method} | figures(folder / "run", ("rates",)))

    return Cell(f"tuning/{method}", commands, file.exists, keep)


def rate_of(method: str) -> str:
    """The rate that was chosen.

    Raises:
        UserError: none is yet.
    """
    file = FOLDER / f"tuning-{method}.json"
    if not file.exists():
        raise UserError(f"The rate of {method} is chosen first: python benchmarks/run.py vision --only tuning")
    return f"{raw(f'vision/{file.name}')['rates']['rate']:g}"


def along(data: Path, folder: str, epochs: int = EPOCHS) -> list[str]:
    """Options of all that learns from images: data, transformer, and what is cut."""
    words = ["--learner.trunk.backbone", str(data / BACKBONE), "--learner.trunk.side", SIDE]
    words += ["--learner.epochs", str(epochs), "--learner.batch-size", BATCH]
    return [*words, "--stream.data.path", str(data / folder), "--save-every", "1", "--no-forward", "--lags"]


def cell(stream: str, method: str, seed: int, data: Path) -> Cell:
    about, file = STREAMS[stream], FOLDER / f"{name_of(stream, method, seed)}.json"
    learner, own = VARIANTS.get(method, (method, ""))
    of_stream = ["--seeds", str(seed), "--stream.images", str(about.images)]
    if method == "vit-joint":  # what it is after the last task, alone
        of_stream += ["--tasks", "1", "--stream.classes", str(about.tasks * about.classes)]
        of_stream += ["--most-held-out", str(about.tasks * about.asked)]
    else:
        of_stream += ["--tasks", str(about.tasks), "--stream.classes", str(about.classes), "--most-held-out", str(about.asked)]
    features = ["--data.features", str(data / BACKBONE), "--data.features-size", SIDE]
    others = ["--data.path", str(data / about.others), "--seeds", str(seed), *features]

    def commands(folder: Path) -> list[Command]:
        if learner in TUNED:
            words = [*along(data, about.folder), *own.split(), "--learner.rate", rate_of(learner)]
            return [Command("evaluate.py", [about.name, learner, *words, *of_stream], folder / "run")]
        words = [*of_stream, "--stream.data.path", str(data / about.folder), "--no-forward", "--lags"]
        words += [word.replace("--data", "--stream.data") for word in features]
        if method not in META_TRAINED:
            return [Command("evaluate.py", [about.name, learner, *words], folder / "run")]
        train = Command("train.py", [about.others, learner, *META_TRAINING.split(), *others], folder / "train")
        return [train, Command("evaluate.py", [str(folder / "train"), about.name, *words], folder / "run")]

    def keep(folder: Path) -> None:
        trained = {"meta_training": meta_training(folder / "train")} if method in META_TRAINED else {}
        write_raw(file, {"stream": stream, "method": method, "seed": seed} | trained | figures(folder / "run"))

    return Cell(f"{stream}/{method}/{seed}", commands, file.exists, keep)


def name_of(stream: str, method: str, seed: int) -> str:
    return f"{stream}-{slug(method)}-{seed}"


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
    """In per cent, for each seed; of what learns all at once FA alone."""
    found = [run["incremental"] for run in runs(stream, method)]
    return [100 * own[measure]["mean"] for own in found if measure == "FA" or "FM" in own]


def results(stream: str) -> str:
    """Accuracies in % by learner, mean ± standard deviation over seeds; the best first."""
    there = [method for method in methods(stream) if runs(stream, method)]
    lines = []
    for method in sorted(there, key=lambda name: -statistics.mean(values(stream, name, "FA"))):
        seconds = statistics.median(run["seconds_a_task"] for run in runs(stream, method))
        told = [spread(found) if (found := values(stream, method, name)) else "-" for name in ("FA", "CA", "FM")]
        lines.append([method, *told, f"{seconds:.0f} s"])
    return table(["learner", "FA", "CA", "FM", "a task"], lines)


def tuning() -> str:
    """The rates that were tried, and accuracy in % on images that were kept apart, in the order of the rates."""
    lines = []
    for method in TUNED:
        if (file := FOLDER / f"tuning-{method}.json").exists():
            found = raw(f"vision/{file.name}")["rates"]
            scores = ", ".join(f"{100 * score:.0f}" for score in found["scores"].values())
            lines.append([method, ", ".join(f"{float(rate):.1e}" for rate in found["scores"]), scores, f"{found['rate']:.1e}"])
    return table(["learner", "rates", "right, in %", "chosen"], lines)


COMPARED = {
    "gate (tanh), HiDe-Prompt's alignment": ("hide-prompt, gate", "hide-prompt"),
    "gate (tanh), NoRGa's alignment": ("norga", "norga, alpha 0"),
    "gate (sigmoid), NoRGa's alignment": ("norga, sigmoid", "norga, alpha 0"),
    "gate (GELU), NoRGa's alignment": ("norga, gelu", "norga, alpha 0"),
    "NoRGa's alignment, no gate": ("hide-prompt, long alignment", "hide-prompt"),
    "NoRGa's rate for prefixes, its alignment, no gate": ("norga, alpha 0", "hide-prompt, long alignment"),
    "both: NoRGa": ("norga", "hide-prompt"),
}
"""What is changed -> with it, without it."""


def differences() -> str:
    """FA with a change less FA without it, in points, for each seed and in the mean, by stream."""
    lines = []
    for change, (new, old) in COMPARED.items():
        for stream in STREAMS:
            with_it, without = ({run["seed"]: run["incremental"]["FA"]["mean"] for run in runs(stream, m)} for m in (new, old))
            if found := [100 * (value - without[seed]) for seed, value in with_it.items() if seed in without]:
                lines.append([change, stream, ", ".join(f"{value:+.1f}" for value in found), spread(found)])
    return table(["change", "stream", "each seed", "mean"], lines, words=2)


TABLES: dict[str, Callable[[], str]] = {f"vision-{stream}": partial(results, stream) for stream in STREAMS}
TABLES |= {"vision-tuning": tuning, "vision-gate": differences}
