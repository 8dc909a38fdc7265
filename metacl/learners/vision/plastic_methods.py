"""How a vision transformer may stay plastic: a configuration for each method, whose optimiser `metacl.optimisers` has."""

from dataclasses import dataclass
from typing import Literal

from episodes import UserError
from episodes.errors import above_zero, at_least
from metacl.learners.vision.plastic import Optimiser, PlasticConfig
from metacl.nets.vit import Added, VisionTransformer, normalised
from metacl.optimisers.arrow import Arrow
from metacl.optimisers.blocks import blocks_of
from metacl.optimisers.normalise_project import NormaliseProject
from metacl.optimisers.pulls import L2, L2Init, ShrinkPerturb
from metacl.optimisers.spectral import Parseval, Spectral
from metacl.optimisers.trac import Trac


@dataclass(frozen=True)
class ArrowConfig(PlasticConfig):
    """ARROW: gradients of the last blocks are reshaped by the covariance of the latest ones (Sun et al. 2026).

    The equations are the paper's. Which blocks, how damping is measured, how long a step is and what happens where a task
    begins are not known of it: the defaults are this project's.
    """

    module: Literal["attn", "attn.qkv", "mlp"] = "attn"
    """What of a block is reshaped, as one vector."""
    number: int = 2
    """In so many of the blocks."""
    place: Literal["last", "first"] = "last"
    """Which ones."""
    window: int = 10
    """Gradients that are kept (W)."""
    beta: float = 1.0
    """Strength of the curvature."""
    damping: float = 1.0
    """Alpha; where `relative`, that many times the mean of the curvature's eigenvalues that are not 0."""
    relative: bool = True
    """Measure damping by the curvature."""
    scale: Literal["alpha", "gradient", "raw"] = "alpha"
    """Of the reshaped gradient: `alpha`, times alpha, so that beta 0 changes nothing; `gradient`, as long as the gradient
    (grafting); `raw`, the literal formula."""
    warm_up: Literal["columns", "plain"] = "columns"
    """Until the window is full: use the gradients that are there, or leave gradients as they are."""
    clear: bool = False
    """Forget the latest gradients where a task begins."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "number", "window")
        at_least(0, self, "learner.", "beta")
        above_zero("learner.damping", self.damping)

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        depth = len(network.blocks)
        if self.number > depth:
            raise UserError(f"learner.number is {self.number}, but the transformer has {depth} blocks.")
        first = depth - self.number if self.place == "last" else 0
        blocks = blocks_of(network, [f"blocks.{i}.{self.module}" for i in range(first, first + self.number)])
        return Arrow(base, blocks, self.window, self.beta, self.damping, self.relative, self.scale, self.warm_up)

    def task_begins(self, optimiser: Optimiser) -> None:
        assert isinstance(optimiser, Arrow)
        if self.clear:
            optimiser.task_begins()


@dataclass(frozen=True)
class TracConfig(PlasticConfig):
    """TRAC: how far weights may be from where they started is learnt (Muppidi et al. 2024)."""

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        return Trac(base)


@dataclass(frozen=True)
class NaPConfig(PlasticConfig):
    """Normalise and project: a LayerNorm before each GELU, weight matrices that keep their norm (Lyle et al. 2024)."""

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        return NormaliseProject(base)

    def added(self, network: VisionTransformer) -> list[Added]:
        return normalised(len(network.blocks))


@dataclass(frozen=True)
class _PulledConfig(PlasticConfig):
    """A penalty on the weights."""

    strength: float = 1e-5
    """Of the penalty (lambda)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "strength")


@dataclass(frozen=True)
class L2Config(_PulledConfig):
    """L2: strength * |weights|^2 is added to the loss."""

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        return L2(base, self.strength)


@dataclass(frozen=True)
class L2InitConfig(_PulledConfig):
    """L2-init: strength * |weights - initial weights|^2 is added to the loss (Kumar et al. 2023)."""

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        return L2Init(base, self.strength)


@dataclass(frozen=True)
class SpectralConfig(_PulledConfig):
    """Spectral regularisation: the largest singular value of each matrix is drawn to 1 (Lewandowski et al. 2024)."""

    strength: float = 1e-3
    """Of the penalty (lambda)."""

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        return Spectral(base, self.strength)


@dataclass(frozen=True)
class ParsevalConfig(_PulledConfig):
    """Parseval regularisation: the rows of each matrix are drawn to orthogonal ones (Chung et al. 2024)."""

    strength: float = 1e-4
    """Of the penalty (lambda)."""

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        return Parseval(base, self.strength)


@dataclass(frozen=True)
class ShrinkPerturbConfig(PlasticConfig):
    """Shrink and perturb: after each step weights lose a share and get noise (Ash and Adams 2020)."""

    shrink: float = 1e-5
    """Share that is taken away at each step."""
    perturb: float = 1e-4
    """Deviation of the noise, in deviations of the initial weights of the matrix."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "shrink", "perturb")
        if self.shrink > 1:
            raise UserError(f"learner.shrink is a share of the weights, at most 1, not {self.shrink:g}.")

    def around(self, base: Optimiser, network: VisionTransformer, seed: int) -> Optimiser:
        return ShrinkPerturb(base, self.shrink, self.perturb, seed)
