"""What augmentation there is, as options."""

from dataclasses import dataclass, field, replace
from typing import Literal

from episodes.errors import UserError, at_least


@dataclass(frozen=True)
class MapConfig:
    """An affine map that is drawn at random, each number evenly between its bounds; none by default."""

    degrees: float = 0.0
    """Rotation: at most so many degrees, to either side."""
    scale: float = 0.0
    """Size: from 1 / (1 + scale) to 1 + scale times, evenly in its logarithm."""
    shear: float = 0.0
    """Slant: at most so many pixels to either side for each pixel down."""
    shift: float = 0.0
    """Shift along each axis: at most this part of the side, to either side."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` where a number is too small or too large."""
        at_least(0, self, prefix, "degrees", most=180)
        at_least(0, self, prefix, "scale", "shear", most=10)
        at_least(0, self, prefix, "shift", most=1)

    @property
    def moves(self) -> bool:
        """Whether it moves anything."""
        return self != MapConfig()


@dataclass(frozen=True)
class AugmentConfig:
    """Changes of the images of meta-training episodes, against meta-overfitting: none, but in the small recipes for characters
    (glyphs, omniglot). Meta-validation and meta-test are never changed."""

    rotations: Literal[1, 2, 4] = 1
    """Ways in which each class stands there, each a class of its own: 4, by quarter turns, of square images; 2, upside down."""
    per_class: MapConfig = field(default_factory=MapConfig)
    """A map for each class of an episode: all of its images are changed alike, so that it is another class."""
    per_image: MapConfig = field(default_factory=MapConfig)
    """A map for each image, before that of its class."""
    crop: int = 0
    """Pixels by which each image is shifted at most, along each axis: a random crop of it, its edges drawn out."""
    flip: bool = False
    """Half of the images are mirrored, left for right."""
    brightness: float = 0.0
    """Brightness of each image: from 1 - brightness to 1 + brightness times."""
    contrast: float = 0.0
    """Contrast of each image, about its mean grey: from 1 - contrast to 1 + contrast times."""
    saturation: float = 0.0
    """Saturation of each image, which has three channels: from 1 - saturation to 1 + saturation times."""
    mix: float = 0.0
    """The part of an episode's classes (0 to 1) that are blended, each with another class of the episode."""
    mix_by: Literal["pixels", "halves"] = "pixels"
    """`pixels`: the mean of two images. `halves`: the upper half of one above the lower half of the other."""

    def __post_init__(self) -> None:
        self.per_class.check("augment.per-class.")
        self.per_image.check("augment.per-image.")
        at_least(0, self, "augment.", "crop")
        at_least(0, self, "augment.", "brightness", "contrast", "saturation", "mix", most=1)
        if self.rotations not in (1, 2, 4):
            raise UserError(f"augment.rotations must be 1, 2 or 4, not {self.rotations}.")
        if self.mix_by not in ("pixels", "halves"):
            raise UserError(f"augment.mix-by must be pixels or halves, not {self.mix_by}.")

    @property
    def moves(self) -> bool:
        """Whether pixels come from elsewhere in their image."""
        return self.per_class.moves or self.per_image.moves or self.crop > 0 or self.flip

    @property
    def colours(self) -> bool:
        """Whether pixels get other values where they are."""
        return max(self.brightness, self.contrast, self.saturation) > 0

    @property
    def changes(self) -> bool:
        """Whether there is any augmentation."""
        return replace(self, mix_by="pixels") != AugmentConfig()
