"""Query-only attention beside full attention, BP and its remedies, along the three streams of its paper.

    python benchmarks/streams.py --data ../shared/data                    # hours; --groups mnist --learners bp cbp for some
    python benchmarks/streams.py --report                                 # the pictures, from what there is

Each run is one `evaluate.py STREAM LEARNER`, which is printed; it is kept in runs/streams and goes on there where it was
stopped. What the page needs of it goes to streams/GROUP/RUN.json beside this file, and what is there is not made again.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from stream_groups import GROUPS, PUBLISHED

from episodes import UserError
from metacl.commands.online_run import read_config, records
from metacl.commands.parsing import parse_follow
from metacl.report.display import with_plain_errors
from metacl.report.streams import Curve, cell, curves, ends, plot_curves
from metacl.runs.folder import read_json

HERE = Path(__file__).with_suffix("")
DIGITS = 5
"""Significant ones that are kept of each measurement."""
LAG = 5
"""Tasks that lie between a task and the look back at it."""


@dataclass(frozen=True)
class Arguments:
    """Run the learners along the streams, and draw the curves."""

    data: Path = Path("data")
    """Folder with the data sets mnist and tiny-imagenet."""
    groups: tuple[str, ...] = tuple(GROUPS)
    learners: tuple[str, ...] = ()
    """Names of runs. Default: all."""
    runs: Path = Path("runs/streams")
    """Where unfinished runs are."""
    report: bool = False
    """Only draw the pictures of what there is."""


def main(arguments: Arguments) -> None:
    for group, run in wanted(arguments):
        if not arguments.report and not made(group, run).exists():
            follow(arguments, group, run)
    for group in arguments.groups:
        if runs := finished(group):
            draw(group, runs)


def wanted(arguments: Arguments) -> Iterator[tuple[str, str]]:
    for group in arguments.groups:
        for run in GROUPS[group].runs:
            if not arguments.learners or run in arguments.learners:
                yield group, run


def follow(arguments: Arguments, group: str, run: str) -> None:
    """Runs or goes on with one learner along one stream, and keeps what the page needs."""
    folder, images = arguments.runs / group / made(group, run).stem, GROUPS[group].images
    command = ["evaluate.py", *words(group, run)]
    if images:
        command += ["--stream.data.path", str(arguments.data / images)]
    if (folder / "config.json").exists():
        if read_config(folder) != parse_follow(command[1:])[0]:
            raise UserError(f"{folder} is a run of other options than {' '.join(command)}. Move it away.")
        command = ["evaluate.py", "--resume", str(folder)]
    else:
        command += ["--out", str(folder)]
    print("python", *command, flush=True)
    subprocess.run([sys.executable, *command], check=True)
    results = read_json(folder / "results.json")
    results["config"]["stream"]["data"]["path"] = None
    results["environment"] = read_json(folder / "environment.json")  # of its start
    results["curves"] = {name: packed(curve) for name, curve in curves(records(folder)).items()}
    if (folder / "rates.json").exists():
        results["rates"] = read_json(folder / "rates.json")
    made(group, run).parent.mkdir(parents=True, exist_ok=True)
    made(group, run).write_text(json.dumps(results) + "\n")  # in one line, less than half as long


def words(group: str, run: str) -> list[str]:
    """Stream, learner and options, those of the run after those of all."""
    about = GROUPS[group]
    learner, *own = about.runs[run].split()
    return [about.stream, learner, *about.options.split(), *own]


def made(group: str, run: str) -> Path:
    return HERE / group / f"{run.replace(' ', '-')}.json"


def packed(curve: Curve) -> dict[str, list]:
    task_T, values_TB = curve
    return {"tasks": task_T.tolist(), "seeds": [[float(f"{v:.{DIGITS}g}") for v in row] for row in values_TB.T]}


def finished(group: str) -> dict[str, dict[str, Any]]:
    """The runs that are there, with `curves` as arrays."""
    found = {run: read_json(made(group, run)) for run in GROUPS[group].runs if made(group, run).exists()}
    for run in found.values():
        run["curves"] = {name: (np.array(c["tasks"]), np.array(c["seeds"]).T) for name, c in run["curves"].items()}
    return found


def draw(group: str, runs: dict[str, dict[str, Any]]) -> None:
    """streams/GROUP.png: forward, backward without and with the old task's support, ranks and dormant units."""
    measure = measure_of(runs)
    panels = {
        f"forward {measure}": f"forward {measure}",
        f"backward (5) {measure}": f"backward 5 {measure}",
        "with its support": f"backward 5 with support {measure}",
        "last layer: Hessian's rank": "diagnostics last_layer_rank",
        "features: rank": "diagnostics feature_rank",
        "dormant units": "diagnostics dormant",
    }
    shown = {
        words: {name: run["curves"][curve] for name, run in runs.items() if curve in run["curves"]}
        for words, curve in panels.items()
    }
    block = max(run["tasks_in_a_block"] for run in runs.values())
    shown = {words: own for words, own in shown.items() if own}
    plot_curves(shown, block, HERE / f"{group}.png", GROUPS[group].title)


def measure_of(runs: dict[str, dict[str, Any]]) -> str:
    return "accuracy" if any("forward accuracy" in run["curves"] for run in runs.values()) else "loss"


def table(group: str) -> str:
    """First and last block of tasks, mean ± standard deviation over seeds; the learning rate where it was chosen."""
    runs, block = finished(group), GROUPS[group].block
    measure, published = measure_of(runs), PUBLISHED.get(group, {})
    columns = ["", "forward: first", "last", "published", "5 tasks ago: last", "with its support", "published"]
    columns += ["last layer's rank", "features' rank", "Hessian's rank", "s a task"]
    columns += ["multiply-adds to learn, predict", "gradients"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, run in runs.items():
        title = f"{name}, {run['config']['learner']['rate']:g}" if "rates" in run else name
        forward, backward = published.get(name, ("", ""))
        cells = [title, *(_end(run, f"forward {measure}", part, block) for part in ("first", "last")), forward]
        cells += [_end(run, f"backward 5{support} {measure}", "last", block) for support in ("", " with support")] + [backward]
        cells += [_course(run, f"diagnostics {rank}") for rank in ("last_layer_rank", "feature_rank", "hessian_rank")]
        cells += [f"{run['seconds_a_task']:.2f}"]
        cells += [", ".join(f"{run['compute'][f'multiply_adds_to_{part}']:.2g}" for part in ("learn", "predict"))]
        cells += [f"{run['compute']['gradient_examples']:.3g}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _end(run: dict[str, Any], name: str, part: str, block: int) -> str:
    """Mean of a block of tasks: of the `first` from task 5 on, where the paper's curves begin, or of the `last`."""
    if name not in run["curves"]:
        return ""
    task_T, values_TB = run["curves"][name]
    found = ends((task_T[task_T >= LAG], values_TB[task_T >= LAG]), block)[part]
    return cell(found, name.endswith("accuracy"), values_TB.shape[1], digits=3)


def _course(run: dict[str, Any], name: str) -> str:
    """First and last measurement, means over seeds."""
    values_TB = run["curves"][name][1] if name in run["curves"] else []
    return " → ".join(f"{values.mean():.1f}" for values in (values_TB if len(values_TB) < 2 else (values_TB[0], values_TB[-1])))


if __name__ == "__main__":
    with_plain_errors(lambda: main(tyro.cli(Arguments)))
