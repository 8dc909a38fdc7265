"""Features that an evaluation keeps of each task: a file for each, written before the checkpoint that is of it."""

from collections.abc import Iterator, MutableMapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from episodes import UserError
from metacl.runs.files import write_whole


class FeatureFiles(MutableMapping[int, Tensor]):
    """By the index of a task, in files task-00000.safetensors of a folder, which is made with the first of them.

    A task that is done again writes its file anew, with the same numbers.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __setitem__(self, task: int, features: Tensor) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._file(task), save({"features": features.contiguous()}))

    def __getitem__(self, task: int) -> Tensor:
        try:
            return load_file(self._file(task))["features"]
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(
                f"{self._file(task)} cannot be read ({error}): without the features of task {task} just after it nobody knows "
                "how far they have moved. Begin the evaluation anew, in another folder (--out)."
            ) from error

    def __delitem__(self, task: int) -> None:
        self._file(task).unlink()

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(int(path.stem.removeprefix("task-")) for path in self.folder.glob("task-*.safetensors")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _file(self, task: int) -> Path:
        return self.folder / f"task-{task:05d}.safetensors"
