"""Pools that go straight to disk and may be larger than the memory; a build that was killed is gone on with.

First all records of the source are found, and with them the place of each image in the pool. Then they are decoded chunk by
chunk (`decoding`), and what is done is written down. In the end records that could not be decoded are taken out, and the pool
is sealed with its digest.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from episodes.data.decoding import WORK, Done, decode_by_processes, decode_chunks, done_in, plan_of
from episodes.data.digests import fingerprint_of
from episodes.data.pool import ClassPool
from episodes.data.records import LISTED, Faulty, Index, TooManyFaultyError, check_left_out, note_left_out
from episodes.data.telling import tell
from episodes.errors import UserError, note
from episodes.progress import progress

CHUNK = 4096
"""Records of a chunk."""
MOST_PROCESSES = 16
ALONE = 4
"""So few chunks are not worth the start of other processes."""
MENDING = "mending"
"""In the work folder while faulty records are taken out of what was written."""


def fill(folder: Path, about: dict[str, Any], find: Callable[[], Index], fewest: int = 1, processes: int | None = None) -> None:
    """Writes the pool of all records of some files into a folder, which is empty or as a `fill` left it that was killed.

    Records that cannot be read are left out, and so are classes with too few others. Both are said.

    Arguments:
        about: `format` (of `decoding.FORMATS`), `root` and `files` (in it), `size`, `channels`, `unit` (what a position is,
            "row" or "byte"), `source` (in words).
        find: finds the records.
        fewest: images that a class has at least.
        processes: that decode; None: as many as there are processors, at most `MOST_PROCESSES`. The pool is the same.

    Raises:
        UserError: there are no records, or too many that cannot be read.
        OSError: the folder cannot be written, as where there is no room.
    """
    plan = _plan(folder, about, find, fewest)
    done = {one.chunk: one for one in done_in(folder)}
    undone = [chunk for chunk in range(-(-plan["records"] // plan["chunk"])) if chunk not in done]
    many = processes or _processors()
    fresh = decode_chunks(folder, undone) if many == 1 or len(undone) < ALONE else decode_by_processes(folder, undone, many)
    try:
        with closing(fresh):
            for one in progress(fresh, len(undone), f"building {plan['source']} (in parts of {plan['chunk']} images)"):
                done[one.chunk] = one
                if one.faulty:
                    _faulty(folder, plan, done)
        known = _faulty(folder, plan, done)
    except TooManyFaultyError:
        _empty(folder)
        raise
    note_left_out(known, plan["seen"], plan["files"], plan["unit"], plan["source"])
    _seal(folder, plan, np.array(sorted(i for one in done.values() for i, _ in one.faulty), dtype=np.int64), fewest)
    (folder / WORK / "plan.json").unlink()  # first: without it the rest is not gone on with
    shutil.rmtree(folder / WORK)
    pool = ClassPool.load(folder)
    out = plan["seen"] - int(pool.counts.sum())
    tell(pool, [f"{out} of {plan['seen']} records"] if out else [])


def _plan(folder: Path, about: dict[str, Any], find: Callable[[], Index], fewest: int) -> dict[str, Any]:
    """What has to be built: that of a build that was killed, where what it wrote can be believed, or a new one."""
    try:
        plan = plan_of(folder)
        if plan["boot"] is not None and plan["boot"] == _boot() and not (folder / WORK / MENDING).exists():
            note(f"The build of {about['source']} was interrupted. It goes on.")
            return plan
    except (OSError, ValueError, KeyError):
        pass
    _empty(folder)
    return _new_plan(folder, about, find(), fewest)


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _new_plan(folder: Path, about: dict[str, Any], index: Index, fewest: int) -> dict[str, Any]:
    counts = np.bincount(index.label_I, minlength=len(index.names))
    seen = len(index.label_I) + len(index.faulty)
    check_left_out(index.faulty, seen, about["files"], about["unit"], about["source"])
    kept = counts >= fewest
    if not kept.any():
        what = f"{len(counts)} classes, none of them with {fewest} images" if len(counts) else "no images"
        raise UserError(f"{about['source']} has {what}.")
    own_I = kept[index.label_I]
    order_I = np.argsort(index.label_I[own_I], kind="stable")
    side, records = about["size"], len(order_I)
    place_I = np.empty(records, dtype=np.int64)
    place_I[order_I] = np.arange(records)
    del order_I
    _allocate(folder / "x.npy", (records, about["channels"], side, side), np.uint8)
    work = folder / WORK
    work.mkdir()
    _allocate(work / "ids.npy", (records,), np.uint64)
    columns = {"file": index.file_I, "offset": index.offset_I, "position": index.position_I}
    for name, column in columns.items():
        np.save(work / f"{name}.npy", column[own_I])
    np.save(work / "place.npy", place_I)
    plan = about | {"records": records, "seen": seen, "chunk": CHUNK, "boot": _boot(), "faulty": index.faulty}
    plan |= {"names": [name for name, one in zip(index.names, kept, strict=True) if one], "counts": counts[kept].tolist()}
    plan |= {"small": [[name, n] for name, n in zip(index.names, counts.tolist(), strict=True) if n < fewest]}
    fresh = work / "plan.new"
    fresh.write_text(json.dumps(plan), encoding="utf-8")
    fresh.rename(work / "plan.json")
    return plan


def _faulty(folder: Path, plan: dict[str, Any], done: dict[int, Done]) -> list[Faulty]:
    """The records that cannot be read. Raises `TooManyFaultyError` where they are too many."""
    bad = [record for one in done.values() for record in one.faulty]
    file, position = (np.load(folder / WORK / f"{name}.npy", mmap_mode="r") for name in ("file", "position"))
    known = [Faulty(*own) for own in plan["faulty"]] + [Faulty(int(file[i]), int(position[i]), why) for i, why in bad]
    check_left_out(known, plan["seen"], plan["files"], plan["unit"], plan["source"])
    return known


def _seal(folder: Path, plan: dict[str, Any], bad: np.ndarray, fewest: int) -> None:
    """Writes the ids and what the pool is, without the records `bad`, which have no image."""
    place_I = np.load(folder / WORK / "place.npy")
    ids_I = np.empty(len(place_I), dtype=np.uint64)
    ids_I[place_I] = np.load(folder / WORK / "ids.npy")
    counts = np.array(plan["counts"], dtype=np.int64)
    starts = np.cumsum(counts) - counts
    if len(bad):
        (folder / WORK / MENDING).touch()
        counts = _without(folder, np.sort(place_I[bad]), starts, counts, ids_I)
    np.save(folder / "ids.npy", ids_I)
    x, ids = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("x", "ids"))
    small = plan["small"] + [[plan["names"][i], int(counts[i])] for i in np.flatnonzero(counts < fewest)]
    _note_small(small, len(counts) + len(plan["small"]), fewest, plan["source"])
    kept = np.flatnonzero(counts >= fewest)
    names = tuple(plan["names"][i] for i in kept)
    print_of = fingerprint_of(x, starts[kept], names)
    ClassPool(x, starts[kept], counts[kept], names, plan["source"], print_of, ids).seal(folder)


def _without(folder: Path, bad: np.ndarray, starts: np.ndarray, counts: np.ndarray, ids_I: np.ndarray) -> np.ndarray:
    """Moves the images of a class together where some between them are `bad` places; (classes,) how many are left of each."""
    counts, x = counts.copy(), np.load(folder / "x.npy", mmap_mode="r+")
    label = np.searchsorted(starts, bad, side="right") - 1
    for own in np.unique(label):
        run = slice(starts[own], starts[own] + counts[own])
        good = np.setdiff1d(np.arange(run.start, run.stop), bad[label == own])
        for part in (x, ids_I):
            left = part[good]
            part[run] = 0
            part[run.start : run.start + len(good)] = left
        counts[own] = len(good)
    return counts


def _note_small(small: list[list], classes: int, fewest: int, source: str) -> None:
    if small:
        some = ", ".join(f"{name.removeprefix(f'{source}/')} ({count})" for name, count in small[:LISTED])
        more = " ..." if len(small) > LISTED else ""
        note(f"{source}: {len(small)} of {classes} classes are left out with fewer than {fewest} images: {some}{more}.")


def _allocate(file: Path, shape: tuple[int, ...], dtype: type) -> None:
    """An array of zeros in a file, with all its room: a full disk is found out now, not when half is written."""
    need, free = int(np.prod(shape)) * np.dtype(dtype).itemsize, shutil.disk_usage(file.parent).free
    if need > free:
        raise OSError(errno.ENOSPC, f"{need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")
    np.lib.format.open_memmap(file, "w+", dtype, shape)
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # the file system has no such thing
                raise


def _processors() -> int:
    """Processors that this process may use."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(own, MOST_PROCESSES)


def _boot() -> str | None:
    """What tells one start of the machine from another: what a killed process wrote is still there, what a halted machine had
    written may not be. None: not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
