"""L2P, learning to prompt (Wang et al. 2022, CVPR): tokens from a pool that all tasks share, by the image's likeness to keys.

An image takes the prompts whose keys are nearest to its query, as tokens beside its patches without a position; the loss pulls
the keys that are taken towards the queries. All prompts and keys are trained in all tasks.

The head sees the mean of the prompts' last tokens, as in the authors' JAX code and its PyTorch port. Sizes and rates are from
the code of HiDe-Prompt and NoRGa, in which it sees the class token (`reads token`). One thing is unlike all of them: here each
image takes its own prompts, as the paper has it. There a whole batch, in tests too, takes those that most of its images would
take, so that an answer depends on which other images are asked about.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from episodes import EpisodeSpec, UserError
from episodes.errors import at_least
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.identity import Weights
from metacl.learners.vision.prompts import Chosen, Part, PromptLearner, cosines, uniform


@dataclass(frozen=True)
class L2PConfig(FittingConfig):
    """A pool of prompts on a frozen vision transformer, of which each image takes the nearest."""

    epochs: int = 10
    """Over the images of a task."""
    length: int = 5
    """Tokens of a prompt (L)."""
    size: int = 30
    """Prompts in the pool."""
    top: int = 5
    """Prompts that an image takes."""
    pull: float = 0.1
    """Weight of the cosines between queries and the keys that are taken, which the loss makes large."""
    reads: Literal["prompts", "token"] = "prompts"
    """What the head sees: the mean of the prompts' last tokens, or the class token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "length", "size", "top")
        at_least(0, self, "learner.", "pull")
        if self.top > self.size:
            raise UserError(
                f"learner.top {self.top} prompts cannot be taken of a pool of {self.size}. Give a larger --learner.size."
            )

    def build(self, spec: EpisodeSpec) -> "L2P":
        return L2P(self, spec)


class L2P(PromptLearner):
    """See above."""

    def parts(self) -> dict[str, Part]:
        config, D = self.config, self.trunk.shape.width
        return {
            "prompt": Part((config.length, D), config.size, each=False, start=uniform),
            "key": Part((D,), config.size, each=False, start=uniform),
        }

    def chosen(self, parts: Weights, query_ND: Tensor | None, learning: bool) -> Chosen:
        assert query_ND is not None
        likeness_NT, taken_NT = cosines(query_ND, parts["key"]).topk(self.config.top, 1)
        prompts_NLD = parts["prompt"][taken_NT].flatten(1, 2)
        return Chosen(prompts_NLD=prompts_NLD, penalty=-self.config.pull * likeness_NT.sum(1).mean())

    def read(self, tokens_NTD: Tensor) -> Tensor:
        if self.config.reads == "token":
            return tokens_NTD[:, 0]
        return tokens_NTD[:, 1 : 1 + self.config.top * self.config.length].mean(1)
