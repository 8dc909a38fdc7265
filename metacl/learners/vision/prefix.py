"""Prefix tuning (Li and Liang 2021) from task to task: one prefix for all images, and nothing against forgetting.

The plain base of the methods that have several prompts. The paper has it on language models, a prefix in each block, drawn from
a small network in training. Ours are keys and values themselves, in the first blocks, as the methods that are compared have it.
"""

from dataclasses import dataclass

from torch import Tensor

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.identity import Weights
from metacl.learners.vision.prompts import Chosen, Part, PromptLearner, uniform
from metacl.nets.vit import prefixed


@dataclass(frozen=True)
class PrefixConfig(FittingConfig):
    """One prefix that all tasks train, on a frozen vision transformer."""

    length: int = 20
    """Tokens of the prefix in a block (L)."""
    blocks: int = 5
    """The first blocks, which have prefixes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "length", "blocks")

    def build(self, spec: EpisodeSpec) -> "Prefix":
        return Prefix(self, spec)


class Prefix(PromptLearner):
    """See above."""

    queries = False

    def parts(self) -> dict[str, Part]:
        self.check_blocks(f"learner.blocks {self.config.blocks}", self.config.blocks)
        shape = self.prefix_shape(self.config.blocks, self.config.length)
        return {"prefix": Part(shape, 1, each=False, start=uniform)}

    def chosen(self, parts: Weights, query_ND: Tensor | None, learning: bool) -> Chosen:
        return Chosen(prefixed(parts["prefix"]))
