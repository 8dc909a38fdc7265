"""Recipes: a function that returns a complete configuration, for each learner and size."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

from episodes import DataConfig, EpisodeShape
from episodes.errors import unknown
from metacl.learners import PrototypesConfig, SequenceConfig
from metacl.learners.gradient.anml import ANMLConfig
from metacl.learners.gradient.maml import MAMLConfig
from metacl.learners.gradient.oml import OMLConfig
from metacl.learners.gradient.reptile import ReptileConfig
from metacl.learners.similarity.query_only import QueryOnlyConfig
from metacl.learners.statistics.alpaca import AlpacaConfig
from metacl.learners.statistics.bayes import BayesConfig
from metacl.learners.statistics.gemcl import GemclConfig
from metacl.nets.encoders import EncoderConfig
from metacl.recipes.config import OptimiserConfig, TrainConfig, ValidationConfig

LIGHT = EncoderConfig(channels=(32, 64, 128, 128), strides=(2, 2, 2, 2))
"""A sixth of the cost of the published encoder, for CPUs."""
PUBLISHED = EncoderConfig()
"""The five convolutions of CL-Seq."""

NO_DECAY = OptimiserConfig(weight_decay=0.0)
"""Weights that SGD starts from are not drawn to zero."""
INTERPOLATION = OptimiserConfig(rate=0.1, warmup=0, clip=0.0, weight_decay=0.0)
"""Reptile's outer step."""

Recipe = Callable[[DataConfig], TrainConfig]
R = TypeVar("R")


def transformer_small(data: DataConfig, attention: Literal["softmax", "linear"] = "softmax") -> TrainConfig:
    """Trains in minutes on two cores."""
    return TrainConfig(data, _name(attention), SequenceConfig(attention, encoder=LIGHT, dropout=0.1, attention_dropout=0.1))


def transformer_paper(data: DataConfig, attention: Literal["softmax", "linear"] = "softmax") -> TrainConfig:
    """CL-Seq's size (512 wide, 4 layers, 8 heads) with this project's layout, norm and optimiser. For a GPU."""
    learner = SequenceConfig(
        attention, width=512, layers=4, heads=8, hidden=1024, encoder=PUBLISHED, dropout=0.1, attention_dropout=0.1
    )
    return _long(TrainConfig(data, _name(attention), learner))


def transformer_large(data: DataConfig, attention: Literal["softmax", "linear"] = "softmax") -> TrainConfig:
    """CL-Seq's XL size: 1024 wide, 16 heads."""
    learner = SequenceConfig(
        attention, width=1024, layers=4, heads=16, hidden=2048, encoder=PUBLISHED, dropout=0.1, attention_dropout=0.1
    )
    return _long(TrainConfig(data, _name(attention), learner))


def transformer_published(data: DataConfig, attention: Literal["softmax", "linear"] = "softmax") -> TrainConfig:
    """CL-Seq's own configuration: no LayerNorm, interleaved tokens, sinusoids, a symbol for each task, the auxiliary
    attention loss for 10 000 steps, Adam at 1e-4 halved every 10 000, no clipping; heads of the linear form 512 wide."""
    learner = SequenceConfig(
        attention,
        layout="interleaved",
        width=512,
        layers=4,
        heads=8,
        hidden=1024,
        dropout=0.1,
        norm=False,
        head_width=512 if attention == "linear" else None,
        start_alike=False,
        positions="sinusoidal",
        symbols="learned",
        auxiliary_steps=10_000,
        encoder=PUBLISHED,
    )
    if data.name == "omniglot" and data.size is None:
        data = replace(data, size=32)
    optimiser = OptimiserConfig(rate=1e-4, schedule="halving", warmup=0, clip=0.0, weight_decay=0.0)
    episodes = EpisodeShape(tasks=20, vocabulary=20)
    return replace(_long(TrainConfig(data, _name(attention), learner, episodes)), optimiser=optimiser)


def prototypes_small(data: DataConfig) -> TrainConfig:
    """The baseline with the same encoder and budget as the small transformer."""
    return TrainConfig(data, "pn", PrototypesConfig(encoder=LIGHT))


def prototypes_paper(data: DataConfig) -> TrainConfig:
    """The published encoder and width."""
    return _long(TrainConfig(data, "pn", PrototypesConfig(width=512, encoder=PUBLISHED)))


