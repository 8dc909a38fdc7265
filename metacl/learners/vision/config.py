"""What the configurations of all learners on a vision transformer have: how a task is trained on."""

from dataclasses import dataclass, field

from episodes.errors import above_zero, at_least
from metacl.learners.vision.fitting import Schedule
from metacl.learners.vision.trunk import TrunkConfig


@dataclass(frozen=True)
class FittingConfig:
    """How a task is trained on."""

    rate: float = 0.0025
    """Learning rate (Adam)."""
    epochs: int = 20
    """Over the images of a task."""
    batch_size: int = 128
    """Images in a step."""
    schedule: Schedule = "constant"
    """Of the rate over the epochs: `step` takes a tenth of it after each 30, `cosine` and `quarter` go down to zero."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "epochs", "batch_size")
        at_least(0, self, "learner.", "clip")
        above_zero("learner.rate", self.rate)
