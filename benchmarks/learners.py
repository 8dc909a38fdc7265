"""The learners beside each other: the same episodes, encoder, number of steps and batch, three seeds.

Streams grow from two tasks over the first third of meta-training, for every learner: a way off the plateau of in-context
learning.

    python benchmarks/learners.py --omniglot FOLDER            # hours; add --part 1/2 and --part 2/2 to share it
    python benchmarks/learners.py --table                      # what there is so far

Adds a line to learners.jsonl beside this file for each (benchmark, tasks, learner, seed), and leaves out those that are there.
Errors are those at the end of the stream, in meta-training's classes and in the meta-test's. Meta-training takes the checkpoint
with the best meta-validation; learners without meta-training take their learning rate by it.
"""

import functools
import itertools
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from accelerate import Accelerator

from episodes import Benchmark, DataConfig, EpisodeShape, UserError, load_benchmark
from metacl.commands.scratch import choose_rate, scratch_recipe_for
from metacl.evaluation.episodes import held_out
from metacl.learners import FROM_SCRATCH, LEARNERS, Learner, state_bytes
from metacl.nets.encoders import EncoderConfig
from metacl.recipes.recipes import recipe_for
from metacl.report.display import with_plain_errors
from metacl.runs.environment import environment
from metacl.runs.folder import Run
from metacl.training.meta_training import make_accelerator, meta_train, validate

OUT = Path(__file__).with_suffix(".jsonl")
KEYS = ("benchmark", "tasks", "learner", "seed", "steps", "batch_size")
"""What makes a line: one with equal values is not made again."""
ENCODER = EncoderConfig(channels=(16, 32, 64, 64), strides=(2, 2, 2, 2))
"""Of all learners: half as wide as the small recipes'."""
TRAINING_QUERIES = 2
"""Of each task in meta-training; five are asked in the tests."""


@dataclass(frozen=True)
class Arguments:
    """Compare all learners, each on the benchmarks that it is made for."""

    benchmarks: tuple[str, ...] = ("glyphs", "omniglot", "sine")
    learners: tuple[str, ...] = (*LEARNERS, *FROM_SCRATCH)
    tasks: tuple[int, ...] = (5, 20)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 300
    """Meta-training steps of each learner."""
    batch_size: int = 8
    """Episodes in a step."""
    episodes: int = 96
    """Episodes behind each error."""
    validation_episodes: int = 24
    part: str = "1/1"
    """I/N: every N-th line from the I-th on; N processes share the work."""
    omniglot: str | None = None
    """A local copy of Omniglot."""
    out: Path = OUT
    table: bool = False
    """Print the table of what there is, and do nothing else."""


def main(arguments: Arguments) -> None:
    if arguments.table:
        return print("\n".join(table(lines(arguments.out))))
    for case in list(cases(arguments)):
        if key(case) in {key(line) for line in lines(arguments.out)}:
            continue
        print(" ".join(f"{value}" for value in case.values()), flush=True)
        result = measured(arguments, case)
        add_line(arguments.out, case | result | {"environment": environment()})
        print("    " + "  ".join(f"{name} {value}" for name, value in result.items()), flush=True)
    return None


def cases(arguments: Arguments) -> Iterator[dict[str, Any]]:
    """This process's share of what is to be measured, seed by seed."""
    number, count = (int(part) for part in arguments.part.split("/"))
    everything = itertools.product(arguments.seeds, arguments.tasks, arguments.benchmarks, arguments.learners)
    fitting = [case for case in everything if defined(arguments, case[2], case[3])]
    for seed, tasks, benchmark, learner in fitting[number - 1 :: count]:
        yield dict(zip(KEYS, (benchmark, tasks, learner, seed, arguments.steps, arguments.batch_size), strict=True))


@functools.cache
def defined(arguments: Arguments, benchmark: str, learner: str) -> bool:
    """Whether the learner is made for the benchmark's kind of target, and can be built here."""
    family = load_benchmark(data(arguments, benchmark), vocabulary=64).train
    config: Any = scratch_recipe_for if learner in FROM_SCRATCH else recipe_for
    try:
        config(learner, None, data(arguments, benchmark)).learner.build(family.spec)
    except UserError as error:
        print(f"{learner} on {benchmark} is left out: {error}", flush=True)
        return False
    return True


def data(arguments: Arguments, name: str) -> DataConfig:
    return DataConfig(name, path=arguments.omniglot if name == "omniglot" else None)


def measured(arguments: Arguments, case: dict[str, Any]) -> dict[str, Any]:
    """The errors, times and sizes of one case; what cannot be trained has an `error` in words."""
    shape = EpisodeShape(tasks=case["tasks"])
    benchmark = load_benchmark(data(arguments, case["benchmark"]), shape.symbols)
    try:
        make = from_scratch if case["learner"] in FROM_SCRATCH else meta_trained
        learner, accelerator, about = make(arguments, case, benchmark)
        state = learner.learn(
            learner.init_state(1), held_out(benchmark, "test", shape, 0).batch([0]).to(accelerator.device).stream
        )
        sizes = {"state_bytes": state_bytes(state), "parameters": sum(p.numel() for p in learner.parameters())}
        since, errors = time.perf_counter(), {}
        for split in ("train", "test"):
            generator = held_out(benchmark, split, shape, seed=0)
            found = validate(learner, generator, arguments.episodes, case["batch_size"], accelerator)
            errors[f"meta_{split}_error"] = 1 - found["accuracy"] if "accuracy" in found else found["mse"]
    except UserError as error:
        return {"error": str(error)}
    about["measure"] = "error in %" if "accuracy" in found else "squared error"
    return errors | about | {"evaluation_seconds": round(time.perf_counter() - since, 1)} | sizes


