"""Backpropagation that replaces units: continual backpropagation (Dohare, Sutton, Mahmood 2021) and ReDo (Sokar et al. 2023).

A hidden layer has W units. A unit of a convolution is a channel, and each place of an image counts as an example.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from episodes import EpisodeSpec, UserError
from episodes.errors import at_least
from metacl.learners.buffers import append_, empty_buffer, newest
from metacl.learners.trained.backprop import UNITS, Backprop, BackpropConfig, drawn_for
from metacl.learners.trained.online_state import Memory, Work
from metacl.nets.side_by_side import incoming, outgoing, over_examples

DECAY = 0.99
"""How much of a running mean stays at each update."""


@dataclass(frozen=True)
class ContinualConfig(BackpropConfig):
    """Continual backpropagation: after each update a small share of the mature units, of the least utility, starts anew.

    As in the authors' code, what a unit gave on average goes into the biases of the next layer.
    """

    utility: Literal["adaptable", "contribution"] = "adaptable"
    """What a unit is worth. `adaptable`: how far its activations are from their mean, times outgoing over incoming weights
    (2021, and Bekal et al. 2025). `contribution`: its activations times outgoing weights (Dohare et al. in Nature 2024)."""

    replacement_rate: float = 1e-4
    """Share of the mature units in each layer that is replaced at each update, on average."""
    maturity: int = 100
    """Updates after which a new unit is mature, so that it may be replaced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "learner.", "replacement_rate", "maturity")
        _check_relu(self)

    def build(self, spec: EpisodeSpec) -> "Continual":
        return Continual(self, spec)


class Continual(Backprop):
    """Utilities are running means over updates, without the bias of their start at 0:

    adaptable: mean |h - running mean of h| * mean |outgoing weights| / mean |incoming weights|;
    contribution: mean |h| * mean |outgoing weights|. The paper has sums of weights: in a layer the order is the same.
    """

    config: ContinualConfig
    own_counts = True

    def remember(self, flat_BP: Tensor) -> Memory:
        zeros = [flat_BP.new_zeros(len(flat_BP), width) for width in self.network.units]
        units = [{name: zero.clone() for name in ("mean", "utility", "age")} for zero in zeros]
        return super().remember(flat_BP) | {"units": units, "due": flat_BP.new_zeros(len(flat_BP), len(units))}

    def after(self, work: Work, x: Tensor, y: Tensor, answers: Tensor, hidden: list[Tensor]) -> None:
        rngs = _generators(work)
        for i, h in enumerate(hidden):
            units = work.memory["units"][i]
            self._watch(work, i, over_examples(h))
            mature_BW = units["age"] > self.config.maturity
            due_B = work.memory["due"][:, i]
            due_B += self.config.replacement_rate * mature_BW.sum(1)
            number_B = due_B.floor()
            due_B -= number_B
            for b in number_B.nonzero()[:, 0].tolist():
                worst = units["utility"][b].masked_fill(~mature_BW[b], torch.inf) / (1 - DECAY ** units["age"][b])
                number = min(int(number_B[b]), int(mature_BW[b].sum()))
                unit = worst.topk(number, largest=False).indices
                mean = units["mean"][b, unit] / (1 - DECAY ** units["age"][b, unit])
                replace_units(self, work, i, b, unit, rngs(b), mean)
                for kept in units.values():
                    kept[b, unit] = 0

    def _watch(self, work: Work, i: int, h_BNW: Tensor) -> None:
        """Updates the running means of activation and utility, in place."""
        units, weights = work.memory["units"][i], self.named(work.flat)
        units["age"] += 1
        units["mean"].lerp_(h_BNW.mean(1), 1 - DECAY)
        worth_BW = outgoing(weights, i, h_BNW.shape[2]).abs().mean((1, 3))
        if self.config.utility == "contribution":
            worth_BW = worth_BW * h_BNW.abs().mean(1)
        else:
            mean_BW = units["mean"] / (1 - DECAY ** units["age"])
            worth_BW = worth_BW * (h_BNW - mean_BW[:, None]).abs().mean(1) / incoming(weights, i).abs().mean(2)
        units["utility"].lerp_(worth_BW, 1 - DECAY)


