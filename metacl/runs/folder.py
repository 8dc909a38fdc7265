"""A meta-training run on disk: a folder with everything that evaluation, resuming and reporting need. Safetensors and JSON, no
pickle.

config.json  environment.json  metrics.jsonl  best.json  checkpoints/step-00000100/  results/
"""

import hashlib
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from episodes import EpisodeSpec, UserError
from metacl.learners import Learner
from metacl.recipes.config import TrainConfig
from metacl.recipes.files import to_json, train_config
from metacl.runs.files import add_line, must_be_new, read_json, read_lines, write_json, write_lines


@dataclass(frozen=True)
class Run:
    """A run folder. `create` makes one, `open` takes one that exists."""

    folder: Path
    config: TrainConfig

    @staticmethod
    def create(folder: Path, config: TrainConfig, environment: dict[str, Any]) -> "Run":
        """A new run. Never overwrites: raises `UserError` where something is already."""
        must_be_new(folder, f"Go on with --resume {folder}, or name another folder with --run.")
        begin(folder, config, environment)
        return Run(folder, config)

    @staticmethod
    def open(folder: str | Path) -> "Run":
        """Raises `UserError` where `folder` is no run."""
        folder = Path(folder)
        values = read_config(folder, "train.py")
        if "rates" in values:
            raise UserError(f"{folder} is an evaluation, not a meta-training run. Give the folder that train.py wrote.")
        return Run(folder, train_config(values, folder / "config.json"))

    def log(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        add_line(self.folder / "metrics.jsonl", record)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl."""
        return read_lines(self.folder / "metrics.jsonl")

    def forget_after(self, step: int) -> None:
        """Drops the metrics of steps that will be done again."""
        write_lines(self.folder / "metrics.jsonl", [record for record in self.metrics() if record["step"] <= step])

    def save(self, step: int, learner: nn.Module, optimiser: Optimizer, score: float | None) -> None:
        """Writes the checkpoint after `step` steps: complete, or not at all. Keeps it and the best one.

        Arguments:
            score: by meta-validation, higher is better; None where there was none.
        """
        score = score if score is not None and math.isfinite(score) else None
        folder, part = self._checkpoint(step), self._checkpoint(step).with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file(_contiguous(learner.state_dict()), part / "learner.safetensors")
        save_file(_contiguous(optimiser_tensors(optimiser)), part / "optimiser.safetensors")
        write_json(part / "checkpoint.json", {"step": step, "score": score, "digests": _digests(part)})
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        best = self.best_record()
        if score is not None and (best is None or score > best["score"]):
            best = {"step": step, "score": score}
            write_json(self.folder / "best.json", best)
        for old in self.steps():
            if old != step and (best is None or old != best["step"]):
                shutil.rmtree(self._checkpoint(old))

    def steps(self) -> list[int]:
        """The steps of the checkpoints, ascending."""
        folders = (self.folder / "checkpoints").glob("step-????????")
        return sorted(int(folder.name.removeprefix("step-")) for folder in folders)

    def last(self) -> int:
        """The step of the newest checkpoint. Raises `UserError` where there is none."""
        if not (steps := self.steps()):
            raise UserError(
                f"{self.folder} has no checkpoint: its training stopped before the first. "
                f"Go on with: python train.py --resume {self.folder}"
            )
        return steps[-1]

    def best(self) -> int:
        """The step of the best checkpoint by meta-validation; the newest where none was validated."""
        best = self.best_record()
        return best["step"] if best else self.last()

    def best_record(self) -> dict[str, Any] | None:
        """{"step", "score"} of the best checkpoint; None where there is none, or where it was removed."""
        path = self.folder / "best.json"
        record = read_json(path) if path.exists() else None
        return record if record and self._checkpoint(record["step"]).is_dir() else None

    def load_learner(self, spec: EpisodeSpec, step: int | None = None) -> Learner:
        """The learner of a checkpoint (None: the best), built for `spec`, in eval mode."""
        learner = self.config.learner.build(spec)
        self.restore(self.best() if step is None else step, learner)
        return learner.eval()

    def restore(self, step: int, learner: nn.Module, optimiser: Optimizer | None = None) -> None:
        """Puts a checkpoint's tensors into a learner, and into its optimiser.

        Raises:
            UserError: the checkpoint is missing, damaged, or of another learner.
        """
        folder = self._checkpoint(step)
        try:
            digests = read_json(folder / "checkpoint.json")["digests"]
            if digests != _digests(folder):
                raise UserError(f"The checkpoint {folder} is damaged: a file is not as it was written. {self._others(step)}")
            _load(learner, load_file(folder / "learner.safetensors"), folder)
            if optimiser is not None:
                load_optimiser(optimiser, load_file(folder / "optimiser.safetensors"))
        except (OSError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"The checkpoint {folder} cannot be read ({error}). {self._others(step)}") from error

    def _checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def _others(self, step: int) -> str:
        others = [other for other in self.steps() if other != step]
        return f"Remove it to use the one of step {others[-1]}." if others else "There is no other one in this run."


def begin(folder: Path, config: Any, environment: dict[str, Any]) -> None:
    """Makes a run folder of any kind: its configuration, and where it is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", to_json(config))
    write_json(folder / "environment.json", environment)


def read_config(folder: Path, script: str) -> dict[str, Any]:
    """The values of config.json. Raises `UserError` where `folder` is no run; `script` is what should have made it."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is no run: it has no config.json. Give the folder that {script} wrote.")
    return read_json(path)


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as tensors named INDEX.KEY."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, values in state.items() for key, value in values.items()}


def load_optimiser(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _load(learner: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    own = {name: tuple(t.shape) for name, t in learner.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if own != found:
        name = sorted(own.items() ^ found.items())[0][0]
        raise UserError(
            f"The checkpoint {folder} is of another learner: {name} is {found.get(name, 'missing')} there and "
            f"{own.get(name, 'missing')} in this one. A learnt vocabulary (--learner.symbols learned), the outputs of fast "
            "weights (oml, anml, reptile, maml and its kin) and an encoder are bound to the number of symbols "
            "(--episodes.vocabulary) and the image size that they were trained with."
        )
    learner.load_state_dict(tensors)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in sorted(folder.glob("*.safetensors"))
    }
