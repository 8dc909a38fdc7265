"""Whether a vision transformer that is trained on, task after task, still learns the last tasks as well as the first.

Each method has the same number of trials on another stream: three learning rates times two settings of its own. The rate of a
setting is chosen by `--rates`; which setting stands for a method is decided by the score of its rate there. Along the other
streams a method has the setting that was chosen for the first, and a rate of its own.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from episodes import UserError
from metacl.evaluation.curves import curves, ends, smoothed
from metacl.evaluation.metrics import deviation
from metacl.recipes.files import to_json
from metacl.report.figures import figure
from metacl.runs.following import Following
from studies.cells import Cell, Command, environment_of, results_of
from studies.streams import packed
from studies.words import BENCHMARKS, raw, slug, spread, table

FOLDER = BENCHMARKS / "plasticity"
BASE = "vit-bp"
SEEDS = "0 1 2 3 4"
T_95 = 2.776
"""Student's t of 95 % with one degree of freedom less than there are seeds."""
ASKED = "--asked 0 --lags --most-held-out 250 --diagnose-every 30 --sweep-tasks 15"
REUSED = "online-cifar100 --stream.classes 5 --stream.images 40 --tasks 60"
STREAMS = {
    "reused": REUSED,
    "gradual": f"{REUSED} --stream.labels class --schedule.blur 0.5",
    "permuted": "label-permuted-cifar100 --stream.images 60 --stream.unseen --stream.held-out 200 --tasks 60"
    " --learner.keep-head",
    "pixels": "class-incremental --stream.classes 10 --stream.images 20 --schedule.domains permutation --tasks 60"
    " --learner.keep-head",
}
"""Five classes drawn again and again; the same with blurred boundaries, where a class has one label; ten digits under other
labels, and ten digits whose pixels change places, with one head."""
IMAGES = {"reused": "cifar100", "gradual": "cifar100", "permuted": "mnist", "pixels": "mnist"}
FIRST = "reused"
"""The stream for which settings are chosen."""
METHODS: dict[str, tuple[str, ...]] = {
    "vit-bp": ("", "--learner.weight-decay 0.1"),
    "vit-anew": ("", "--learner.weight-decay 0.1"),
    "vit-arrow": ("", "--learner.damping 0.1"),
    "vit-trac": ("", "--learner.weight-decay 0.1"),
    "vit-nap": ("", "--learner.weight-decay 0.1"),
    "vit-l2": ("", "--learner.strength 1e-4"),
    "vit-l2-init": ("", "--learner.strength 1e-4"),
    "vit-shrink-perturb": ("", "--learner.shrink 1e-4 --learner.perturb 1e-3"),
    "vit-spectral": ("", "--learner.strength 1e-4"),
    "vit-parseval": ("", "--learner.strength 1e-3"),
    "vit-cbp": ("", "--learner.replacement-rate 1e-3"),
    "vit-redo": ("", "--learner.threshold 0.3"),
    "vit-snr": ("--learner.share 0.01", "--learner.share 0.05"),
    "vit-muon": ("", "--learner.weight-decay 0.1"),
}
"""A method -> two settings of its own."""
CONTROLS = {
    "clipped gradients": "vit-bp --learner.clip 1",
    "grafting": "vit-arrow --learner.scale gradient",
    "window 4": "vit-arrow --learner.window 4",
    "window 32": "vit-arrow --learner.window 32",
    "last block": "vit-arrow --learner.number 1",
    "first two blocks": "vit-arrow --learner.place first",
    "all blocks": "vit-arrow --learner.number 4",
    "feed-forward parts": "vit-arrow --learner.module mlp",
    "window cleared": "vit-arrow --learner.clear",
    "SGD": "vit-bp --learner.base sgd --learner.momentum 0",
    "SGD, literal formula": "vit-arrow --learner.base sgd --learner.momentum 0 --learner.scale raw --learner.no-relative",
}
"""What else is tried of ARROW and its base on the first stream. The literal formula has a constant alpha, 1. With SGD all
weights but the head's are its own."""
RATES, SGD_RATES = "0.0003 0.001 0.003", "0.01 0.03 0.1"
LAST = (("feature_rank", "v"), ("feature_rank", "mlp out"), ("dormant_0.1", "mlp hidden"), ("logit_std", "attention"))
"""What the page tells of the last block, by measure and module."""


