"""Augmentation: what each kind does to an image, and that it is a function of the episode's address."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from making import small_pool
from PIL import Image, ImageEnhance
from test_processes import TINY, assert_same_curve, started
from tiny import ENCODER, image_benchmark, sine, train, train_config

from episodes import Episode, EpisodeGenerator, EpisodeShape, UserError, grouped
from episodes.augment import episodes as augmenting
from episodes.augment.config import AugmentConfig, MapConfig
from episodes.augment.episodes import augmented, with_rotations
from episodes.augment.images import blended, coloured, warped
from episodes.augment.maps import affine, mirrored, shifted
from episodes.data.pool import ClassPool
from episodes.generator import numbers_in
from episodes.tasks.classification import Classification
from metacl.commands.parse_train import parse_train
from metacl.learners import PrototypesConfig
from metacl.recipes.config import ValidationConfig
from metacl.recipes.sizes import CHARACTERS
from metacl.runs.folder import Run
from metacl.training import meta_training
from metacl.training.meta_training import generators

SHAPE = EpisodeShape(tasks=5, shots=3, queries=2, vocabulary=8)
MAP = MapConfig(degrees=20, scale=0.3, shear=0.2, shift=0.1)
ALL = AugmentConfig(4, MAP, MAP, crop=1, flip=True, brightness=0.4, contrast=0.4, saturation=0.4, mix=0.5)


def generator(pool=None, config=ALL, shape=SHAPE) -> EpisodeGenerator:
    """Twelve classes of noise in colour; the first two pixels of an image are its class and its number."""
    family = Classification(small_pool((6,) * 12, (3, 9, 9)) if pool is None else pool, shape.symbols)
    return EpisodeGenerator(with_rotations(family, shape, config), shape, "noise", "train", 0)


def flat(values, each=6, side=8) -> ClassPool:
    """Classes of images that are all alike: a class has one image, `each` times."""
    images = [np.broadcast_to(np.asarray(value, np.uint8), (1, side, side)) for value in values]
    labels = np.repeat(np.arange(len(images)), each)
    names = [f"flat/{i}" for i in range(len(images))]
    return grouped(labels, names, [images[i] for i in labels], "flat")


def tensors(episode: Episode) -> list[torch.Tensor]:
    return [getattr(part, name) for part in (episode.stream, episode.queries) for name in ("x", "y", "task")]


def by_task(episode: Episode, shape=SHAPE) -> torch.Tensor:
    """(B, T, K + Q, C, H, W)"""
    return torch.cat([part.x.unflatten(1, (shape.tasks, -1)) for part in (episode.stream, episode.queries)], 2)


def test_an_episode_is_augmented_the_same_alone_among_others_and_in_another_process():
    drawn = generator()
    whole = augmented(drawn.batch(range(12)), range(12), drawn, ALL)
    for parts in ([[5], range(5)], [numbers_in(1, 6, (rank, 3)) for rank in range(3)]):
        for indices in parts:
            part = augmented(drawn.batch(indices), indices, drawn, ALL)
            for own, among in zip(tensors(part), tensors(whole), strict=True):
                assert torch.equal(own, among[list(indices)])
    other = EpisodeGenerator(drawn.family, SHAPE, "noise", "train", 1)
    assert not torch.equal(augmented(drawn.batch([0]), [0], other, ALL).stream.x, whole.stream.x[:1])


def test_however_many_images_are_changed_at_a_time_they_are_the_same(monkeypatch):
    drawn = generator()
    whole = augmented(drawn.batch(range(3)), range(3), drawn, ALL)
    monkeypatch.setattr(augmenting, "IN_CACHE", 2000)  # of an image 243
    for own, other in zip(tensors(augmented(drawn.batch(range(3)), range(3), drawn, ALL)), tensors(whole), strict=True):
        assert torch.equal(own, other)


def test_images_that_others_may_hold_stay_as_they_are():
    drawn, plain = generator(), generator().batch([0])
    for config in (ALL, AugmentConfig(mix=1.0), AugmentConfig(brightness=0.5)):
        episode = drawn.batch([0])
        assert not torch.equal(augmented(episode, [0], drawn, config).stream.x, episode.stream.x)
        assert torch.equal(episode.stream.x, plain.stream.x) and torch.equal(episode.queries.x, plain.queries.x)


def test_only_images_change_and_only_in_meta_training():
    config = train_config(PrototypesConfig(width=8, encoder=ENCODER), learner_name="pn")
    plain, changed = (
        generators(replace(config, augment=a), image_benchmark()) for a in (AugmentConfig(), replace(ALL, saturation=0))
    )
    for left, right in zip(tensors(plain[1].batch([0, 1])), tensors(changed[1].batch([0, 1])), strict=True):
        assert torch.equal(left, right)
    episode = changed[0].batch([0, 1])
    after = augmented(episode, [0, 1], changed[0], replace(ALL, saturation=0))
    assert after.stream.x.dtype == torch.uint8 and not torch.equal(after.stream.x, episode.stream.x)
    assert all(torch.equal(tensors(after)[i], tensors(episode)[i]) for i in (1, 2, 4, 5))
    assert augmented(episode, [0, 1], changed[0], AugmentConfig(rotations=4)) is episode


@pytest.mark.parametrize("rotations", [2, 4])
def test_turned_classes_are_classes_of_their_own(rotations):
    shape = EpisodeShape(tasks=3 * rotations, shots=3, queries=2, vocabulary=16)  # all that there are
    drawn = generator(small_pool((6,) * 3, (1, 7, 7)), AugmentConfig(rotations=rotations), shape)
    images, numbers = by_task(drawn.batch(range(4)), shape), drawn.classes(range(4))
    assert numbers is not None and (numbers.sort(1).values == torch.arange(3 * rotations)).all()
    for b in range(4):
        for t, number in enumerate(numbers[b].tolist()):
            upright = images[b, t].rot90(-(number // 3) * 4 // rotations, (-2, -1))
            assert (upright[:, 0, 0, 0] == number % 3).all(), "an image is turned in another way than its class"
            assert len(upright[:, 0, 0, 1].unique()) == 5
    assert (
        generator(small_pool((6,) * 3, (1, 7, 7)), AugmentConfig(), replace(shape, tasks=3)).batch([0]).stream.x.shape[1] == 9
    )
    with pytest.raises(UserError, match=rf"small has 3 classes, turned {rotations} ways. Ask for {3 * rotations} or fewer"):
        generator(small_pool((6,) * 3, (1, 7, 7)), AugmentConfig(rotations=rotations), replace(shape, tasks=13))


def naively_warped(image: np.ndarray, old_from_new: np.ndarray) -> np.ndarray:
    """An image (H, W), pixel by pixel."""
    H, W = image.shape
    centre, result = np.array([(W - 1) / 2, (H - 1) / 2]), np.zeros((H, W))
    for i in range(H):
        for j in range(W):
            x, y = (old_from_new @ [*(np.array([j, i]) - centre), 1])[:2] + centre
            x, y = min(max(x, 0), W - 1), min(max(y, 0), H - 1)
            left, top = min(int(x), W - 2), min(int(y), H - 2)
            a, b = x - left, y - top
            upper = (1 - a) * image[top, left] + a * image[top, left + 1]
            lower = (1 - a) * image[top + 1, left] + a * image[top + 1, left + 1]
            result[i, j] = (1 - b) * upper + b * lower
    return result


@pytest.mark.parametrize(("height", "width"), [(7, 7), (6, 9)])
def test_warped_images_are_those_of_a_loop_over_pixels(height, width, float64):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 2, height, width)).astype(float)
    maps = affine(replace(MAP, shift=0.4), 2 * rng.random((8, 5)) - 1, height, width)
    expected = np.stack([[naively_warped(channel, m) for channel in image] for image, m in zip(images, maps, strict=True)])
    got = warped(torch.from_numpy(images), torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-9)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (6, 9)])
def test_warped_images_are_those_of_kornia(height, width, float64):
    """Which counts places from the corner, and wants the map from the old image to the new one."""
    transform = pytest.importorskip("kornia.geometry.transform", reason="kornia is not installed")
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.integers(0, 256, (8, 3, height, width)).astype(float))
    maps = affine(replace(MAP, shift=0.4), 2 * rng.random((8, 5)) - 1, height, width)
    to_centre = shifted(np.array([(width - 1) / 2, (height - 1) / 2]))
    there = np.linalg.inv(np.linalg.inv(to_centre) @ maps @ to_centre)[:, :2]
    expected = transform.warp_affine(images, torch.from_numpy(there), (height, width), padding_mode="border")
    torch.testing.assert_close(warped(images, torch.from_numpy(maps)), expected, rtol=0, atol=1e-6)


def test_maps_are_what_they_are_called():
    """By whole pixels: a quarter turn clockwise, shifts to the right and down, a mirror, a size, a slant."""
    image = torch.arange(36.0).view(1, 1, 6, 6)

    def moved(maps: np.ndarray) -> torch.Tensor:
        return warped(image, torch.from_numpy(maps).float()[None])[0, 0]

    def lots(place: int, value: float = 1.0) -> np.ndarray:
        return np.eye(5)[place] * value

    plain, close = image[0, 0], {"atol": 1e-3, "rtol": 0}
    torch.testing.assert_close(moved(affine(MapConfig(degrees=90), lots(2), 6, 6)), plain.rot90(-1), **close)
    torch.testing.assert_close(moved(affine(MapConfig(shift=1 / 3), lots(3), 6, 6))[:, 2:], plain[:, :-2], **close)
    torch.testing.assert_close(moved(affine(MapConfig(shift=1 / 3), lots(4), 6, 6))[2:], plain[:-2], **close)
    torch.testing.assert_close(moved(mirrored(np.array(True))), plain.flip(-1), **close)
    torch.testing.assert_close(moved(shifted(np.array([6.0, 0.0]))), plain[:, :1].expand(6, 6), **close)
    torch.testing.assert_close(moved(affine(MapConfig(scale=2), lots(1), 6, 6))[1::3, 1::3], plain[2:4, 2:4], **close)
    slanted = affine(MapConfig(shear=2), lots(0), 6, 6)  # rows are half a pixel, one and a half, ... from the middle
    torch.testing.assert_close(moved(slanted)[3, 1:], plain[3, :-1], **close)
    torch.testing.assert_close(moved(slanted)[4, 3:], plain[4, :-3], **close)


def test_a_crop_is_a_window_of_the_image_with_its_edges_drawn_out():
    config = AugmentConfig(crop=2, flip=True)
    drawn = generator(config=config)
    episode = drawn.batch(range(8))
    found = set()
    for old, new in zip(
        by_task(episode).flatten(0, 2), by_task(augmented(episode, range(8), drawn, config)).flatten(0, 2), strict=True
    ):
        wide = np.pad(old.numpy(), ((0, 0), (2, 2), (2, 2)), mode="edge")
        windows = {
            (i, j, f): wide[:, i : i + 9, j : j + 9][..., :: -1 if f else 1] for i in range(5) for j in range(5) for f in (0, 1)
        }
        found |= {place for place, window in windows.items() if np.array_equal(window, new.numpy())} or {None}
    assert None not in found and len(found) > 40, "of fifty"


def alike_within(images: torch.Tensor) -> torch.Tensor:
    """(B, T) whether all images of a task are equal."""
    return (images == images[:, :, :1]).flatten(2).all(-1)


def test_a_map_of_a_class_is_that_of_all_its_images():
    one = np.random.default_rng(0).integers(0, 256, (8, 8))
    for config, alike in ((AugmentConfig(per_class=MAP), True), (AugmentConfig(per_image=MAP), False)):
        drawn = generator(flat([one] * 12), config)
        images = by_task(augmented(drawn.batch(range(4)), range(4), drawn, config))
        assert (alike_within(images) == alike).all()
        firsts = images[:, :, 0].flatten(0, 1).flatten(1)
        assert len(firsts.unique(dim=0)) == 20, "classes of one image are changed into one class"


@pytest.mark.parametrize("by", ["pixels", "halves"])
def test_blends_are_of_two_classes_of_the_episode_and_no_two_of_the_same(by):
    values = [0, 2, 6, 14, 30, 62, 126, 254]  # the mean of two is none of them, and says which two
    config = AugmentConfig(mix=0.5, mix_by=by)
    drawn = generator(flat([[[value]] for value in values]), config)
    episode = drawn.batch(range(40))
    before, after = by_task(episode), by_task(augmented(episode, range(40), drawn, config))
    assert alike_within(after).all()
    blends = 0
    for own, upper, lower in zip(before[:, :, 0, 0, 0, 0], after[:, :, 0, 0, 3, 0], after[:, :, 0, 0, 4, 0], strict=True):
        assert len({*zip(upper.tolist(), lower.tolist(), strict=True)}) == 5, "two classes are blended alike"
        partner = 2 * lower.int() - own if by == "pixels" else lower
        assert torch.equal(upper, lower if by == "pixels" else own) and torch.isin(partner, own).all()
        blends += int((partner != own).sum())
    assert 70 <= blends <= 130, "of 200 half"


def test_a_blend_of_pixels_is_their_mean_rounded_down():
    own, other = torch.arange(256, dtype=torch.uint8)[:, None], torch.arange(256, dtype=torch.uint8)[None]
    assert torch.equal(blended(own, other, "pixels"), ((own.int() + other.int()) // 2).to(torch.uint8))


def test_colours_are_those_of_pillow():
    image = np.random.default_rng(0).integers(0, 256, (7, 8, 3), dtype=np.uint8)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    kinds = {
        "brightness": (ImageEnhance.Brightness, 0),
        "contrast": (ImageEnhance.Contrast, 1),
        "saturation": (ImageEnhance.Color, 2),
    }
    for name, (enhance, place) in kinds.items():
        for lot in (-1.0, 0.5, 1.0):
            lots = torch.full((1, 3), 9.0)
            lots[0, place] = lot
            got = coloured(x.clone(), AugmentConfig(**{name: 0.8}), lots)[0].permute(1, 2, 0)
            expected = np.asarray(enhance(Image.fromarray(image)).enhance(1 + 0.8 * lot), dtype=np.float32)
            assert (got - torch.from_numpy(expected)).abs().max() <= 1.5, (name, lot)


def test_what_cannot_be_augmented():
    grey, wide, shape = small_pool((6,) * 5, (1, 8, 8)), small_pool((6,) * 5, (1, 6, 8)), replace(SHAPE, tasks=2)
    with pytest.raises(UserError, match=r"inputs of these episodes are vectors: leave out the options --augment"):
        with_rotations(sine().train, SHAPE, AugmentConfig(mix=0.5))
    with pytest.raises(UserError, match=r"rotations 4 needs square images, and those of small are 6 x 8.*--data.size 6"):
        generator(wide, AugmentConfig(rotations=4))
    generator(wide, AugmentConfig(rotations=2)).batch([0])
    with pytest.raises(UserError, match=r"saturation needs images of 3 channels; those of small have 1"):
        generator(grey, AugmentConfig(saturation=0.5))
    with pytest.raises(UserError, match=r"crop 6 leaves nothing of images of 6 x 8"):
        generator(wide, AugmentConfig(crop=6))
    with pytest.raises(UserError, match=r"mix needs episodes of 3 tasks or more, not 2"):
        generator(grey, AugmentConfig(mix=0.5), shape)
    for wrong in ({"rotations": 3}, {"mix": 1.1}, {"mix_by": "thirds"}, {"crop": -1}, {"contrast": 2.0}):
        with pytest.raises(UserError, match=f"augment.{next(iter(wrong)).replace('_', '-')} must be"):
            AugmentConfig(**wrong)
    with pytest.raises(UserError, match=r"augment.per-class.degrees must be at most 180, not 200"):
        AugmentConfig(per_class=MapConfig(degrees=200))


def test_a_resumed_run_is_augmented_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    """Its configuration, its episodes by their numbers, and those of a curriculum."""
    augment, few = replace(ALL, saturation=0.0), ValidationConfig(every=4, episodes=4)
    learner = PrototypesConfig(width=8, encoder=ENCODER)
    config = train_config(learner, learner_name="pn", steps=8, curriculum=6, validation=few, augment=augment)
    whole = train(tmp_path / "whole", config, image_benchmark())
    shutil.copytree(whole.folder, tmp_path / "resumed")
    resumed = Run.open(tmp_path / "resumed")
    assert resumed.config == config
    resumed.checkpoints.remove(8)
    numbers = []

    def noted(episode, indices, *rest):
        numbers.extend(indices)
        assert torch.equal(episode.stream.x, rest[0].batch(indices).stream.x), "the numbers are those of other episodes"
        return augmented(episode, indices, *rest)

    monkeypatch.setattr(meta_training, "augmented", noted)
    train(resumed.folder, config, image_benchmark(), resume=True)
    assert numbers == list(range(16, 32))
    assert whole.checkpoints.about(8)["digests"] == resumed.checkpoints.about(8)["digests"]
    plain = train(tmp_path / "plain", replace(config, augment=AugmentConfig()), image_benchmark())
    assert plain.checkpoints.about(8)["digests"] != whole.checkpoints.about(8)["digests"]


def test_the_command_line_says_it():
    words = "glyphs transformer --augment.rotations 4 --augment.per-image.degrees 20 --augment.mix 0.5 --augment.flip"
    (config,) = parse_train(words.split()).configs.values()
    usual = CHARACTERS["glyphs"]
    per_image = replace(usual.per_image, degrees=20)
    assert config.augment == replace(usual, rotations=4, per_image=per_image, mix=0.5, flip=True)
    (config,) = parse_train(["sine", "transformer"]).configs.values()
    assert config.augment == AugmentConfig()


@pytest.mark.slow
def test_two_processes_augment_as_one(tmp_path):
    words = ["glyphs", "pn", *TINY, "--augment.rotations", "4", "--augment.mix", "0.5", "--augment.per-image.degrees", "10"]
    for processes in (1, 2):
        started(tmp_path, processes, *words, "--run", str(tmp_path / str(processes)))
    assert_same_curve(tmp_path / "1", tmp_path / "2")
