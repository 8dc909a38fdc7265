"""What helps a mechanism off the plateau before in-context learning: streams of 20 tasks on Omniglot, by meta-validation.

    python benchmarks/plateau.py DATA [PART/PARTS]     e.g. ../shared/data/omniglot 1/2 and 2/2, one on each core

No aid; the distributed meta-loss; a curriculum, in which streams grow from two tasks; both. The steps of a curriculum are
cheaper, so it also runs for about as many as take the time of the distributed loss. One seed; one file for each run in
benchmarks/plateau.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from mechanisms import trained

from episodes import DataConfig, EpisodeShape, load_benchmark
from metacl.recipes.config import TrainConfig, ValidationConfig
from metacl.recipes.recipes import recipe_for
from metacl.runs.environment import environment
from metacl.runs.folder import read_json, write_json

FOLDER = Path(__file__).with_suffix("")
MECHANISMS = ("linear", "mamba2", "gated-delta")
AIDS: dict = {"none": (400, 0, None), "distributed": (400, 0, "random"), "curriculum": (400, 200, None)}
AIDS |= {"both": (400, 200, "random"), "curriculum, longer": (900, 400, None)}
"""Steps, steps of the curriculum, and when queries are asked (None: at the end)."""
LEFT = 0.15
"""Meta-validation accuracy at which a run has left its plateau: three times that of who only knows the stream's symbols."""


def configuration(mechanism: str, aid: str, data: str) -> TrainConfig:
    steps, curriculum, distributed = AIDS[aid]
    config = recipe_for("linear-transformer", None, DataConfig("omniglot", data))
    return replace(
        config,
        learner=replace(
            config.learner, attention=mechanism, attention_dropout=0.0, distributed="random" if distributed else None
        ),
        episodes=EpisodeShape(tasks=20, shots=5, queries=2),
        validation=ValidationConfig(every=25, episodes=32),
        steps=steps,
        curriculum=curriculum,
        batch_size=4,
        precision="fp32",
    )


def make(mechanism: str, aid: str, data: str) -> dict:
    config = configuration(mechanism, aid, data)
    benchmark = load_benchmark(config.data, config.episodes.symbols)
    _, accuracy, seconds = trained(config, benchmark)
    left = next((step for step, value in accuracy.items() if value > LEFT), None)
    return {"mechanism": mechanism, "aid": aid, "steps": config.steps, "seconds": seconds, "left_plateau_at": left} | {
        "validation_accuracy": accuracy,
        "environment": environment(),
    }


def table() -> str:
    """Meta-validation accuracy in % at the last step, and the step at which the plateau was left."""
    lines = ["| mechanism | " + " | ".join(AIDS) + " |", "|" + "---|" * (1 + len(AIDS))]
    for mechanism in MECHANISMS:
        cells = []
        for aid in AIDS:
            run = read_json(path_of(mechanism, aid))
            last = 100 * run["validation_accuracy"][str(run["steps"])]
            left = "never" if run["left_plateau_at"] is None else f"step {run['left_plateau_at']}"
            cells.append(f"{last:.1f} ({left}, {run['seconds']:.0f} s)")
        lines.append(f"| {mechanism} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def path_of(mechanism: str, aid: str) -> Path:
    return FOLDER / f"{mechanism}-{aid.replace(', ', '-')}.json"


def main(data: str, share: str = "1/1") -> None:
    part, parts = map(int, share.split("/"))
    FOLDER.mkdir(exist_ok=True)
    torch.set_num_threads(torch.get_num_threads() if parts == 1 else 1)
    runs = [(mechanism, aid) for aid in AIDS for mechanism in MECHANISMS]
    for mechanism, aid in runs[part - 1 :: parts]:
        if not path_of(mechanism, aid).exists():
            print(f"{mechanism}, {aid}", flush=True)
            write_json(path_of(mechanism, aid), make(mechanism, aid, data))
    if all(path_of(*run).exists() for run in runs):
        (FOLDER / "table.md").write_text(table())
        print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
