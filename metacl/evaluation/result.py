"""The one schema of results: what a learner did on one source, from the records of `follow`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from episodes import EpisodeShape
from metacl.evaluation.curves import Curve, ends, number, numbers, smoothed
from metacl.evaluation.incremental import incremental_json
from metacl.evaluation.layers import Layers, layers_json
from metacl.evaluation.metrics import Estimate, estimates, matrix_json, measured, summary
from metacl.evaluation.questions import Record
from metacl.evaluation.resampling import by_class


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
    """From the matrix, as defined in `metrics`: mean, half of the 95 % confidence interval (over classes where there are
    `classes`, else over rows), and standard deviation between rows."""
    classes: dict[str, dict[str, str]] | None = None
    """For each measure `sums` over the tasks of each class, and how many `tasks` these are, by the number of the class in its
    meta-split, as `ClassSums` writes them: what intervals over classes are made from. None where tasks are no classes, or they
    are not known."""
    matrix: list[list[float | None]] | None = None
    """The score on task i (column) after task t (row), mean over rows; None where it was not asked."""
    incremental: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Along a stream of classification, where the matrix was asked after every task: FA, CA, FM, AAT, BWT, last and average, as
    defined in `evaluation.incremental`, in the same form as `measures`."""
    among: Literal["seen", "all"] | None = None
    """Labels from which answers were taken: those seen so far, or all. None: it was not noted; all."""
    drift: dict[str, list[list[float | None]]] = field(default_factory=dict)
    """Along a stream, where it was asked: how far the features of task i (column) have moved from just after it to after task t
    (row), mean over rows: `distance`, and `relative` to their length. None where i is not before t."""
    positions: dict[str, list[dict[str, float | None]]] = field(default_factory=dict)
    """From the matrix, for each task: the score just after it, and after the last; in the same form."""
    chance: list[float | None] | None = None
    """In classification, after each task: what guessing among the labels so far gets right, mean over rows; None: not known."""
    block: int = 1
    """Tasks whose mean is a point of the curves, and the first and last of them."""
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name: tasks, mean and std over rows, and of `first` and `last` block mean and std."""
    modules: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """What was measured of modules, layer by layer, as `evaluation.modules` defines it; by measure and module `tasks`, and for
    each of these `mean` and `std` over rows, a number for each layer."""
    state_bytes: int | None = None
    """Bytes of one row's state at the end."""
    rates: dict[str, Any] | None = None
    """How the learning rate was chosen, where it was."""
    compute: dict[str, float] = field(default_factory=dict)
    """Multiply-adds to learn and to predict an example."""
    seconds_a_task: float | None = None
    """Median time to learn a task, of all rows together."""

    def __post_init__(self) -> None:
        """Measures of an earlier file are made those of today."""
        object.__setattr__(self, "measures", as_defined(self.measures))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def as_defined(measures: Mapping[str, dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """The measures of a file as `metrics` defines them. Earlier files had forgetting since the best time, and
    `backward_transfer`, which is forgetting since the time just after the task, with the other sign."""
    found = {name: value for name, value in measures.items() if name != "backward_transfer"}
    if backward := measures.get("backward_transfer"):
        mean = backward["mean"]
        found["forgetting"] = backward | {"mean": None if mean is None else -mean}
    return found


def matrix_measures(
    scores_RTT: Tensor, higher_is_better: bool, known_RTT: Tensor | None = None, class_RT: Tensor | None = None
) -> dict[str, Any]:
    """The fields of a result that come from a matrix of scores for each row: none where nothing was asked (NaN), and the end
    alone where nothing else was. Arguments as of `summary`."""
    T = scores_RTT.shape[1]
    if bool(scores_RTT[:, -1].isnan().all()):
        return {}
    whole = T == 1 or not bool(scores_RTT[:, 0].isnan().all())
    found = measured(scores_RTT, higher_is_better, known_RTT)
    means = summary(scores_RTT, higher_is_better, known_RTT, class_RT)
    names = list(found) if whole else ["final"]
    fields: dict[str, Any] = {"measures": {name: means[name].to_json() for name in names}, "matrix": matrix_json(scores_RTT)}
    if class_RT is not None:
        fields["classes"] = {name: by_class(found[name], class_RT[:, : found[name].shape[1]]).to_json() for name in names}
    if whole:
        ends = {"just after": found["learned"], "at the end": found["final"]}
        fields["positions"] = {name: _by_place(values_RT, class_RT) for name, values_RT in ends.items()}
    return fields


def _by_place(values_RT: Tensor, class_RT: Tensor | None) -> list[dict[str, float | None]]:
    classes = None if class_RT is None else list(class_RT.split(1, 1))
    return [own.to_json() for own in estimates(list(values_RT.split(1, 1)), classes)]


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
    layers: Layers = field(default_factory=dict)
    """What was measured of modules and layers."""
    known_ETT: Tensor | None = None
    """The accuracy among the labels known when each task was learnt; None: it was not asked."""
    class_ET: Tensor | None = None
    """The number of each task's class in its meta-split; None: tasks are no classes."""
    chance: list[float | None] | None = None
    """After each task what guessing among the labels so far gets right; None in regression."""

    @property
    def measures(self) -> dict[str, Estimate]:
        """By name, as defined in `metrics`. Intervals are over classes, or, where tasks are no classes, over episodes."""
        return summary(self.scores_ETT, self.classification, self.known_ETT, self.class_ET)

    def result(self, learner: str, **about: Any) -> Result:
        """As a result; `about` are fields that it cannot know."""
        number, schedule = len(self.scores_ETT), self.shape.schedule.words()
        return Result(
            learner,
            f"{self.address} ({schedule})" if schedule else self.address,
            self.shape.tasks,
            "episodes",
            number,
            "accuracy" if self.classification else "mse",
            shots=self.shape.shots,
            episodes={"address": self.address, "first": 0, "number": number, **self.shape.to_json()},
            state_bytes=self.state_bytes,
            chance=self.chance,
            **matrix_measures(self.scores_ETT, self.classification, self.known_ETT, self.class_ET),
            **curve_fields(self.curves, 1),
            modules=layers_json(self.layers),
            **about,
        )


def whole_matrix(records: Sequence[Record | dict[str, Any]], score: str, rows: int) -> Tensor:
    """(R, T, T) from the records' (R, t + 1), NaN where a task is not learnt yet, or nothing was asked after it."""
    T = len(records)
    scores_RTT = torch.full((rows, T, T), torch.nan)
    for t, record in enumerate(records):
        if "matrix" in record:
            scores_RTT[:, t, : t + 1] = torch.as_tensor(record["matrix"][score]).cpu()
    return scores_RTT


def known_matrix(records: Sequence[Record | dict[str, Any]], rows: int) -> Tensor | None:
    """`whole_matrix` among the labels known when each task was learnt; None where it was not asked after every task."""
    if all("accuracy_known" in record.get("matrix", {}) for record in records):
        return whole_matrix(records, "accuracy_known", rows)
    return None


def incremental_fields(records: Sequence[Record | dict[str, Any]], scores_RTT: Tensor) -> dict[str, dict[str, float | None]]:
    """`incremental` of a result; nothing where the matrix was not asked after every task, or by an earlier version."""
    if not all("together" in record for record in records):
        return {}
    rows = [torch.as_tensor(record["together"]["accuracy"]).cpu() for record in records]
    return incremental_json(scores_RTT, torch.stack(rows, 1))


def drift_fields(records: Sequence[Record | dict[str, Any]]) -> dict[str, Any]:
    """`drift` of a result; nothing where it was not asked."""
    found: dict[str, list[list[float | None]]] = {}
    for t, record in enumerate(records):
        for name, rows in record.get("drift", {}).items():
            matrix = found.setdefault(name, [[None] * len(records) for _ in records])
            matrix[t][:t] = [number(value) for value in numbers(rows).mean(0)]
    return {"drift": found} if found else {}


def chances(records: Sequence[Record | dict[str, Any]]) -> list[float | None] | None:
    """After each task what guessing among the labels so far gets right, mean over rows; None where no record knows them."""
    known = [torch.as_tensor(record["classes"]).double() if "classes" in record else None for record in records]
    found = [None if classes_B is None else float((1 / classes_B).mean()) for classes_B in known]
    return found if any(chance is not None for chance in found) else None