def cells(data: Path) -> list[Cell]:
    """Of the first stream the first setting of all methods comes first, then the second, then controls; then other streams."""
    settings = [
        cell(FIRST, f"{method}-{i}", partial(str, f"{method} {own}"), data)
        for i in range(2)
        for method, both in METHODS.items()
        for own in both[i : i + 1]
    ]
    others = [
        cell(stream, method, partial(best_of, method), data) for stream in STREAMS if stream != FIRST for method in METHODS
    ]
    named = {slug(name): words for name, words in CONTROLS.items()}
    return settings + [cell(FIRST, name, partial(str, words), data) for name, words in named.items()] + others


def best_of(method: str) -> str:
    """A method and the setting that was chosen for it along the first stream.

    Raises:
        UserError: not both were tried.
    """
    if missing := [i for i in range(2) if not run(FIRST, f"{method}-{i}")]:
        first = f"python benchmarks/run.py plasticity --only {FIRST}-{method}-{missing[0]}"
        raise UserError(f"A setting of {method} is chosen first: {first}")
    best = max(range(2), key=lambda i: score(FIRST, f"{method}-{i}"))
    return f"{method} {METHODS[method][best]}"


def cell(stream: str, name: str, learner: Callable[[], str], data: Path) -> Cell:
    """Of `learner`, a learner and options; told when the cell is made."""
    file = FOLDER / f"{stream}-{name}.json"
    source, *options = STREAMS[stream].split()
    where = "--stream.data.path" if IMAGES[stream] == "cifar100" else "--stream.data.name"

    def commands(folder: Path) -> list[Command]:
        method, *own = learner().split()
        rates = SGD_RATES if "sgd" in own else RATES
        words = [source, method, *options, *own, *ASKED.split(), "--rates", *rates.split(), "--seeds", *SEEDS.split()]
        words += [where, str(data / IMAGES[stream]), "--save-every", "20"]
        return [Command("evaluate.py", words, folder / "run")]

    def keep(folder: Path) -> None:
        FOLDER.mkdir(exist_ok=True)
        file.write_text(json.dumps(figures(folder / "run")) + "\n")

    return Cell(file.stem, commands, file.exists, keep)


def figures(folder: Path) -> dict[str, Any]:
    """What is kept of a run: the accuracy just after each task, of each seed; and what the modules are like at the end."""
    following, result = Following.open(folder), results_of(folder)[0]
    config = to_json(following.config)
    config["stream"]["data"] |= {"path": None, "name": Path(config["stream"]["data"]["name"]).name}
    config["learner"]["rate"] = result["rates"]["rate"]
    return {
        "configuration": config,
        "environment": environment_of(folder),
        "rates": result["rates"]["scores"],
        "seconds_a_task": result["seconds_a_task"],
        "state_bytes": result["state_bytes"],
        "modules": {
            measure: {name: own["mean"][-1] for name, own in named.items()} for measure, named in result["modules"].items()
        },
        "accuracy": packed(curves(following.records())["forward accuracy"]),
    }


def run(stream: str, name: str) -> dict[str, Any] | None:
    """What is there of a cell."""
    file = FOLDER / f"{stream}-{name}.json"
    return raw(f"plasticity/{file.name}") if file.exists() else None


def score(stream: str, name: str) -> float:
    """Of the best rate of a cell, on the other stream; where there is no such cell, none that counts."""
    found = run(stream, name)
    return max((score for score in found["rates"].values() if score is not None), default=-1.0) if found else -1.0


def chosen(stream: str, method: str) -> dict[str, Any] | None:
    """What stands for a method: along the first stream that setting which had the better score on the other stream."""
    names = [f"{method}-{i}" for i in range(2)] if stream == FIRST else [method]
    return run(stream, max(names, key=lambda name: score(stream, name)))


