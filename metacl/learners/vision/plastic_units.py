"""Methods by which hidden units of a vision transformer's feed-forward layers start anew."""

from dataclasses import dataclass

from episodes import UserError
from episodes.errors import at_least
from metacl.learners.vision.plastic import Optimiser, PlasticConfig
from metacl.nets.vit import VisionTransformer
from metacl.optimisers.units import ContinualBackprop, ReDo, SelfNormalisedResets, hidden_of


@dataclass(frozen=True)
class ContinualVitConfig(PlasticConfig):
    """Continual backpropagation: a small share of the mature units, of the least utility, starts anew (Dohare et al. 2024)."""

    replacement_rate: float = 1e-4
    """Share of the mature units of a layer that is replaced at each step, on average."""
    maturity: int = 100
    """Steps after which a unit is mature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "replacement_rate", "maturity")
        if self.replacement_rate > 1:
            raise UserError(f"learner.replacement-rate is a share of units, at most 1, not {self.replacement_rate:g}.")

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        return ContinualBackprop(base, hidden_of(network), seed, self.replacement_rate, self.maturity)


@dataclass(frozen=True)
class RedoVitConfig(PlasticConfig):
    """ReDo: from time to time units that are dormant start anew (Sokar et al. 2023)."""

    threshold: float = 0.1
    """Share of the mean |activation| of its layer up to which that of a unit is called dormant."""
    every: int = 100
    """Steps from one search to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "threshold")
        at_least(1, self, "learner.", "every")

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        return ReDo(base, hidden_of(network), seed, self.threshold, self.every)


@dataclass(frozen=True)
class ResetsConfig(PlasticConfig):
    """Self-normalised resets: a unit that is silent for longer than is likely of it starts anew (Farias and Jozefiak 2025)."""

    percentile: float = 0.99
    """Of a unit's own times between firings, at which it starts anew."""
    share: float = 0.0
    """A unit fires in a step where more than this share of its activations, over images and tokens, is above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("percentile", "share"):
            if not 0 <= getattr(self, name) < 1 or not self.percentile:
                raise UserError(f"learner.{name} lies between 0 and 1, not at {getattr(self, name):g}.")

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        return SelfNormalisedResets(base, hidden_of(network), seed, self.percentile, share=self.share)
