"""Runs as jobs of their own: some at a time on this machine, or all of them on a cluster.

Each job is `--resume` of one run's folder, so that it can be started again as it is; what it says goes to `log.txt` there.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from episodes import UserError

MODULES = {"train.py": "train_main", "evaluate.py": "evaluate_main"}
LOG = "log.txt"
Tell = Callable[[Path, int], None]
"""Is told the folder of a job that has ended, and its exit status."""


def launch(where: str, script: str, folders: Sequence[Path], tell: Tell) -> list[Path]:
    """Resumes the runs in `folders` as jobs, waits for them, and returns the folders of those that failed.

    Arguments:
        where: `local:2`, two at a time on this machine; or `slurm` with what a job is to have, as submitit names it:
            `slurm:slurm_partition=gpu,gpus_per_node=1,timeout_min=600`.

    Raises:
        UserError: `where` is neither.
    """
    kind, _, options = where.partition(":")
    if kind == "local" and options.isdecimal() and 1 <= int(options) <= 1_000:
        return _locally(int(options), script, folders, tell)
    if kind in ("slurm", "debug"):
        return _on_cluster(kind, options, script, folders, tell)
    raise UserError(f"--launch is local:NUMBER, so many jobs at a time here, or slurm:OPTION=VALUE,... - not {where!r}.")


def job(script: str, folder: Path) -> list[str]:
    """The command line of a job."""
    return [sys.executable, "-c", f"from metacl.cli import {MODULES[script]} as main; main()", "--resume", str(folder)]


def _locally(number: int, script: str, folders: Sequence[Path], tell: Tell) -> list[Path]:
    """The cores are shared out evenly. Whatever ends this process ends its jobs, which save first."""
    threads = max(1, (os.cpu_count() or 1) // number)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started: list[subprocess.Popen[bytes]] = []
    stopping = False

    def run(folder: Path) -> int:
        if stopping:
            return -1
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(job(script, folder), env=environment, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        status = process.wait()
        tell(folder, status)
        return status

    with ThreadPoolExecutor(number) as jobs:
        try:
            statuses = list(jobs.map(run, folders))
        except BaseException:
            stopping = True
            for process in started:
                process.terminate()
            raise
    return [folder for folder, status in zip(folders, statuses, strict=True) if status]


def _on_cluster(kind: str, options: str, script: str, folders: Sequence[Path], tell: Tell) -> list[Path]:
    """An array of jobs through submitit, which is asked for what each is to have."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("--launch slurm needs submitit: pip install 'metacl[cluster]'") from error
    executor = submitit.AutoExecutor(folder=folders[0].parent / "jobs", cluster=kind)
    try:
        executor.update_parameters(**_parameters(options))
    except (NameError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"--launch {kind}: {error}") from error
    submitted = executor.map_array(_as_job, [job(script, folder) for folder in folders])
    failed = []
    for folder, own in zip(folders, submitted, strict=True):
        status = 1 if own.exception() is not None else own.result()
        tell(folder, status)
        failed += [folder] if status else []
    return failed


def _as_job(command: list[str]) -> int:
    """What a job of the cluster does."""
    with (Path(command[-1]) / LOG).open("ab") as log:
        return subprocess.run(command, stdout=log, stderr=log).returncode


def _parameters(options: str) -> dict[str, int | str]:
    """NAME=VALUE,NAME=VALUE as a dictionary; numbers as numbers."""
    pairs = [part.partition("=") for part in options.split(",") if part]
    if any(not equals or not value for _, equals, value in pairs):
        raise UserError(f"--launch slurm takes OPTION=VALUE,OPTION=VALUE, not {options!r}.")
    return {name: int(value) if value.isdecimal() else value for name, _, value in pairs}