def query_only_small(data: DataConfig) -> TrainConfig:
    """The small transformer's encoder and budget."""
    return TrainConfig(data, "query-only", QueryOnlyConfig(encoder=LIGHT))


def query_only_paper(data: DataConfig) -> TrainConfig:
    """The published encoder and width of CL-Seq; the scores are what is query-only."""
    return _long(TrainConfig(data, "query-only", QueryOnlyConfig(width=512, encoder=PUBLISHED)))


def gemcl_small(data: DataConfig, predictive: Literal["student-t", "gaussian"] = "student-t") -> TrainConfig:
    """The small transformer's encoder and budget."""
    return TrainConfig(data, _gemcl(predictive), GemclConfig(predictive=predictive, encoder=LIGHT))


def gemcl_paper(data: DataConfig, predictive: Literal["student-t", "gaussian"] = "student-t") -> TrainConfig:
    """The published encoder and width, and CL-Seq's outer loop."""
    return _published(TrainConfig(data, _gemcl(predictive), GemclConfig(512, predictive, encoder=PUBLISHED)))


def alpaca_small(data: DataConfig) -> TrainConfig:
    """The small transformer's encoder and budget."""
    return TrainConfig(data, "alpaca", AlpacaConfig(encoder=LIGHT))


def alpaca_paper(data: DataConfig) -> TrainConfig:
    """The published encoder and width, and CL-Seq's outer loop."""
    return _published(TrainConfig(data, "alpaca", AlpacaConfig(512, encoder=PUBLISHED)))


def bayes_small(data: DataConfig, samples: int = 5) -> TrainConfig:
    """The small transformer's encoder and budget."""
    return TrainConfig(data, _bayes(samples), BayesConfig(samples=samples, encoder=LIGHT))


def bayes_paper(data: DataConfig, samples: int = 5) -> TrainConfig:
    """As SB-MCL runs it: a latent 512 wide, the evidence bound, streams of 10 tasks of 10 examples. For a GPU."""
    learner = BayesConfig(512, 512, samples, kl_weight=1.0, bind=False, encoder=PUBLISHED)
    config = _published(TrainConfig(data, _bayes(samples), learner))
    return replace(config, episodes=replace(config.episodes, tasks=10, shots=10, queries=10))


def oml_small(data: DataConfig) -> TrainConfig:
    """The small transformer's encoder and budget; a head of two fast layers."""
    return TrainConfig(data, "oml", OMLConfig(encoder=LIGHT), optimiser=NO_DECAY)


def oml_paper(data: DataConfig) -> TrainConfig:
    """As CL-Seq runs it: 512 wide, two fast layers, one inner rate from 0.03. For a GPU."""
    return _published(TrainConfig(data, "oml", OMLConfig(width=512, encoder=PUBLISHED)))


def oml_xl(data: DataConfig) -> TrainConfig:
    """Its XL form: four fast layers of 2048."""
    return _published(TrainConfig(data, "oml", OMLConfig(width=512, hidden=2048, layers=4, encoder=PUBLISHED)))


def anml_small(data: DataConfig) -> TrainConfig:
    """The light convolutions, all fast, and a second set of them for the gate; fewer episodes in a step."""
    return TrainConfig(data, "anml", ANMLConfig(encoder=LIGHT), optimiser=NO_DECAY, batch_size=4)


def anml_paper(data: DataConfig) -> TrainConfig:
    """The published convolutions, inner rate from 0.01. For a GPU."""
    return _published(TrainConfig(data, "anml", ANMLConfig(width=512, encoder=PUBLISHED)))


def maml_small(data: DataConfig, algorithm: Literal["maml", "meta-sgd", "anil"] = "maml") -> TrainConfig:
    """A step for five examples at a time, and fewer episodes in a step."""
    learner = MAMLConfig(algorithm, inner="batched", encoder=LIGHT)
    return TrainConfig(data, algorithm, learner, optimiser=NO_DECAY, batch_size=4)


def maml_paper(data: DataConfig, algorithm: Literal["maml", "meta-sgd", "anil"] = "maml") -> TrainConfig:
    """The published convolutions, a step for each example. For a GPU."""
    return _published(TrainConfig(data, algorithm, MAMLConfig(algorithm, width=512, encoder=PUBLISHED)))


