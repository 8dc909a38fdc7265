"""CODA-Prompt (Smith et al. 2023): prefixes that are weighted sums of components, the weights by the image's likeness to keys.

In each block component k has an attention vector a_k, a key and a prefix. Its weight is the cosine between query * a_k and the
key, and may be negative. A task adds components, and trains them and the head alone; the components of earlier tasks stay. All
of it is learnt from the error of the classes. A penalty keeps components apart: |C C^T - 1|^2, the mean over pairs, of the
prefixes, of the keys and of the attention vectors.

New components begin orthogonal to all earlier ones and to each other (the authors' later code, with which they set the penalty
to 0). Where there are more than numbers in one, they begin as random vectors of length 1, which is ours. So is that components
are given by task, because how many tasks will come is not known: the paper's 100 for 10 tasks are 10 each. Its length 8 is of
keys and values together, 4 of each.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.learners.vision.config import FittingConfig
from metacl.learners.vision.fitting import Schedule
from metacl.learners.vision.identity import Weights
from metacl.learners.vision.prompts import Chosen, Part, PromptLearner
from metacl.nets.vit import prefixed

SMALLEST = 1e-12
"""Of a length that is divided by."""


@dataclass(frozen=True)
class CodaConfig(FittingConfig):
    """Prefixes on a frozen vision transformer, each a sum of components that is weighted for the image."""

    rate: float = 0.001
    """Learning rate of components and head (Adam)."""
    schedule: Schedule = "quarter"
    """Of the rate over the epochs: `step` takes a tenth of it after each 30, `cosine` and `quarter` go down to zero."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    length: int = 4
    """Tokens of a prefix in a block (L)."""
    blocks: int = 5
    """The first blocks, which have prefixes."""
    components: int = 10
    """That each task adds."""
    orthogonality: float = 0.1
    """Weight of the penalty on components that are not orthogonal; the authors' later code has 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "length", "blocks", "components")
        at_least(0, self, "learner.", "orthogonality")

    def build(self, spec: EpisodeSpec) -> "Coda":
        return Coda(self, spec)


class Coda(PromptLearner):
    """See above."""

    def parts(self) -> dict[str, Part]:
        config = self.config
        self.check_blocks(f"learner.blocks {config.blocks}", config.blocks)
        vector = (config.blocks, self.trunk.shape.width)
        shapes = {"prefix": self.prefix_shape(config.blocks, config.length), "key": vector, "attention": vector}
        return {name: Part(shape, config.components, each=True, start=orthogonal) for name, shape in shapes.items()}

    def chosen(self, parts: Weights, query_ND: Tensor | None, learning: bool) -> Chosen:
        assert query_ND is not None
        weight_NPK = component_weights(query_ND, parts["key"], parts["attention"])
        added = prefixed(torch.einsum("npk,kpclhe->npclhe", weight_NPK, parts["prefix"]))
        if not learning or not self.config.orthogonality:
            return Chosen(added)
        return Chosen(added, penalty=self.config.orthogonality * sum(overlap(part) for part in parts.values()))


def component_weights(query_ND: Tensor, key_KPD: Tensor, attention_KPD: Tensor) -> Tensor:
    """(N, P, K) cosines between query * attention and key, without the products (N, K, P, D) of all pairs."""
    dot_NPK = torch.einsum("nd,kpd->npk", query_ND, attention_KPD * key_KPD)
    square_NPK = torch.einsum("nd,kpd->npk", query_ND.square(), attention_KPD.square())
    lengths_NPK = square_NPK.clamp_min(SMALLEST**2).sqrt() * key_KPD.norm(dim=-1).clamp_min(SMALLEST).T
    return dot_NPK / lengths_NPK


def overlap(part: Tensor) -> Tensor:
    """How far entries (K, P, ...) are from orthonormal: the mean over pairs, summed over the P blocks."""
    entries_PKX = part.flatten(2).transpose(0, 1)
    away_PKK = entries_PKX @ entries_PKX.mT - torch.eye(len(part), device=part.device)
    return away_PKK.square().mean((1, 2)).sum()


def orthogonal(there: Tensor, number: int, rng: np.random.Generator) -> Tensor:
    """Entries (number, P, ...) of length 1 in each block, orthogonal to those there and to each other where there is room."""
    K, P, X = there.flatten(2).shape
    drawn_PnX = torch.from_numpy(rng.standard_normal((P, number, X))).to(there.device)
    before_PKX = there.flatten(2).transpose(0, 1).double()
    basis_PX = torch.linalg.qr(torch.cat([before_PKX, drawn_PnX], 1).mT)[0].mT  # of each block, in the order of its vectors
    found = basis_PX[:, K : K + number]
    rest = drawn_PnX[:, found.shape[1] :]
    new_PnX = torch.cat([found, rest / rest.norm(dim=-1, keepdim=True)], 1)
    return new_PnX.transpose(0, 1).reshape(number, *there.shape[1:]).to(there)
