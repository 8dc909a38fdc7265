"""The records of a large source, decoded chunk by chunk into the files of a pool, by one process or several.

The images of a chunk go to their own places in the file, whoever decodes them and in whatever order, so the pool is the same. A
process of its own runs `main`: all that it needs is in the folder of the build.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from episodes.data import gnt, tsv
from episodes.data.places import readable
from episodes.errors import UserError

FORMATS: dict[str, Callable[[BinaryIO, int, int, int], tuple[np.ndarray, int]]] = {
    "gnt": gnt.decoded_at,
    "tsv": tsv.decoded_at,
}
"""From an open file, a record's place in it, a size and channels to the image (C, size, size) and its id."""
WORK = "work"
"""In the folder of a build: what it has to do, and what is done. It is taken away in the end."""


class Done(NamedTuple):
    """A chunk whose images are written."""

    chunk: int
    faulty: list[tuple[int, str]]
    """The records that cannot be decoded, and why."""


def plan_of(folder: Path) -> dict[str, Any]:
    """What has to be built in a folder, as `filling` wrote it."""
    return json.loads((folder / WORK / "plan.json").read_text(encoding="utf-8"))


def done_in(folder: Path) -> list[Done]:
    """The chunks that were written so far. The last line of a process that was killed may be cut off."""
    found = {}
    for log in sorted((folder / WORK).glob("done-*")):
        for line in log.read_text(encoding="utf-8").splitlines():
            try:
                chunk, faulty = json.loads(line)
            except ValueError:
                continue
            found[chunk] = Done(chunk, [(record, why) for record, why in faulty])
    return list(found.values())


def decode_chunks(folder: Path, chunks: Iterable[int]) -> Generator[Done, None, None]:
    """Decodes and writes some chunks, one after another.

    Raises:
        UserError: a file of the source cannot be read.
        OSError: the pool cannot be written.
    """
    plan, work = plan_of(folder), folder / WORK
    place_I = np.load(work / "place.npy", mmap_mode="r")
    store = np.load(folder / "x.npy", mmap_mode="r")
    stride, first = store[0].nbytes, store.offset
    log = work / f"done-{os.getpid()}-{time.time_ns()}"
    with (folder / "x.npy").open("r+b") as x, (work / "ids.npy").open("r+b") as ids, log.open("a", encoding="utf-8") as notes:
        id_first = np.load(work / "ids.npy", mmap_mode="r").offset
        for chunk in chunks:
            start, faulty = chunk * plan["chunk"], []
            found = np.zeros(min(plan["chunk"], plan["records"] - start), dtype=np.uint64)
            for i, image in enumerate(_decoded(plan, work, slice(start, start + len(found)))):
                if isinstance(image, str):
                    faulty.append((start + i, image))
                    continue
                pixels, found[i] = image
                _write(x, pixels.tobytes(), first + int(place_I[start + i]) * stride)
            _write(ids, found.tobytes(), id_first + 8 * start)
            notes.write(json.dumps([chunk, faulty]) + "\n")
            notes.flush()
            yield Done(chunk, faulty)


def decode_by_processes(folder: Path, chunks: list[int], processes: int) -> Generator[Done, None, None]:
    """As `decode_chunks`, by several processes, in no order."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "import sys; from episodes.data.decoding import main; sys.exit(main(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(folder)]
    known = {done.chunk for done in done_in(folder)}
    (folder / WORK / "todo.json").write_text(json.dumps(chunks), encoding="utf-8")
    errors = [folder / WORK / f"error-{own}" for own in range(processes)]
    workers = []
    try:
        for own, error in enumerate(errors):
            with error.open("wb") as said:
                words, environment = [*command, str(own), str(processes)], os.environ | {"PYTHONPATH": path}
                workers.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment))
        running = True
        while running:
            time.sleep(0.05)
            running = all(worker.poll() in (None, 0) for worker in workers) and any(worker.poll() is None for worker in workers)
            fresh = [done for done in done_in(folder) if done.chunk not in known]
            known |= {done.chunk for done in fresh}
            yield from fresh
        for worker, error in zip(workers, errors, strict=True):
            _check_end(worker.poll() or 0, error)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()


def main(folder: str, own: str, of: str) -> int:
    """The share of one of several processes: its status. It ends where the process that started it is no more.

    Arguments:
        folder: of the build.
        own, of: the number of the process, from 0, and how many there are.
    """
    parent, place = os.getppid(), Path(folder)
    chunks = json.loads((place / WORK / "todo.json").read_text(encoding="utf-8"))
    try:
        for _ in decode_chunks(place, chunks[int(own) :: int(of)]):
            if os.getppid() != parent:
                return 1
    except UserError as error:
        print(error, flush=True)
        return REFUSED
    except OSError as error:
        print(json.dumps([error.errno, str(error.strerror or error)]), flush=True)
        return NOT_WRITTEN
    return 0


REFUSED, NOT_WRITTEN = 3, 4
"""How a process ends that met a `UserError` or an `OSError`."""


def _check_end(status: int, error: Path) -> None:
    """Raises what went wrong in a process, of which `status` is the end and `error` what it said."""
    said = error.read_text(encoding="utf-8", errors="replace").strip()
    if status == REFUSED:
        raise UserError(said.splitlines()[-1])
    if status == NOT_WRITTEN:
        raise OSError(*json.loads(said.splitlines()[-1]))
    if status:
        last = said.splitlines()[-1] if said else f"status {status}"
        raise UserError(f"A process that decodes images ended early ({last}). Start again: what it has done is kept.")


def _decoded(plan: dict[str, Any], work: Path, part: slice) -> Iterator[tuple[np.ndarray, int] | str]:
    """Each record's image and id, or why it has none."""
    file_I, offset_I = (np.load(work / f"{name}.npy", mmap_mode="r")[part].tolist() for name in ("file", "offset"))
    ends = [i for i in range(1, len(file_I)) if file_I[i] != file_I[i - 1]]
    for first, last in zip([0, *ends], [*ends, len(file_I)], strict=True):
        path = Path(plan["root"], plan["files"][file_I[first]])
        with readable(path):
            file = path.open("rb")
        with file:
            yield from (_one(plan, file, path, offset) for offset in offset_I[first:last])


def _one(plan: dict[str, Any], file: BinaryIO, path: Path, offset: int) -> tuple[np.ndarray, int] | str:
    try:
        return FORMATS[plan["format"]](file, offset, plan["size"], plan["channels"])
    except OSError as error:
        if error.errno is None:  # Pillow's, of an image that is cut off
            return _first_line(error)
        raise UserError(f"{path} cannot be read ({error.strerror}). Check that it is there and may be read.") from error
    except Exception as error:  # Pillow raises many kinds
        return _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _write(file: BinaryIO, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file.fileno(), view, place)
        view, place = view[written:], place + written
