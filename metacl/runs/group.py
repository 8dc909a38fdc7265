"""Several runs in one folder: one for each seed, or for each learner. A folder with a run of its own is a group of one."""

from pathlib import Path

from episodes import UserError
from metacl.runs.files import read_json, write_json

MEMBERS = "runs.json"
"""The names of the folders of the runs, in their order."""


def make_group(folder: Path, names: list[str]) -> list[Path]:
    """The folders of new runs: `folder` itself where there is one, else one for each name, noted in `folder`/runs.json."""
    if len(names) == 1:
        return [folder]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MEMBERS, names)
    return [folder / name for name in names]


def members(folder: Path) -> list[Path]:
    """The folders of the runs that are in `folder`.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist. Check the path; it is taken from {Path.cwd()}.")
    if not (folder / MEMBERS).is_file():
        return [folder]
    return [folder / name for name in read_json(folder / MEMBERS)]


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run, or holds several."""
    return (folder / "config.json").is_file() or (folder / MEMBERS).is_file()
