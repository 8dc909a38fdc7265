"""The complete configuration of pre-training a backbone: a frozen dataclass, from which tyro makes the command line."""

from dataclasses import dataclass, field
from typing import Literal

from episodes import DataConfig, UserError
from episodes.data.reading import LARGEST_SIZE
from episodes.errors import at_least, unknown
from metacl.learners.vision.trunk import UNTRAINED
from metacl.nets.vit import VitConfig
from metacl.recipes.config import MOST_TOGETHER, SEEDS, OptimiserConfig

SHAPE = "vit-tiny-32"
"""The shape that is trained unless another is named."""


@dataclass(frozen=True)
class ShapeConfig:
    """The shape of a vision transformer; its feed-forward layers are four times as wide as its tokens."""

    side: int
    """Side in pixels of the images that it takes; other images are scaled to it."""
    patch: int
    """Side in pixels of a patch, which is a token; patches must divide the images."""
    width: int
    """Numbers of a token: as many features come out."""
    depth: int
    """Blocks of attention and feed-forward layers."""
    heads: int
    """Heads of the attention, which must divide the width."""

    def __post_init__(self) -> None:
        at_least(1, self, "shape.", "side", most=LARGEST_SIZE)
        at_least(1, self, "shape.", "patch", "width", "depth", "heads")
        try:
            self.vit()
        except UserError as error:
            raise UserError(
                f"{error} Give others that do: --shape.side, --shape.patch, --shape.width, --shape.heads."
            ) from error

    def vit(self) -> VitConfig:
        return VitConfig(self.side, self.patch, self.width, self.depth, self.heads, 4 * self.width)


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW, whose rate rises from zero and then falls as a cosine to 1 %."""

    rate: float = 1e-3
    """Learning rate after warm-up."""
    warmup: float = 0.05
    """Part of all steps over which the rate rises from zero."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    weight_decay: float = 0.05
    """Decoupled weight decay: each step takes its rate * weight_decay of every weight."""

    def __post_init__(self) -> None:
        at_least(0, self, "optimiser.", "rate", "clip", "weight_decay")
        at_least(0, self, "optimiser.", "warmup", most=1)

    def over(self, steps: int) -> OptimiserConfig:
        """The same in the words of meta-training."""
        warmup = round(self.warmup * steps)
        return OptimiserConfig(self.rate, warmup=warmup, clip=self.clip, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that a pre-trained backbone depends on."""

    data: DataConfig
    shape: ShapeConfig
    optimiser: AdamWConfig = field(default_factory=AdamWConfig)
    epochs: int = 50
    """Times that all images are shown. A checkpoint, and the backbone so far, is written after each."""
    batch_size: int = 128
    """Images in a step."""
    area: float = 0.3
    """A random part of an image is shown, of at least this part of its area. 1: always all of it."""
    flip: bool = True
    """Half of the images are shown mirrored: not for letters."""
    smoothing: float = 0.1
    """Label smoothing: the share of a target that is spread over all classes."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16`: mixed precision. `auto`: bf16 where the device multiplies it fast, else fp32."""
    seed: int = 0
    """The seed of the initial weights, the order of the images and their views."""

    def __post_init__(self) -> None:
        at_least(1, self, "", "epochs")
        at_least(1, self, "", "batch_size", most=MOST_TOGETHER)
        at_least(0, self, "", "seed", most=SEEDS - 1)
        if not 0 <= self.smoothing < 1:
            raise UserError(f"smoothing must be at least 0 and below 1, not {self.smoothing:g}.")
        if not 0 < self.area <= 1:
            raise UserError(f"area is a part of an image, above 0 and at most 1, not {self.area:g}.")


def shape_named(name: str) -> ShapeConfig:
    """Raises `UserError` where no shape has that name."""
    if name not in UNTRAINED:
        wrong = unknown("shape", name, UNTRAINED)
        raise UserError(
            f"{wrong} Make one of your own by --shape.side, --shape.patch, --shape.width, --shape.depth and --shape.heads."
        )
    vit = UNTRAINED[name]
    return ShapeConfig(vit.image_size, vit.patch_size, vit.width, vit.depth, vit.heads)
