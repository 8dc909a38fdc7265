"""Checkpoints in a folder: complete or not at all, the newest few and the best kept, damaged ones told apart.

checkpoints/step-00000100/  checkpoint.json and the files whose digests stand in it
"""

import hashlib
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from episodes import UserError
from episodes.errors import note
from metacl.runs.files import read_json, to_disk, write_json

KEPT = 2
"""The newest checkpoints that are kept, beside the best one: where the last is damaged, there is one before it."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, named by their step. What is said of one is in its own checkpoint.json and nowhere else."""

    folder: Path

    def place(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, about: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Writes a checkpoint, and removes those that are neither new nor the best.

        Arguments:
            about: JSON values that stand in checkpoint.json; by `score` (higher is better, None: not scored) and then by
                `loss` the best is known.
            write: is handed an empty folder, into which it writes the tensors.
        """
        part, place = self.place(step).with_suffix(".part"), self.place(step)
        self._remove_rests()
        part.mkdir(parents=True)
        write(part)
        write_json(part / "checkpoint.json", {"step": step} | about | {"digests": _digests(part)})
        for path in (*part.iterdir(), part):
            to_disk(path)
        self.remove(step)
        part.rename(place)
        to_disk(self.folder)
        if old := self.steps()[:-KEPT]:
            best = self.best()
            for other in old:
                if best is None or other != best["step"]:
                    self.remove(other)

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged ones too, ascending."""
        found = (re.fullmatch(r"step-(\d{8})", place.name) for place in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def about(self, step: int) -> dict[str, Any]:
        """What checkpoint.json says.

        Raises:
            UserError: the checkpoint is missing, or a file of it is not as it was written.
        """
        place = self.place(step)
        try:
            about = read_json(place / "checkpoint.json")
            sound = about["digests"] == _digests(place) and about["step"] == step
        except (OSError, KeyError, TypeError, UserError) as error:
            raise UserError(f"The checkpoint {place} cannot be read ({error}).") from error
        if not sound:
            raise UserError(f"The checkpoint {place} is damaged: a file is not as it was written.")
        return about

    def newest(self) -> dict[str, Any] | None:
        """What the newest sound one says; None where there is none. Warns of each damaged one that is newer."""
        return self._first_sound(self.steps()[::-1])

    def best(self) -> dict[str, Any] | None:
        """What the best sound one says; None where none was scored. Warns of each damaged one that is better."""
        return self._first_sound(self._ranked())

    def remove(self, step: int) -> None:
        """Removes one; half a checkpoint is never seen."""
        if (place := self.place(step)).exists():
            place.rename(place.with_suffix(".old"))
            shutil.rmtree(place.with_suffix(".old"))

    def _ranked(self) -> list[int]:
        """The steps of those that were scored, best first: by score, then by lower loss, then the earlier. Tensors are not
        looked at; of one whose checkpoint.json cannot be read the score is not known, with a warning."""
        ranks = dict[int, tuple[float, float]]()
        for step in self.steps():
            try:
                about = read_json(self.place(step) / "checkpoint.json")
                if about["score"] is not None:
                    ranks[step] = about["score"], -math.inf if about["loss"] is None else -about["loss"]
            except (OSError, KeyError, TypeError, UserError) as error:
                note(f"The checkpoint {self.place(step)} cannot be read ({error}). It is left out.")
        return sorted(ranks, key=lambda step: ranks[step], reverse=True)

    def _first_sound(self, steps: list[int]) -> dict[str, Any] | None:
        for step in steps:
            try:
                return self.about(step)
            except UserError as error:
                note(f"{error} It is left out.")
        return None

    def _remove_rests(self) -> None:
        """What a killed process left."""
        for rest in (*self.folder.glob("step-*.part"), *self.folder.glob("step-*.old")):
            shutil.rmtree(rest)


def _digests(folder: Path) -> dict[str, str]:
    """By name, of all files but checkpoint.json, which has a digest of its own."""
    return {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.name != "checkpoint.json"}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
