"""Augmentation of episodes: a function of their address, whatever the batch, the processes and the workers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from episodes.augment.config import AugmentConfig
from episodes.augment.images import blended, coloured, warped
from episodes.augment.maps import affine, mirrored, shifted
from episodes.errors import UserError
from episodes.generator import EpisodeGenerator
from episodes.rng import random_numbers
from episodes.tasks.classification import Classification
from episodes.tasks.family import TaskFamily
from episodes.types import Episode, EpisodeShape

IN_CACHE, ON_DEVICE = 2**18, 2**24
"""Numbers that are changed at a time, on a processor and elsewhere: the first are few enough for a processor's cache."""


def with_rotations(family: TaskFamily, shape: EpisodeShape, config: AugmentConfig) -> TaskFamily:
    """The family that meta-training draws its episodes from: with the turned classes, where `config` has any.

    Raises:
        UserError: the augmentation cannot be done with these inputs, or with so few tasks.
    """
    if not config.changes:
        return family
    if (config.mix or config.per_class.moves) and not shape.schedule.in_order:
        raise UserError(
            "--augment.mix and --augment.per-class need tasks that are one class each, one after another, and the schedule is "
            f"{shape.schedule.words()}. Leave one of them out."
        )
    if not isinstance(family, Classification) or family.pool.x_kind == "vector":
        what = "the inputs of these episodes are vectors" if family.spec.x_kind == "vector" else "these are asked for no class"
        raise UserError(
            f"Only images of classes can be augmented, and {what}: leave out the options --augment. Frozen features were "
            "computed once, of the images as they are."
        )
    source, (channels, height, width) = family.pool.source, family.pool.x_shape
    if config.rotations == 4 and height != width:
        raise UserError(
            f"--augment.rotations 4 needs square images, and those of {source} are {height} x {width}. Take "
            f"--augment.rotations 2, or read them square: --data.size {min(height, width)}."
        )
    if config.saturation and channels != 3:
        raise UserError(f"--augment.saturation needs images of 3 channels; those of {source} have {channels}. Leave it out.")
    if config.crop >= min(height, width):
        raise UserError(f"--augment.crop {config.crop} leaves nothing of images of {height} x {width}. Take less.")
    if config.mix and shape.tasks < 3:
        raise UserError(
            f"--augment.mix needs episodes of 3 tasks or more, not {shape.tasks}: two classes have one blend alone."
        )
    return Classification(family.pool, family.spec.symbols, config.rotations, family.sets)


def augmented(episode: Episode, indices: Sequence[int], generator: EpisodeGenerator, config: AugmentConfig) -> Episode:
    """The episodes with other images, uint8 as before, on the device where they are; everything else stays.

    The rotations of `config` are not done here: they are in what the generator draws (`with_rotations`).

    Arguments:
        episode: those at `indices` of the generator, with all of their tasks.
    """
    if not (config.mix or config.moves or config.colours):
        return episode
    T, K = generator.shape.tasks, generator.shape.shots
    if not generator.shape.schedule.in_order:  # then no image is augmented as others of its class are
        T, K = 1, len(episode.stream)
    x_BTNCHW = torch.cat([part.x.unflatten(1, (T, -1)) for part in (episode.stream, episode.queries)], dim=2)
    if config.mix:
        x_BTNCHW = _mixed(x_BTNCHW, config, _Lots(generator, indices))
    if config.moves or config.colours:
        x_BTNCHW = _changed(x_BTNCHW, config, _Lots(generator, indices))
    stream, queries = (part_BTNCHW.flatten(1, 2) for part_BTNCHW in (x_BTNCHW[:, :, :K], x_BTNCHW[:, :, K:]))
    return replace(episode, stream=replace(episode.stream, x=stream), queries=replace(episode.queries, x=queries))


class _Lots:
    """The random numbers of some episodes. Each purpose has its own: they stay the same, whatever else is drawn."""

    def __init__(self, generator: EpisodeGenerator, indices: Sequence[int]):
        self.address, self.indices = generator.address, indices

    def draw(self, purpose: str, *sizes: int) -> np.ndarray:
        """(B, *sizes) even in [-1, 1)."""
        address = f"{self.address}/augment/{purpose}"
        return 2 * np.stack([random_numbers(address, i).random(sizes) for i in self.indices]) - 1


def _mixed(x_BTNCHW: Tensor, config: AugmentConfig, lots: _Lots) -> Tensor:
    """Some classes are blended in place, image by image, each with the one that follows it in a circle of all classes of the
    episode.

    In a circle of three or more no two of them are of the same two classes.
    """
    T = x_BTNCHW.shape[1]
    lots_B2T = lots.draw("mix", 2, T)
    circle_BT = lots_B2T[:, 0].argsort(1)
    next_BT = np.empty_like(circle_BT)
    np.put_along_axis(next_BT, circle_BT, np.roll(circle_BT, -1, 1), 1)
    b_M, t_M = np.nonzero(lots_B2T[:, 1] < 2 * config.mix - 1)
    own_M, other_M = (torch.from_numpy(b_M * T + t).to(x_BTNCHW.device) for t in (t_M, next_BT[b_M, t_M]))
    x_RNCHW = x_BTNCHW.flatten(0, 1)
    x_RNCHW.index_copy_(0, own_M, blended(x_RNCHW.index_select(0, own_M), x_RNCHW.index_select(0, other_M), config.mix_by))
    return x_BTNCHW


def _changed(x_BTNCHW: Tensor, config: AugmentConfig, lots: _Lots) -> Tensor:
    """Images that are warped and coloured, each its own way."""
    x_ICHW, (T, N) = x_BTNCHW.flatten(0, 2), x_BTNCHW.shape[1:3]
    H, W = x_ICHW.shape[-2:]
    map_I33 = _maps(config, lots, (T, N), (H, W)).reshape(-1, 3, 3)
    colour_I3 = lots.draw("colour", T, N, 3).reshape(-1, 3)
    maps, colours = (torch.from_numpy(part).to(torch.float32).to(x_ICHW.device) for part in (map_I33, colour_I3))
    together = max(1, (IN_CACHE if x_ICHW.is_cpu else ON_DEVICE) // x_ICHW[0].numel())
    done = torch.empty_like(x_ICHW)
    for new, x, moved, colour in zip(*(part.split(together) for part in (done, x_ICHW, maps, colours)), strict=True):
        changed = warped(x.to(torch.float32), moved) if config.moves else x.to(torch.float32)
        new.copy_(coloured(changed, config, colour).add_(0.5))
    return done.view(x_BTNCHW.shape)


def _maps(config: AugmentConfig, lots: _Lots, size: tuple[int, int], sides: tuple[int, int]) -> np.ndarray:
    """(B, T, N, 3, 3) the whole map of each image: it is mirrored, cropped, and then changed by its own map and its class's."""
    (T, N), (height, width) = size, sides
    maps = np.tile(np.eye(3), (len(lots.indices), T, N, 1, 1))
    if config.per_class.moves:
        maps = affine(config.per_class, lots.draw("per class", T, 1, 5), height, width) @ maps
    if config.per_image.moves:
        maps = affine(config.per_image, lots.draw("per image", T, N, 5), height, width) @ maps
    if config.crop:
        maps = shifted(np.floor((lots.draw("crop", T, N, 2) + 1) * (config.crop + 0.5)) - config.crop) @ maps
    if config.flip:
        maps = mirrored(lots.draw("flip", T, N) < 0) @ maps
    return maps
