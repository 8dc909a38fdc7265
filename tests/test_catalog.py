"""The named benchmarks and any other data set: splits that share no class, the same on every machine."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from making import hf_folder, labelled_folder, noise, omniglot_zips, png, small_pool

from episodes import BENCHMARKS, Benchmark, DataConfig, EpisodeShape, UserError, load_benchmark
from episodes.data.sources import read
from episodes.tasks.classification import Classification
from episodes.tasks.regression import RegressionEpisodes, SlowlyChangingRegression
from episodes.tasks.sine import Sine

SHAPE = EpisodeShape(tasks=1, shots=1, queries=1, vocabulary=8)


def names(benchmark: Benchmark) -> list[set[str]]:
    parts = (benchmark.train, benchmark.validation, benchmark.test)
    return [set(part.pool.names) for part in parts if isinstance(part, Classification)]


def sizes(benchmark: Benchmark) -> list[int]:
    return [len(part) for part in names(benchmark)]


def assert_disjoint(benchmark: Benchmark) -> None:
    train, validation, test = names(benchmark)
    assert not train & validation and not train & test and not validation & test


@pytest.fixture
def cifar_like(tmp_path) -> str:
    labels = np.arange(100).repeat(2).tolist()
    kinds = {
        "img": datasets.Image(),
        "fine_label": datasets.ClassLabel(num_classes=100),
        "coarse_label": datasets.ClassLabel(2),
    }
    images = [png(noise(i, 6)) for i in range(200)]
    splits = {split: {"img": images, "fine_label": labels, "coarse_label": [0, 1] * 100} for split in ("train", "test")}
    return hf_folder(tmp_path / "cifar", kinds, **splits)


def test_glyphs():
    benchmark = load_benchmark(DataConfig("glyphs"), vocabulary=64)
    assert_disjoint(benchmark)
    train, validation, test = sizes(benchmark)
    assert train > 800 and validation > 220 and test > 200
    assert benchmark.train.spec.x_shape == (1, 28, 28) and benchmark.train.spec.symbols == 64
    episode = benchmark.generator("test", EpisodeShape(5, 5, 5, 64), seed=0).batch([0, 1])
    assert episode.stream.x.shape == (2, 25, 1, 28, 28)


def test_sine():
    benchmark = load_benchmark(DataConfig("sine"), vocabulary=8)
    assert isinstance(benchmark.test, Sine) and benchmark.fingerprint == load_benchmark(DataConfig("sine"), 9).fingerprint
    x = [benchmark.generator(split, SHAPE, 0).batch([0]).stream.x for split in ("train", "validation", "test")]
    assert not torch.equal(x[0], x[1]) and not torch.equal(x[0], x[2])


def test_slowly_changing_regression():
    benchmark, shape = load_benchmark(DataConfig("slowly-changing-regression"), vocabulary=8), EpisodeShape(4, 9, 3)
    first, again = (benchmark.generator("train", shape, 0).batch(indices) for indices in ([5, 2], [2, 0]))
    assert first.stream.x.shape == (2, 36, 20) and first.queries.y.shape == (2, 12, 1)
    assert first.stream.task[0].tolist() == [task for task in range(4) for _ in range(9)]
    assert torch.equal(first.stream.x[1], again.stream.x[0]) and torch.equal(first.queries.y[1], again.queries.y[0])
    fixed = torch.cat([first.stream.x.unflatten(1, (4, 9)), first.queries.x.unflatten(1, (4, 3))], dim=2)[..., :15]
    assert (fixed == fixed[:, :, :1]).all() and len(fixed[:, :, 0].flatten(0, 1).unique(dim=0)) == 8, "redrawn in each task"
    assert (first.stream.x[..., 15:].mean((0, 1)) - 0.5).abs().max() < 0.25 and first.stream.y.std() > 0
    x = [benchmark.generator(split, shape, 0).batch([0]).stream.x for split in ("train", "validation", "test")]
    assert not torch.equal(x[0], x[1]) and not torch.equal(x[0], x[2])
    with pytest.raises(UserError, match=r"--data.size means nothing for slowly-changing-regression"):
        load_benchmark(DataConfig("slowly-changing-regression", size=3), 8)


def test_an_episode_of_regression_is_a_stream():
    rng, shape = np.random.default_rng(0), EpisodeShape(3, 6, 2)
    draw, seed = RegressionEpisodes().draw(rng, shape), int(np.random.default_rng(0).integers(2**63))
    task = SlowlyChangingRegression(train=6, held_out=2).task(seed, 1)
    assert np.array_equal(draw.stream_x[1], task.train[:].x[0]) and np.array_equal(draw.query_y[1], task.held_out[:].y[0])


def test_omniglot_from_archives(tmp_path, cache):
    folder = omniglot_zips(tmp_path / "zips", characters=6)
    benchmark = load_benchmark(DataConfig("omniglot", path=str(folder)), vocabulary=8)
    assert_disjoint(benchmark)
    assert sizes(benchmark) == [11, 1, 12]
    assert all("evaluation" in name for name in benchmark.test.pool.names)
    assert benchmark.train.spec.x_shape == (1, 28, 28)
    assert load_benchmark(DataConfig("omniglot", path=str(folder), size=14), 8).train.spec.x_shape == (1, 14, 14)
    (folder / "images_evaluation.zip").unlink()
    with pytest.raises(UserError, match=r"images_evaluation.zip does not exist"):
        load_benchmark(DataConfig("omniglot", path=str(folder)), 8)


def test_omniglot_from_a_folder_of_parquet(tmp_path, cache):
    kinds = {"image": datasets.Image(), "label": datasets.Value("int32"), "writer": datasets.Value("int32")}

    def rows(first: int) -> dict:
        labels = [first + i // 2 for i in range(40)]
        return {"image": [png(noise(i, 12, 1)) for i in range(40)], "label": labels, "writer": [0, 1] * 20}

    where = hf_folder(tmp_path / "a", kinds, background=rows(0), evaluation=rows(20))
    benchmark = load_benchmark(DataConfig("omniglot", path=where), 8)
    assert_disjoint(benchmark)
    assert sizes(benchmark) == [18, 2, 20] and "omniglot/20" in benchmark.test.pool.names
    where = hf_folder(tmp_path / "b", kinds, background=rows(0), evaluation=rows(10))
    with pytest.raises(UserError, match=r"share 10 classes, such as omniglot/1"):
        load_benchmark(DataConfig("omniglot", path=where), 8)
    where = hf_folder(tmp_path / "c", kinds, background=rows(0), test=rows(20))
    with pytest.raises(UserError, match=r"Unknown split of .* 'evaluation'"):
        load_benchmark(DataConfig("omniglot", path=where), 8)


def test_cifar100(cifar_like, cache):
    benchmark = load_benchmark(DataConfig("cifar100", path=cifar_like), 8)
    assert_disjoint(benchmark)
    assert sizes(benchmark) == [50, 10, 40] and set(benchmark.train.pool.counts) == {4}
    assert benchmark.train.spec.x_shape == (3, 32, 32)


def test_the_shuffle_of_classes_is_the_same_on_every_machine(cifar_like, cache):
    benchmark = load_benchmark(DataConfig("cifar100", path=cifar_like), 8)
    assert benchmark.validation.pool.names == tuple(f"cifar100/{i}" for i in (17, 18, 23, 35, 39, 41, 58, 59, 77, 99))


NAMED = {
    "tiny-imagenet": (20, [12, 2, 6], (3, 32, 32)),
    "casia-hwdb-95": (10, [6, 2, 2], (1, 32, 32)),
    "mnist": (10, [6, 2, 2], (1, 28, 28)),
}
"""Classes, how many of them are for each meta-split, and the shape of an image."""


@pytest.mark.parametrize("name", NAMED)
def test_named_benchmarks_pool_their_splits(tmp_path, cache, name):
    classes, expected, shape = NAMED[name]
    where = labelled_folder(tmp_path / "copy", classes, splits=("train", "test"))
    benchmark = load_benchmark(DataConfig(name, path=where), 8)
    assert_disjoint(benchmark)
    assert sizes(benchmark) == expected and benchmark.train.spec.x_shape == shape and benchmark.name == name
    assert set(benchmark.train.pool.counts) == {6}, "three images of each split"
    assert set().union(*names(benchmark)) == {f"{name}/{i}" for i in range(classes)}
    elsewhere = labelled_folder(tmp_path / "elsewhere", classes, splits=("train", "test"))
    assert names(load_benchmark(DataConfig(name, path=elsewhere), 8)) == names(benchmark)


@pytest.mark.filterwarnings("ignore:.*are taken for splits")
def test_tiny_imagenet_as_its_authors_pack_it(tmp_path, cache):
    """Their images to validate and to test have no folders of classes, and are no class of their own."""
    places = [f"train/n0{label}/images/n0{label}_{i}.JPEG" for label in range(5) for i in range(2)]
    for i, place in enumerate([*places, "val/images/val_0.JPEG", "test/images/test_0.JPEG"]):
        file = tmp_path / "tiny" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(noise(i)))
    with pytest.warns(UserWarning, match="tiny-imagenet: 2 images in folders `images` have no label there and are left out"):
        benchmark = load_benchmark(DataConfig("tiny-imagenet", path=str(tmp_path / "tiny")), 8)
    assert set().union(*names(benchmark)) == {f"tiny-imagenet/n0{label}" for label in range(5)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"), [("tiny-imagenet", [120, 20, 60]), ("casia-hwdb-95", [57, 19, 19]), ("mnist", [6, 2, 2])]
)
def test_real_named_benchmarks(real_data, cache, name, expected):
    assert sizes(load_benchmark(DataConfig(name, path=real_data(name)), 64)) == expected


def test_any_folder(tmp_path, cache):
    where = labelled_folder(tmp_path / "runes", classes=10, splits=("train", "test"))
    benchmark = load_benchmark(DataConfig(where), 8)
    assert benchmark.name == "runes" and benchmark.train.spec.x_shape == (1, 10, 10)
    assert_disjoint(benchmark)
    assert sizes(benchmark) == [6, 2, 2] and set().union(*names(benchmark)) == {f"runes/{i}" for i in range(10)}
    assert benchmark.test.pool.source == "runes, meta-test"
    colour = load_benchmark(DataConfig(where, size=7, channels=3, label="label"), 8)
    assert colour.train.spec.x_shape == (3, 7, 7) and colour.fingerprint != benchmark.fingerprint


@pytest.mark.parametrize(("classes", "expected"), [(3, [1, 1, 1]), (4, [2, 1, 1]), (5, [3, 1, 1])])
def test_few_classes_are_cut_so_that_each_part_has_one(tmp_path, cache, classes, expected):
    assert sizes(load_benchmark(DataConfig(labelled_folder(tmp_path / "few", classes)), 8)) == expected


def test_too_few_classes(tmp_path, cache):
    with pytest.raises(UserError, match=r"few has too few classes \(2: few/0, few/1; 3 are the least\) to cut meta-train"):
        load_benchmark(DataConfig(labelled_folder(tmp_path / "few", classes=2)), 8)


def test_a_changed_folder_is_read_again(tmp_path, cache):
    where = labelled_folder(tmp_path / "set", classes=5)
    first = load_benchmark(DataConfig(where), 8)
    assert load_benchmark(DataConfig(where), 8).fingerprint == first.fingerprint
    assert len(list((cache / "pools").iterdir())) == 1
    (tmp_path / "set" / "data" / "train-00000-of-00001.parquet").unlink()
    labelled_folder(tmp_path / "other", classes=6)
    (tmp_path / "other" / "data" / "train-00000-of-00001.parquet").rename(tmp_path / "set" / "data" / "train.parquet")
    assert sizes(load_benchmark(DataConfig(where), 8)) == [4, 1, 1]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (DataConfig("omnglot"), "Unknown data set 'omnglot'. Did you mean 'omniglot'.*path of a folder or file, or a hub name"),
        (DataConfig(""), "Unknown data set ''"),
        (DataConfig("./nowhere"), "folder ./nowhere does not exist"),
        (DataConfig("/nowhere/at/all"), "folder /nowhere/at/all does not exist"),
        (DataConfig("someone/pictures"), "no folder someone/pictures"),
        (DataConfig("omniglot", path="nowhere"), "The data path nowhere is no folder"),
        (DataConfig("cifar100", path="nowhere"), "The data path nowhere is no folder"),
        (DataConfig("cifar100"), "uoft-cs/cifar100.*--data.path"),
        (DataConfig("mnist"), "ylecun/mnist.*--data.path"),
        (DataConfig("tiny-imagenet"), "zh-plus/tiny-imagenet.*--data.path"),
        (DataConfig("casia-hwdb-95"), "casia-hwdb-95 has no place to be downloaded from.*--data.path FOLDER"),
        (DataConfig("glyphs", path="x"), "--data.path means nothing for glyphs"),
        (DataConfig("sine", size=3), "--data.size means nothing for sine"),
        (DataConfig("glyphs", size=0), "data.size must be at least 1"),
    ],
)
def test_what_cannot_be_loaded(config, words, cache):
    with pytest.raises(UserError, match=words):
        load_benchmark(config, 8)


def family(classes: list[int]) -> Classification:
    return Classification(small_pool(counts=(3, 3, 3, 3)).select(classes), 8)


@pytest.mark.parametrize(
    ("train", "validation", "test", "words"),
    [
        ([0, 1], [1], [3], "Meta-train and meta-validation of x share 1 classes, such as small/1"),
        ([0, 1], [2], [1], "Meta-train and meta-test of x share 1 classes, such as small/1"),
        ([0], [1, 2], [2, 1], "Meta-validation and meta-test of x share 2 classes, such as small/1, small/2"),
        ([0], [], [1], "meta-validation part of x has no classes"),
    ],
)
def test_overlapping_and_empty_splits_are_refused(train, validation, test, words):
    with pytest.raises(UserError, match=words):
        Benchmark("x", family(train), family(validation), family(test), "print")


def test_generators_of_two_splits_and_an_unknown_one():
    benchmark = Benchmark("x", family([0, 1]), family([2]), family([3]), "print")
    drawn = {split: benchmark.generator(split, SHAPE, 0).batch(range(8)).stream.x[:, 0, 0, 0, 0] for split in ("train", "test")}
    assert set(drawn["train"].tolist()) == {0, 1} and set(drawn["test"].tolist()) == {3}
    with pytest.raises(UserError, match=r"Unknown meta-split 'tst'. Did you mean 'test'"):
        benchmark.generator("tst", SHAPE, 0)


def test_real_omniglot(real_data):
    benchmark = load_benchmark(DataConfig("omniglot", path=real_data("omniglot")), 1024)
    assert_disjoint(benchmark)
    assert sizes(benchmark) == [864, 100, 659]
    assert set(benchmark.train.pool.counts) == set(benchmark.test.pool.counts) == {20}
    assert benchmark.fingerprint == "c9e09ba13e7139b6c6872ce3367b3e5e", "as in the published results"
    (words,) = benchmark.shared_images()
    assert "omniglot, meta-train has 1 image more than once" in words


def test_real_cifar100_columns(real_data):
    pool = read(real_data("cifar100"), "cifar100", ["test"])
    assert set(pool.counts) == {100} and len(pool.names) == 100 and pool.x_shape == (3, 32, 32)


def test_the_page_of_the_benchmarks_has_every_one():
    page = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in BENCHMARKS)


def test_the_help_names_every_benchmark():
    source = (Path(__file__).parents[1] / "episodes" / "data" / "config.py").read_text(encoding="utf-8")
    described = source.split("name: str =")[1].split('"""')[1]
    assert all(name in described for name in BENCHMARKS)
