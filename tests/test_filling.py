"""Pools that go straight to disk: by any number of processes, gone on with after a kill, and never taken for whole before."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from making import gnt_folder

from episodes import Benchmark, DataConfig, UserError, load_benchmark
from episodes.data import cache as caching
from episodes.data import decoding, filling, gnt
from episodes.data.pool import ClassPool

ROOT = Path(__file__).parents[1]
CHARACTERS = "啊阿埃挨哎0a"


@pytest.fixture
def folder(tmp_path) -> Path:
    return gnt_folder(tmp_path / "hwdb", CHARACTERS, writers=6)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(filling, "CHUNK", 4)
    monkeypatch.setattr(filling, "_processors", lambda: 1)


def load(folder: Path) -> Benchmark:
    return load_benchmark(DataConfig("casia", path=str(folder)), 8)


def entries(cache: Path) -> list[str]:
    return sorted(place.name[-5:] for place in (cache / "pools").iterdir())


def whole(benchmark: Benchmark) -> bytes:
    (pool,) = benchmark.pools("train")
    assert len(pool.x) == 6 * len(CHARACTERS)
    return np.asarray(pool.x).tobytes() + np.asarray(pool.ids).tobytes() + benchmark.fingerprint.encode()


def build(folder: Path, place: Path, processes: int) -> ClassPool:
    place.mkdir()
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.gnt"))
    about = {"format": "gnt", "unit": "byte", "root": str(folder), "files": files, "source": "x", "size": 8, "channels": 1}
    filling.fill(place, about, lambda: gnt.gnt_index(folder, files, "x"), processes=processes)
    return ClassPool.load(place)


def test_any_number_of_processes_builds_the_same(tmp_path, folder):
    alone, together = (build(folder, tmp_path / str(number), number) for number in (1, 2))
    assert alone.fingerprint == together.fingerprint
    for name in ("x.npy", "ids.npy", "pool.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert sorted(file.name for file in (tmp_path / "2").iterdir()) == ["ids.npy", "pool.json", "x.npy"]


def test_a_build_that_was_interrupted_goes_on(tmp_path, folder, cache, monkeypatch):
    expected = whole(load(gnt_folder(tmp_path / "other" / "hwdb", CHARACTERS, writers=6)))
    shutil.rmtree(cache)
    real, decoded = decoding.gnt.decoded_at, []

    def interrupted(*place):
        if len(decoded) == 17:
            raise KeyboardInterrupt
        decoded.append(place)
        return real(*place)

    monkeypatch.setitem(decoding.FORMATS, "gnt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    assert entries(cache) == [".part"]
    log = next((cache / "pools").glob("*.part/work/done-*"))
    assert len(log.read_text().splitlines()) == 4
    log.write_text(log.read_text() + "[4, [")  # as of a process that was killed while it wrote
    monkeypatch.setitem(decoding.FORMATS, "gnt", lambda *place: decoded.append(place) or real(*place))
    with pytest.warns(UserWarning, match="The build of casia was interrupted. It goes on"):
        assert whole(load(folder)) == expected
    assert len(decoded) == 17 + 42 - 16, "four chunks of four are not decoded again"
    assert len(entries(cache)) == 1 and ".part" not in entries(cache)
    load(folder)


@pytest.mark.parametrize("left", ["another boot", "half a plan", "mending"])
def test_what_cannot_be_gone_on_with_is_begun_again(tmp_path, folder, cache, monkeypatch, left):
    expected = whole(load(folder))
    shutil.rmtree(cache)
    monkeypatch.setattr(filling, "_seal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    monkeypatch.undo()
    monkeypatch.setenv("METACL_CACHE", str(cache))
    (part,) = (cache / "pools").iterdir()
    if left == "another boot":
        monkeypatch.setattr(filling, "_boot", lambda: "a later one")
    elif left == "mending":
        (part / "work" / "mending").touch()
    else:
        (part / "work" / "plan.json").write_text('{"boot": ')
    (part / "x.npy").write_bytes(b"nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing says that it goes on
        assert whole(load(folder)) == expected


SLOW = """
import sys, time, warnings
from episodes import DataConfig, load_benchmark
from episodes.data import decoding, filling
filling.CHUNK, filling._processors = 2, lambda: 1
real = decoding.FORMATS["gnt"]
decoding.FORMATS["gnt"] = lambda *place: time.sleep(float(sys.argv[2])) or real(*place)
warnings.simplefilter("always")
print(load_benchmark(DataConfig("casia", path=sys.argv[1]), 8).fingerprint)
"""


def start(folder: Path, cache: Path, pause: float) -> subprocess.Popen:
    """Another process that builds the pool."""
    environment = os.environ | {"METACL_CACHE": str(cache)}
    command = [sys.executable, "-c", SLOW, str(folder), str(pause)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(pattern: str, cache: Path, lines: int = 1) -> None:
    for _ in range(600):
        if any(len(log.read_text().splitlines()) >= lines for log in cache.glob(pattern)):
            return
        time.sleep(0.05)
    pytest.fail("nothing was built")


def test_a_killed_build_is_not_taken_for_whole_and_goes_on(tmp_path, folder, cache):
    expected = load(gnt_folder(tmp_path / "other" / "hwdb", CHARACTERS, writers=6)).fingerprint
    shutil.rmtree(cache)
    process = start(folder, cache, 0.1)
    wait_for("pools/*.part/work/done-*", cache, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert entries(cache) == [".part"]
    with pytest.warns(UserWarning, match="The build of casia was interrupted. It goes on"):
        assert load(folder).fingerprint == expected


def test_two_processes_build_one_pool_and_the_second_waits(folder, cache, monkeypatch):
    first = start(folder, cache, 0.1)
    wait_for("pools/*.part/work/done-*", cache)
    monkeypatch.setitem(decoding.FORMATS, "gnt", lambda *place: pytest.fail("decoded twice"))
    with pytest.warns(UserWarning, match="Another process is building .* This one waits for it"):
        fingerprint = load(folder).fingerprint
    assert first.communicate(timeout=60)[0].strip() == fingerprint
    assert len(entries(cache)) == 1


def test_a_full_disk_is_found_out_before_anything_is_decoded(folder, cache, monkeypatch):
    free = shutil.disk_usage(folder)._replace(free=10)
    monkeypatch.setattr(filling.shutil, "disk_usage", lambda place: free)
    monkeypatch.setitem(decoding.FORMATS, "gnt", lambda *place: pytest.fail("decoded"))
    with pytest.raises(
        UserError, match=r"data cache .* cannot be written: .*0.0 GB are needed and 0.0 GB are free.*METACL_CACHE"
    ):
        load(folder)
    assert entries(cache) == []


def test_a_file_system_that_takes_no_room_before(folder, cache, monkeypatch):
    def refused(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(filling.os, "posix_fallocate", refused, raising=False)
    assert len(whole(load(folder)))


def test_a_disk_that_fills_up_leaves_nothing(folder, cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(decoding.os, "pwrite", full)
    with pytest.raises(UserError, match=r"data cache .* cannot be written: .*No space left.*Make room there"):
        load(folder)
    assert entries(cache) == []


def planned(place: Path, folder: Path, monkeypatch) -> Path:
    """The folder of a build whose processes have not begun."""
    with monkeypatch.context() as patch:
        patch.setattr(filling, "decode_by_processes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(folder, place, 2)
    (place / "work" / "todo.json").write_text(json.dumps([0, 1, 2, 3]))
    return place


def test_a_process_that_fails_says_why(tmp_path, folder, monkeypatch, capsys):
    place, error = planned(tmp_path / "pool", folder, monkeypatch), tmp_path / "error"
    first = min(folder.rglob("*.gnt"))
    data = first.read_bytes()
    first.unlink()
    status = decoding.main(str(place), "0", "1")
    with pytest.raises(UserError, match=rf"{first.name} cannot be read \(No such file"):
        decoding._check_end(status, written(error, capsys))
    first.write_bytes(data)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(decoding.os, "pwrite", full)
    status = decoding.main(str(place), "0", "1")
    with pytest.raises(OSError, match="No space left") as end:
        decoding._check_end(status, written(error, capsys))
    assert end.value.errno == errno.ENOSPC
    error.write_text("Traceback\nMemoryError")
    with pytest.raises(UserError, match=r"ended early \(MemoryError\). Start again: what it has done is kept"):
        decoding._check_end(1, error)
    with pytest.raises(UserError, match=r"ended early \(status -9\)"):
        decoding._check_end(-9, written(error, capsys))


def written(file: Path, capsys) -> Path:
    """What was printed, as a process's is kept."""
    file.write_text(capsys.readouterr().out)
    return file


