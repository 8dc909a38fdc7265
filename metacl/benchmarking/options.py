"""What all subjects of `benchmark.py` are asked."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from episodes import UserError
from episodes.errors import at_least
from metacl.benchmarking.measure import Json


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every subject."""

    repeats: int | None = None
    """Timed repetitions of each case, in turns with the others, after three untimed calls. None: 5, but 3 of slow cases."""
    threads: int | None = None
    """CPU threads. None: as many as PyTorch takes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where everything is measured. `auto`: on a GPU where there is one."""
    out: Path | None = None
    """A new folder for result.json, result.csv and the plot. None: only the table on the screen."""

    def __post_init__(self) -> None:
        at_least(1, self, "--", "repeats")
        at_least(1, self, "--", "threads", most=1_024)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: PyTorch sees no GPU here. Leave it out, or install a CUDA build of torch.")
        if self.out is not None and self.out.exists():
            raise UserError(f"--out {self.out} exists already and is never overwritten. Give another folder.")

    def torch_device(self) -> torch.device:
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device)


def provenance(options: Options) -> Json:
    """The options as JSON values."""
    values = dataclasses.asdict(options)
    return values | {"out": None if options.out is None else options.out.name, "device": str(options.torch_device())}
