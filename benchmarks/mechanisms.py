"""Each attention mechanism as a continual learner: the same episodes, budget and shell on Omniglot, three seeds.

    python benchmarks/mechanisms.py DATA [PART/PARTS]     e.g. ../shared/data/omniglot 1/2 and 2/2, one on each core

Meta-trained on streams of 10 tasks, tested on 10 and on 40. One file for each run in benchmarks/mechanisms; what is there
is not made again. When all are there, the table: benchmarks/mechanisms/table.md.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from episodes import Benchmark, DataConfig, EpisodeShape, load_benchmark
from metacl import Run, evaluate
from metacl.attention import ATTENTION
from metacl.learners import Learner
from metacl.recipes.config import TrainConfig, ValidationConfig, to_json
from metacl.recipes.recipes import recipe_for
from metacl.runs.environment import environment
from metacl.runs.folder import read_json, write_json
from metacl.training.meta_training import make_accelerator, meta_train

FOLDER = Path(__file__).with_suffix("")
SEEDS = (0, 1, 2)
TRAINED, LONGER = 10, 40
EPISODES = {TRAINED: 256, LONGER: 128}
LEFT = 2 / TRAINED
"""Meta-validation accuracy at which a run has left its plateau: twice that of who only knows which symbols the stream has."""


def configuration(mechanism: str, seed: int, data: str) -> TrainConfig:
    """The small recipe; streams grow from two tasks over the first 150 steps."""
    config = recipe_for("linear-transformer", None, DataConfig("omniglot", data))
    return replace(
        config,
        learner=replace(config.learner, attention=mechanism, attention_dropout=0.0),
        episodes=EpisodeShape(tasks=TRAINED, shots=5, queries=2),
        validation=ValidationConfig(every=20, episodes=32),
        steps=400,
        curriculum=150,
        batch_size=8,
        seed=seed,
        precision="fp32",
    )


def make(mechanism: str, seed: int, data: str) -> dict[str, Any]:
    """Meta-trains and tests one learner."""
    config = configuration(mechanism, seed, data)
    benchmark = load_benchmark(config.data, config.episodes.symbols)
    learner, validated, seconds = trained(config, benchmark)
    tests = {}
    for tasks, episodes in EPISODES.items():
        generator = benchmark.generator("test", replace(config.episodes, tasks=tasks, queries=5), seed=0)
        tests[str(tasks)] = evaluate(learner, generator, episodes, batch_size=8).to_json()
    return {
        "mechanism": mechanism,
        "seed": seed,
        "configuration": to_json(replace(config, data=replace(config.data, path=None))),
        "environment": environment(),
        "data_fingerprint": benchmark.fingerprint,
        "parameters": sum(p.numel() for p in learner.parameters()),
        "seconds": seconds,
        "left_plateau_at": next((step for step, accuracy in validated.items() if accuracy > LEFT), None),
        "validation_accuracy": validated,
        "test": tests,
    }


def trained(config: TrainConfig, benchmark: Benchmark) -> tuple[Learner, dict[int, float], float]:
    """A meta-trained learner, its meta-validation accuracy by step, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", config, environment())
        started = time.perf_counter()
        meta_train(run, benchmark, make_accelerator(config.precision))
        seconds = time.perf_counter() - started
        accuracy = {r["step"]: r["validation_accuracy"] for r in run.metrics() if "validation_accuracy" in r}
        return run.load_learner(benchmark.test.spec), accuracy, seconds


def table() -> str:
    """Error in % at the end of the stream, mean ± standard deviation over seeds."""
    columns = ["mechanism", *(f"error, {T} tasks" for T in EPISODES), f"forgetting, {LONGER} tasks", "off the plateau at step"]
    columns += [f"state at {LONGER} tasks", "training"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for mechanism in ATTENTION:
        runs = [read_json(FOLDER / f"{mechanism}-{seed}.json") for seed in SEEDS]
        errors = [[100 * (1 - run["test"][str(T)]["measures"]["final"]["mean"]) for run in runs] for T in EPISODES]
        lost = [100 * run["test"][str(LONGER)]["measures"]["forgetting"]["mean"] for run in runs]
        left = [run["left_plateau_at"] for run in runs]
        cells = [
            mechanism,
            *map(spread, errors),
            spread(lost),
            ", ".join("never" if step is None else str(step) for step in left),
        ]
        cells += [f"{runs[0]['test'][str(LONGER)]['state_bytes'] / 1024:.1f} KiB"]
        cells += [f"{statistics.mean(run['seconds'] for run in runs):.0f} s"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def main(data: str, share: str = "1/1") -> None:
    part, parts = map(int, share.split("/"))
    FOLDER.mkdir(exist_ok=True)
    torch.set_num_threads(torch.get_num_threads() if parts == 1 else 1)
    todo = [(mechanism, seed) for seed in SEEDS for mechanism in ATTENTION][part - 1 :: parts]
    for mechanism, seed in todo:
        path = FOLDER / f"{mechanism}-{seed}.json"
        if not path.exists():
            print(f"{mechanism}, seed {seed}", flush=True)
            write_json(path, make(mechanism, seed, data))
    if all((FOLDER / f"{mechanism}-{seed}.json").exists() for mechanism in ATTENTION for seed in SEEDS):
        (FOLDER / "table.md").write_text(table())
        print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
