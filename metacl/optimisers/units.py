"""Hidden units that start anew while a network learns: continual backpropagation, ReDo, self-normalised resets.

h are activations of a hidden layer, after the non-linearity, over all examples and tokens of a step. `metacl.optimisers.hidden`
has what the three share, and what a unit that starts anew is.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metacl.optimisers.hidden import Hidden, Units, hidden_of

__all__ = ["ContinualBackprop", "Hidden", "ReDo", "SelfNormalisedResets", "hidden_of"]


class ContinualBackprop(Units):
    """After each step a small share of the mature units, of the least utility, starts anew (Dohare, Sutton, Mahmood 2021;
    Dohare et al. 2024, "Loss of plasticity in deep continual learning").

        utility <- decay * utility + (1 - decay) * mean |h| * mean |outgoing weights|,    divided by 1 - decay^age

    A unit is mature when older than `maturity` steps. Shares of units add up until one is due. What a unit gave on average, its
    running mean of h times its outgoing weights, goes into the bias of the next layer, so that the output stays where h is
    constant. Ours: the mean of |outgoing weights| where the paper has their sum, which in a layer is the same order.

    Arguments:
        replacement_rate: share of the mature units of a layer that is replaced at each step.
    """

    kept = ("utility", "mean", "age")

    def __init__(
        self,
        base: torch.optim.Optimizer,
        hidden: Sequence[Hidden],
        seed: int,
        replacement_rate: float = 1e-4,
        maturity: int = 100,
        decay: float = 0.99,
    ):
        """Raises `ValueError` where a number is out of range, or as `Units`."""
        if not 0 <= replacement_rate <= 1 or maturity < 0 or not 0 <= decay < 1:
            raise ValueError(
                f"replacement_rate must lie in [0, 1], decay in [0, 1) and maturity be 0 or more, not {replacement_rate:g}, "
                f"{decay:g} and {maturity}"
            )
        super().__init__(base, hidden, seed)
        self.replacement_rate, self.maturity, self.decay = replacement_rate, maturity, decay
        self.own |= {f"due.{i}": torch.zeros((), device=layer.w_in.device) for i, layer in enumerate(self.hidden)}

    def measure(self, i: int, h_NW: Tensor) -> Tensor:
        return torch.stack([h_NW.abs().mean(0), h_NW.mean(0)])

    def chosen(self, i: int, means_KW: Tensor) -> Tensor:
        utility, mean, age, due = (self.own[f"{name}.{i}"] for name in (*self.kept, "due"))
        size_W, mean_W = means_KW
        age += 1
        utility.lerp_(size_W * self.hidden[i].w_out.abs().mean(0).to(size_W), 1 - self.decay)
        mean.lerp_(mean_W, 1 - self.decay)
        mature_W = age > self.maturity
        due += self.replacement_rate * mature_W.sum()
        number = min(int(due), int(mature_W.sum()))
        due -= due.floor()
        worth_W = (utility / (1 - self.decay**age)).masked_fill(~mature_W, torch.inf)
        chosen_W = torch.zeros_like(mature_W)
        chosen_W[worth_W.topk(number, largest=False).indices] = True
        return chosen_W

    def start_anew(self, i: int, unit: Tensor) -> None:
        layer = self.hidden[i]
        mean_n = self.own[f"mean.{i}"][unit] / (1 - self.decay ** self.own[f"age.{i}"][unit])
        layer.b_out.add_(layer.w_out[:, unit] @ mean_n.to(layer.w_out))
        super().start_anew(i, unit)


class ReDo(Units):
    """From time to time units that are dormant start anew (Sokar, Agarwal, Castro, Evci 2023, "The Dormant Neuron Phenomenon in
    Deep Reinforcement Learning").

        A unit is dormant where mean |h| <= tau * mean over its layer of mean |h|,

    in the step at which it is looked. The output changes by what the unit gave, at most its |h| times its outgoing weights.

    Arguments:
        tau: the paper has 0.025 and 0.1, for ReLU.
        every: steps from one search to the next.
    """

    def __init__(self, base: torch.optim.Optimizer, hidden: Sequence[Hidden], seed: int, tau: float = 0.025, every: int = 1000):
        """Raises `ValueError` where a number is out of range, or as `Units`."""
        if tau < 0 or every < 1:
            raise ValueError(f"tau must be 0 or more and every 1 or more, not {tau:g} and {every}")
        super().__init__(base, hidden, seed)
        self.tau, self.every = tau, every

    def measure(self, i: int, h_NW: Tensor) -> Tensor:
        return h_NW.abs().mean(0, keepdim=True)

    def chosen(self, i: int, means_KW: Tensor) -> Tensor:
        look = int(self.own["count"]) % self.every == 0
        return (means_KW[0] <= self.tau * means_KW[0].mean()) & look


class SelfNormalisedResets(Units):
    """A unit starts anew when it has been silent for longer than is likely of itself (Farias and Jozefiak 2025,
    "Self-Normalized Resets for Plasticity in Continual Learning").

    In each step a unit fires or not. Its age is the number of steps since it last fired or started anew; where the age reaches
    the unit's threshold, it starts anew. Each threshold is set again and again to a percentile of the unit's own times between
    firings since it was last set, where these are taken as exponential:

        t = -log(1 - percentile) * mean time between firings,    threshold <- t, or twice itself where t is not below it,

    rounded up. So it is in the authors' code for vision transformers, where as here the mean begins with one time of 1 step and
    a start anew ends a time as firing does. Differences: thresholds are set each `every` steps, theirs with a chance of
    1 / every in each step; and a unit fires where more than `share` of its activations, over all examples and tokens, are above
    `above`. With both 0 this is the authors', also for a GELU, which is above 0 where its input is; but with many tokens few
    units are ever silent then.

    Arguments:
        percentile: of the times between firings.
        threshold: the first, in steps.
        every: steps from one update of the thresholds to the next.
        above, share: what firing is.
    """

    kept = ("age",)

    def __init__(
        self,
        base: torch.optim.Optimizer,
        hidden: Sequence[Hidden],
        seed: int,
        percentile: float = 0.99,
        threshold: int = 100,
        every: int = 100,
        above: float = 0.0,
        share: float = 0.0,
    ):
        """Raises `ValueError` where a number is out of range, or as `Units`."""
        if not 0 < percentile < 1 or threshold < 1 or every < 1 or not 0 <= share < 1:
            raise ValueError(
                f"percentile must lie in (0, 1), share in [0, 1), threshold and every be 1 or more, not {percentile:g}, "
                f"{share:g}, {threshold} and {every}"
            )
        super().__init__(base, hidden, seed)
        self.percentile, self.every, self.above, self.share = percentile, every, above, share
        for i, layer in enumerate(self.hidden):
            self.own[f"threshold.{i}"] = torch.full_like(layer.b_in, threshold, dtype=torch.float32)
            self.own |= {f"{name}.{i}": torch.ones_like(layer.b_in, dtype=torch.float32) for name in ("times", "firings")}

    def measure(self, i: int, h_NW: Tensor) -> Tensor:
        return (h_NW > self.above).float().mean(0, keepdim=True)

    def chosen(self, i: int, means_KW: Tensor) -> Tensor:
        age, times, firings, threshold = (self.own[f"{name}.{i}"] for name in ("age", "times", "firings", "threshold"))
        fired_W = means_KW[0] > self.share
        time_W = age + 1
        age.copy_(time_W.masked_fill(fired_W, 0))
        chosen_W = age >= threshold
        ended_W = fired_W | chosen_W
        times += time_W * ended_W
        firings += ended_W
        if int(self.own["count"]) % self.every == 0:
            likely_W = -math.log(1 - self.percentile) * times / firings
            threshold.copy_(torch.where(likely_W < threshold, likely_W, 2 * threshold).ceil())
            times.fill_(1)
            firings.fill_(1)
        return chosen_W