def meta_trained(
    arguments: Arguments, case: dict[str, Any], benchmark: Benchmark
) -> tuple[Learner, Accelerator, dict[str, Any]]:
    """The learner of the best checkpoint, after `steps` steps."""
    config = recipe_for(case["learner"], None, data(arguments, case["benchmark"]))
    validation = replace(config.validation, every=max(1, case["steps"] // 4), episodes=arguments.validation_episodes)
    config = replace(
        config,
        learner=replace(config.learner, encoder=ENCODER),
        episodes=EpisodeShape(tasks=case["tasks"], queries=TRAINING_QUERIES),
        curriculum=case["steps"] // 3,
        validation=validation,
        steps=case["steps"],
        batch_size=case["batch_size"],
        seed=case["seed"],
    )
    accelerator = make_accelerator(config.precision)
    with tempfile.TemporaryDirectory() as folder:
        run, since = Run.create(Path(folder) / "run", config, {}), time.perf_counter()
        if not meta_train(run, benchmark, accelerator):
            raise KeyboardInterrupt
        about = {"training_seconds": round(time.perf_counter() - since, 1), "best_step": run.best()}
        return run.load_learner(benchmark.test.spec).to(accelerator.device), accelerator, about


def from_scratch(
    arguments: Arguments, case: dict[str, Any], benchmark: Benchmark
) -> tuple[Learner, Accelerator, dict[str, Any]]:
    """The learner at the learning rate that meta-validation chose."""
    config = scratch_recipe_for(case["learner"], None, data(arguments, case["benchmark"]))
    config = replace(
        config,
        learner=replace(config.learner, encoder=ENCODER),
        validation_episodes=arguments.validation_episodes,
        batch_size=case["batch_size"],
        seed=case["seed"],
    )
    accelerator, since = make_accelerator("fp32"), time.perf_counter()
    choice = choose_rate(config, benchmark, case["tasks"], accelerator)
    torch.manual_seed(case["seed"])
    learner: Learner = replace(config.learner, rates=(choice.rate,)).build(benchmark.test.spec)
    about = {"training_seconds": 0.0, "choosing_seconds": round(time.perf_counter() - since, 1), "rate": choice.rate}
    return learner.to(accelerator.device), accelerator, about


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are there; one that a killed process cut off is not."""
    text = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in text if line.endswith("}")]


def add_line(path: Path, values: dict[str, Any]) -> None:
    """In one write, on a line of its own: several processes may do so."""
    cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut_off + json.dumps(values) + "\n")


def key(case: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(case[name] for name in KEYS)


def table(found: list[dict[str, Any]]) -> list[str]:
    """A Markdown table for each benchmark and number of tasks: means over seeds ± standard deviation, the best first."""
    groups: dict[tuple, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in found:
        groups[tuple(line[name] for name in KEYS if name not in ("learner", "seed"))][line["learner"]].append(line)
    text = []
    for (benchmark, tasks, steps, batch), learners in groups.items():
        text += [f"**{benchmark}, {tasks} tasks** ({steps} steps of {batch} episodes)", ""]
        text += [
            f"| learner | meta-test, {_measure(learners)} | meta-train | training | state | parameters | seeds |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        text += [row(*item) for item in sorted(learners.items(), key=lambda item: _order(item[1]))] + [""]
    return text


def page() -> str:
    return "\n".join(table(lines(OUT)))


def row(learner: str, runs: list[dict[str, Any]]) -> str:
    done = [run for run in runs if "error" not in run]
    if not done:
        return f"| {learner} | {runs[0]['error']} |  |  |  |  | 0 |"
    errors = [_spread([run[name] for run in done], done[0]["measure"]) for name in ("meta_test_error", "meta_train_error")]
    seconds = statistics.mean(run["training_seconds"] for run in done)
    sizes = f"{done[0]['state_bytes'] / 1024:.1f} KiB | {done[0]['parameters']:,}"
    return f"| {learner} | {errors[0]} | {errors[1]} | {seconds:.0f} s | {sizes} | {len(done)} |"


def _order(runs: list[dict[str, Any]]) -> float:
    errors = [run["meta_test_error"] for run in runs if "error" not in run]
    return statistics.mean(errors) if errors else float("inf")


def _measure(learners: dict[str, list[dict[str, Any]]]) -> str:
    return next((run["measure"] for runs in learners.values() for run in runs if "measure" in run), "error")


def _spread(values: list[float], measure: str) -> str:
    digits, scale = (1, 100) if measure.endswith("%") else (4, 1)
    spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    with_plain_errors(lambda: main(tyro.cli(Arguments)))
