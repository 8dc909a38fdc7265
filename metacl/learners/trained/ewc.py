"""Elastic weight consolidation online (Kirkpatrick et al. 2017), which is told where tasks end."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.learners.buffers import append_, empty_buffer, newest
from metacl.learners.trained.backprop import Backprop, BackpropConfig
from metacl.learners.trained.online_state import Memory, OnlineState, Work

AT_ONCE = 16
"""Examples whose gradients are found together: each takes as much memory as a network."""


@dataclass(frozen=True)
class EWCConfig(BackpropConfig):
    """A quadratic penalty that holds each weight where the last tasks left it, by how much each of them needs it."""

    stiffness: float = 1e4
    """Strength of the penalty: stiffness / 2 * sum of F (weights - weights then)^2, F the Fisher information (lambda). Bekal et
    al. (2025) have 1e5, and an F from gradients that are averaged over ten examples each, which is about a tenth of this."""
    tasks: int = 5
    """Last tasks whose weights and Fisher information are remembered."""
    fisher_examples: int = 1000
    """Newest examples of a task from which its Fisher information is estimated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "stiffness")
        at_least(1, self, "learner.", "tasks", "fisher_examples")

    def build(self, spec: EpisodeSpec) -> "EWC":
        return EWC(self, spec)


class EWC(Backprop):
    """loss + stiffness / 2 sum_k sum_i F_ki (w_i - w_ki)^2 over the last tasks k.

    F is the diagonal of the empirical Fisher information: the mean over examples of the squared gradient of each one's loss,
    with its true label.
    """

    config: EWCConfig

    def remember(self, flat_BP: Tensor) -> Memory:
        B, P = flat_BP.shape
        anchors = {name: flat_BP.new_zeros(B, self.config.tasks, P) for name in ("fisher", "weights")}
        sums = {name: torch.zeros_like(flat_BP) for name in ("stiff", "pull")}  # sum_k F_k, and sum_k F_k w_k
        recent = empty_buffer(self.spec, flat_BP, B, self.config.fisher_examples)
        return super().remember(flat_BP) | {"anchors": anchors, "sums": sums, "recent": recent}

    def regularised(self, work: Work, gradient_BP: Tensor) -> Tensor:
        sums = work.memory["sums"]
        gradient_BP = gradient_BP + self.config.stiffness * (sums["stiff"] * work.flat - sums["pull"])
        return super().regularised(work, gradient_BP)

    def after(self, work: Work, x: Tensor, y: Tensor, answers: Tensor, hidden: list[Tensor]) -> None:
        append_(work.memory["recent"], x=x, y=y)

    @torch.no_grad()
    def task_ends(self, state: OnlineState) -> OnlineState:
        """The weights and their Fisher information are remembered; those of the oldest task are forgotten."""
        state = super().task_ends(state)
        if not int(state.memory["recent"]["count"].min()):
            return state
        flat_BP = torch.cat([w.flatten(1) for w in state.weights.values()], 1)
        memory = pytree.tree_map(torch.clone, state.memory)
        for name, new_BP in (("fisher", self.fisher(state)), ("weights", flat_BP)):
            memory["anchors"][name] = torch.cat([memory["anchors"][name][:, 1:], new_BP[:, None]], 1)
        fisher_BKP, weights_BKP = memory["anchors"]["fisher"], memory["anchors"]["weights"]
        memory["sums"] = {"stiff": fisher_BKP.sum(1), "pull": (fisher_BKP * weights_BKP).sum(1)}
        memory["recent"]["count"].zero_()
        return state._replace(memory=memory)

    def fisher(self, state: OnlineState) -> Tensor:
        """(B, P): the squared gradient of the loss of one example, averaged over the newest examples."""
        recent = state.memory["recent"]
        kept = min(int(recent["count"].min()), self.config.fisher_examples)
        x, y, _ = newest(recent, kept)
        flat_BP = torch.cat([w.flatten(1) for w in state.weights.values()], 1)
        sum_BP = torch.zeros_like(flat_BP)
        for first in range(0, kept, AT_ONCE):
            part = slice(first, first + AT_ONCE)
            sum_BP += self._squares(flat_BP, x[:, part], y[:, part])
        return sum_BP / kept

    def _squares(self, flat_BP: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(B, P): the sum of the squared gradients of examples (B, n, ...), each of which has a copy of the network."""
        n = x.shape[1]

        def loss(flat_XP: Tensor) -> tuple[Tensor, tuple[()]]:
            answers = self.network(self.named(flat_XP), x.flatten(0, 1)[:, None])[0]
            return self.losses(answers, y.flatten(0, 1)[:, None])[:, 0], ()

        return self.gradient(flat_BP.repeat_interleave(n, 0), loss)[0].square().unflatten(0, (-1, n)).sum(1)
