"""Streams: what a task of each is, by its definition, and that it is a function of (stream, seed, index) alone."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from making import hf_folder, noise, png, small_pool

from episodes import (
    STREAMS,
    DataConfig,
    EpisodeGenerator,
    EpisodeShape,
    EpisodeSource,
    Examples,
    Schedule,
    SeededStream,
    Source,
    Stream,
    UserError,
    side_by_side,
)
from episodes.data.halves import cut_pool
from episodes.errors import Notice
from episodes.tasks.permuted import Permuted
from episodes.tasks.regression import RegressionConfig, SlowlyChangingRegression
from episodes.tasks.sine import Sine
from episodes.tasks.splits import Incremental, Splits

CLASSES = 6


def pools():
    """Two pools of six classes; the first pixel of an image is its class, the second counts within it."""
    return small_pool((8,) * CLASSES, (3, 4, 5)), small_pool((3,) * CLASSES, (3, 4, 5), seed=1)


def streams():
    train, held_out = pools()
    return {
        "redraw": SlowlyChangingRegression(train=60, held_out=20),
        "flip-one": SlowlyChangingRegression("flip-one", train=60, held_out=20),
        "unseen bits": SlowlyChangingRegression(train=60, held_out=20, unseen=True),
        "pixels": Permuted("pixels", train, held_out=10),
        "labels": Permuted("labels", train, pixels=False, labels=True, flat=False, held_out=10),
        "unseen images": Permuted("labels", train, pixels=False, labels=True, flat=False, held_out=10, unseen=True),
        "splits": Splits("splits", train, held_out, 2),
        "own labels": Splits("splits", train, held_out, 2, own_labels=True),
        "incremental": Incremental("incremental", train, held_out, 2),
        "new only": Incremental("new", train, held_out, 2, cumulative=False),
    }


STREAM = streams()


def same(a, b) -> bool:
    return a.x.shape == b.x.shape and torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and torch.equal(a.task, b.task)


@pytest.mark.parametrize("name", STREAM)
def test_a_task_is_an_address(name):
    stream, again = STREAM[name], streams()[name]
    for part in ("train", "held_out"):
        third = getattr(stream.task(3, 2), part)
        [getattr(stream.task(seed, index), part)[:5] for seed, index in ((4, 0), (3, 1))]
        whole = third[:]
        assert same(whole, getattr(again.task(3, 2), part)[:]), "another one of the same stream, asked out of order"
        assert len(third) == len(whole) > 0 and same(third[3:7], whole[3:7]) and len(third[5 : 10**6]) == len(whole) - 5
        assert whole.x.shape == (1, len(third), *stream.spec.x_shape) and (whole.task == 2).all()
        assert whole.x.dtype == (torch.float32 if stream.spec.x_kind == "vector" else torch.uint8)
        others = [getattr(stream.task(*address), part)[:] for address in ((4, 2), (3, 1))]
        assert not any(same(whole, other) for other in others)


def test_streams_side_by_side():
    parts = [STREAM["splits"].task(seed, 1).train[:4] for seed in (0, 1, 2)]
    both = side_by_side(parts)
    assert both.x.shape == (3, 4, 3, 4, 5) and same(both.row(1), parts[1])


def test_a_stream_for_several_seeds_is_a_source():
    unequal = Splits("unequal", small_pool((8, 5, 6, 9)), small_pool((2, 4, 3, 3), seed=1), 2)
    source: Source = SeededStream(unequal, (3, 1, 3))
    assert (source.name, source.spec, source.most_tasks, source.rows) == ("unequal", unequal.spec, None, 3)
    task, alone = source.task(4), [unequal.task(seed, 4) for seed in (3, 1, 3)]
    for part in ("train", "held_out"):
        half, rows = getattr(task, part), [getattr(each, part) for each in alone]
        assert len(half) == min(map(len, rows)) and len({len(row) for row in rows}) == 2, "as long as the shortest"
        for b, row in enumerate(rows):
            assert same(half[:].row(b), row[: len(half)]) and same(half[1:3].row(b), row[1:3])
    with pytest.raises(UserError, match="runs out of data"):
        SeededStream(STREAM["incremental"], (0, 1)).task(3)


def test_a_batch_of_episodes_is_a_source():
    episode = EpisodeGenerator(Sine(), EpisodeShape(tasks=4, shots=3, queries=2), "sine", "train", 0).batch([5, 6])
    source: Source = EpisodeSource(episode, "sine")
    assert (source.name, source.spec, source.most_tasks, source.rows) == ("sine", episode.spec, 4, 2)
    tasks = [source.task(index) for index in range(4)]
    assert [(len(task.train), len(task.held_out)) for task in tasks] == [(3, 2)] * 4 and source.episode is episode
    assert same(Examples.concatenate([task.train[:] for task in tasks]), episode.stream)
    assert same(Examples.concatenate([task.held_out[:] for task in tasks]), episode.queries)
    assert all((half.task == index).all() for index, task in enumerate(tasks) for half in (task.train, task.held_out))
    for index in (4, -1):
        with pytest.raises(UserError, match="the episodes have 4"):
            source.task(index)


def test_the_network_of_threshold_units_against_a_loop():
    stream = SlowlyChangingRegression(train=30, held_out=10)
    w, b, v, c = stream.network(5)
    assert w.shape == (100, 20) and set(np.concatenate([w.ravel(), b, v, [c]])) == {-1, 1}
    examples = stream.task(5, 1).train[:]
    for x, y in zip(examples.x[0].numpy(), examples.y[0, :, 0].numpy(), strict=True):
        total = float(c)
        for i in range(100):
            negative = (20 - sum(w[i]) + b[i]) / 2
            total += v[i] * (sum(w[i] * x) + b[i] > 0.7 * 21 - negative)
        assert y == total
    assert examples.y.std() > 0 and not np.array_equal(w, stream.network(6)[0])


def test_bits_are_constant_within_a_task_and_coins_beside():
    task = SlowlyChangingRegression(train=2_000, held_out=500).task(0, 3)
    x = torch.cat([task.train[:].x, task.held_out[:].x], 1)[0]
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert (x[:, :15] == x[0, :15]).all() and (x[:, 15:].mean(0) - 0.5).abs().max() < 0.05


def rows(examples: Examples) -> set[tuple[float, ...]]:
    return {tuple(row) for row in examples.x[0].flatten(1).tolist()}


def test_unseen_inputs_are_in_no_example_to_learn_from():
    published, clean = (SlowlyChangingRegression(train=2_000, held_out=500, unseen=unseen) for unseen in (False, True))
    for index in range(3):
        task, strict = published.task(0, index), clean.task(0, index)
        assert rows(task.train[:]) == rows(task.held_out[:]), "as published, they are the same 32"
        assert len(rows(strict.train[:])) == 24 and len(rows(strict.held_out[:])) == 8
        assert not rows(strict.train[:]) & rows(strict.held_out[:])
        assert torch.equal(strict.train[:1].x[..., :15], task.train[:1].x[..., :15]), "the other bits are as ever"
    assert published.fingerprint == "slowly-changing-regression-1/redraw/2000/500" != clean.fingerprint


def test_classes_that_keep_their_labels():
    """The same tasks, labelled otherwise; the fingerprint tells."""
    pools = (small_pool((5,) * 6, (1, 4, 4)), small_pool((3,) * 6, (1, 4, 4)))
    anew, own = (Splits("a", *pools, classes=2, own_labels=kept) for kept in (False, True))
    assert (anew.spec.symbols, own.spec.symbols) == (2, 6) and anew.fingerprint + "/own labels" == own.fingerprint
    for index in range(5):
        classes = torch.from_numpy(anew.task_classes(3, index))
        for half in ("train", "held_out"):
            left, right = (getattr(stream.task(3, index), half)[:] for stream in (anew, own))
            assert torch.equal(left.x, right.x) and torch.equal(classes[left.y], right.y)


def test_unseen_images_are_learnt_from_in_no_task():
    stream = STREAM["unseen images"]
    tasks = [stream.task(0, index) for index in range(4)]
    held_out = [rows(task.held_out[:]) for task in tasks]
    assert all(part == held_out[0] and len(part) == 10 for part in held_out)
    assert not any(rows(task.train[:]) & held_out[0] for task in tasks) and len(tasks[1].train) == 38
    assert rows(stream.task(1, 0).held_out[:]) == held_out[0], "of another seed, on which rates are chosen, too"
    published = [STREAM["labels"].task(0, index) for index in range(2)]
    assert rows(published[0].train[:]) & rows(published[1].held_out[:])
    assert "unseen" not in STREAM["labels"].fingerprint


def test_both_rules_for_new_bits():
    redraw = np.array([STREAM["redraw"].task_bits(0, i) for i in range(400)])
    assert abs((redraw[1:] != redraw[:-1]).mean() - 0.5) < 0.03
    flip = np.array([STREAM["flip-one"].task_bits(0, i) for i in range(400)])
    changed = flip[1:] != flip[:-1]
    assert (changed.sum(1) == 1).all() and changed.any(0).all()
    assert set(flip.ravel()) == {0, 1} and not np.array_equal(flip[0], STREAM["flip-one"].task_bits(1, 0))


def test_pixels_are_permuted_alike_in_a_task():
    pool, stream = pools()[0], STREAM["pixels"]
    task = stream.task(0, 7)
    both = torch.cat([task.train[:].x, task.held_out[:].x], 1)[0]
    y = torch.cat([task.train[:].y, task.held_out[:].y], 1)[0]
    assert len(task.held_out) == 10 and len(both) == 48 and stream.spec.symbols == CLASSES
    pixels, labels = stream.permutations(0, 7)
    assert sorted(pixels) == list(range(60)) and list(labels) == list(range(CLASSES))
    back = (both[:, np.argsort(pixels)] * 255).round()
    assert {tuple(row) for row in back.int().tolist()} == {tuple(row) for row in pool.x.reshape(48, -1).tolist()}
    assert torch.equal(back[:, 0].long(), y), "the first pixel is the class"
    assert not np.array_equal(pixels, stream.permutations(0, 8)[0])


def test_labels_are_permuted_alike_in_a_task():
    stream = STREAM["labels"]
    examples, (pixels, labels) = stream.task(0, 7).train[:], stream.permutations(0, 7)
    assert sorted(labels) == list(range(CLASSES)) and list(pixels) == list(range(60)) and list(labels) != list(range(CLASSES))
    assert torch.equal(examples.y[0], torch.from_numpy(labels)[examples.x[0, :, 0, 0, 0].long()])


def test_a_few_classes_are_relabelled_in_each_task():
    stream, drawn = STREAM["splits"], set()
    for index in range(60):
        classes, task = stream.task_classes(0, index), stream.task(0, index)
        drawn.add(tuple(classes))
        for part, each in ((task.train[:], 8), (task.held_out[:], 3)):
            assert torch.equal(torch.from_numpy(classes)[part.y[0]], part.x[0, :, 0, 0, 0].long())
            assert part.y[0].bincount().tolist() == [each, each]
    assert len(drawn) > 20 and all(a != b for a, b in drawn) and {c for pair in drawn for c in pair} == set(range(CLASSES))
    assert (stream.task(0, 0).train[:].y[0].diff() != 0).sum() > 1, "the classes come mixed"


def test_classes_arrive_and_keep_their_labels():
    whole, new = STREAM["incremental"], STREAM["new only"]
    assert whole.most_tasks == new.most_tasks == 3 and whole.spec.symbols == CLASSES
    for stream in (whole, new):
        order = torch.from_numpy(stream.task_classes(0, 2))
        for index in range(3):
            assert torch.equal(torch.from_numpy(stream.task_classes(0, index)), order[: 2 * index + 2])
            for part in (stream.task(0, index).train[:], stream.task(0, index).held_out[:]):
                assert torch.equal(order[part.y[0]], part.x[0, :, 0, 0, 0].long())
                first = 0 if stream is whole else 2 * index
                assert part.y.unique().tolist() == list(range(first, 2 * index + 2))
        with pytest.raises(UserError, match=r"runs out of data: 6 classes are 3 tasks of 2.*--tasks 3"):
            stream.task(0, 3)


def test_a_class_incremental_stream_has_every_class_once():
    """All classes in one task each, in an order that the seed draws and the pools do not; the fingerprint is of all but it."""
    names = ("split-cifar100", "incremental-tiny-imagenet", "class-incremental")
    for name in names:
        config = STREAMS[name].config
        assert (config.classes, config.cumulative) == (10, False) and STREAMS[name].family == "class-incremental"
    train, held_out = pools()
    stream = Incremental("split-cifar100", train, held_out, 2, cumulative=False)
    met = {seed: [set(rows_of(stream, seed, index)) for index in range(3)] for seed in range(8)}
    for tasks in met.values():
        assert [len(task) for task in tasks] == [2, 2, 2] and set().union(*tasks) == set(range(CLASSES))
    assert len({tuple(map(frozenset, tasks)) for tasks in met.values()}) > 4, "another seed, another order"
    again = Incremental("split-cifar100", *pools(), 2, cumulative=False)
    others = [
        Incremental("other", train, held_out, 2, cumulative=False),
        Incremental("split-cifar100", train, held_out, 3, cumulative=False),
        Incremental("split-cifar100", train, held_out, 2),
        Incremental("split-cifar100", held_out, train, 2, cumulative=False),
    ]
    assert again.fingerprint == stream.fingerprint and len({other.fingerprint for other in (stream, *others)}) == 5
    assert [set(rows_of(again, 3, index)) for index in range(3)] == met[3]


def rows_of(stream: Stream, seed: int, index: int) -> list[int]:
    """The classes of the images of a task: the first pixel of each."""
    task = stream.task(seed, index)
    assert set(task.train[:].y[0].tolist()) == set(task.held_out[:].y[0].tolist())
    return task.train[:].x[0, :, 0, 0, 0].tolist()


def test_classes_that_fill_no_task_are_said():
    with pytest.warns(Notice, match="2 of the 6 classes of small are in no task.* a task has 4 new ones"):
        stream = Incremental("few", *pools(), 4, cumulative=False)
    assert stream.most_tasks == 1 and stream.spec.symbols == 4 and stream.task(0, 0).train[:].y.max() == 3


def test_a_pool_is_cut_where_there_are_no_splits():
    whole = small_pool((12, 2, 6))
    train, held_out = cut_pool(whole)
    assert train.counts.tolist() == [10, 1, 5] and held_out.counts.tolist() == [2, 1, 1]
    rows = [set(range(start, start + n)) for p in (train, held_out) for start, n in zip(p.starts, p.counts, strict=True)]
    assert set().union(*rows) == set(range(20)) and sum(map(len, rows)) == 20 and train.fingerprint != held_out.fingerprint
    with pytest.raises(UserError, match=r"'small/1' have one image each.*--stream.data.fewest 2"):
        cut_pool(small_pool((3, 1)))


def folder(path, splits=("train", "valid")) -> str:
    import datasets

    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    columns = {"image": [png(noise(i, 12, 1)) for i in range(24)], "label": [i % 6 for i in range(24)]}
    return hf_folder(path, features, **dict.fromkeys(splits, columns))


def over(name: str, data: DataConfig, **options) -> Stream:
    """The named stream with other images and options."""
    return replace(STREAMS[name].config, data=data, **options).load()


OVER_SIX_CLASSES = {
    "permuted-mnist": (6, (49,), 1, 1),
    "label-permuted-mnist": (6, (49,), 1, 1),
    "label-permuted-cifar100": (6, (1, 7, 7), 1, 1),
    "split-tiny-imagenet": (2, (1, 7, 7), 8, 2),
    "online-cifar100": (5, (1, 7, 7), 20, 5),
    "incremental-cifar100": (5, (1, 7, 7), 20, 5),
    "split-cifar100": (6, (1, 7, 7), 8, 2),
    "class-incremental": (6, (1, 7, 7), 8, 2),
}
"""A stream over images -> symbols, shape of x, held-out examples of a task where there is a split for them, and where not."""


@pytest.mark.parametrize("name", OVER_SIX_CLASSES)
@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_any_data_set(tmp_path, cache, name, splits):
    symbols, x_shape, *held_out = OVER_SIX_CLASSES[name]
    options = {"classes": 2} if STREAMS[name].family == "class-incremental" else {}
    left = (
        pytest.warns(Notice, match="1 of the 6 classes of .* are in no task")
        if name.startswith("incremental")
        else nullcontext()
    )
    with left:
        stream = over(name, DataConfig(folder(tmp_path / "mine", splits), size=7), **options)
    task = stream.task(0, 0)
    assert (stream.name, stream.spec.symbols, stream.spec.x_shape) == (name, symbols, x_shape)
    assert len(task.held_out) == held_out[len(splits) == 1] and task.train[:3].x.shape == (1, 3, *x_shape)


def test_classes_are_left_out_of_both_halves(tmp_path, cache):
    data = DataConfig(folder(tmp_path / "mine", ("train", "test")), size=7, without=("5", "0"))
    with pytest.warns(Notice, match=r"mine: 2 of 6 classes are left out as asked: 5 \(8\), 0 \(8\)"):
        stream = over("incremental-cifar100", data, classes=2)
    assert stream.spec.symbols == 4 and stream.most_tasks == 2 and len(stream.task(0, 1).held_out) == 16


def test_a_named_data_set_is_read_as_the_stream_wants_it(tmp_path, cache):
    stream = over("permuted-mnist", DataConfig("ylecun/mnist", path=folder(tmp_path / "mine")))
    assert stream.spec.x_shape == (49,), "7 x 7, as published, not 12 x 12"
    assert over("permuted-mnist", DataConfig(folder(tmp_path / "other"))).spec.x_shape == (144,)


def test_what_arrives_together():
    blocks = {name: stream.schedule.block for name, stream in STREAMS.items()}
    assert blocks["slowly-changing-regression"] == 1 and blocks["permuted-mnist"] == blocks["label-permuted-mnist"] == 400
    assert {blocks[name] for name in OVER_SIX_CLASSES if "mnist" not in name} == {10}
    with pytest.raises(UserError, match=r"schedule.block must be at least 1"):
        Schedule(0)


def test_options_of_regression():
    short = RegressionConfig(bits="flip-one", train=50, held_out=7).load()
    assert (short.rule, len(short.task(0, 1).train), len(short.task(0, 1).held_out)) == ("flip-one", 50, 7)
    assert len(STREAMS["slowly-changing-regression"].config.load().task(0, 0).train) == 9_000


BAD = {
    "no folder": ("permuted-mnist", DataConfig("nowhere"), {}, "'nowhere' is no folder"),
    "no name": ("permuted-mnist", DataConfig(""), {}, "'' is no folder"),
    "too few for one task": ("split-cifar100", DataConfig("mine"), {}, "A task has 10 classes, but mine.* has 6 in all"),
    "too few classes": ("online-cifar100", DataConfig("mine"), {"classes": 7}, "A task has 7 classes.* has 6 in all"),
    "too few images": ("permuted-mnist", DataConfig("mine"), {"held_out": 24}, "24 images: too few for 24 held-out"),
    "no class": ("incremental-cifar100", DataConfig("mine"), {"classes": 0}, "stream.classes must be at least 1"),
    "none held out": ("permuted-mnist", DataConfig("mine"), {"held_out": 0}, "stream.held-out must be at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "mine")
    name, data, options, expected = BAD[case]
    with pytest.raises(UserError, match=expected):
        over(name, data, **options)


def test_numbers_below_one_and_pools_of_other_classes():
    with pytest.raises(UserError, match=r"stream.held-out must be at least 1"):
        RegressionConfig(held_out=0)
    with pytest.raises(UserError, match="have other classes: small/5"):
        Splits("x", pools()[0], pools()[1].select(range(5)))


@pytest.mark.slow
def test_the_published_streams_on_real_data(real_data, cache):
    stream = over("split-tiny-imagenet", DataConfig("zh-plus/tiny-imagenet", path=real_data("tiny-imagenet")))
    task = stream.task(0, 0)
    assert (len(task.train), len(task.held_out), stream.spec.x_shape) == (200, 40, (3, 32, 32))
