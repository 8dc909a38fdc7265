"""Runs as jobs of their own: some at a time on this machine, or all of them on a cluster.

Each job is `--resume` of one run's folder, so that it can be started again as it is; what it says goes to `log.txt` there.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from episodes import UserError
from metacl.runs.environment import cores

MODULES = {"train.py": "train_main", "evaluate.py": "evaluate_main"}
LOG = "log.txt"
Tell = Callable[[Path, int], None]
"""Is told the folder of a job that has ended, and its exit status."""


def launch(where: str, script: str, folders: Sequence[Path], tell: Tell, more: Sequence[str] = ()) -> list[Path]:
    """Resumes the runs in `folders` as jobs, waits for them, and returns the folders of those that failed.

    Arguments:
        more: options of each `--resume`.
        where: `local:2`, two at a time on this machine; or `slurm` with what a job is to have, as submitit names it:
            `slurm:slurm_partition=gpu,gpus_per_node=1,timeout_min=600`.

    Raises:
        UserError: `where` is neither.
    """
    check_place(where)
    kind, _, options = where.partition(":")
    commands = {folder: [*job(script, folder), *more] for folder in folders}
    return _locally(int(options), commands, tell) if kind == "local" else _on_cluster(kind, options, commands, tell)


def check_place(where: str) -> None:
    """Raises `UserError` where `where` is no place for jobs."""
    kind, _, options = where.partition(":")
    if not (kind in ("slurm", "debug") or (kind == "local" and options.isdecimal() and 1 <= int(options) <= 1_000)):
        raise UserError(f"--launch is local:NUMBER, so many jobs at a time here, or slurm:OPTION=VALUE,... - not {where!r}.")


def job(script: str, folder: Path) -> list[str]:
    """The command line of a job."""
    return [sys.executable, "-c", f"from metacl.cli import {MODULES[script]} as main; main()", "--resume", str(folder)]


def _locally(number: int, commands: dict[Path, list[str]], tell: Tell) -> list[Path]:
    """The cores are shared out evenly. Whatever ends this process ends its jobs, which save first."""
    threads = max(1, cores() // number)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started: list[subprocess.Popen[bytes]] = []
    stopping, starting = False, Lock()

    def run(folder: Path) -> int:
        with starting, (folder / LOG).open("ab") as log:
            if stopping:
                return -1
            started.append(
                process := subprocess.Popen(commands[folder], env=environment, stdout=log, stderr=log, start_new_session=True)
            )
        status = process.wait()
        tell(folder, status)
        return status

    with ThreadPoolExecutor(number) as jobs:
        try:
            statuses = list(jobs.map(run, commands))
        except BaseException:
            with starting:
                stopping = True
                for process in started:
                    process.terminate()
            raise
    return [folder for folder, status in zip(commands, statuses, strict=True) if status]


def _on_cluster(kind: str, options: str, commands: dict[Path, list[str]], tell: Tell) -> list[Path]:
    """An array of jobs through submitit, which is asked for what each is to have."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("--launch slurm needs submitit: pip install 'metacl[cluster]'") from error
    executor = submitit.AutoExecutor(folder=next(iter(commands)).parent / "jobs", cluster=kind)
    try:
        executor.update_parameters(**_parameters(options))
    except (NameError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"--launch {kind}: {error}") from error
    submitted = executor.map_array(_as_job, list(commands), list(commands.values()))
    failed = []
    try:
        for folder, own in zip(commands, submitted, strict=True):
            status = 1 if own.exception() is not None else own.result()
            tell(folder, status)
            failed += [folder] if status else []
    except BaseException:
        for own in submitted:
            own.cancel(check=False)
        raise
    return failed


def _as_job(folder: Path, command: list[str]) -> int:
    """What a job of the cluster does."""
    with (folder / LOG).open("ab") as log:
        return subprocess.run(command, stdout=log, stderr=log).returncode


def _parameters(options: str) -> dict[str, int | str]:
    """NAME=VALUE,NAME=VALUE as a dictionary; numbers as numbers."""
    pairs = [part.partition("=") for part in options.split(",") if part]
    if any(not equals or not value for _, equals, value in pairs):
        raise UserError(f"--launch slurm takes OPTION=VALUE,OPTION=VALUE, not {options!r}.")
    return {name: int(value) if value.isdecimal() else value for name, _, value in pairs}
