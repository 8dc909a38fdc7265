"""ClassPool: grouping, fetching, selecting, moving, and the cache on disk."""

import json
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from making import small_pool

from episodes import EpisodeGenerator, EpisodeShape, check_stream
from episodes.data import memory
from episodes.data.cache import cached, remembered
from episodes.data.places import user_path
from episodes.data.pool import ClassPool, grouped
from episodes.errors import UserError
from episodes.tasks.classification import Classification
from episodes.tasks.permuted import Permuted
from episodes.tasks.splits import Splits


@pytest.fixture
def mapped(tmp_path) -> ClassPool:
    """A pool whose images are a read-only memory map."""
    small_pool().save(tmp_path)
    return ClassPool.load(tmp_path)


def test_grouping_puts_each_class_in_one_run_and_keeps_the_order_within():
    pool = small_pool(counts=(3, 1, 4))
    assert pool.x[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert pool.x[:, 0, 0, 1].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert (pool.starts.tolist(), pool.counts.tolist(), pool.names) == ([0, 3, 4], [3, 1, 4], ("small/0", "small/1", "small/2"))
    assert pool.starts.dtype == pool.counts.dtype == np.int64
    assert pool.x_shape == (1, 4, 5)


def test_a_class_without_images_is_left_out():
    pool = grouped(np.array([2, 0]), ["a", "b", "c"], np.zeros((2, 1, 2, 2), np.uint8), "x")
    assert pool.names == ("a", "c") and pool.counts.tolist() == [1, 1] and pool.starts.tolist() == [0, 1]


def test_no_images_is_an_error():
    with pytest.raises(UserError, match="nowhere has no images"):
        grouped(np.array([]), [], [], "nowhere")


@pytest.mark.parametrize("kind", ["array", "memory map", "tensor"])
def test_fetch_is_plain_indexing(kind, mapped):
    pool = {"array": small_pool(), "memory map": mapped, "tensor": small_pool().to("cpu")}[kind]
    indices = np.array([[7, 0, 3], [3, 3, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = pool.fetch(indices)
    assert got.dtype == torch.uint8 and got.shape == (2, 3, 1, 4, 5)
    assert np.array_equal(got.numpy(), np.asarray(small_pool().x)[indices])
    got.zero_()  # a copy: the pool stays as it was
    assert np.array_equal(pool.fetch(indices).numpy(), np.asarray(small_pool().x)[indices])


def test_selected_classes_share_the_images():
    pool = small_pool()
    part = pool.select([2, 0], "small, meta-test")
    assert part.x is pool.x
    assert (part.starts.tolist(), part.counts.tolist(), part.names) == ([4, 0], [4, 3], ("small/2", "small/0"))
    assert part.source == "small, meta-test" and pool.select([1]).source == "small"
    prints = {pool.fingerprint, part.fingerprint, pool.select([0, 2]).fingerprint, pool.select([1]).fingerprint}
    assert len(prints) == 4 and pool.select([2, 0]).fingerprint == part.fingerprint


def test_to_a_device_takes_the_selected_classes_only():
    part = small_pool().select([2, 0]).to("cpu")
    assert isinstance(part.x, torch.Tensor) and len(part.x) == 7
    assert part.fetch(part.starts[None])[0, :, 0, 0, 0].tolist() == [2, 0]
    assert part.counts.tolist() == [4, 3] and part.fingerprint == small_pool().select([2, 0]).fingerprint


def test_fingerprint_sees_images_names_and_shape():
    labels, images = np.array([0, 0, 1]), np.zeros((3, 1, 2, 2), np.uint8)
    changed = images.copy()
    changed[1, 0, 1, 1] = 1
    pools = [
        grouped(labels, ["a", "b"], images, "x"),
        grouped(labels, ["a", "c"], images, "x"),
        grouped(labels, ["a", "b"], changed, "x"),
        grouped(np.array([0, 1, 1]), ["a", "b"], images, "x"),
        grouped(labels, ["a", "b"], images.reshape(3, 1, 1, 4), "x"),
    ]
    assert len({pool.fingerprint for pool in pools}) == len(pools)
    assert grouped(labels, ["a", "b"], images, "other words").fingerprint == pools[0].fingerprint


def test_a_memory_map_is_pickled_as_its_path(tmp_path):
    small_pool(counts=(500, 500)).save(tmp_path)
    pool = ClassPool.load(tmp_path).select([1])
    data = pickle.dumps(pool)
    again = pickle.loads(data)
    assert len(data) < 2000 < pool.x.nbytes
    assert isinstance(again.x, np.memmap) and again.fingerprint == pool.fingerprint
    assert torch.equal(again.fetch(again.starts[None]), pool.fetch(pool.starts[None]))


class Counter:
    """Builds the small pool and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self) -> ClassPool:
        self.calls += 1
        return small_pool()


def test_the_cache_builds_once(cache):
    build = Counter()
    first, second = (cached({"size": 4}, build) for _ in range(2))
    assert build.calls == 1
    assert isinstance(second.x, np.memmap) and not second.x.flags.writeable
    assert first.fingerprint == second.fingerprint == small_pool().fingerprint
    assert np.array_equal(second.x, small_pool().x) and second.names == small_pool().names
    cached({"size": 5}, build)
    assert build.calls == 2


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "truncated images": ("x.npy", lambda data: data[:-30]),
    "no images": ("x.npy", lambda data: None),
    "zeroed images": ("x.npy", lambda data: data[:-40] + bytes(40)),
    "one bit": ("x.npy", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "another id": ("ids.npy", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "no ids": ("ids.npy", lambda data: None),
    "truncated json": ("pool.json", lambda data: data[:20]),
    "no json": ("pool.json", lambda data: None),
    "foreign json": ("pool.json", lambda data: json.dumps(["nothing"]).encode()),
    "other starts": ("pool.json", lambda data: data.replace(b"[0, 3, 4]", b"[0, 2, 4]")),
    "other counts": ("pool.json", lambda data: data.replace(b"[3, 1, 4]", b"[3, 1, 3]")),
    "another name": ("pool.json", lambda data: data.replace(b"small/1", b"small/9")),
}
"""A file of an entry, and what becomes of it; None: it is gone."""


@pytest.mark.parametrize("damage", [*DAMAGES])
def test_a_damaged_entry_is_built_again(cache, damage):
    build = Counter()
    cached({}, build)
    (entry,) = (cache / "pools").iterdir()
    file, change = DAMAGES[damage]
    if (changed := change((entry / file).read_bytes())) is None:
        (entry / file).unlink()
    else:
        (entry / file).write_bytes(changed)
    with pytest.warns(UserWarning, match=f"The entry {entry.name} of the data cache .* is damaged .*built again"):
        again = cached({}, build)
    assert np.array_equal(again.x, small_pool().x) and again.starts.tolist() == small_pool().starts.tolist()
    assert np.array_equal(again.ids, small_pool().ids) and build.calls == 2
    cached({}, build)
    assert build.calls == 2
    assert list((cache / "pools").iterdir()) == [entry]  # nothing temporary stays


def test_an_interrupted_build_leaves_no_entry(cache):
    def interrupted() -> ClassPool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached({}, interrupted)
    build = Counter()
    cached({}, build)
    assert build.calls == 1


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("METACL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="METACL_CACHE"):
        cached({}, small_pool)


WRONG_ARRAYS = {
    "floats": ({"images": np.zeros((3, 1, 2, 2), np.float32)}, "images must be uint8, 0 to 255, not float32"),
    "larger integers": ({"images": np.zeros((3, 1, 2, 2), np.int64)}, "must be uint8.* not int64"),
    "no channels": (
        {"images": np.zeros((3, 2, 2), np.uint8)},
        r"an image must be \(C, H, W\), a vector \(F,\), and this has 2 axes",
    ),
    "several shapes": (
        {"images": [np.zeros((1, 2, 2), np.uint8), np.zeros((1, 3, 3), np.uint8), np.zeros((1, 1, 1), np.uint8)]},
        r"an image is uint8 of shape \(1, 3, 3\), and the first was uint8 of shape \(1, 2, 2\)",
    ),
    "one of floats": (
        {"images": [np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2)), np.zeros((1, 2, 2), np.uint8)]},
        "an image is float64",
    ),
    "labels that are no integers": ({"labels": np.array([0.0, 0.5, 1.0])}, "labels must be one row of integers, not float64"),
    "a label below 0": ({"labels": np.array([0, -1, 1])}, r"labels must be in 0..1, the places of names, not -1..1"),
    "a label too many": ({"labels": np.array([0, 2, 1])}, r"in 0..1, the places of names, not 0..2"),
    "a name twice": ({"names": ["a", "a"]}, "a class name is there twice"),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_arrays_of_ones_own_are_looked_at(case):
    change, words = WRONG_ARRAYS[case]
    arrays = {"labels": np.array([0, 1, 1]), "names": ["a", "b"], "images": np.zeros((3, 1, 2, 2), np.uint8)} | change
    with pytest.raises(UserError, match=f"mine: .*{words}"):
        grouped(**arrays, source="mine")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.zeros((8, 1, 4, 5), np.float32)}, "images must be uint8"),
        ({"x": torch.zeros(8, 1, 4, 5)}, "images must be uint8.*not torch.float32"),
        ({"counts": np.array([3, 1, 5])}, "a class lies outside of the 8 images"),
        ({"names": ("a", "b")}, "a name, a start and a count for each class"),
        ({"ids": np.zeros(3, np.uint64)}, "an id for each image"),
    ],
)
def test_a_pool_of_ones_own_is_looked_at(change, words):
    with pytest.raises(UserError, match=words):
        replace(small_pool(), **change)


def test_a_pool_of_vectors(tmp_path):
    """They are kept, cached, moved and drawn from as images are."""
    vectors, labels = np.random.default_rng(0).standard_normal((12, 7)).astype(np.float32), np.arange(12) % 3
    pool = grouped(labels, ["a", "b", "c"], vectors, "mine")
    assert (pool.x_kind, pool.x_shape, small_pool().x_kind) == ("vector", (7,), "image")
    assert np.array_equal(pool.x[4:8], vectors[labels == 1]) and len(set(pool.ids.tolist())) == 12
    pool.save(tmp_path)
    ClassPool.verify(tmp_path)
    for own in (ClassPool.load(tmp_path), pickle.loads(pickle.dumps(ClassPool.load(tmp_path))), pool.to("cpu")):
        assert np.array_equal(own.fetch(np.array([[0, 5]])), pool.x[[[0, 5]]]) and own.fingerprint == pool.fingerprint
    shape = EpisodeShape(tasks=2, shots=2, queries=1)
    episode = EpisodeGenerator(Classification(pool, 4), shape, "mine", "train", 0).batch([0, 1])
    assert episode.stream.x.dtype == torch.float32 and episode.stream.x.shape == (2, 4, 7) and episode.spec.x_kind == "vector"
    check_stream(Splits("mine", pool, pool))
    check_stream(Permuted("mine", pool))
    with pytest.raises(UserError, match="not finite"):
        grouped(labels, ["a", "b", "c"], np.where(vectors > 1, np.nan, vectors), "mine")
    with pytest.raises(UserError, match="vectors must be float32, not float64"):
        grouped(labels, ["a", "b", "c"], vectors.astype(np.float64), "mine")


def test_images_that_do_not_fit_are_refused_before_they_are_allocated(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 1_000_000_000)
    image, labels = np.zeros((3, 500, 500), np.uint8), np.zeros(2000, np.int64)
    with pytest.raises(UserError, match=r"mine: 2000 images of 500 x 500 x 3 need 1.5 GB, and 1.0 GB are free.*--data.size"):
        grouped(labels, ["a"], (image for _ in labels), "mine")


def test_free_memory_is_known_and_a_container_has_less(monkeypatch, tmp_path):
    assert memory.free_memory() > 10**8
    for name, text in (("max", "1000"), ("current", "700"), ("stat", "anon 600\nactive_file 30\ninactive_file 50\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.free_memory() == 380
    (tmp_path / "memory.max").write_text("max")
    assert memory.free_memory() > 10**8


def test_an_entry_is_read_whole_once_in_a_process(cache, monkeypatch):
    cached({}, small_pool)
    cached({}, small_pool)
    monkeypatch.setattr(ClassPool, "verify", lambda folder: pytest.fail("read again"))
    cached({}, lambda: pytest.fail("built again"))


def test_several_processes_build_one_entry(cache):
    def slow() -> ClassPool:
        cached({}, small_pool)  # as another process does in the meantime
        return small_pool()

    assert np.array_equal(cached({}, slow).x, small_pool().x)
    (entry,) = (cache / "pools").iterdir()
    assert sorted(file.name for file in entry.iterdir()) == ["ids.npy", "pool.json", "x.npy"]


def test_a_damaged_note_is_found_out_again(cache):
    assert remembered({}, lambda: {"size": 3}) == remembered({}, lambda: pytest.fail("found out again")) == {"size": 3}
    (note,) = (cache / "notes").iterdir()
    note.write_text(note.read_text().replace("3", "4", 1))
    assert remembered({}, lambda: {"size": 5}) == {"size": 5}


def test_without_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("METACL_CACHE", raising=False)

    def nowhere(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    with pytest.raises(UserError, match=r"no home folder for the data cache. Set the environment variable METACL_CACHE"):
        cached({}, small_pool)
    with pytest.raises(UserError, match="The ~ in ~/pictures stands for a home folder"):
        user_path("~/pictures")
    monkeypatch.undo()
    monkeypatch.setenv("METACL_CACHE", str(tmp_path))
    assert cached({}, small_pool).names == small_pool().names


@pytest.mark.parametrize("classes", [[0, 1, 2], [2, 0], [1], []])
def test_the_rows_of_a_pool_are_those_of_its_classes_one_after_another(classes):
    pool = small_pool(counts=(3, 1, 4)).select(classes)
    runs = [np.arange(start, start + count) for start, count in zip(pool.starts, pool.counts, strict=True)]
    assert pool.rows().tolist() == [row for run in runs for row in run]
