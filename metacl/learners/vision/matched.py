"""DualPrompt (Wang et al. 2022, ECCV) and S-Prompt++ (Wang et al. 2023): a prefix for each task, found by its key.

DualPrompt has one more prefix in the blocks before, which all images share and all tasks train; S-Prompt++ has none, and is so
called in HiDe-Prompt's comparison: S-Prompts (Wang et al. 2022, NeurIPS) with DualPrompt's keys in place of k-means centres. In
training a task takes its own prefix, and pulls its key towards the queries; else an image takes the prefix of the nearest key.

As in the code, a task's prefix begins as the one before it ended, and its key anew. Unlike in the code keys and values are not
mixed up between the images of a batch (see `hide.py`), and only tasks that have been met can be taken.
"""

from dataclasses import dataclass

from torch import Tensor

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.identity import Weights
from metacl.learners.vision.prompts import Chosen, Part, PromptLearner, continued, cosines, uniform
from metacl.nets.vit import prefixed


@dataclass(frozen=True)
class MatchedConfig(FittingConfig):
    """A prefix for each task on a frozen vision transformer, of which an image takes the one with the nearest key."""

    length: int = 20
    """Tokens of a task's prefix in a block (L)."""
    blocks: int = 3
    """Blocks that have it, after those with the shared prefix."""
    shared_length: int = 5
    """Tokens of the shared prefix in a block."""
    shared_blocks: int = 2
    """The first blocks, which have the shared prefix; 0: there is none (S-Prompt++)."""
    pull: float = 1.0
    """Weight of the cosine between queries and the task's key, which the loss makes large."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "length", "blocks", "shared_length")
        at_least(0, self, "learner.", "shared_blocks", "pull")

    def build(self, spec: EpisodeSpec) -> "Matched":
        return Matched(self, spec)


class Matched(PromptLearner):
    """See above."""

    def parts(self) -> dict[str, Part]:
        config = self.config
        words = f"learner.shared-blocks {config.shared_blocks} and learner.blocks {config.blocks}"
        self.check_blocks(words, config.shared_blocks + config.blocks)
        own = self.prefix_shape(config.blocks, config.length)
        parts = {
            "prefix": Part(own, 1, each=True, start=continued),
            "key": Part((self.trunk.shape.width,), 1, each=True, start=uniform),
        }
        if config.shared_blocks:
            shared = self.prefix_shape(config.shared_blocks, config.shared_length)
            parts["shared"] = Part(shared, 1, each=False, start=uniform)
        return parts

    def chosen(self, parts: Weights, query_ND: Tensor | None, learning: bool) -> Chosen:
        assert query_ND is not None
        shared = prefixed(parts["shared"]) if "shared" in parts else []
        if learning:
            likeness_N1 = cosines(query_ND, parts["key"][-1:])
            return Chosen(shared + prefixed(parts["prefix"][-1:]), penalty=-self.config.pull * likeness_N1.mean())
        nearest_N = cosines(query_ND, parts["key"]).argmax(1)
        return Chosen(shared + prefixed(parts["prefix"][nearest_N]))
