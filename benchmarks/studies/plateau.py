"""What helps a mechanism off the plateau before in-context learning: streams of 20 tasks on Omniglot, by meta-validation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metacl.report.figures import figure
from studies.words import raw, table

MECHANISMS = ("linear", "mamba2", "gated-delta")
AIDS = ("none", "distributed", "curriculum", "both", "curriculum, longer")


def run(mechanism: str, aid: str) -> dict[str, Any]:
    return raw(f"plateau/{mechanism}-{aid.replace(', ', '-')}.json")


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
        axes.set(title=mechanism, xlabel="step", ylabel="meta-validation accuracy in %" if mechanism == MECHANISMS[0] else "")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    picture.savefig(path, dpi=120)


TABLES: dict[str, Callable[[], str]] = {"plateau": results}
PICTURES: dict[str, Callable[[Path], None]] = {"plateau/accuracy.png": draw}
