"""Which labels a learner can know: those that occur in what was learnt so far.

Where the tasks of an episode are mixed that is the phases of its stream so far, of each row its own.
"""

import torch
from torch import Tensor

from episodes import Source, Task
from metacl.learners.protocol import AT_ONCE


class KnownLabels:
    """Of a source of classification: the labels after each task, looked up when they are asked for.

    Only labels are looked at, and no more of them once all V are known; tasks that were followed earlier are looked at again.
    """

    def __init__(self, source: Source):
        self.source = source
        self._after: list[Tensor] = []

    def after(self, index: int) -> Tensor:
        """(B, V) bool, on the CPU: the labels in the training parts of the tasks 0, ..., index."""
        while len(self._after) <= index:
            size = (self.source.rows, self.source.spec.symbols)
            before_BV = self._after[-1] if self._after else torch.zeros(size, dtype=torch.bool)
            self._after.append(before_BV if before_BV.all() else _with(before_BV, self.source.task(len(self._after))))
        return self._after[index]


def _with(known_BV: Tensor, task: Task) -> Tensor:
    known_BV = known_BV.clone()
    for start in range(0, len(task.train), AT_ONCE):
        examples = task.train[start : start + AT_ONCE]
        y_BN = examples.y.cpu()
        shown_BN = torch.ones_like(y_BN) if examples.valid is None else examples.valid.cpu().long()
        known_BV |= torch.zeros(known_BV.shape, dtype=torch.long).scatter_add_(1, y_BN, shown_BN) > 0
        if known_BV.all():
            break
    return known_BV


def only(answers_BMV: Tensor, among_BV: Tensor | None) -> Tensor:
    """The logits (B, M, V) of some labels, those of others -inf. None: of all."""
    return answers_BMV if among_BV is None else answers_BMV.masked_fill(~among_BV[:, None].to(answers_BMV.device), -torch.inf)


def right_among_known(answers_BMV: Tensor, y_BM: Tensor, known_BMV: Tensor) -> Tensor:
    """(B, M) whether the known label with the highest logit is the right one, 1 or 0."""
    return (answers_BMV.masked_fill(~known_BMV, -torch.inf).argmax(-1) == y_BM).float()
