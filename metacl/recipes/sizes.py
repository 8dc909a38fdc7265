"""Sizes of the recipes of meta-trained learners: encoders, outer loops, and from a learner's configuration to a whole one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from episodes import DataConfig, usual_shape
from episodes.augment.config import AugmentConfig, MapConfig
from episodes.synthetic import SYNTHETIC
from metacl.learners import LearnerConfig
from metacl.learners.sequence import SequenceConfig
from metacl.nets.encoders import EncoderConfig
from metacl.recipes.config import OptimiserConfig, TrainConfig, ValidationConfig

Recipe = Callable[[DataConfig, str], TrainConfig]
"""From the data and the name of the learner to a complete configuration."""

LIGHT = EncoderConfig(channels=(32, 64, 128, 128), strides=(2, 2, 2, 2))
"""A sixth of the cost of the published encoder, for CPUs."""
PUBLISHED = EncoderConfig()
"""The five convolutions of CL-Seq."""

BENT = AugmentConfig(per_image=MapConfig(degrees=10, scale=0.13, shear=0.15, shift=0.04))
"""What keeps a character a character."""
CHARACTERS = {"glyphs": BENT, "omniglot": replace(BENT, rotations=4)}
"""Data sets of characters. Letters of print, of which some are others upside down, gain nothing from rotated classes."""

CALIBRATED: dict[str, Any] = {"optimiser": OptimiserConfig(rate=4e-3), "smoothing": 0.1}
"""For learners whose answers are similarities: without label smoothing they grow ever more certain."""
MATCHING = CALIBRATED | {"optimiser": OptimiserConfig(rate=4e-3, behind_encoder=0.125)}
"""For those that start as a matching network: at this rate its weights would be lost before they are of use. `paper` and
`large` have a lower rate for all weights; what a part of it behind the encoder does there was not tried."""
GENTLE = OptimiserConfig(rate=3e-4)
"""Features from elsewhere are good as they are."""
NO_DECAY = OptimiserConfig(weight_decay=0.0)
"""Weights that SGD starts from are not drawn to zero."""
INTERPOLATION = OptimiserConfig(rate=0.1, warmup=0, clip=0.0, weight_decay=0.0)
"""Reptile's outer step: a tenth of the way (SB-MCL)."""
HALVING = OptimiserConfig(rate=1e-4, schedule="halving", warmup=0, clip=0.0, weight_decay=0.0)
"""The outer loop of CL-Seq: Adam at 1e-4, halved every 10 000 steps."""


def small(learner: LearnerConfig, **options: Any) -> Recipe:
    """Trains in minutes on two cores, with the light encoder; `options` are fields of the configuration."""
    light = _with_encoder(learner, LIGHT)

    def recipe(data: DataConfig, name: str) -> TrainConfig:
        augment = AugmentConfig() if data.features else CHARACTERS.get(data.name, AugmentConfig())
        return replace(TrainConfig(data, name, _asking(light, data), usual_shape(data.name), augment), **options)

    return recipe


def on_features(learner: LearnerConfig, **options: Any) -> Recipe:
    """On frozen features, those of `efficientnet-lite0` where no others are asked: a linear encoder, and nothing is augmented.

    On meta-validation of CIFAR-100 (10 tasks, features at 96 pixels, 80 steps, one seed) `pn` is right 81 % of the time; 74 %
    where the encoder starts with lengths as they are, and 66 % with three layers, for which fifty classes are too few.
    """
    linear = _with_encoder(learner, EncoderConfig(vectors="linear"))

    def recipe(data: DataConfig, name: str) -> TrainConfig:
        own = data if data.features else replace(data, features="efficientnet-lite0")
        return replace(TrainConfig(own, name, _asking(linear, own), usual_shape(data.name)), **options)

    return recipe


def paper(learner: LearnerConfig, **options: Any) -> Recipe:
    """The published encoder, streams of 20 tasks and 50 000 steps, with this project's outer loop. For a GPU."""
    whole = _with_encoder(learner, PUBLISHED)
    return lambda data, name: replace(_long(TrainConfig(data, name, _asking(whole, data), usual_shape(data.name))), **options)


def published(learner: LearnerConfig, **options: Any) -> Recipe:
    """The same with the outer loop of CL-Seq, and a symbol for each task. For a GPU."""
    whole = _with_encoder(learner, PUBLISHED)

    def recipe(data: DataConfig, name: str) -> TrainConfig:
        shape = replace(usual_shape(data.name), tasks=20, vocabulary=20)
        defaults: dict[str, Any] = {"optimiser": HALVING, "episodes": shape}
        return replace(_long(TrainConfig(data, name, whole)), **defaults | options)

    return recipe


def transformers(attention: str) -> dict[str, Recipe]:
    """A transformer in several sizes: `paper` is 512 wide, `large` 1024, both with this project's layout and norm; `published`
    is CL-Seq's own network and training, and beside it are its sizes S, M and XL. And one for features, of which a token has
    128."""
    dropout = SequenceConfig(attention, dropout=0.1, attention_dropout=0.1)
    return {
        "small": small(SequenceConfig(attention), **MATCHING),
        "paper": paper(replace(dropout, width=512, layers=4, heads=8, hidden=1024), smoothing=0.1),
        "large": paper(replace(dropout, width=1024, layers=4, heads=16, hidden=2048), smoothing=0.1),
        "published": _cl_seq(attention),
        "published-s": _cl_seq(attention, width=256, layers=2, heads=4),
        "published-m": _cl_seq(attention, layers=2),
        "published-xl": _cl_seq(attention, width=1024, heads=16),
        "features": on_features(SequenceConfig(attention, width=256, hidden=512), **MATCHING),
    }


def _cl_seq(attention: str, width: int = 512, layers: int = 4, heads: int = 8) -> Recipe:
    """CL-Seq's own configuration: no LayerNorm, interleaved tokens, sinusoids, a symbol for each task, the auxiliary attention
    loss for 10 000 steps; heads of the linear form 512 wide; Omniglot at 32 x 32."""
    learner = SequenceConfig(
        attention,
        layout="interleaved",
        width=width,
        layers=layers,
        heads=heads,
        hidden=2 * width,
        dropout=0.1,
        norm=False,
        head_width=512 if attention == "linear" else None,
        start="random",
        positions="sinusoidal",
        symbols="learned",
        auxiliary_steps=10_000,
    )

    def recipe(data: DataConfig, name: str) -> TrainConfig:
        own_size = replace(data, size=32) if data.name == "omniglot" and data.size is None else data
        return published(learner)(own_size, name)

    return recipe


def _asking(learner: LearnerConfig, data: DataConfig) -> LearnerConfig:
    """In what is drawn from nothing the inputs of a label are not alike: a sequence learner is asked by input."""
    drawn = data.name in SYNTHETIC and isinstance(learner, SequenceConfig)
    return replace(learner, query="input") if drawn else learner


def _with_encoder(learner: LearnerConfig, encoder: EncoderConfig) -> LearnerConfig:
    """A learner that has no encoder stays as it is."""
    return replace(learner, encoder=encoder) if hasattr(learner, "encoder") else learner


def _long(config: TrainConfig) -> TrainConfig:
    """CL-Seq's episodes and number of steps, with a rate for wide models."""
    return replace(
        config,
        episodes=replace(config.episodes, tasks=20),
        optimiser=OptimiserConfig(rate=3e-4, warmup=1000),
        validation=ValidationConfig(every=1000, episodes=256),
        steps=50_000,
    )
