"""Episodes are addresses: what is drawn depends on (name, split, seed, index) and on nothing else."""

import hashlib

import numpy as np
import pytest
import torch
from making import small_pool

from episodes import Episode, EpisodeGenerator, EpisodeShape, Examples, UserError
from episodes.rng import random_numbers
from episodes.tasks.classification import Classification
from episodes.tasks.family import Draw
from episodes.tasks.sine import Sine

SHAPE = EpisodeShape(tasks=4, shots=3, queries=2, vocabulary=6)


def images(shape: EpisodeShape = SHAPE, name="noise", split="train", seed=0) -> EpisodeGenerator:
    """Twelve classes of five to eight images; the first two pixels of each are its address."""
    counts = [5 + i % 4 for i in range(12)]
    return EpisodeGenerator(Classification(small_pool(counts, (1, 4, 4)), shape.symbols), shape, name, split, seed)


def waves(shape: EpisodeShape = SHAPE, seed=0) -> EpisodeGenerator:
    return EpisodeGenerator(Sine(), shape, "sine", "train", seed)


def tensors(episode: Episode) -> list[torch.Tensor]:
    return [getattr(part, name) for part in (episode.stream, episode.queries) for name in ("x", "y", "task")]


def same(a: Episode, b: Episode) -> bool:
    return all(torch.equal(left, right) for left, right in zip(tensors(a), tensors(b), strict=True))


def joined(parts: list[Episode]) -> list[torch.Tensor]:
    """The tensors of several batches, one after another."""
    return [torch.cat(same_part) for same_part in zip(*map(tensors, parts), strict=True)]


