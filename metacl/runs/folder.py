"""A meta-training run on disk: a folder with everything that evaluation, resuming and reporting need. Safetensors and JSON, no
pickle.

config.json  environment.json  metrics.jsonl  checkpoints/step-00000100/  results/
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from episodes import EpisodeSpec, UserError
from episodes.errors import note
from metacl.learners import Learner
from metacl.recipes.config import TrainConfig
from metacl.recipes.files import to_json, train_config
from metacl.runs.checkpoints import Checkpoints
from metacl.runs.files import add_line, must_be_new, read_json, read_lines, write_json, write_lines
from metacl.runs.optimisers import load_optimiser, optimiser_tensors

Pending = list[dict[str, float]]
"""Metrics of steps that no line of metrics.jsonl has yet."""


@dataclass(frozen=True)
class RunFolder:
    """What the folder of anything that is trained has: metrics, and checkpoints of a network and its optimiser."""

    folder: Path

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints")

    def log(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        add_line(self.folder / "metrics.jsonl", record)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl."""
        return read_lines(self.folder / "metrics.jsonl")

    def forget_after(self, step: int) -> None:
        """Drops the metrics of steps that will be done again; says how many of the others are lost."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        there_were = self.checkpoints.about(step).get("records", 0) if step in self.steps() else 0
        if (lost := there_were - len(kept)) > 0:
            note(f"{lost} of the {there_were} lines of {self.folder / 'metrics.jsonl'} up to step {step} are lost.")
        write_lines(self.folder / "metrics.jsonl", kept)

    def save(
        self,
        step: int,
        learner: nn.Module,
        optimiser: Optimizer,
        score: float | None,
        loss: float = math.inf,
        pending: Pending | None = None,
    ) -> None:
        """Writes the checkpoint after `step` steps: complete, or not at all. Keeps it, the one before, and the best one.

        Arguments:
            score, loss: by meta-validation; a higher score is better, then a lower loss. None where there was none.
            pending: metrics of the latest steps, to be averaged with those of the next ones.
        """

        def write(folder: Path) -> None:
            save_file(contiguous(learner.state_dict()), folder / "learner.safetensors")
            save_file(contiguous(optimiser_tensors(optimiser)), folder / "optimiser.safetensors")

        score = score if score is not None and math.isfinite(score) else None
        about = {"score": score, "loss": loss if math.isfinite(loss) else None, "pending": pending or []}
        about |= {"records": len(self.metrics())}
        self.checkpoints.save(step, about, write)

    def steps(self) -> list[int]:
        """The steps of the checkpoints, ascending."""
        return self.checkpoints.steps()

    def last(self) -> int:
        """The step of the newest checkpoint that is sound. Raises `UserError` where there is none."""
        return self._last()["step"]

    def best(self) -> int:
        """The step of the best checkpoint by meta-validation that is sound; the newest where none was validated."""
        return (self.best_record() or self._last())["step"]

    def best_record(self) -> dict[str, Any] | None:
        """{"step", "score", "loss"} of the best checkpoint; None where there is none."""
        best = self.checkpoints.best()
        return None if best is None else {name: best[name] for name in ("step", "score", "loss")}

    def restore(self, step: int, learner: nn.Module, optimiser: Optimizer | None = None) -> Pending:
        """Puts a checkpoint's tensors into a learner, and into its optimiser; returns what is pending.

        Raises:
            UserError: the checkpoint is missing, damaged, or of another learner.
        """
        place = self.checkpoints.place(step)
        try:
            about = self.checkpoints.about(step)
        except UserError as error:
            raise UserError(f"{error} {self._others(step)}") from error
        try:
            _load(learner, load_file(place / "learner.safetensors"), place)
            if optimiser is not None:
                load_optimiser(optimiser, load_file(place / "optimiser.safetensors"))
            return about["pending"]
        except (OSError, KeyError, SafetensorError) as error:
            raise UserError(f"The checkpoint {place} cannot be read ({error}). {self._others(step)}") from error

    def is_empty(self) -> bool:
        """Whether no step was done in it yet: with the first one comes metrics.jsonl."""
        return not self.steps() and not (self.folder / "metrics.jsonl").exists()

    def _last(self) -> dict[str, Any]:
        if last := self.checkpoints.newest():
            return last
        why = (
            "has no checkpoint that can be read" if self.steps() else "has no checkpoint: its training stopped before the first"
        )
        raise UserError(f"{self.folder} {why}. Go on with: python train.py --resume {self.folder}")

    def _others(self, step: int) -> str:
        others = [other for other in self.steps() if other != step]
        return f"Remove it to use the one of step {others[-1]}." if others else "There is no other one in this run."


@dataclass(frozen=True)
class Run(RunFolder):
    """The folder of a meta-training run. `create` makes one, `open` takes one that exists."""

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
        if "shape" in values:
            raise UserError(
                f"{folder} is a backbone that train.py pretrain made, not a meta-training run. Learners take it as "
                f"--data.features {folder}, or those on a transformer as --learner.trunk.backbone {folder}."
            )
        return Run(folder, train_config(values, folder / "config.json"))

    def load_learner(self, spec: EpisodeSpec, step: int | None = None) -> Learner:
        """The learner of a checkpoint (None: the best), built for `spec`, in eval mode."""
        learner = self.config.learner.build(spec)
        self.restore(self.best() if step is None else step, learner)
        return learner.eval()


def begin(folder: Path, config: Any, environment: dict[str, Any]) -> None:
    """Makes a run folder of any kind: its configuration, and where it is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "environment.json", environment)
    write_json(folder / "config.json", to_json(config))


def read_config(folder: Path, script: str) -> dict[str, Any]:
    """The values of config.json. Raises `UserError` where `folder` is no run; `script` is what should have made it."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is no run: it has no config.json. Give the folder that {script} wrote.")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a configuration. Give the folder that {script} wrote.")
    return values


def _load(learner: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    own = {name: (tuple(t.shape), t.dtype) for name, t in learner.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    if own != found:
        name = min(name for name, _ in own.items() ^ found.items())
        raise UserError(
            f"The checkpoint {folder} is of another learner: {name} is {_words(found.get(name))} there and "
            f"{_words(own.get(name))} in this one. A learnt vocabulary (--learner.symbols learned), the outputs of fast "
            "weights (oml, anml, reptile, maml and its kin) and an encoder are bound to the number of symbols "
            "(--episodes.vocabulary) and the image size that they were trained with."
        )
    learner.load_state_dict(tensors)


def _words(about: tuple[Any, ...] | None) -> str:
    return "missing" if about is None else f"{about[0]} {str(about[1]).removeprefix('torch.')}"


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them."""
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
