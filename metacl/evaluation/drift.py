"""How far the features of old tasks have moved since just after their task: feature drift (Liu and Chang 2025, figure 1)."""

from collections.abc import MutableMapping, Sequence

import torch
from torch import Tensor

from episodes import UserError
from metacl.learners.protocol import Learner

Kept = MutableMapping[int, Tensor]
"""Of each task, by its index, the features (B, M, D) of its held-out examples just after it."""
SHORTEST = 1e-12
"""Length below which a feature is taken to be so long."""


class Drift:
    """Compares features of the held-out examples of all tasks so far with what they were just after each task.

    Those of a task just after it are kept: they belong to the evaluation, and are no part of the learner's state.

    Raises:
        UserError: the learner does not change its features, or has none.
    """

    def __init__(self, learner: Learner, kept: Kept):
        must_have_features(learner, type(learner).__name__)
        self.kept = kept

    def __call__(self, features_BMD: Tensor, sizes: Sequence[int]) -> dict[str, Tensor]:
        """`drift` of a record, after the last of these tasks; nothing after the first.

        Arguments:
            features_BMD: of the held-out examples of all tasks so far, as they are now.
            sizes: how many of them are of each task.
        """
        now = features_BMD.float().split(list(sizes), 1)
        self.kept[len(now) - 1] = now[-1].cpu()
        if len(now) == 1:
            return {}
        then = [self.kept[i].to(now[0]) for i in range(len(now) - 1)]
        found = [moved(*both) for both in zip(then, now, strict=False)]
        return {name: torch.stack([own[name] for own in found], 1) for name in found[0]}


def must_have_features(learner: Learner, name: str) -> None:
    """Raises `UserError` where the learner, called `name`, does not change its features, or has none."""
    if not learner.has_features:
        raise UserError(f"{name} has no features that learning changes: leave --drift out, or leave {name} out.")


def moved(then_BMD: Tensor, now_BMD: Tensor) -> dict[str, Tensor]:
    """(B,) means over the examples of how far their features have moved, and how far in their own lengths."""
    distance_BM = (now_BMD - then_BMD).norm(dim=-1)
    relative_BM = distance_BM / then_BMD.norm(dim=-1).clamp_min(SHORTEST)
    return {"distance": distance_BM.mean(1), "relative": relative_BM.mean(1)}
