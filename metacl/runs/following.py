"""An evaluation on disk: the folder of a learner that follows episodes or a stream.

config.json  environment.json  rates.json  metrics.jsonl  checkpoints/ (along a stream)  results.json  pictures
features/ (where drift is asked: of each task, those of its held-out examples just after it)

A line of metrics.jsonl is a task of the stream, or the result of one length and seed of episodes: what is there is not done
again.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from episodes import UserError
from episodes.errors import note
from metacl.learners import Learner, State
from metacl.learners.state import load_state, save_state
from metacl.recipes.config import FollowConfig
from metacl.recipes.files import follow_config
from metacl.runs.checkpoints import Checkpoints
from metacl.runs.features import FeatureFiles
from metacl.runs.files import MEMBERS, add_line, must_be_new, read_json, read_lines, write_json, write_lines
from metacl.runs.folder import begin, read_config


@dataclass(frozen=True)
class Following:
    """A folder of an evaluation. `create` makes one, `open` takes one that exists."""

    folder: Path
    config: FollowConfig

    @staticmethod
    def create(folder: Path, config: FollowConfig, environment: dict[str, Any]) -> "Following":
        """A new one. Raises `UserError` where something is there already."""
        must_be_new(folder, f"Go on with --resume {folder}, or name another with --out.")
        begin(folder, config, environment)
        return Following(folder, config)

    @staticmethod
    def open(folder: Path) -> "Following":
        """Raises `UserError` where `folder` is no evaluation."""
        values = read_config(folder, "evaluate.py")
        if "steps" in values and "rates" not in values:
            raise UserError(f"{folder} is a meta-training run. Go on with it by: python train.py --resume {folder}")
        if "shape" in values:
            raise UserError(f"{folder} is a pre-training. Go on with it by: python train.py --resume {folder}")
        return Following(folder, follow_config(values, folder / "config.json"))

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints")

    @property
    def features(self) -> FeatureFiles:
        return FeatureFiles(self.folder / "features")

    def environment(self) -> dict[str, Any]:
        return read_json(self.folder / "environment.json")

    def log(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        add_line(self.folder / "metrics.jsonl", plain(record))

    def is_empty(self) -> bool:
        """Whether nothing was found out yet."""
        return not any((self.folder / name).exists() for name in ("metrics.jsonl", "rates.json", "results.json"))

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_lines(self.folder / "metrics.jsonl")

    def sound_records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, from which those that are damaged are removed."""
        return self._keep(self.records())

    def rates(self) -> dict[str, Any]:
        """How rates were chosen so far, by what for."""
        path = self.folder / "rates.json"
        return read_json(path) if path.exists() else {}

    def note_rate(self, purpose: str, choice: dict[str, Any]) -> None:
        write_json(self.folder / "rates.json", self.rates() | {purpose: choice})

    def save(self, tasks: int, state: State) -> None:
        """The state after so many tasks: complete, or not at all."""
        self.checkpoints.save(
            tasks, {"score": None, "loss": None}, lambda place: save_state(place / "state.safetensors", state)
        )

    def load(self, learner: Learner) -> tuple[int, State | None]:
        """How many tasks are done, and the state after them: of the newest checkpoint that is sound, and for whose tasks there
        are records. Records of tasks that will be done again are dropped."""
        records, checkpoints = self.records(), self.checkpoints
        told = [record.get("task") for record in records]
        for step in checkpoints.steps()[::-1]:
            if told[:step] != list(range(step)):
                note(f"Not all records of the first {step} tasks can be read: they are done again.")
                checkpoints.remove(step)
        found = checkpoints.newest()
        done = 0 if found is None else found["step"]
        state = None if found is None else load_state(checkpoints.place(done) / "state.safetensors", learner)
        self._keep(records[:done])
        return done, state

    def _keep(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leaves these lines in metrics.jsonl, and no others; where there is none yet, none is made."""
        if (self.folder / "metrics.jsonl").exists():
            write_lines(self.folder / "metrics.jsonl", records)
        return records


def clear(folder: Path, names: Sequence[str]) -> None:
    """Makes room for a new evaluation, or for several of these names, where an earlier one is. Its results stay until the new
    ones are written."""
    for place in (folder, *(folder / name for name in names)):
        for name in (MEMBERS, "config.json", "metrics.jsonl", "rates.json"):
            (place / name).unlink(missing_ok=True)
        for name in ("checkpoints", "features"):
            shutil.rmtree(place / name, ignore_errors=True)


def plain(value: Any) -> Any:
    """Tensors as lists, numbers that are not finite as null."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
