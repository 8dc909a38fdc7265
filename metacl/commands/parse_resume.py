"""The command lines with which a run or an evaluation is gone on with."""

from dataclasses import dataclass
from pathlib import Path

from episodes import UserError
from metacl.commands.words import take


@dataclass(frozen=True)
class Resumed:
    """What `--resume` is to do: in which folder, with data where, as which jobs."""

    folder: Path
    data: str | None
    launch: str | None


def parse_resume(argv: list[str], script: str) -> Resumed:
    """--resume FOLDER [--data.path DATA] [--launch WHERE]."""
    words = list(argv)
    taken = (take(words, option) if len(argv) > 1 else None for option in ("--resume", "--data.path", "--launch"))
    folder, data, launch = taken
    if words or not folder:
        raise UserError(
            f"--resume takes a run's folder, and where its data are now: python {script} --resume RUN [--data.path DATA]"
        )
    return Resumed(Path(folder), data, launch)