def reptile_small(data: DataConfig) -> TrainConfig:
    """A tenth of the way in each step."""
    return TrainConfig(data, "reptile", ReptileConfig(encoder=LIGHT), optimiser=INTERPOLATION, batch_size=4)


def reptile_paper(data: DataConfig) -> TrainConfig:
    """The published convolutions, outer step 0.1 (SB-MCL). For a GPU."""
    config = _published(TrainConfig(data, "reptile", ReptileConfig(width=512, encoder=PUBLISHED)))
    return replace(config, optimiser=INTERPOLATION)


def recipe_for(learner: str, recipe: str | None, data: DataConfig) -> TrainConfig:
    """The configuration of a named learner.

    Arguments:
        learner: a name of `RECIPES`.
        recipe: one of its recipes; None takes the first.

    Raises:
        UserError: there is no such learner or recipe.
    """
    return chosen("learner", learner, recipe, RECIPES)(data)


def chosen(kind: str, learner: str, recipe: str | None, table: Mapping[str, Mapping[str, R]]) -> R:
    """The recipe of that name in `table`, or the learner's first; `kind` is what the table's learners are called in errors."""
    if learner not in table:
        raise unknown(kind, learner, table)
    recipes = table[learner]
    if recipe is not None and recipe not in recipes:
        raise unknown(f"recipe of {learner}", recipe, recipes)
    return recipes[recipe or next(iter(recipes))]


def _name(attention: str) -> str:
    return "transformer" if attention == "softmax" else "linear-transformer"


def _gemcl(predictive: str) -> str:
    return "gemcl" if predictive == "student-t" else "gemcl-map"


def _bayes(samples: int) -> str:
    return "sb-mcl" if samples else "sb-mcl-map"


def _long(config: TrainConfig) -> TrainConfig:
    """CL-Seq's episodes and number of steps, with a rate for wide models."""
    return replace(
        config,
        episodes=replace(config.episodes, tasks=20),
        optimiser=OptimiserConfig(rate=3e-4, warmup=1000),
        validation=ValidationConfig(every=1000, episodes=256),
        steps=50_000,
    )


def _published(config: TrainConfig) -> TrainConfig:
    """CL-Seq's outer loop (Adam at 1e-4, halved every 10 000 steps), episodes and number of steps."""
    optimiser = OptimiserConfig(rate=1e-4, schedule="halving", warmup=0, clip=0.0, weight_decay=0.0)
    return replace(_long(config), optimiser=optimiser, episodes=EpisodeShape(tasks=20, vocabulary=20))


TRANSFORMERS: dict[str, Callable[..., TrainConfig]] = {
    "small": transformer_small,
    "paper": transformer_paper,
    "large": transformer_large,
    "published": transformer_published,
}
MAMLS: dict[str, Callable[..., TrainConfig]] = {"small": maml_small, "paper": maml_paper}
GEMCLS: dict[str, Callable[..., TrainConfig]] = {"small": gemcl_small, "paper": gemcl_paper}
BAYES: dict[str, Callable[..., TrainConfig]] = {"small": bayes_small, "paper": bayes_paper}
RECIPES: dict[str, dict[str, Recipe]] = {
    "transformer": TRANSFORMERS,
    "linear-transformer": {name: partial(recipe, attention="linear") for name, recipe in TRANSFORMERS.items()},
    "pn": {"small": prototypes_small, "paper": prototypes_paper},
    "query-only": {"small": query_only_small, "paper": query_only_paper},
    "gemcl": GEMCLS,
    "gemcl-map": {name: partial(recipe, predictive="gaussian") for name, recipe in GEMCLS.items()},
    "alpaca": {"small": alpaca_small, "paper": alpaca_paper},
    "sb-mcl": BAYES,
    "sb-mcl-map": {name: partial(recipe, samples=0) for name, recipe in BAYES.items()},
    "oml": {"small": oml_small, "paper": oml_paper, "xl": oml_xl},
    "anml": {"small": anml_small, "paper": anml_paper},
    "reptile": {"small": reptile_small, "paper": reptile_paper},
    **{name: {n: partial(recipe, algorithm=name) for n, recipe in MAMLS.items()} for name in ("maml", "meta-sgd", "anil")},
}
"""The recipes of each learner; the first is the default."""
