"""Several runs in one folder: one for each seed, or for each learner. A folder with a run of its own is a group of one."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from episodes import UserError
from metacl.runs.files import MEMBERS, read_json, write_json
from metacl.runs.folder import begin

NewRun = tuple[str, Any, dict[str, Any]]
"""Its name in a folder of several, its configuration and its environment."""


def begin_all(folder: Path, runs: Sequence[NewRun], also: Callable[[Path], None] | None = None) -> list[Path]:
    """Makes new runs, all of them or none, and returns their folders. One alone is `folder` itself; several are folders in it,
    which are noted in `folder`/runs.json.

    Arguments:
        also: writes what else is in each from the start.

    Raises:
        OSError: the folder cannot be made, or somebody else has put something there.
    """
    part = Path(f"{os.path.realpath(folder)}.{os.getpid()}.part")
    try:
        for place in begin_in(part, runs):
            if also is not None:
                also(place)
        if folder.is_dir():  # an empty one
            for child in sorted(part.iterdir(), key=lambda child: child.name in (MEMBERS, "config.json")):
                child.rename(folder / child.name)
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _places(folder, runs)


def begin_in(folder: Path, runs: Sequence[NewRun]) -> list[Path]:
    """As `begin_all`, in a folder that may hold other things."""
    for place, (_, config, environment) in zip(_places(folder, runs), runs, strict=True):
        begin(place, config, environment)
    if len(runs) > 1:
        write_json(folder / MEMBERS, {"runs": [name for name, *_ in runs]})
    return _places(folder, runs)


def _places(folder: Path, runs: Sequence[NewRun]) -> list[Path]:
    return [folder] if len(runs) == 1 else [folder / name for name, *_ in runs]


def members(folder: Path) -> list[Path]:
    """The folders of the runs that are in `folder`.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist. Check the path; it is taken from {Path.cwd()}.")
    if not (folder / MEMBERS).is_file():
        return [folder]
    values = read_json(folder / MEMBERS)
    if not isinstance(values, dict) or not isinstance(names := values.get("runs"), list):
        raise UserError(f"{folder / MEMBERS} names no runs: it is damaged, or of an earlier version.")
    return [folder / name for name in names]
