"""Regression on columns of a table: what is told of a row is its own numbers, by the mean and deviation of meta-train."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import hf_folder, labelled_folder, noise, png

from episodes import ClassPool, DataConfig, EpisodeShape, UserError, benchmark_of, load_benchmark
from episodes.catalog import SPLITS
from episodes.data.pool import ClassPool as Pool
from episodes.errors import Notice
from episodes.frozen import frozen, read_frozen
from episodes.tasks.numbers import Numbers
from metacl.cli import evaluate_main, train_main

pytestmark = pytest.mark.filterwarnings("ignore::episodes.errors.Notice")
SHAPE = EpisodeShape(tasks=2, shots=3, queries=2)
PRICES = DataConfig("", target=("price", "age"))


def rows(classes: int = 10, each: int = 6) -> list[tuple[str, float, float, float]]:
    """(label, x, price, age): price is 100 + 10 x, age the number of the class."""
    return [(f"town{c}", float(10 * c + i), 100 + 10.0 * (10 * c + i), float(c)) for c in range(classes) for i in range(each)]


def csv(file: Path, *more: str) -> str:
    lines = [f"{x},{label},{price},{age}" for label, x, price, age in rows()]
    file.write_text("\n".join(["x,label,price,age", *lines, *more]) + "\n", encoding="utf-8")
    return str(file)


def images(folder: Path) -> str:
    """The first pixel of an image is its x."""
    folder.mkdir()
    lines = ["file_name,town,price,age"]
    for i, (label, x, price, age) in enumerate(rows()):
        pixels = noise(i, 8, 1)
        pixels[0, 0] = x
        (folder / f"{i}.png").write_bytes(png(pixels))
        lines.append(f"{i}.png,{label},{price},{age}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


def parquet(folder: Path) -> str:
    """The column `target` is one of numbers, whatever it is called."""
    own = rows()
    columns = {"x": [[x, 0.0] for _, x, *_ in own], "label": [row[0] for row in own]}
    return hf_folder(folder, train=columns | {"price": [row[2] for row in own], "target": [int(row[3]) for row in own]})


def single_numbers(folder: Path) -> str:
    """Parquet without a column of vectors: its columns of numbers are one, without the targets."""
    own = rows()
    columns = {"x": [x for _, x, *_ in own], "label": [row[0] for row in own]}
    return hf_folder(folder, train=columns | {"price": [row[2] for row in own], "age": [row[3] for row in own]})


PLACES = {
    "csv": (lambda folder: csv(folder / "houses.csv"), ("price", "age"), (1,)),
    "images": (lambda folder: images(folder / "houses"), ("price", "age"), (1, 8, 8)),
    "single numbers": (lambda folder: single_numbers(folder / "houses"), ("price", "age"), (1,)),
    "parquet": (lambda folder: parquet(folder / "houses"), ("price", "target"), (2,)),
}


@pytest.mark.parametrize("kind", PLACES)
def test_what_is_told_of_a_row_is_its_own(kind, tmp_path, cache):
    make, columns, shape = PLACES[kind]
    data = DataConfig(make(tmp_path), target=columns, label="town" if kind == "images" else None)
    with pytest.warns(Notice, match=r"houses: targets are told by the mean and deviation of meta-train.*price by .* ± "):
        benchmark = load_benchmark(data, 64)
    spec = benchmark.test.spec
    assert (spec.loss, spec.y_shape, spec.x_shape, len(benchmark.classes("train"))) == ("mse", (2,), shape, 6)
    known = np.array([[price, age] for label, _, price, age in rows() if f"houses/{label}" in benchmark.classes("train")])
    mean, deviation = known.mean(0), known.std(0)
    for split in SPLITS:
        episode = benchmark.generator(split, SHAPE, 0).batch(range(4))
        for part in (episode.stream, episode.queries):
            y = part.y.numpy() * deviation + mean
            x = part.x.flatten(2)[..., 0].float().numpy()
            np.testing.assert_allclose(y[..., 0], 100 + 10 * x, rtol=1e-4)
            np.testing.assert_allclose(y[..., 1], x // 10, atol=1e-3)
            ages = {(int(t), int(age)) for t, age in zip(part.task[0], y[0, :, 1].round(), strict=True)}
            assert len(ages) == 2, "a task is a label"


def test_it_is_read_again_from_the_cache_and_frozen_alike(tmp_path, cache):
    data = replace(PRICES, name=csv(tmp_path / "houses.csv"))
    first, again = (load_benchmark(data, 64) for _ in range(2))
    one, two = (own.generator("test", SHAPE, 0).batch([5]) for own in (first, again))
    assert torch.equal(one.stream.y, two.stream.y) and first.fingerprint == again.fingerprint
    assert first.fingerprint != load_benchmark(replace(data, target=("price",)), 64).fingerprint
    plain = load_benchmark(replace(data, target=()), 64)
    made = frozen(data, SHAPE, 0, 2)
    made.write(tmp_path / "held-out.json")
    assert read_frozen(tmp_path / "held-out.json") == made and made.benchmark().fingerprint == first.fingerprint
    assert plain.test.spec.x_shape == (3,) and plain.test.spec.classification, "nothing asked, they are inputs as others"


def test_rows_without_a_target_are_left_out_and_counted(tmp_path, cache):
    with pytest.warns(Notice, match=r"2 rows lack a number in price or age and are left out"):
        whole = load_benchmark(replace(PRICES, name=csv(tmp_path / "houses.csv", "1,town0,,3", "2,town1,5,")), 64)
    assert sum(int(whole.pools(split)[0].counts.sum()) for split in SPLITS) == 60
    folder = images(tmp_path / "pics")
    with (tmp_path / "pics" / "metadata.csv").open("a") as file:
        file.write("0.png,town3,,1\n")
    with pytest.warns(Notice, match=r"1 rows lack a number in price or age"):
        load_benchmark(DataConfig(folder, target=("price", "age"), label="town"), 64)
    columns = {"x": [[float(i)] for i in range(8)], "label": list("aabbccdd"), "price": [None, *map(float, range(7))]}
    with pytest.warns(Notice, match=r"1 rows lack a number in price"):
        found = load_benchmark(DataConfig(hf_folder(tmp_path / "p", train=columns), target=("price",)), 64)
    pools = [found.pools(split)[0] for split in SPLITS]
    kept = {name[-1]: int(count) for own in pools for name, count in zip(own.names, own.counts, strict=True)}
    assert kept == {"a": 1, "b": 2, "c": 2, "d": 2}


def test_what_cannot_be_told_is_said(tmp_path, cache):
    file = csv(tmp_path / "houses.csv")
    words = hf_folder(tmp_path / "w", train={"x": [[1.0]] * 3, "label": list("abc"), "price": ["cheap", "1", "2"]})
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2)), y=np.arange(4))
    constant = tmp_path / "same.csv"
    constant.write_text("x,label,price\n" + "".join(f"{i},{label},7\n" for i, label in enumerate("aabbccdd")))
    for name, target, expected in (
        (file, "size", "Unknown target column of .*'size'"),
        (file, "label", "values that are no numbers|no column with a name like label"),
        (words, "price", "Not all of the targets price of"),
        (words, "size", "Unknown target column of split 'train'"),
        (str(tmp_path / "a.npz"), "price", "--data.target means nothing for"),
        (labelled_folder(tmp_path / "l", classes=4), "price", "Unknown target column"),
        (str(constant), "price", "price of same, meta-train is one number throughout"),
        ("glyphs", "price", "--data.target means nothing for glyphs"),
    ):
        with pytest.raises(UserError, match=expected):
            load_benchmark(DataConfig(name, target=(target,)), 64)
    (tmp_path / "f" / "a").mkdir(parents=True)
    (tmp_path / "f" / "a" / "1.png").write_bytes(png(noise(0, 8, 1)))
    with pytest.raises(UserError, match=r"which have no columns of targets. Put a table beside them"):
        load_benchmark(DataConfig(str(tmp_path / "f"), target=("price",)), 64)


def pool(classes: int = 6, each: int = 7) -> ClassPool:
    x = np.random.default_rng(0).normal(size=(classes * each, 3)).astype(np.float32)
    return ClassPool.from_arrays(x, np.tile(np.arange(classes), each), source="p", targets=2 * x[:, :1] + 1)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**16))
def test_every_episode_has_the_targets_of_its_rows(tasks, shots, queries, index):
    family = Numbers(own := pool(), np.array([1.0]), np.array([2.0]))
    shape = EpisodeShape(tasks, shots, queries)
    draw = family.draw(np.random.default_rng(index), shape)
    for x, y in ((draw.stream_x, draw.stream_y), (draw.query_x, draw.query_y)):
        np.testing.assert_allclose(y[..., 0], family.fetch(x)[..., 0].numpy(), rtol=1e-6)
    places = np.concatenate([draw.stream_x, draw.query_x], axis=1)
    assert len(np.unique(places)) == places.size, "no row comes twice"
    assert (np.searchsorted(own.starts, places, side="right") - 1 == draw.classes[:, None]).all()


def test_a_pool_keeps_its_targets(tmp_path):
    own = pool()
    for other in (pickle.loads(pickle.dumps(own)), own.to("cpu"), own.select(range(6)), _saved(own, tmp_path)):
        np.testing.assert_array_equal(other.targets, own.targets)
    part = own.select([4, 2]).to("cpu")
    np.testing.assert_allclose(part.targets[:, 0], 2 * part.x[:, 0].numpy() + 1)
    benchmark = benchmark_of(own, 8)
    assert benchmark.test.spec.loss == "mse" and isinstance(benchmark.test, Numbers)
    (tmp_path / "targets.npy").write_bytes(b"")
    with pytest.raises((ValueError, OSError, EOFError)):
        Pool.verify(tmp_path)
    with pytest.raises(UserError, match=r"targets are \(I, Y\) finite numbers"):
        ClassPool.from_arrays(np.ones((2, 3)), [0, 1], targets=[1.0, np.nan])
    with pytest.raises(UserError, match="a row for each of 42 images"):
        replace(own, targets=own.targets[:3])


def _saved(own: ClassPool, folder: Path) -> ClassPool:
    own.save(folder)
    ClassPool.verify(folder)
    return ClassPool.load(folder)


def test_from_the_command_line(cli, tmp_path, cache):
    place = csv(tmp_path / "houses.csv")
    target = ["--data.target", "price", "age"]
    small = [
        "--learner.width",
        "16",
        "--learner.hidden",
        "16",
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--validation.episodes",
        "2",
    ]
    shape = ["--episodes.tasks", "2", "--episodes.shots", "3", "--episodes.queries", "2"]
    status, text = cli(train_main, place, "transformer", *target, *small, *shape, "--run", "mine")
    assert status == 0 and "target price, age" in text, text
    status, text = cli(evaluate_main, "mine", "--tasks", "2", "--episodes", "2", "--schedule.blur", "1")
    assert status == 0 and "mean squared error" in text, text
    few = ["--tasks", "2", "--shots", "3", "--queries", "2", "--episodes", "2", "--out", "knn"]
    assert cli(evaluate_main, place, "knn", *target, *few)[0] == 0
    status, text = cli(evaluate_main, "permuted-mnist", "bp", "--stream.data.target", "price")
    assert status == 2 and "--stream.data.target means nothing for a stream" in text
