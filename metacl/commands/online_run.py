"""A run along a stream: its folder, from which it can be resumed, and its results.

config.json  environment.json  rates.json  metrics.jsonl (a line a task)  checkpoint/  results.json  *.png
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from episodes import Stream, UserError, load_stream
from metacl.evaluation.streams import Follower, check_length, sweep
from metacl.learners import ONLINE
from metacl.learners.protocol import DivergedError
from metacl.learners.state import load_state, save_state
from metacl.recipes.config import built, to_json
from metacl.recipes.online_recipes import FollowConfig
from metacl.report.display import bar, say
from metacl.report.streams import write_report
from metacl.runs.environment import environment
from metacl.runs.folder import must_be_new, read_json, read_lines, write_json, write_lines


def start(config: FollowConfig, folder: Path) -> None:
    """A new run in `folder`, to its end."""
    must_be_new(folder, f"Go on with --resume {folder}, or name another with --out.")
    stream = load_stream(config.stream)
    check_length(config, stream)
    config.learner.build(stream.spec)  # what cannot be built fails before a folder is made
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", to_json(config))
    write_json(folder / "environment.json", environment() | {"stream_fingerprint": stream.fingerprint})
    _run(config, stream, folder)


def resume(folder: Path) -> None:
    """Goes on after the last checkpoint."""
    config = read_config(folder)
    stream = load_stream(config.stream)
    before = read_json(folder / "environment.json")["stream_fingerprint"]
    if before != stream.fingerprint:
        raise UserError(
            f"The data of {stream.name} have changed since the run {folder} was started. Put them back, or start anew."
        )
    _run(config, stream, folder)


def read_config(folder: Path) -> FollowConfig:
    """Raises `UserError` where `folder` is no run along a stream."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is no run: it has no config.json. Give the folder that evaluate.py STREAM LEARNER wrote.")
    values = read_json(path)
    try:
        learner = built(ONLINE[values["learner_name"]], values["learner"])
        return built(FollowConfig, values | {"learner": learner})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the configuration of a run along a stream, of this version: {error!r}.") from error


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, one for each task."""
    return read_lines(folder / "metrics.jsonl")


def _run(config: FollowConfig, stream: Stream, folder: Path) -> None:
    device = PartialState().device
    config = _with_rate(config, stream, folder, device)
    learner = config.learner.build(stream.spec).to(device)
    follower = Follower(config, stream, learner, config.seeds)
    first, state = _load(folder, learner)
    if state is None:
        state = learner.start(config.seeds)
    words = f"{config.learner_name} on {stream.name}"
    say(f"{words}, {config.tasks} tasks, seeds {', '.join(map(str, config.seeds))}, in {folder}")
    with bar(words) as progress, (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        shown = progress.add_task("", total=config.tasks, completed=first, now="tasks")
        for index in range(first, config.tasks):
            try:
                state, record = follower.task(state, index)
            except KeyboardInterrupt:
                say(f"Stopped in task {index + 1}. Go on from the last checkpoint with: python evaluate.py --resume {folder}")
                raise
            file.write(json.dumps(plain(record)) + "\n")
            progress.update(shown, completed=index + 1, now=_now(record))
            if (index + 1) % config.save_every == 0 or index + 1 == config.tasks:
                file.flush()
                _save(folder, index + 1, state)
    compute = follower.compute(state)
    files = write_report(config, records(folder), compute, folder, words)
    say("Written: " + ", ".join(str(file) for file in files))


def _with_rate(config: FollowConfig, stream: Stream, folder: Path, device: torch.device) -> FollowConfig:
    """The configuration with the best of the rates, which is found once and noted in rates.json.

    Raises:
        UserError: the learner has no learning rate, or all of the rates diverge.
    """
    if not config.rates:
        return config
    if not hasattr(config.learner, "rate"):
        raise UserError(f"{config.learner_name} has no learning rate: leave --rates out.")
    path = folder / "rates.json"
    if not path.exists():
        with bar("learning rates") as progress:
            task = progress.add_task("", total=config.sweep_tasks, now="tasks")
            found = sweep(config, stream, device, lambda: progress.update(task, advance=1))
        write_json(path, {f"{rate:g}": loss for rate, loss in found.items()})
    losses = {float(rate): loss for rate, loss in read_json(path).items() if loss is not None}
    listed = ", ".join(f"{rate:g}" for rate in sorted(set(config.rates)))
    if not losses:
        raise DivergedError(f"Learning diverged at every one of the rates {listed}. Give lower --rates.")
    best = min(losses, key=lambda rate: losses[rate])
    say(f"Learning rate: {best:g}, the best of {listed} on another stream (prequential loss {losses[best]:.4f}).")
    return replace(config, learner=replace(config.learner, rate=best))


def _save(folder: Path, task: int, state: Any) -> None:
    """Complete, or not at all; in the place of the one before."""
    part, place, old = (folder / name for name in ("checkpoint.part", "checkpoint", "checkpoint.old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    save_state(part / "state.safetensors", state)
    write_json(part / "progress.json", {"tasks": task})
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    part.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _load(folder: Path, learner: Any) -> tuple[int, Any]:
    """How many tasks are done, and the state after them; metrics of tasks that will be done again are dropped."""
    place = next((folder / name for name in ("checkpoint", "checkpoint.old") if (folder / name).is_dir()), None)
    done, state = 0, None
    if place is not None:
        done, state = read_json(place / "progress.json")["tasks"], load_state(place / "state.safetensors", learner)
        say(f"{done} tasks are done.")
    write_lines(folder / "metrics.jsonl", [record for record in records(folder) if record["task"] < done])
    return done, state


def plain(value: Any) -> Any:
    """Tensors as lists, numbers that are not finite as null."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now(record: dict[str, Any]) -> str:
    parts = [f"{name} {float(record[part][name].mean()):.4f}" for part in ("forward",) for name in record[part]]
    return "  ".join(["tasks", *parts])
