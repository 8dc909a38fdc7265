"""A full disk: files that may not grow, writes that find no room, a small file system. When there is room again it goes on."""

import errno
import random
import resource
import subprocess
from pathlib import Path

from tests.faults.again import brought_to_end
from tests.faults.cases import CASES
from tests.faults.child import Counts, Prepare
from tests.faults.operations import fail_from, watch
from tests.faults.scene import Scene
from tests.faults.verdict import Verdict, column_of, last_words

TRIES = 60
WAYS = ("small files", "no room", "a small disk", "quota", "broken disk")


def attack(seed: int, scene: Scene) -> Verdict:
    rng, case, way = random.Random(seed), CASES[seed // len(WAYS) % len(CASES)], WAYS[seed % len(WAYS)]
    whole, outcome = scene.end(case)
    moment, place = rng.randint(1, outcome.counts.operations), scene.place()
    most = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    size = rng.randint(4096, max(8192, most))
    prepare: Prepare | None = watch(place, fail_from(moment, errno.ENOSPC, "write", "fsync", "os.mkdir"))
    about = f"no room from writing operation {moment} on"
    if way == "small files":
        prepare, about = _small_files(size), f"no file may be larger than {size} bytes"
    elif way == "a small disk" and _mounted(place, size := rng.randint(4096, _size(whole))):
        prepare, about = None, f"a disk of {size} bytes"
    elif way == "quota":
        prepare = watch(place, fail_from(moment, errno.EDQUOT, "write", "fsync", "os.mkdir", "open"))
        about = f"over the quota from writing operation {moment} on"
    elif way == "broken disk":
        prepare = watch(place, fail_from(moment, errno.EIO))
        about = f"the disk fails from writing operation {moment} on"
    try:
        outcome = scene.run(scene.start(case), place, case, prepare)
        if way == "a small disk":
            subprocess.run(["mount", "-o", "remount,size=50m", str(place)], capture_output=True)
        about = f"{case.name}: {about}"
        column = column_of(outcome)
        again = brought_to_end(case, scene, place, about)
    finally:
        subprocess.run(["umount", str(place)], capture_output=True) if way == "a small disk" else None
    scene.clear(place)
    return Verdict(column, about, last_words(outcome)) if column in ("traceback", "hung") and not again.fault else again


def _small_files(size: int) -> Prepare:
    def prepare(counts: Counts) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return prepare


def _mounted(place: Path, size: int) -> bool:
    """Whether `place` is a file system of its own now; where mounting is not allowed it is not."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def _size(folder: Path) -> int:
    """Bytes of whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())
