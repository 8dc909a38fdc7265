"""Completion and rotation: regression about the images of any data set."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from making import gnt_folder, labelled_folder, small_pool

from episodes import STREAMS, Benchmark, DataConfig, EpisodeGenerator, EpisodeShape, UserError, completed, load_benchmark
from episodes.data.pool import ClassPool, grouped
from episodes.tasks.completion import Completion
from episodes.tasks.family import TaskFamily
from episodes.tasks.rotation import Rotation
from metacl.commands.places import located

SHAPE = EpisodeShape(tasks=3, shots=2, queries=2)
FAMILIES: dict[str, Callable[[ClassPool], TaskFamily]] = {"completion": Completion, "rotation": Rotation}


def pool(counts=(4, 5, 6, 7), shape=(1, 8, 8)) -> ClassPool:
    return small_pool(counts, shape)


def generator(name: str, of: ClassPool) -> EpisodeGenerator:
    return EpisodeGenerator(FAMILIES[name](of), SHAPE, name, "train", 0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 7), (1, 32, 32)])
def test_the_halves_of_a_completion_make_an_image_of_the_pool(shape):
    images, (C, H, W) = pool(shape=shape), shape
    made = generator("completion", images)
    episode = made.batch(range(4))
    top = H // 2
    assert episode.spec.x_shape == (C, top, W) and episode.spec.y_shape == (C * (H - top) * W,)
    assert (episode.spec.x_kind, episode.spec.loss) == ("image", "mse")
    known = {image.tobytes(): label for label, image in zip(np.repeat(range(4), images.counts), images.x, strict=True)}
    for b in range(4):
        seen = []
        for part in (episode.stream, episode.queries):
            assert part.y.dtype == torch.float32 and part.x.dtype == torch.uint8 and part.y.abs().max() <= 1
            low = ((part.y[b] + 1) * 127.5).round().to(torch.uint8).view(-1, C, H - top, W)
            whole = torch.cat([part.x[b], low], dim=2).numpy()
            labels = [known[image.tobytes()] for image in whole]
            assert labels == made.classes([b])[0].repeat_interleave(2).tolist(), "a task is a class"
            seen += [image.tobytes() for image in whole]
        assert len(set(seen)) == len(seen), "no query is among the shots"


def test_an_image_is_turned_by_its_angle_and_the_offset_of_its_task():
    """A dot right of the centre goes round clockwise: from where it lies the whole turn is read off."""
    image = np.zeros((1, 33, 33), np.uint8)
    image[0, 15:18, 26:29] = 255
    dots = grouped(np.repeat(range(5), 8), list("abcde"), [image] * 40, "dots")
    shape = EpisodeShape(tasks=5, shots=4, queries=4)
    episode = EpisodeGenerator(Rotation(dots), shape, "rotation", "train", 0).batch([0, 1, 2])
    assert episode.spec.y_shape == (2,) and episode.spec.x_shape == (1, 33, 33) and episode.stream.x.dtype == torch.uint8
    offsets = []
    for part in (episode.stream, episode.queries):
        assert torch.allclose(part.y.norm(dim=-1), torch.ones(3, 20)) and part.y.dtype == torch.float32
        weight, place = part.x[:, :, 0].double(), torch.arange(33.0) - 16
        right, down = (weight * place).sum((2, 3)), (weight * place[:, None]).sum((2, 3))
        turned, angle = torch.atan2(down, right), torch.atan2(part.y[..., 1], part.y[..., 0])
        offsets.append((turned - angle).remainder(2 * torch.pi).unflatten(1, (5, 4)))
    offset = torch.cat(offsets, dim=2)
    error = (offset - offset[..., :1] + torch.pi).remainder(2 * torch.pi) - torch.pi
    assert error.abs().max() < 0.02, "one offset for all examples of a task, shots and queries"
    assert len(offset[..., 0].round(decimals=2).unique()) == 15, "another one for each task"


def test_a_quarter_turn_moves_pixels_only():
    images = small_pool((3, 3), (1, 6, 6))
    turned = Rotation(images).fetch(np.array([[[0, np.pi / 2], [1, 0.0], [2, 4 * np.pi]]]))
    assert torch.equal(turned[0, 0], torch.from_numpy(np.asarray(images.x[0])).rot90(-1, (-2, -1))), "clockwise"
    assert np.array_equal(turned[0, 1:], images.x[1:3])


@pytest.mark.parametrize("name", FAMILIES)
def test_episodes_are_functions_of_their_address_alone(name):
    made = generator(name, pool())
    together, alone = made.batch([5, 2]), made.batch([2])
    for part in ("stream", "queries"):
        assert torch.equal(getattr(together, part).x[1], getattr(alone, part).x[0])
        assert torch.equal(getattr(together, part).y[1], getattr(alone, part).y[0])
    assert torch.equal(made.batch([2]).queries.x, alone.queries.x)


@pytest.mark.parametrize("name", FAMILIES)
def test_too_few_classes_or_images_and_vectors(name):
    with pytest.raises(UserError, match=r"3 tasks are asked, but small has 2 classes"):
        generator(name, pool((4, 4)))
    with pytest.raises(UserError, match=r"1 of the 3 classes of small have fewer than the 2 shots \+ 2 queries = 4"):
        generator(name, pool((4, 3, 4)))
    with pytest.raises(UserError, match=rf"{name} asks about images, and mine has vectors"):
        generator(name, grouped(np.arange(3), list("abc"), np.zeros((3, 2), np.float32), "mine"))


def load(name: str, source: str | None, path: str | None = None, **options) -> Benchmark:
    return load_benchmark(DataConfig(name, path=path, source=source, **options), 8)


def test_they_have_the_meta_splits_of_their_data_set(tmp_path, cache):
    folder = str(gnt_folder(tmp_path / "hwdb", "啊阿埃挨哎0a", writers=2))
    casia = load_benchmark(DataConfig("casia", path=folder), 8)
    for name, x_shape, y_shape in (("completion", (1, 16, 32), (512,)), ("rotation", (1, 32, 32), (2,))):
        benchmark = load(name, None, folder)
        assert benchmark.name == name and benchmark.fingerprint != casia.fingerprint
        for split in ("train", "validation", "test"):
            assert benchmark.classes(split) == casia.classes(split) and len(benchmark.ids(split))
        assert (benchmark.train.spec.x_shape, benchmark.train.spec.y_shape) == (x_shape, y_shape)
        done = completed(DataConfig(name, path=folder), x_shape)
        assert (done.size, done.channels) == (32, 1)
        assert load_benchmark(done, 8).fingerprint == benchmark.fingerprint


def test_they_are_about_any_data_set(tmp_path, cache):
    mine = labelled_folder(tmp_path / "runes", classes=10)
    benchmark = load("rotation", mine)
    assert benchmark.name == "rotation-runes" and benchmark.train.spec.x_shape == (1, 10, 10)
    assert load("completion", mine, size=12).train.spec.x_shape == (1, 6, 12)
    assert not set(benchmark.classes("train")) & set(benchmark.classes("test"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (DataConfig("rotation", source="sine"), "rotation asks about images, and sine has none.*--data.source omniglot"),
        (DataConfig("rotation", source="completion"), "rotation asks about images, and completion has none"),
        (DataConfig("rotation", source="omnglot"), "Unknown data set 'omnglot'. Did you mean 'omniglot'"),
        (DataConfig("rotation"), r"casia cannot be downloaded.*--data.path"),
        (DataConfig("glyphs", source="omniglot"), r"--data.source means nothing for glyphs"),
    ],
)
def test_sources_that_cannot_be(config, words, cache):
    with pytest.raises(UserError, match=words):
        load_benchmark(config, 8)


def test_a_run_names_the_folder_of_its_source_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runes").mkdir()
    (tmp_path / "omniglot").mkdir()
    assert located(DataConfig("rotation", source="runes")).source == str(tmp_path / "runes")
    assert located(DataConfig("rotation", source="omniglot")).source == "omniglot", "a name is not a folder beside it"


def test_a_stream_has_no_source(tmp_path, cache):
    config: Any = STREAMS["incremental-cifar100"].config
    data = DataConfig(labelled_folder(tmp_path / "runes"), source="omniglot")
    with pytest.raises(UserError, match=r"--stream.data.source means nothing for a stream"):
        replace(config, data=data).load()
