"""The one table of names: what a learner's name stands for. Help, lists, errors and tests are made from it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar

from episodes import DataConfig, EpisodeShape
from episodes.errors import unknown
from metacl.learners import LearnerConfig
from metacl.learners.gradient.anml import ANMLConfig
from metacl.learners.gradient.maml import MAMLConfig
from metacl.learners.gradient.oml import OMLConfig
from metacl.learners.gradient.reptile import ReptileConfig
from metacl.learners.similarity.query_only import QueryOnlyConfig
from metacl.learners.statistics.alpaca import AlpacaConfig
from metacl.learners.statistics.bayes import BayesConfig
from metacl.learners.statistics.gemcl import GemclConfig
from metacl.learners.statistics.ncm import NearestMeanConfig
from metacl.learners.statistics.prototypes import PrototypesConfig
from metacl.learners.statistics.ranpac import RanPACConfig
from metacl.recipes import settings
from metacl.recipes.config import TrainConfig
from metacl.recipes.preset import Preset, Trained
from metacl.recipes.settings import Settings
from metacl.recipes.sizes import (
    CALIBRATED,
    GENTLE,
    INTERPOLATION,
    LIGHT,
    NO_DECAY,
    PUBLISHED,
    on_features,
    paper,
    published,
    small,
    transformers,
)
from metacl.recipes.vision_presets import VISION

T = TypeVar("T")
ADAM = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SGD = (1e-2, 1e-3, 3e-3, 3e-2, 1e-1, 3e-1)
BAYES_RATES = (0.1, 0.03, 0.3, 1.0)
WIDTHS = (0.01, 0.1, 1.0, 10.0)
"""Learning rates of which the best is taken along episodes; for kernels, inverse squared widths."""


def _trained(about: str, recipe: Trained, rates: tuple[float, ...] = ADAM) -> Preset:
    return Preset(about, trained={"small": recipe}, rates=rates)


def _maml(about: str, algorithm: Literal["maml", "meta-sgd", "anil"]) -> Preset:
    """Small: a step for five examples at a time. Paper: a step for each example."""
    few = small(MAMLConfig(algorithm, inner="batched"), optimiser=NO_DECAY, batch_size=4)
    return Preset(about, {"small": few, "paper": published(MAMLConfig(algorithm, width=512))})


def _gemcl(about: str, predictive: Literal["student-t", "gaussian"]) -> Preset:
    sizes = {"small": small(GemclConfig(predictive=predictive), **CALIBRATED), "paper": published(GemclConfig(512, predictive))}
    sizes |= {"features": on_features(GemclConfig(512, predictive, beta=10.0), optimiser=GENTLE)}
    return Preset(about, sizes, only="classification")


def _bayes(about: str, samples: int) -> Preset:
    """Paper: a latent 512 wide, the evidence bound, streams of 10 tasks of 10 examples."""
    learner = BayesConfig(512, 512, samples, kl_weight=1.0, bypass=False, bind=False)
    whole = published(learner, episodes=EpisodeShape(tasks=10, shots=10, queries=10, vocabulary=20))
    return Preset(about, {"small": small(BayesConfig(samples=samples)), "paper": whole})


def _finetune(about: str, mode: Literal["online", "offline", "replay"], rates: tuple[float, ...]) -> Preset:
    sizes: dict[str, Trained] = {
        "small": lambda s: settings.finetune(mode, LIGHT),
        "paper": lambda s: settings.finetune(mode, PUBLISHED, 512),
    }
    return Preset(about, trained=sizes, rates=rates)


LEARNERS: dict[str, Preset] = {
    "transformer": Preset("softmax attention over the stream", transformers("softmax")),
    "linear-transformer": Preset("linear attention, a state of constant size", transformers("linear")),
    "query-only": Preset(
        "a learnt similarity to the labelled examples",
        {"small": small(QueryOnlyConfig()), "paper": paper(QueryOnlyConfig(width=512))},
        {"small": settings.query_only},
        ADAM,
    ),
    "pn": Preset(
        "a mean of features for each class",
        {
            "small": small(PrototypesConfig(), **CALIBRATED),
            "paper": paper(PrototypesConfig(width=512)),
            "features": on_features(PrototypesConfig(width=512), smoothing=0.1, optimiser=GENTLE),
        },
        only="classification",
    ),
    "gemcl": _gemcl("a mean and variance for each class", "student-t"),
    "gemcl-map": _gemcl("gemcl answered from the posterior's mode", "gaussian"),
    "alpaca": Preset(
        "Bayesian linear regression on features",
        {"small": small(AlpacaConfig()), "paper": published(AlpacaConfig(512))},
        only="regression",
    ),
    "sb-mcl": _bayes("a Gaussian posterior over one latent", 5),
    "sb-mcl-map": _bayes("sb-mcl answered from the posterior's mode", 0),
    "oml": Preset(
        "a head of fast weights on a fixed encoder",
        {
            "small": small(OMLConfig(), optimiser=NO_DECAY),
            "paper": published(OMLConfig(width=512)),
            "xl": published(OMLConfig(width=512, hidden=2048, layers=4)),
        },
    ),
    "anml": Preset(
        "fast convolutions behind a learnt gate",
        {"small": small(ANMLConfig(), optimiser=NO_DECAY, batch_size=4), "paper": published(ANMLConfig(width=512))},
    ),
    "maml": _maml("initial weights from which few steps suffice", "maml"),
    "meta-sgd": _maml("maml with a learnt rate for each weight", "meta-sgd"),
    "anil": _maml("maml with steps in the last layer alone", "anil"),
    "reptile": Preset(
        "initial weights drawn to where each stream ends",
        {
            "small": small(ReptileConfig(), optimiser=INTERPOLATION, batch_size=4),
            "paper": published(ReptileConfig(width=512), optimiser=INTERPOLATION),
        },
    ),
    "online": _finetune("SGD, one pass, an example at a time", "online", SGD),
    "replay": _finetune("online with examples of a reservoir", "replay", SGD),
    "offline": _finetune("epochs over all examples so far", "offline", ADAM),
    "linear-probe": _trained("offline, a linear layer on frozen features", settings.linear_probe),
    "ncm": Preset(
        "the nearest class mean of frozen features", trained={"small": lambda s: NearestMeanConfig()}, only="classification"
    ),
    "ranpac": Preset(
        "ridge regression on projected frozen features",
        trained={"small": lambda s: RanPACConfig(), "paper": lambda s: RanPACConfig(10_000)},
        only="classification",
    ),
    "bp": _trained("backpropagation with Adam, one pass", settings.backprop),
    "l2": _trained("bp with weights drawn to zero", lambda s: settings.backprop(s, l2=1e-4)),
    "l2-init": _trained("bp with weights drawn to where they started", settings.l2_init),
    "shrink-perturb": _trained(
        "bp with weights shrunk and perturbed", lambda s: settings.backprop(s, shrink=1e-4, perturb=1e-3)
    ),
    "crelu": _trained("bp with concatenated ReLUs", settings.crelu),
    "layernorm": _trained("bp with LayerNorm", settings.layernorm),
    "reinit": _trained("bp with a new network after each task", lambda s: settings.backprop(s, reinit=True)),
    "cbp": _trained("bp that replaces the least useful units", settings.continual),
    "redo": _trained("bp that replaces dormant units", settings.redo),
    "ewc": _trained("bp with weights held where old tasks need them", settings.ewc),
    "badam": _trained("bp with weights held by how certain they are: BAdam", settings.badam, BAYES_RATES),
    "er": _trained("bp with examples of a reservoir", settings.replay),
    "der": _trained("bp that gives old examples the answers of then", settings.dark_replay),
    "derpp": _trained("der with labels of old examples too: DER++", lambda s: settings.dark_replay(s, labels=0.5)),
    "full-attention": _trained("attention over the newest examples", settings.full_attention),
    "online-maml": _trained("initial weights, adapted to the newest examples", settings.online_maml),
    "nadaraya-watson": _trained("kernel regression on the newest examples", settings.kernel, WIDTHS),
    "knn": _trained("the nearest of the newest examples", lambda s: settings.kernel(s, nearest=5), ()),
    "bp-one": _trained("bp on one example of each block", lambda s: settings.backprop(s, one=True)),
    "bp-same-buffer": _trained("bp on the buffer of query-only", settings.same_buffer),
} | VISION
"""A name -> what it stands for."""
META_TRAINED = [name for name, preset in LEARNERS.items() if preset.meta]
TRAINED = [name for name, preset in LEARNERS.items() if preset.trained]


def recipe_for(learner: str, recipe: str | None, data: DataConfig) -> TrainConfig:
    """The configuration of a named learner that is meta-trained.

    Arguments:
        recipe: one of its recipes; None takes the first.

    Raises:
        UserError: there is no such learner or recipe.
    """
    table = {name: LEARNERS[name].meta for name in META_TRAINED}
    return chosen("learner that is meta-trained", learner, recipe, table)(data, learner)


def trained_for(learner: str, recipe: str | None, source: Settings) -> LearnerConfig:
    """The configuration of a named learner that starts from nothing, along a stream or episodes of these settings.

    Raises:
        UserError: there is no such learner or recipe.
    """
    table = {name: LEARNERS[name].trained for name in TRAINED}
    return chosen("learner without meta-training", learner, recipe, table)(source)


def chosen(kind: str, learner: str, recipe: str | None, table: Mapping[str, Mapping[str, T]]) -> T:
    """The recipe of that name in `table`, or the learner's first; `kind` is what the table's learners are called in errors."""
    if learner not in table:
        raise unknown(kind, learner, table)
    recipes = table[learner]
    if recipe is not None and recipe not in recipes:
        raise unknown(f"recipe of {learner}", recipe, recipes)
    return recipes[recipe or next(iter(recipes))]


def title(
    name: str, learner: LearnerConfig, family: Settings | None = None, rate: bool = True, data: DataConfig | None = None
) -> str:
    """What a run followed, in words: its name, and what is unlike the nearest of its recipes.

    A transformer with linear attention is "transformer (attention linear)", whatever it is called.

    Arguments:
        family: the settings whose recipes are meant, of a learner that is not meta-trained.
        rate: a learning rate that is another is told; not where it was chosen among several.
        data: the data set whose recipes are meant, of a meta-trained learner; None: images.
    """
    preset = LEARNERS[name]
    if type(learner) is preset.meta_config if preset.meta else False:
        known = [recipe(data or DataConfig(), name).learner for recipe in preset.meta.values()]
    else:
        known = [recipe(family or settings.EPISODES) for recipe in preset.trained.values()]
    changes = min(([c for c in _changes(own, learner) if rate or c[0] != "rate"] for own in known), key=len)
    listed = ", ".join(f"{words} {value}" for words, value in changes[:3]) + ", ..." * (len(changes) > 3)
    return f"{name} ({listed})" if changes else name


def _changes(before: Any, after: Any, prefix: str = "") -> Sequence[tuple[str, Any]]:
    """The options in which two configurations differ, and their values in the second; what is only remembered is none."""
    found: list[tuple[str, Any]] = []
    for part in (part for part in fields(before) if part.compare):
        old, new = getattr(before, part.name), getattr(after, part.name)
        if is_dataclass(old):
            found += _changes(old, new, f"{prefix}{part.name}.")
        elif old != new:
            found.append((f"{prefix}{part.name}".replace("_", "-"), new))
    return found
