"""Where a figure was made: versions, hardware and commit."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from metacl.learners.precision import fast_bf16
from metacl.runs.files import read_json

PACKAGES = ("torch", "numpy", "einops", "datasets", "accelerate", "safetensors", "pillow")


def environment() -> dict[str, Any]:
    """What a reader needs to judge a figure or to make it again, as JSON values."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "system": platform.system(),
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "fast_bf16": fast_bf16("cuda" if torch.cuda.is_available() else "cpu"),
    }


def unlike(folder: Path, now: dict[str, Any]) -> str:
    """What rounds otherwise than where the run of a folder was begun, in a sentence: it goes on, but not to the last bit; empty
    where nothing does.

    Arguments:
        now: `environment()` and, by name, what else is known here of the device, the precision and the processes.
    """
    path = folder / "environment.json"
    before = read_json(path) if path.exists() else {}
    names = ("device", "precision", "processes", "threads", "processor")
    other = [f"{name} {now[name]}, not {before[name]}" for name in names if name in before and before[name] != now[name]]
    how = "Note: the run goes on, but not to the last bit as it would have where it was begun"
    return f"{how}: {'; '.join(other)}." if other else ""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> str | None:
    """The commit of the source, with a + where it was changed; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