def assert_joined_equal(parts: list[Episode], expected: Episode) -> None:
    for left, right in zip(joined(parts), tensors(expected), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("make", [images, waves])
@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on machines with fewer than four cores
def test_workers_change_nothing(make, workers):
    got = list(make().batches(3, 0, 5, workers=workers))
    assert len(got) == 5
    assert_joined_equal(got, make().batch(range(15)))


@pytest.mark.parametrize("make", [images, waves])
def test_the_batch_size_changes_nothing(make):
    expected = make().batch(range(16))
    for size in (1, 16):
        assert_joined_equal(list(make().batches(size, 0, 16 // size)), expected)


@pytest.mark.parametrize("batch_size", [5, 6])
def test_the_parts_of_several_processes_are_the_whole(batch_size):
    whole = list(images().batches(batch_size, 0, 2))
    parts = [list(images().batches(batch_size, 0, 2, part=(rank, 3))) for rank in range(3)]
    for batch in range(2):
        assert_joined_equal([part[batch] for part in parts], whole[batch])


def test_starting_later_goes_on_as_if_from_the_start():
    late = list(images().batches(4, first=3, last=5))
    assert_joined_equal(late, images().batch(range(12, 20)))


def test_without_a_last_batch_there_is_always_another():
    batches = images().batches(2)
    assert_joined_equal([next(batches) for _ in range(7)], images().batch(range(14)))


def test_drawing_leaves_global_randomness_alone():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (the global generator is what must not be used)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    images().batch([0])
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "test"}, {"name": "other"}, {"index": 1}])
def test_another_address_is_another_episode(other):
    other = dict(other)
    index = other.pop("index", 0)
    assert not same(images(**other).batch([index]), images().batch([0]))


def test_a_golden_episode():
    """A change of how episodes are drawn makes every published figure unrepeatable: raise the versions if it is meant."""
    generator = images()
    draw = generator.family.draw(random_numbers(generator.address, 7), SHAPE)
    digest = hashlib.blake2b(b"".join(np.ascontiguousarray(part.astype("<i8")).tobytes() for part in draw[:4]), digest_size=8)
    assert digest.hexdigest() == "6363fed0b34d8b2e"
    wave = waves().batch([7])
    assert wave.stream.x[0, 0, :3].tolist() == pytest.approx([-0.62446, 0.426792, 1.058131], abs=1e-5)
    assert wave.queries.y[0, -1, -3:].tolist() == pytest.approx([0.400998, 0.394679, -0.24704], abs=1e-5)


def test_the_classes_of_an_episode():
    """Their images are those of the stream and of the queries; what is no class has none."""
    generator = images()
    classes_BT, episode = generator.classes([3, 8]), generator.batch([3, 8])
    assert classes_BT is not None and classes_BT.shape == (2, SHAPE.tasks)
    for part in (episode.stream, episode.queries):
        assert torch.equal(part.x[..., 0, 0, 0].long(), classes_BT.gather(1, part.task))
    assert waves().classes([3, 8]) is None


def test_the_layout_of_an_episode():
    episode = images().batch(range(5))
    stream, queries = episode.stream, episode.queries
    assert stream.x.shape == (5, 12, 1, 4, 4) and stream.x.dtype == torch.uint8
    assert queries.x.shape == (5, 8, 1, 4, 4) and stream.y.dtype == stream.task.dtype == torch.int64
    assert stream.task.tolist() == [[0] * 3 + [1] * 3 + [2] * 3 + [3] * 3] * 5
    assert queries.task.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 5
    assert stream.valid is None and queries.valid is None
    assert (len(stream), len(queries)) == (12, 8)


def test_a_task_is_one_class_with_one_symbol():
    episode = images().batch(range(50))
    for stream_x, stream_y, query_x, query_y in zip(
        episode.stream.x, episode.stream.y, episode.queries.x, episode.queries.y, strict=True
    ):
        classes, symbols = stream_x[:, 0, 0, 0].view(4, 3), stream_y.view(4, 3)
        assert (classes == classes[:, :1]).all() and (symbols == symbols[:, :1]).all()
        assert len(classes[:, 0].unique()) == 4, "a class comes twice"
        assert len(symbols[:, 0].unique()) == 4, "two classes share a symbol"
        assert torch.equal(query_x[:, 0, 0, 0].view(4, 2), classes[:, :2])
        assert torch.equal(query_y.view(4, 2), symbols[:, :2])


def test_no_example_comes_twice_in_an_episode():
    episode = images().batch(range(100))
    addresses = torch.cat([episode.stream.x, episode.queries.x], dim=1)[:, :, 0, 0, :2].long()
    for address in addresses[..., 0] * 100 + addresses[..., 1]:
        assert len(address.unique()) == 20


def test_every_class_example_and_symbol_is_drawn_about_equally_often():
    generator = images()
    draws = [generator.family.draw(random_numbers(generator.address, i), SHAPE) for i in range(1500)]
    pool = generator.family.pool
    drawn = np.bincount(np.concatenate([d.stream_x.ravel() for d in draws]), minlength=pool.starts[-1] + pool.counts[-1])
    expected = 1500 * 4 / 12 * 3 / np.repeat(pool.counts, pool.counts)
    assert (np.abs(drawn - expected) < 6 * np.sqrt(expected)).all()
    symbols = np.bincount(np.concatenate([d.stream_y[:, 0] for d in draws]), minlength=6)
    assert (np.abs(symbols - 1000) < 6 * np.sqrt(1000)).all()


def test_the_symbol_of_a_class_says_nothing_about_the_class():
    generator = images()
    draws = [generator.family.draw(random_numbers(generator.address, i), SHAPE) for i in range(400)]
    classes = np.searchsorted(generator.family.pool.starts, np.concatenate([d.stream_x[:, 0] for d in draws]), side="right") - 1
    symbols = np.concatenate([d.stream_y[:, 0] for d in draws])
    assert len(set(zip(classes.tolist(), symbols.tolist(), strict=True))) == 12 * 6


@pytest.mark.parametrize(("vocabulary", "tasks", "symbols"), [(6, 4, 6), (6, 9, 9), (1, 1, 1)])
def test_the_vocabulary_is_as_large_as_asked_or_as_the_tasks(vocabulary, tasks, symbols):
    shape = EpisodeShape(tasks, 1, 1, vocabulary)
    assert shape.symbols == symbols
    drawn = images(shape).batch(range(200)).stream.y
    assert sorted(drawn.unique().tolist()) == list(range(symbols))


@pytest.mark.parametrize("name", ["tasks", "shots", "queries", "vocabulary"])
@pytest.mark.parametrize("value", [0, -1])
def test_impossible_shapes(name, value):
    with pytest.raises(UserError, match=f"episodes.{name} must be at least 1, not {value}"):
        EpisodeShape(**{name: value})


def test_more_tasks_than_classes():
    with pytest.raises(UserError, match=r"13 tasks are asked, but small has 12 classes"):
        images(EpisodeShape(13, 1, 1, 64))


def test_all_classes_with_too_few_images_are_named():
    pool = small_pool((6, 4, 6, 1))
    wanted = r"2 of the 4 classes of small .* 3 shots \+ 2 queries = 5 .*: small/1 \(4\), small/3 \(1\).*--data.fewest 5"
    with pytest.raises(UserError, match=wanted):
        Classification(pool, 6).check(EpisodeShape(2, 3, 2))
    fit = r"small/2 \(6\)\. Ask for fewer: --shots 3 --queries 3 of evaluate.py, --episodes.shots 3 --episodes.queries 3 of"
    with pytest.raises(UserError, match=fit):  # leaving out would leave nothing
        Classification(pool.select([0, 2]), 6).check(EpisodeShape(2, 5, 5))
    Classification(pool.select([0, 1, 2]), 6).check(EpisodeShape(2, 2, 2))


def test_more_tasks_than_symbols():
    with pytest.raises(UserError, match=r"4 tasks need as many symbols; .* has 3"):
        Classification(small_pool((5,) * 5), 3).check(EpisodeShape(4, 1, 1, 8))


def amplitudes_and_rest(draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """The amplitude of each example against the first of its task, and how far its y is from that multiple."""
    y = np.concatenate([draw.stream_y, draw.query_y], axis=1).astype(np.float64)
    first = y[:, :1]
    factor = (y * first).sum(-1, keepdims=True) / (first * first).sum(-1, keepdims=True)
    return factor, np.abs(y - factor * first).max()


def test_a_sine_task_is_one_wave_at_several_amplitudes():
    generator = waves()
    for i in range(20):
        factor, rest = amplitudes_and_rest(generator.family.draw(random_numbers(generator.address, i), SHAPE))
        assert rest < 1e-5, "targets of a task differ by more than their amplitude, or are noisy"
        assert (factor.max(1) / factor.min(1)).max() <= 3.0 + 1e-6, "amplitudes lie in [0.5, 1.5]"
        assert factor.std() > 0.01


def test_sine_frequencies_amplitudes_and_noise():
    """Fits amplitude * sin(2 pi f t + phase) to targets and inputs: what is left of the inputs is the noise."""
    family, shape = Sine(), EpisodeShape(40, 2, 2)
    draw = family.draw(np.random.default_rng(0), shape)
    time = np.linspace(0, 10, 50)
    frequencies = np.linspace(0.1, 1.1, 2001)
    waves_F2P = np.stack([np.sin(2 * np.pi * frequencies[:, None] * time), np.cos(2 * np.pi * frequencies[:, None] * time)], 1)
    found, amplitude, noise = [], [], []
    for x, y in zip(draw.stream_x.astype(np.float64), draw.stream_y.astype(np.float64), strict=True):
        parts = np.linalg.pinv(waves_F2P.transpose(0, 2, 1))  # (F, 2, P)
        fit = parts @ y[0]
        rest = np.abs(y[0] - np.einsum("fc,fcp->fp", fit, waves_F2P)).max(1)
        best = rest.argmin()
        assert rest[best] < 0.02, "a target is no sine wave with a frequency in [0.1, 1.1]"
        found.append(frequencies[best])
        amplitude.append(np.hypot(*fit[best]))
        noise.append(x[0] - (parts[best] @ x[0]) @ waves_F2P[best])
    assert min(found) < 0.2 and max(found) > 1.0
    assert min(amplitude) > 0.49 and max(amplitude) < 1.51
    assert 0.09 < np.std(noise) < 0.11


def test_sine_streams_and_queries_are_of_the_same_tasks_and_differ():
    episode = waves().batch([0])
    assert episode.spec.x_shape == episode.spec.y_shape == (50,) and not episode.spec.classification
    assert episode.stream.x.dtype == episode.stream.y.dtype == torch.float32
    assert not torch.isclose(episode.stream.y[0, 0], episode.queries.y[0, 0]).all()
    norm = torch.nn.functional.normalize
    likeness = norm(episode.stream.y[0], dim=-1) @ norm(episode.queries.y[0], dim=-1).T
    own = episode.stream.task[0][:, None] == episode.queries.task[0]
    assert (likeness[own] > 0.999).all() and (likeness[~own] < 0.999).all()


def test_parts_of_a_stream_put_together_again():
    stream = images().batch([0, 1]).stream
    again = Examples.concatenate([stream[:5], stream[5:]])
    assert torch.equal(again.x, stream.x) and torch.equal(again.y, stream.y) and again.valid is None
    assert torch.equal(stream[torch.tensor([3, 1])].y, stream.y[:, [3, 1]])
