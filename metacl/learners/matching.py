"""The matching start: a sequence learner begins as a matching network (Vinyals 2016, eq. 1) or a prototypical one (Snell 2017).

A paired token has an input half, which the encoder writes, and a label half, which holds the code of a label or of a target. In
the first layer queries and keys read one half, through one rotation; values read the other half, and what was read goes back
there. All that other layers and MLPs add is zero at first. From there on all weights are trained; none is frozen, and none is
added.

Where a query token holds an input, queries and keys read inputs and values labels. The answer reads the label half through the
transpose of the map that wrote it, so that at step 0 it is a vote of the labels seen, each with the weight of its similarity to
the query. Where it holds a label, queries and keys read labels and values inputs: what is read is a mean of the inputs with
that label, and the nearest mean is the answer. So meta-training has a slope from the first step on: no learner has to find out
first that labels belong to what they stand beside.

What the similarity is, the mechanism says: what `softmax`, `linear` and `performer` read is a weighted mean, with a vote of the
query for nothing in it; that of other recurrences is a sum that decays and that a norm brings to one length; delta rules and
`mesa` tell the votes of like examples apart. `gsa`, which keeps means of all that was seen, has no such votes.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from metacl.attention import Attention
from metacl.learners.paired import Target

if TYPE_CHECKING:
    from metacl.learners.blocks import Block
    from metacl.learners.sequence import SequenceLearner

UNANIMOUS = 16.0
"""The logit, at the start, of a symbol that is read back whole, as one vote that stands alone; of the others it is 0."""


@torch.no_grad()
def start_matching(learner: "SequenceLearner") -> None:
    """Gives a learner of paired tokens the weights of a matching network."""
    for i, block in enumerate(cast("list[Block]", learner.blocks)):
        attention, mlp = block.attention, block.mlp
        if i == 0:
            attention.start_matching()
            if learner.likeness is not None:
                exchange_halves(attention, learner.part)
        else:
            attention.start_alike()
            silence(attention.out)
        silence(cast(nn.Linear, mlp[-1]))
    if learner.spec.classification:
        learner.symbols.start_matching(UNANIMOUS)
    else:
        write = cast(Target, learner.target_encoder).linear
        gain = length_kept(cast("Block", learner.blocks[0]).attention, min(write.weight.shape))
        answer_by_transpose(write, learner.answer, gain)


def exchange_halves(attention: Attention, half: int) -> None:
    """Queries and keys read the label half, and what is read of the input half is put back there, as long as inputs are."""
    attention.qkv.weight.copy_(attention.qkv.weight.roll(half, dims=1))
    attention.out.weight.copy_(length_kept(attention, half) * attention.out.weight.roll(half, dims=0))


def length_kept(attention: Attention, features: int) -> float:
    """The gain with which what heads read is as long as a vector of so many features of variance 1, if it was one before.

    A norm makes what a head reads of one length, that of a vector of its width.
    """
    return (features / (attention.heads * attention.head_width)) ** 0.5 if attention.normed else 1.0


@torch.no_grad()
def answer_by_transpose(write: nn.Linear, answer: nn.Linear | None, gain: float = 1.0) -> None:
    """`write` becomes a rotation into the label half, a projection where what it writes is wider; `answer`, where there is one,
    reads it back from there, times `gain`, and nothing else."""
    nn.init.orthogonal_(write.weight)
    nn.init.zeros_(write.bias)
    if answer is not None:
        silence(answer)
        answer.weight[:, -write.out_features :] = gain * write.weight.mT


def silence(layer: nn.Linear) -> None:
    """What it adds is nothing, at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
