"""An evaluation on disk: the folder of a learner that follows episodes or a stream.

config.json  environment.json  rates.json  metrics.jsonl  checkpoint/ (along a stream)  results.json  pictures

A line of metrics.jsonl is a task of the stream, or the result of one length and seed of episodes: what is there is not done
again.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from episodes import UserError
from metacl.learners import Learner, State
from metacl.learners.state import load_state, save_state
from metacl.recipes.config import FollowConfig
from metacl.recipes.files import follow_config
from metacl.runs.files import add_line, must_be_new, read_json, read_lines, write_json, write_lines
from metacl.runs.folder import begin, read_config


@dataclass(frozen=True)
class Following:
    """A folder of an evaluation. `create` makes one, `open` takes one that exists."""

    folder: Path
    config: FollowConfig

    @staticmethod
    def create(folder: Path, config: FollowConfig, environment: dict[str, Any], replace: bool = False) -> "Following":
        """A new one.

        Arguments:
            replace: it takes the place of an earlier evaluation there, whose results stay until the new ones are written.

        Raises:
            UserError: something is there already, and is not to be replaced.
        """
        if not replace:
            must_be_new(folder, f"Go on with --resume {folder}, or name another with --out.")
        for name in ("metrics.jsonl", "rates.json"):
            (folder / name).unlink(missing_ok=True)
        for name in ("checkpoint.part", "checkpoint", "checkpoint.old"):
            shutil.rmtree(folder / name, ignore_errors=True)
        begin(folder, config, environment)
        return Following(folder, config)

    @staticmethod
    def open(folder: Path) -> "Following":
        """Raises `UserError` where `folder` is no evaluation."""
        values = read_config(folder, "evaluate.py")
        if "steps" in values and "rates" not in values:
            raise UserError(f"{folder} is a meta-training run. Go on with it by: python train.py --resume {folder}")
        return Following(folder, follow_config(values, folder / "config.json"))

    def environment(self) -> dict[str, Any]:
        return read_json(self.folder / "environment.json")

    def log(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        add_line(self.folder / "metrics.jsonl", plain(record))

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_lines(self.folder / "metrics.jsonl")

    def rates(self) -> dict[str, Any]:
        """How rates were chosen so far, by what for."""
        path = self.folder / "rates.json"
        return read_json(path) if path.exists() else {}

    def note_rate(self, purpose: str, choice: dict[str, Any]) -> None:
        write_json(self.folder / "rates.json", self.rates() | {purpose: choice})

    def save(self, tasks: int, state: State) -> None:
        """The state after so many tasks: complete, or not at all; in the place of the one before."""
        part, place, old = (self.folder / name for name in ("checkpoint.part", "checkpoint", "checkpoint.old"))
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        save_state(part / "state.safetensors", state)
        write_json(part / "progress.json", {"tasks": tasks})
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        part.rename(place)
        shutil.rmtree(old, ignore_errors=True)

    def load(self, learner: Learner) -> tuple[int, State | None]:
        """How many tasks are done, and the state after them; records of tasks that will be done again are dropped."""
        names = ("checkpoint", "checkpoint.old")
        place = next((self.folder / name for name in names if (self.folder / name).is_dir()), None)
        done, state = 0, None
        if place is not None:
            done, state = read_json(place / "progress.json")["tasks"], load_state(place / "state.safetensors", learner)
        write_lines(self.folder / "metrics.jsonl", [record for record in self.records() if record["task"] < done])
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
