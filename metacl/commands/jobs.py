"""Several runs as jobs, and what is said of them."""

import os
import time
from pathlib import Path

from episodes import UserError
from metacl.report.display import bar, say
from metacl.runs.launching import LOG, check_place, launch


def check_launch(where: str | None, runs: int) -> None:
    """Raises `UserError` where `where` is no place for jobs, or there is one run only."""
    if where is not None:
        check_place(where)
        if runs < 2:
            raise UserError("--launch is for several runs: --seeds 0 1 2, --grid.OPTION VALUE VALUE, or several learners.")


def as_jobs(where: str, script: str, folders: list[Path], data: str | None = None) -> list[str]:
    """Resumes runs as jobs and waits; returns the names of those that failed.

    Arguments:
        data: where their data are now; None: where they were.

    Raises:
        UserError: `where` is no place.
    """
    if not folders:
        return []
    begun, more = time.monotonic(), [] if data is None else ["--data.path", os.path.abspath(data)]
    with bar("runs") as progress:
        shown = progress.add_task("", total=len(folders), now="runs")

        def tell(folder: Path, status: int) -> None:
            progress.update(shown, advance=1)
            last = _last_line(folder / LOG)
            how = "done" if status == 0 else f"ended with status {status}; its log is {folder / LOG}"
            say(f"{folder.name}: {how}, after {time.monotonic() - begun:.0f} s. {last}")

        say(f"{len(folders)} jobs, {where}; what each says is in its {LOG}.")
        return [folder.name for folder in launch(where, script, folders, tell, more)]


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
