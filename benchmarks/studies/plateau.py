"""What helps a mechanism off the plateau before in-context learning: streams of 20 tasks on Omniglot, by meta-validation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metacl.report.figures import figure
from metacl.report.plots import CHANCE as LINE
from metacl.runs.folder import Run
from studies.cells import Cell, Command, environment_of, training_seconds, validated, write_raw
from studies.words import BENCHMARKS, raw, table

FOLDER = BENCHMARKS / "plateau"
MECHANISMS = ("linear", "mamba2", "gated-delta")
CURRICULUM, DISTRIBUTED = "--curriculum 200", "--learner.distributed random"
AIDS = {
    "none": "--steps 400",
    "distributed": f"--steps 400 {DISTRIBUTED}",
    "curriculum": f"--steps 400 {CURRICULUM}",
    "both": f"--steps 400 {CURRICULUM} {DISTRIBUTED}",
    "curriculum, longer": "--steps 900 --curriculum 400",
}
"""The steps of a curriculum are cheaper, so it also runs for about as many as take the time of the distributed loss."""
OPTIONS = "--learner.attention-dropout 0 --episodes.tasks 20 --episodes.shots 5 --episodes.queries 2 --batch-size 4"
OPTIONS += " --validation.every 25 --validation.episodes 32 --precision fp32 --learner.start alike"
CHANCE = 1 / 20
"""What who only knows the stream's symbols gets right."""
LEFT = 3 * CHANCE
"""Meta-validation accuracy at which a run has left its plateau."""


def cells(data: Path) -> list[Cell]:
    """A cell for each mechanism and aid."""
    return [cell(mechanism, aid, ["--data.path", str(data / "omniglot")]) for aid in AIDS for mechanism in MECHANISMS]


def cell(mechanism: str, aid: str, options: list[str], folder_of_raw: Path = FOLDER, data: str = "omniglot") -> Cell:
    file = folder_of_raw / made(mechanism, aid)

    def commands(folder: Path) -> list[Command]:
        words = [data, "linear-transformer", "--learner.attention", mechanism, *OPTIONS.split(), *AIDS[aid].split()]
        return [Command("train.py", [*words, *options], folder / "train")]

    def keep(folder: Path) -> None:
        run = Run.open(folder / "train")
        accuracy = validated(run)
        left = next((step for step, value in accuracy.items() if value > LEFT), None)
        about: dict[str, Any] = {"mechanism": mechanism, "aid": aid, "steps": run.config.steps}
        about |= {"seconds": training_seconds(run), "left_plateau_at": left, "validation_accuracy": accuracy}
        write_raw(file, about | {"environment": environment_of(run.folder)})

    return Cell(file.stem, commands, file.exists, keep)


def made(mechanism: str, aid: str) -> str:
    """The file of a run's raw figures."""
    return f"{mechanism}-{aid.replace(', ', '-')}.json"


def run(mechanism: str, aid: str) -> dict[str, Any]:
    found: dict[str, Any] = raw(f"plateau/{made(mechanism, aid)}")
    return found


def results() -> str:
    """Meta-validation accuracy in % at the last step, the step at which the plateau was left, and the time that it took."""
    lines = []
    for mechanism in MECHANISMS:
        cells = []
        for found in (run(mechanism, aid) for aid in AIDS):
            last = 100 * found["validation_accuracy"][str(found["steps"])]
            left = "never" if found["left_plateau_at"] is None else f"step {found['left_plateau_at']}"
            cells.append(f"{last:.1f} ({left}, {found['seconds']:.0f} s)")
        lines.append([mechanism, *cells])
    return table(["mechanism", *AIDS], lines)


def draw(path: Path) -> None:
    """Meta-validation accuracy against the step, a panel for each mechanism."""
    picture = figure(11, 3.6)
    for axes, mechanism in zip(picture.subplots(1, len(MECHANISMS), sharey=True), MECHANISMS, strict=True):
        for aid in AIDS:
            curve = run(mechanism, aid)["validation_accuracy"]
            axes.plot([int(step) for step in curve], [100 * value for value in curve.values()], label=aid)
        axes.axhline(100 * CHANCE, label="chance", **LINE)
        axes.set(title=mechanism, xlabel="step", ylabel="meta-validation accuracy in %" if mechanism == MECHANISMS[0] else "")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    picture.savefig(path, dpi=120)


TABLES: dict[str, Callable[[], str]] = {"plateau": results}
PICTURES: dict[str, Callable[[Path], None]] = {"plateau/accuracy.png": draw}
