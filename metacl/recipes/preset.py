"""What a learner's name stands for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from episodes import DataConfig
from metacl.learners import LearnerConfig
from metacl.recipes import settings
from metacl.recipes.settings import Settings
from metacl.recipes.sizes import Recipe

Trained = Callable[[Settings], LearnerConfig]
"""From the settings of a family of sources to the configuration of a learner without meta-training."""


@dataclass(frozen=True)
class Preset:
    """What a name stands for: a form that is meta-trained, one that is not, or both."""

    about: str
    """The learner in a few words."""
    meta: Mapping[str, Recipe] = field(default_factory=dict)
    """Recipes of the form that `train.py` meta-trains, by size; the first is the default."""
    trained: Mapping[str, Trained] = field(default_factory=dict)
    """Recipes of the form that starts from nothing, which `evaluate.py` follows; the first is the default."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from along episodes; none: it has no learning rate."""
    only: Literal["classification", "regression"] | None = None
    """The kind of task that it is made for; None: both."""

    @property
    def meta_config(self) -> type[LearnerConfig]:
        return type(next(iter(self.meta.values()))(DataConfig("sine"), "").learner)

    @property
    def trained_config(self) -> type[LearnerConfig]:
        return type(next(iter(self.trained.values()))(settings.EPISODES))