def test_a_large_entry_is_read_whole_only_where_a_file_has_changed(folder, cache, monkeypatch):
    monkeypatch.setattr(caching, "LARGE", 0)
    expected = whole(load(folder))
    (entry,) = (cache / "pools").iterdir()
    read = []
    verify = ClassPool.verify
    monkeypatch.setattr(ClassPool, "verify", staticmethod(lambda place: read.append(place) or verify(place)))

    def again() -> int:
        """How often it is read whole by a new process."""
        read.clear()
        caching._damage_of.cache_clear()
        assert whole(load(folder)) == expected
        return len(read)

    assert again() == 0
    os.utime(entry / "x.npy", ns=(1, 1))
    assert again() == 1 and again() == 0, "found sound, and believed from then on"
    (entry / "sound.json").unlink()
    assert again() == 1 and again() == 0
    data = (entry / "x.npy").read_bytes()
    (entry / "x.npy").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.warns(UserWarning, match="is damaged .its content is not what was written.. It is built again"):
        again()
    assert again() == 0


def test_a_small_entry_is_read_whole_once_in_a_process(folder, cache):
    load(folder)
    (entry,) = (cache / "pools").iterdir()
    assert sorted(file.name for file in entry.iterdir()) == ["ids.npy", "pool.json", "x.npy"]


def test_the_work_of_a_share_ends_with_its_parent(tmp_path, folder, monkeypatch):
    """A process of the build whose parent was killed writes one chunk at most."""
    place = planned(tmp_path / "pool", folder, monkeypatch)
    parents = iter([1, 1, 2, 2])
    monkeypatch.setattr(decoding.os, "getppid", lambda: next(parents))
    assert decoding.main(str(place), "0", "1") == 1
    assert [done.chunk for done in decoding.done_in(place)] == [0, 1]
