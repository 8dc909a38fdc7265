"""Measures of streams whose classes arrive task after task, by the names that its papers use.

a_RTT[r, t, i] is the accuracy on the held-out examples of task i after task t was learnt, of each of R rows (seeds), i <= t;
what lies above the diagonal is not looked at. T is the number of tasks, t and i count from 0. Each measure is (R,), a number
for each row. Means over tasks weigh tasks alike, whatever their size; `last` and `average` weigh examples alike.

What `metrics` calls `final` is FA, averaged over rows; `learned` is AAT, and `forgetting` is BWT with the other sign.
"""

import torch
from torch import Tensor

from metacl.evaluation.metrics import estimate

INCREMENTAL = {
    "FA": "on all tasks, at the end",
    "CA": "on the tasks so far, mean over the times after each task",
    "FM": "lost since the best time",
    "AAT": "just after its task",
    "BWT": "gained since just after its task",
    "last": "on all examples, at the end",
    "average": "on the examples so far, mean over the times after each task",
}
"""A measure -> what it is, in words."""


def final_average(a_RTT: Tensor) -> Tensor:
    """FA = (1/T) sum_i a[T-1, i], final average accuracy (HiDe-Prompt: Wang et al., NeurIPS 2023; NoRGa: Le et al., NeurIPS
    2024); ACC of Lopez-Paz and Ranzato (2017)."""
    return a_RTT[:, -1].mean(1)


def cumulative_average(a_RTT: Tensor) -> Tensor:
    """CA = (1/T) sum_t (1/(t+1)) sum_{i<=t} a[t, i], cumulative average accuracy (Wang et al. 2023; Le et al. 2024)."""
    T = a_RTT.shape[1]
    return (a_RTT.tril().sum(2) / torch.arange(1, T + 1)).mean(1)


def forgetting_measure(a_RTT: Tensor) -> Tensor:
    """FM = (1/(T-1)) sum_{i<T-1} (max_{t>=i} a[t, i] - a[T-1, i]), final forgetting measure (Wang et al. 2023; Le et al. 2024).

    The end is among the times t, so that FM is never negative; Chaudhry et al. (ECCV 2018), who brought it up, leave it out.
    The best of several noisy accuracies is above what it measures: who loses nothing has an FM above 0.
    """
    T = a_RTT.shape[1]
    best_RT = a_RTT.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf).amax(1)
    return (best_RT - a_RTT[:, -1])[:, :-1].mean(1)


def learning_accuracy(a_RTT: Tensor) -> Tensor:
    """AAT = (1/T) sum_t a[t, t], average accuracy across tasks (ARROW), each just after it was learnt: the learning accuracy LA
    of Riemer et al. (ICLR 2019). That ARROW's is of this time is how its words are read here."""
    return a_RTT.diagonal(dim1=1, dim2=2).mean(1)


def backward_transfer(a_RTT: Tensor) -> Tensor:
    """BWT = (1/(T-1)) sum_{i<T-1} (a[T-1, i] - a[i, i]), backward transfer (Lopez-Paz and Ranzato, NeurIPS 2017). Negative
    where tasks are forgotten."""
    return (a_RTT[:, -1] - a_RTT.diagonal(dim1=1, dim2=2))[:, :-1].mean(1)


def last_accuracy(A_RT: Tensor) -> Tensor:
    """A_T, the accuracy on the held-out examples of all tasks together after the last one (ACC_T of LoRA subtraction,
    A_B of SimpleCIL: Zhou et al., 2023)."""
    return A_RT[:, -1]


def average_accuracy(A_RT: Tensor) -> Tensor:
    """(1/T) sum_t A_t, average incremental accuracy (iCaRL: Rebuffi et al., CVPR 2017): A_t is the accuracy on the held-out
    examples of all tasks so far together after task t. Where tasks have equally many it is CA."""
    return A_RT.mean(1)


def incremental(a_RTT: Tensor, A_RT: Tensor) -> dict[str, Tensor]:
    """All measures of each row, by their names; FM and BWT where there are two tasks.

    Arguments:
        a_RTT: the accuracies of tasks, as above, the same labels allowed as answers for all of them.
        A_RT: the accuracy on the examples of the tasks so far together, after each task.
    """
    found = {"FA": final_average(a_RTT), "CA": cumulative_average(a_RTT)}
    if a_RTT.shape[1] > 1:
        found |= {"FM": forgetting_measure(a_RTT), "BWT": backward_transfer(a_RTT)}
    found |= {"AAT": learning_accuracy(a_RTT), "last": last_accuracy(A_RT), "average": average_accuracy(A_RT)}
    return {name: found[name] for name in INCREMENTAL if name in found}


def incremental_json(a_RTT: Tensor, A_RT: Tensor) -> dict[str, dict[str, float | None]]:
    """The same as means over rows, with half of the 95 % confidence interval and the standard deviation between rows."""
    return {name: estimate(values_R).to_json() for name, values_R in incremental(a_RTT, A_RT).items()}