def accuracy(found: dict[str, Any]) -> np.ndarray:
    """(T, B) in per cent."""
    return 100 * np.array(found["accuracy"]["seeds"]).T


def results(stream: str) -> str:
    """AAT and its slope in %; and the difference to the base, in all tasks, the first quarter and the last, with its 95 %
    interval over seeds."""
    found = {method: accuracy(own) for method in METHODS if (own := chosen(stream, method))}
    lines = []
    for method in sorted(found, key=lambda name: -float(found[name].mean())):
        values_TB, base_TB = found[method], found.get(BASE)
        told = ends((np.arange(len(values_TB)), values_TB), 1)
        quarter = len(values_TB) // 4
        parts = (slice(None), slice(quarter), slice(-quarter, None))
        more = ["-" if method == BASE or base_TB is None else _more(values_TB[part], base_TB[part]) for part in parts]
        lines.append([method, _told(told["all"]), _told(told["slope"]), *more])
    return table(["method", "AAT", "slope", f"more than {BASE}", "in the first quarter", "in the last"], lines)


def controls() -> str:
    """The same of what else was tried, beside ARROW as it is and its base."""
    names = {"vit-bp": "vit-bp-0", "vit-arrow": "vit-arrow-0"}
    names |= {name: slug(name) for name in CONTROLS}
    lines = []
    for name, file in names.items():
        if found := run(FIRST, file):
            values_TB = accuracy(found)
            rate, base = found["configuration"]["learner"]["rate"], run(FIRST, "vit-bp-0")
            more = "-" if name == BASE or base is None else _more(values_TB, accuracy(base))
            lines.append([name, f"{rate:g}", spread(values_TB.mean(0).tolist()), more])
    return table(["", "rate", "AAT", f"more than {BASE}"], lines)


def modules(stream: str = FIRST) -> str:
    """What the modules of the last block are like after the last task, means over seeds."""
    lines = []
    for method in METHODS:
        if found := chosen(stream, method):
            told = [found["modules"][measure][module][-1] for measure, module in LAST]
            lines.append([method, *(f"{value:.2f}" for value in told)])
    return table(["method", *(f"{module}: {measure.replace('_', ' ')}" for measure, module in LAST)], lines)


def draw(path: Path) -> None:
    """Accuracy just after each task, a mean over ten tasks and all seeds."""
    there = [stream for stream in STREAMS if any(chosen(stream, method) for method in METHODS)]
    picture = figure(max(8, 5 * len(there)), 5)
    for axes, stream in zip(picture.subplots(1, len(there), squeeze=False)[0], there, strict=True):
        for method in METHODS:
            if found := chosen(stream, method):
                values_TB = accuracy(found)
                shown = smoothed((np.arange(len(values_TB)), values_TB), 10)
                axes.plot(shown["tasks"], shown["mean"], label=method, linewidth=2 if method == "vit-arrow" else 1)
        axes.set(title=stream, xlabel="task", ylabel="% right just after the last ten tasks")
        axes.grid(alpha=0.3)
    picture.axes[0].legend(fontsize="x-small", ncols=2)
    picture.savefig(path, dpi=110)


def _told(value: dict[str, Any]) -> str:
    return f"{value['mean']:.1f} ± {value['std']:.1f}"


def _more(values_TB: np.ndarray, base_TB: np.ndarray) -> str:
    """The mean difference of seeds, and half of its 95 % interval by Student's t."""
    more_B = (values_TB - base_TB).mean(0)
    return f"{more_B.mean():+.1f} ± {T_95 * deviation(more_B) / len(more_B) ** 0.5:.1f}"


TABLES: dict[str, Callable[[], str]] = {f"plasticity-{stream}": partial(results, stream) for stream in STREAMS}
TABLES |= {"plasticity-controls": controls, "plasticity-modules": modules}
PICTURES: dict[str, Callable[[Path], None]] = {"plasticity/accuracy.png": draw} if any(FOLDER.glob("*.json")) else {}
