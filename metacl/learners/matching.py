"""The matching start: a sequence learner begins as a matching network (Vinyals 2016, eq. 1).

A paired token has an input half, which the encoder writes, and a label half, which holds the code of a label or of a target. In
the first layer queries and keys read the input half, through one rotation; values read the label half, and what was read goes
back there. The answer reads the label half through the transpose of the map that wrote it. All that other layers and MLPs add
is zero at first. So at step 0 an answer is a vote of the labels seen, each with the weight of its similarity to the query, and
meta-training has a slope from the first step on: no learner has to find out first that labels belong to what they stand beside.
From there on all weights are trained; none is frozen, none is added.

What the similarity is, the mechanism says: the votes of `softmax`, `linear` and `performer` are weighted means, with a vote of
the query for nothing among them; those of other recurrences are sums that decay and that a norm brings to one length; delta
rules and `mesa` tell the votes of like examples apart. `gsa`, which keeps means of all that was seen, has no such votes.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from metacl.learners.paired import Target

if TYPE_CHECKING:
    from metacl.learners.sequence import Block, SequenceLearner

UNANIMOUS = 16.0
"""The logit, at the start, of a symbol that is read back whole, as one vote that stands alone; of the others it is 0."""


@torch.no_grad()
def start_matching(learner: "SequenceLearner") -> None:
    """Gives a learner of paired tokens the weights of a matching network."""
    for i, block in enumerate(cast("list[Block]", learner.blocks)):
        attention, mlp = block.attention, block.mlp
        if i == 0:
            attention.start_matching()
        else:
            attention.start_alike()
            silence(attention.out)
        silence(cast(nn.Linear, mlp[-1]))
    if learner.spec.classification:
        learner.symbols.start_matching(UNANIMOUS)
    else:
        first, write = cast("Block", learner.blocks[0]).attention, cast(Target, learner.target_encoder).linear
        # A norm makes what is read of one length; it is to be as long as targets of variance 1.
        gain = (min(write.weight.shape) / (first.heads * first.head_width)) ** 0.5 if first.normed else 1.0
        answer_by_transpose(write, learner.answer, gain)


@torch.no_grad()
def answer_by_transpose(write: nn.Linear, answer: nn.Linear, gain: float = 1.0) -> None:
    """`write` becomes a rotation into the label half, a projection where what it writes is wider; `answer` reads it back from
    there, times `gain`, and nothing else."""
    nn.init.orthogonal_(write.weight)
    nn.init.zeros_(write.bias)
    silence(answer)
    answer.weight[:, -write.out_features :] = gain * write.weight.mT


def silence(layer: nn.Linear) -> None:
    """What it adds is nothing, at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
