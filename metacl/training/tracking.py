"""TensorBoard events, where tensorboard is installed."""

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self


class EventWriter:
    """Writes the numbers of a record as scalars; does nothing where tensorboard is not installed.

    Arguments:
        first: steps that are done already: what an earlier part of the run wrote of later ones is forgotten.
    """

    def __init__(self, folder: Path, first: int = 0, enabled: bool = True):
        self.writer = None
        if enabled and find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            with suppress(UnicodeEncodeError):  # tensorboard writes into no folder whose name is no text
                self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1 if first else None)

    def write(self, record: dict[str, Any]) -> None:
        if self.writer is not None:
            for name, value in record.items():
                if name != "step":
                    self.writer.add_scalar(name, value, record["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.close()
