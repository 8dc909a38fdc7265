"""Several data sets in one episode, and another data set as another domain."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import noise, png, small_pool

from episodes import DataConfig, EpisodeGenerator, EpisodeShape, ScheduleConfig, UserError, load_benchmark
from episodes.augment.config import AugmentConfig
from episodes.augment.episodes import with_rotations
from episodes.data.joining import joined
from episodes.errors import Notice
from episodes.freeze import freeze
from episodes.frozen import read_frozen
from episodes.tasks.classification import Classification
from metacl.cli import evaluate_main, train_main
from metacl.commands.places import located

pytestmark = pytest.mark.filterwarnings("ignore::episodes.errors.Notice")
MANY = settings(max_examples=25, deadline=None, derandomize=True, database=None)
LABELS = [f"c{i}" for i in range(10)]


def class_folder(folder: Path, base: int, labels=LABELS, each: int = 6, side: int = 8, channels: int = 1) -> str:
    """Folders of classes. All pixels of a data set are from `base` to `base` + 31: they tell which it is."""
    for number, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for i in range(each):
            (folder / label / f"{i}.png").write_bytes(png(base + noise(100 * number + i, side, channels) // 8))
    return str(folder)


@pytest.fixture
def dark(tmp_path, cache) -> str:
    return class_folder(tmp_path / "dark", 0)


@pytest.fixture
def bright(tmp_path, cache) -> str:
    """Its labels from c3 on are those of `dark`; its images are larger."""
    return class_folder(tmp_path / "bright", 200, [f"c{i}" for i in range(3, 16)], side=12)


def pair(schedule: ScheduleConfig, shots: int = 3, sets: int = 2, rotations: int = 1) -> EpisodeGenerator:
    """Five classes that several data sets have: the first pixel of an image is 10 times its set and its class."""
    pools = []
    for number in range(sets):
        own = small_pool([12] * 5, (1, 4, 4), number)
        images = np.array(own.x)
        images[:, 0, 0, 0] += 10 * number
        names = tuple(name.replace("small/", f"set{number}/") for name in own.names)
        pools.append(replace(own, x=images, names=names, fingerprint=f"{number}"))
    shape = EpisodeShape(tasks=4, shots=shots, queries=2, vocabulary=8, schedule=schedule)
    family = Classification(joined(pools, "sets"), 8, rotations, [f"set{number}" for number in range(sets)])
    return EpisodeGenerator(family, shape, "sets", "train", 0)


def cells(part, b: int) -> list[tuple[int, int, int]]:
    """(task, data set, class) of the examples of a row."""
    first = part.x[b, :, 0, 0, 0].long()
    return list(zip(part.task[b].tolist(), (first // 10).tolist(), (first % 10).tolist(), strict=True))


def test_an_episode_has_classes_of_all(dark, bright):
    with pytest.warns(Notice, match="bright joins dark: its images are read at 8 x 8, in grey, as there"):
        benchmark = load_benchmark(DataConfig(dark, also=(bright,)), 64)
    assert benchmark.name == "dark+bright" and benchmark.test.spec.x_shape == (1, 8, 8)
    episode = benchmark.generator("train", EpisodeShape(8, 2, 2), 0).batch(range(8))
    assert {True, False} == set((episode.stream.x.amax((2, 3, 4)) < 100).flatten().tolist())
    assert len(benchmark.classes("train")) + len(benchmark.classes("validation")) + len(benchmark.classes("test")) == 23
    again = load_benchmark(DataConfig(dark, also=(bright,)), 64)
    assert again.fingerprint == benchmark.fingerprint != load_benchmark(DataConfig(dark), 64).fingerprint
    assert torch.equal(again.generator("train", EpisodeShape(8, 2, 2), 0).batch(range(8)).stream.x, episode.stream.x)


def test_a_label_is_in_one_meta_split_only(dark, bright):
    with pytest.warns(Notice, match=r"\d+ classes of bright are dealt as those of the same labels"):
        benchmark = load_benchmark(DataConfig(dark, also=(bright,)), 64)
    labels = [{name.split("/")[1] for name in benchmark.classes(split)} for split in ("train", "validation", "test")]
    assert sum(map(len, labels)) == 16 == len(set.union(*labels))
    alone = load_benchmark(DataConfig(dark), 64)
    for split in ("train", "validation", "test"):
        assert set(alone.classes(split)) == {name for name in benchmark.classes(split) if name.startswith("dark/")}


def test_grey_joins_colour(tmp_path, dark):
    colour = class_folder(tmp_path / "colour", 100, side=10, channels=3)
    benchmark = load_benchmark(DataConfig(colour, also=(dark,)), 64)
    assert benchmark.test.spec.x_shape == (3, 10, 10)
    assert load_benchmark(DataConfig(colour, also=(dark,), channels=1), 64).test.spec.x_shape == (1, 10, 10)
    grey, wide = small_pool((3, 2)), replace(small_pool((2, 2, 1), (3, 4, 5)), names=("b/0", "b/1", "b/2"))
    both = joined([grey, wide], "both")
    assert both.x_shape == (3, 4, 5) and both.counts.tolist() == [3, 2, 2, 2, 1] and both.names[2:] == wide.names
    np.testing.assert_array_equal(both.x[:5], np.repeat(grey.x, 3, axis=1))
    np.testing.assert_array_equal(both.x[5:], wide.x)
    assert both.ids.tolist() == [*grey.ids.tolist(), *wide.ids.tolist()]


def test_completion_is_about_the_images_of_all(dark, bright):
    benchmark = load_benchmark(DataConfig("completion", source=dark, also=(bright,)), 64)
    assert benchmark.name == "completion-dark+bright" and benchmark.test.spec.y_shape == (32,)


def test_vectors_join(tmp_path, cache):
    for name, width in (("a", 5), ("b", 5), ("c", 4)):
        x = np.random.default_rng(width).normal(size=(30, width)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(30) % 6)
    benchmark = load_benchmark(DataConfig(str(tmp_path / "a.npz"), also=(str(tmp_path / "b.npz"),)), 64)
    assert benchmark.test.spec.x_shape == (5,) and len(benchmark.classes("train")) == 8
    with pytest.raises(UserError, match=r"of shape \(4,\).*of \(5,\): they cannot be joined"):
        load_benchmark(DataConfig(str(tmp_path / "a.npz"), also=(str(tmp_path / "c.npz"),)), 64)


def test_what_cannot_be_joined_is_said(tmp_path, dark):
    for name, also, words in (
        (dark, dark, "Two of the data sets are called dark"),
        ("sine", dark, "sine has no classes that can join"),
        (dark, "recall", "recall has no classes that can join"),
        (dark, "nowhere", "Unknown data set 'nowhere'"),
        (dark, f"nowhere={dark}x", "is no folder"),
    ):
        with pytest.raises(UserError, match=words):
            load_benchmark(DataConfig(name, also=(also,)), 64)
    np.savez(tmp_path / "v.npz", x=np.ones((9, 2), np.float32), y=np.arange(9) % 3)
    with pytest.raises(UserError, match=r"has images and .* has vectors"):
        load_benchmark(DataConfig(str(tmp_path / "v.npz"), also=(dark,)), 64)
    with pytest.raises(UserError, match=r"--data.also .*v.npz, which is read as dark is: --data.size means nothing"):
        load_benchmark(DataConfig(dark, also=(str(tmp_path / "v.npz"),)), 64)


def test_places_are_found_again_from_any_folder(dark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = located(DataConfig("glyphs", also=("dark", "omniglot=dark", "omniglot", "owner/data")))
    assert data.also == (dark, f"omniglot={dark}", "omniglot", "owner/data")


@pytest.mark.parametrize("gradual", [False, True])
def test_every_task_has_another_data_set(cache, gradual):
    generator = pair(ScheduleConfig(classes=3, domains="data-set", gradual=gradual), sets=3)
    episode, first = generator.batch(range(40)), set()
    for b in range(40):
        stream, asked = cells(episode.stream, b), cells(episode.queries, b)
        assert len({own for _, _, own in stream}) == 3, "the classes stay"
        sets = [{own for task, own, _ in stream + (asked if not gradual else []) if task == t} for t in range(4)]
        assert all(len(own) == 1 for own in sets) or gradual
        if not gradual:
            assert len(set.union(*sets[:3])) == 3 and sets[0] == sets[3], "each in its turn"
        first |= sets[0] if not gradual else set()
    assert gradual or first == {0, 1, 2}, "in a random order"
    labels = {
        (own, int(y)) for b in range(1) for (_, _, own), y in zip(cells(episode.stream, b), episode.stream.y[b], strict=True)
    }
    assert len(labels) == 3, "a class has one symbol, whichever data set it is seen in"
    if gradual:
        late = np.array([[own for _, own, _ in cells(episode.stream, b)] for b in range(40)]).reshape(40, 4, -1)
        same = late == np.array([[np.bincount(own[:3]).argmax() for own in row] for row in late])[:, :, None]
        assert same[:, :, :3].mean() > same[:, :, -3:].mean() + 0.3, "more and more of the next"


@MANY
@given(st.integers(1, 3), st.integers(1, 2), st.booleans(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2**16))
def test_it_is_a_function_of_the_address(shots, recur, gradual, blur, index):
    generator = pair(ScheduleConfig(2, recur, "data-set", gradual, blur), shots)
    one, two = generator.batch([index]), generator.batch([7, index])
    assert torch.equal(one.stream.x[0], two.stream.x[1]) and torch.equal(one.queries.x[0], two.queries.x[1])


def test_turned_classes_are_classes_there_too(cache):
    plain = pair(ScheduleConfig(classes=2, domains="data-set"))
    shape = replace(plain.shape, schedule=replace(plain.shape.schedule, classes=20))
    turned = with_rotations(plain.family.family, shape, AugmentConfig(rotations=4))
    episode = EpisodeGenerator(Classification(turned.pool, 32, 4, turned.sets), shape, "sets", "train", 0).batch([0])
    assert len(set(episode.stream.y[0].tolist())) == 20


def test_data_sets_without_the_same_labels_are_no_domains(tmp_path, dark):
    schedule = ScheduleConfig(classes=2, domains="data-set")
    shape = EpisodeShape(tasks=2, shots=2, queries=2, schedule=schedule)
    other = class_folder(tmp_path / "other", 100, [f"d{i}" for i in range(5)])
    for config, words in (
        (DataConfig(dark), "name the others.*--data.also"),
        (DataConfig(dark, also=(other,)), "needs labels that all data sets have.*a class of dark is called 'c"),
        (DataConfig("sine"), "name the others.*--data.also"),
    ):
        with pytest.raises(UserError, match=words):
            load_benchmark(config, 64).generator("train", shape, 0)
    same = class_folder(tmp_path / "same", 100)
    benchmark = load_benchmark(DataConfig(dark, also=(same,)), 64)
    benchmark.generator("test", shape, 0).batch([0])
    for more, words in (
        (replace(shape, schedule=replace(schedule, classes=3)), "have 3 classes, and there are 2"),
        (replace(shape, shots=5), "fewer than the 5 shots"),
    ):
        with pytest.raises(UserError, match=words):
            benchmark.generator("test", more, 0)


def test_from_the_command_line(cli, dark, bright, tmp_path):
    also = ["--data.also", bright, "--data.size", "8"]
    small = ["--learner.width", "8", "--learner.encoder.channels", "4", "--learner.encoder.strides", "2", "--steps", "2"]
    shape = ["--episodes.tasks", "2", "--episodes.shots", "2", "--episodes.queries", "2", "--batch-size", "2"]
    status, text = cli(train_main, dark, "pn", *also, *small, *shape, "--run", "mine")
    assert status == 0 and "on dark (with bright)" in text, text
    assert cli(evaluate_main, "mine", "--tasks", "2", "--episodes", "4")[0] == 0
    freeze([dark, *also, "--tasks", "2", "--shots", "2", "--queries", "2", "--episodes", "2", "-o", "held-out.json"])
    assert read_frozen("held-out.json").benchmark().name == "dark+bright"
    assert cli(evaluate_main, dark, "knn", "--held-out", "held-out.json", "--out", "knn")[0] == 0
    results = json.loads(Path("knn/results.json").read_text())
    assert results["results"][0]["episodes"]["address"] == "dark+bright/test/0"
    domains = ["--schedule.domains", "data-set", "--schedule.classes", "2", "--tasks", "3", "--shots", "2", "--queries", "2"]
    status, text = cli(evaluate_main, dark, "knn", *also, *domains, "--split", "train", "--episodes", "2", "--out", "domains")
    assert status == 0 and "domains data-set" in text, text
    status, text = cli(evaluate_main, "permuted-mnist", "bp", "--stream.data.also", dark)
    assert status == 2 and "--stream.data.also means nothing for a stream" in text
