"""The one schema of results: what a learner did on one source, from the records of `follow`."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from episodes import EpisodeShape
from metacl.evaluation.curves import Curve, ends, smoothed
from metacl.evaluation.metrics import Estimate, estimate, matrix_json, summary


@dataclass(frozen=True)
class Result:
    """All of it JSON values, so that tables and pictures can be made from the file alone."""

    learner: str
    """What was followed, in words: the name of the learner, and what was changed of its recipe."""
    source: str
    """What it followed: a benchmark's meta-split and seed, or a stream."""
    tasks: int
    rows: Literal["episodes", "seeds"]
    """What lies side by side, and what means and intervals are over."""
    number: int
    """How many rows."""
    score: Literal["accuracy", "mse"]
    seed: int | None = None
    """The seed of the run: of held-out episodes, initial weights; None where the rows are seeds."""
    run_seed: int | None = None
    """The seed of the meta-training, where a run has several."""
    shots: int | None = None
    """Stream examples of each task, of episodes."""
    episodes: dict[str, Any] | None = None
    """Address, first and number of the episodes, and their shape."""
    measures: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """From the matrix: mean, half of the 95 % confidence interval, and standard deviation over rows."""
    matrix: list[list[float | None]] | None = None
    """The score on task i (column) after task t (row), mean over rows; None where it was not asked."""
    positions: dict[str, list[dict[str, float | None]]] = field(default_factory=dict)
    """From the matrix, for each task: the score just after it, and after the last; in the same form."""
    block: int = 1
    """Tasks whose mean is a point of the curves, and the first and last of them."""
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name: tasks, mean and std over rows, and of `first` and `last` block mean and std."""
    state_bytes: int | None = None
    """Bytes of one row's state at the end."""
    rates: dict[str, Any] | None = None
    """How the learning rate was chosen, where it was."""
    compute: dict[str, float] = field(default_factory=dict)
    """Multiply-adds to learn and to predict an example."""
    seconds_a_task: float | None = None
    """Median time to learn a task, of all rows together."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def matrix_measures(scores_RTT: Tensor, higher_is_better: bool) -> dict[str, Any]:
    """The fields of a result that come from a matrix of scores for each row: none where nothing was asked (NaN), and the end
    alone where nothing else was."""
    T = scores_RTT.shape[1]
    if bool(scores_RTT[:, -1].isnan().all()):
        return {}
    if bool(scores_RTT[:, 0].isnan().all()) and T > 1:
        return {"measures": {"final": estimate(scores_RTT[:, -1].mean(1)).to_json()}, "matrix": matrix_json(scores_RTT)}
    places = [(estimate(scores_RTT[:, i, i]), estimate(scores_RTT[:, -1, i])) for i in range(T)]
    positions = {"just after": [just for just, _ in places], "at the end": [end for _, end in places]}
    return {
        "measures": {name: value.to_json() for name, value in summary(scores_RTT, higher_is_better).items()},
        "matrix": matrix_json(scores_RTT),
        "positions": {name: [value.to_json() for value in values] for name, values in positions.items()},
    }


def curve_fields(found: dict[str, Curve], block: int) -> dict[str, Any]:
    """The fields of a result that come from curves."""
    return {"block": block, "curves": {name: smoothed(curve, block) | ends(curve, block) for name, curve in found.items()}}


@dataclass(frozen=True)
class Evaluation:
    """The scores of one learner on held-out episodes of one shape."""

    shape: EpisodeShape
    scores_ETT: Tensor
    """Accuracy or squared error on task i after task t, of each episode; NaN for i > t."""
    classification: bool
    state_bytes: int
    """Bytes of one episode's state at the end of the stream."""
    address: str
    """The benchmark, meta-split and seed that the episodes are from; they are number 0 and following."""
    curves: dict[str, Curve] = field(default_factory=dict)
    """What else was asked."""

    @property
    def measures(self) -> dict[str, Estimate]:
        return summary(self.scores_ETT, higher_is_better=self.classification)

    def result(self, learner: str, **about: Any) -> Result:
        """As a result; `about` are fields that it cannot know."""
        number = len(self.scores_ETT)
        return Result(
            learner,
            self.address,
            self.shape.tasks,
            "episodes",
            number,
            "accuracy" if self.classification else "mse",
            shots=self.shape.shots,
            episodes={"address": self.address, "first": 0, "number": number, **vars(self.shape)},
            state_bytes=self.state_bytes,
            **matrix_measures(self.scores_ETT, self.classification),
            **curve_fields(self.curves, 1),
            **about,
        )


def whole_matrix(matrices: list[Tensor], rows: int) -> Tensor:
    """(R, T, T) from the records' (R, t + 1), NaN where a task is not learnt yet, or nothing was asked after it."""
    T = len(matrices)
    scores_RTT = torch.full((rows, T, T), torch.nan)
    for t, found in enumerate(matrices):
        if found.numel():
            scores_RTT[:, t, : found.shape[1]] = found
    return scores_RTT