@dataclass(frozen=True)
class RedoConfig(BackpropConfig):
    """ReDo: from time to time units that are dormant start anew."""

    every: int = 1000
    """Updates between two searches for dormant units."""
    threshold: float = 0.025
    """Share of the mean |activation| of its layer up to which the mean |activation| of a unit is called dormant."""
    examples: int = 256
    """Newest examples on which activations are looked at in a search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "learner.", "every", "examples")
        at_least(0, self, "learner.", "threshold")
        _check_relu(self)

    def build(self, spec: EpisodeSpec) -> "Redo":
        return Redo(self, spec)


class Redo(Backprop):
    """A unit is dormant where mean |h| <= threshold * mean |h| of its layer (equation 1), on the newest examples, now.

    Those are kept since a block may be one example. All layers are judged before any unit starts anew, the last layer first, so
    that what leaves a new unit is 0.
    """

    config: RedoConfig

    def remember(self, flat_BP: Tensor) -> Memory:
        return super().remember(flat_BP) | {"recent": empty_buffer(self.spec, flat_BP, len(flat_BP), self.config.examples)}

    def after(self, work: Work, x: Tensor, y: Tensor, answers: Tensor, hidden: list[Tensor]) -> None:
        append_(work.memory["recent"], x=x, y=y)
        look_B = work.steps[:, 0] % self.config.every == 0
        if not look_B.any():
            return
        rngs = _generators(work)
        for i, dormant_BW in reversed([*enumerate(self.dormant(work))]):
            for b in (dormant_BW.any(1) & look_B).nonzero()[:, 0].tolist():
                replace_units(self, work, i, b, dormant_BW[b].nonzero()[:, 0], rngs(b))

    def dormant(self, work: Work) -> list[Tensor]:
        """(B, W) bool, of each hidden layer."""
        recent = work.memory["recent"]
        near = newest(recent, min(int(recent["count"].min()), self.config.examples))[0]
        sizes = [over_examples(h).abs().mean(1) for h in self.network(self.named(work.flat), near)[1]]
        return [size_BW <= self.config.threshold * size_BW.mean(1, keepdim=True) for size_BW in sizes]


def replace_units(
    learner: Backprop, work: Work, i: int, b: int, unit: Tensor, rng: np.random.Generator, mean: Tensor | None = None
) -> None:
    """Some units of a hidden layer start anew, in place: incoming weights are drawn, outgoing ones become 0, Adam forgets both.

    Arguments:
        i: the hidden layer.
        b: the learner.
        unit: (n,) int64, the units.
        mean: (n,), the mean activation of each: what the next layer loses with it goes into the biases there.
    """
    weights, width = learner.named(work.flat), learner.network.units[i]
    if mean is not None:
        lost_O = torch.einsum("owr,w->o", outgoing(weights, i, width)[b, :, unit], mean)
        weights[f"layers.{i + 1}.bias"][b] += lost_O
    inputs = incoming(weights, i)[b, unit]
    bound = learner.network.bound(i)
    incoming(weights, i)[b, unit] = torch.from_numpy(rng.uniform(-bound, bound, inputs.shape)).to(inputs)
    weights[f"layers.{i}.bias"][b, unit] = 0
    outgoing(weights, i, width)[b, :, unit] = 0
    for flat in [work.first, work.second] + [work.steps] * learner.own_counts:
        moment = learner.named(flat)
        incoming(moment, i)[b, unit] = 0
        moment[f"layers.{i}.bias"][b, unit] = 0
        outgoing(moment, i, width)[b, :, unit] = 0


def _generators(work: Work) -> Callable[[int], np.random.Generator]:
    """The generator of learner b at this update, made when first asked for. The layers draw from it one after another."""
    made: dict[int, np.random.Generator] = {}
    return lambda b: made.get(b) or made.setdefault(b, drawn_for(work, b, UNITS))


def _check_relu(config: BackpropConfig) -> None:
    """Raises `UserError` where units have two activations."""
    if config.network.activation != "relu":
        raise UserError("Units are replaced in networks with relu only: a unit of crelu has two activations.")
