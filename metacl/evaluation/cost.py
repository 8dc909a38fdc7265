"""What learning and predicting cost, counted from the products that are done."""

import torch
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from episodes import Source
from metacl.evaluation.step import device_of
from metacl.learners.protocol import Learner, State


def compute(learner: Learner, state: State, source: Source, block: int) -> dict[str, float]:
    """Multiply-adds of learning an example and of predicting one, counted from the products done; and where the state counts
    them, examples of whose loss a gradient was taken for each one learnt.

    It is what learning costs now: that of `offline` grows with the stream. By the first row alone: of convolutions side by
    side torch counts the gradients once too often for each. Of learners whose `counted` is 0 nothing is found.
    """
    if not learner.counted:
        return {}
    block = learner.block or block
    examples = source.task(0).train[0 : max(1, learner.counted // block) * block].row(0).to(device_of(learner))
    state = pytree.tree_map(lambda tensor: tensor[:1].clone(), state)
    used, seen = (getattr(state, name, None) for name in ("used", "seen"))
    with torch.no_grad(), FlopCounterMode(display=False) as predicting:
        learner.predict(state, examples.x[:, :1])
    found = {"multiply_adds_to_predict": predicting.get_total_flops() / 2}
    if used is not None and seen is not None:
        found["gradient_examples"] = int(used) / max(1, int(seen))
    with torch.no_grad(), FlopCounterMode(display=False) as learning:
        learner.learn_task(state, examples, block)
    return {"multiply_adds_to_learn": learning.get_total_flops() / 2 / len(examples)} | found
