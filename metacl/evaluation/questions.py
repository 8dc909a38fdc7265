"""What a learner is asked while it follows its tasks, and the record of what it answered."""

from dataclasses import dataclass
from typing import Literal, TypedDict

from torch import Tensor

from episodes import UserError
from episodes.errors import at_least

Scores = dict[str, Tensor]
"""`loss` (cross-entropy, or squared error), and `accuracy` in classification, each (B,): a number for each row."""


@dataclass(frozen=True)
class Questions:
    """What is asked after each task, and while it is learnt. Held-out examples are meant where nothing else is said."""

    matrix: bool = False
    """After each task, ask about all tasks so far: the matrix of scores, from which interference and forgetting are told."""
    forward: bool = True
    """After each task, ask about this task."""
    asked: int | None = None
    """Examples at the start of each block that are asked before they are learnt (prequential). 0: none; None: all."""
    lags: tuple[int, ...] = (5,)
    """After each task, ask again about the tasks so many tasks ago (backward): of the state as it is, and of the state with
    labelled examples of that old task at hand. `--lags` without a number asks nothing of the kind."""
    backward_every: int = 1
    """Tasks between two looks back at old tasks."""
    at_end: bool = False
    """After the last task, ask about all of them."""
    among: Literal["seen", "all"] = "seen"
    """Labels that an answer is taken from, where accuracy is told: those `seen` in the tasks so far and the present one, as in
    papers on classes that arrive task after task; or `all` that the learner knows. Losses are of answers as they are."""
    most_held_out: int | None = None
    """Of the held-out examples of each task at most so many are asked. None: all."""
    drift: bool = False
    """After each task, ask how far the features of held-out examples of earlier tasks have moved since just after their task;
    of learners that change their features."""
    diagnose_every: int = 0
    """Tasks between two measurements of plasticity (ranks, units, norms) of learners that train weights; where it is a vision
    transformer that trains, of its modules layer by layer. That costs, for each seed, a forward pass of at most 100 held-out
    images, passes forward and back of as many, and the ranks: together about what training on 200 images does. 0: never."""

    def __post_init__(self) -> None:
        at_least(0, self, "", "asked", "diagnose_every")
        at_least(1, self, "", "most_held_out", "backward_every")
        if any(lag < 1 for lag in self.lags):
            raise UserError(f"--lags counts tasks back from the present one, from 1, not {' '.join(map(str, self.lags))}.")

    def must_ask(self) -> None:
        """Raises `UserError` where nothing at all is asked."""
        if (
            not (self.matrix or self.forward or self.at_end or self.lags or self.drift or self.diagnose_every)
            and self.asked == 0
        ):
            raise UserError("No question is asked: give --matrix, --forward, --at-end, --asked, --lags or --drift.")

    def look_back(self, index: int) -> tuple[int, ...]:
        """The lags that are due after task `index`."""
        return tuple(lag for lag in self.lags if lag <= index) if (index + 1) % self.backward_every == 0 else ()


class Record(TypedDict, total=False):
    """What was asked around one task. What was not asked is not there."""

    task: int
    """Its index, from 0."""
    classes: Tensor
    """In classification, (B,): the labels that occur in the training parts of the tasks so far, this one with them."""
    seconds: float
    """Seconds that learning it took, with what is asked meanwhile; of all rows together."""
    seconds_in_all: float
    """Seconds that learning it and all questions took."""
    prequential: Scores
    """On the examples that were asked before they were learnt."""
    forward: Scores
    """On its held-out examples, at its end."""
    backward: dict[str, Scores]
    """On the held-out examples of earlier tasks, by lag."""
    backward_with_support: dict[str, Scores]
    """On those of earlier tasks, by lag, with labelled examples of that task at hand."""
    matrix: Scores
    """On the held-out examples of all tasks so far, each (B, tasks so far). In classification, where the matrix is asked after
    every task, `accuracy_known` too: each task's accuracy among the labels that were known when it was learnt."""
    together: Scores
    """On the same examples as the matrix, taken together: each (B,), a mean over examples, not over tasks."""
    drift: dict[str, Tensor]
    """How far the features of the held-out examples of each earlier task are from where they were just after that task, each
    (B, earlier tasks): `distance`, the mean of |f_t(x) - f_i(x)|, and `relative`, the mean of that over |f_i(x)|. After the
    first task there is nothing to tell."""
    diagnostics: dict[str, Tensor]
    """Measures of plasticity, each (B,)."""
    modules: dict[str, dict[str, Tensor]]
    """Those of each module of each layer, as `metacl.evaluation.modules` defines them, by measure and module (B, layers); of
    learners with modules alone."""


EPISODES = Questions(matrix=True, forward=False, asked=0, lags=(), among="all")
"""What is asked along episodes unless something else is said: the matrix, among all symbols."""
CLASS_INCREMENTAL = Questions(matrix=True, forward=False, asked=0, lags=())
"""What is asked where classes arrive a few at a time: the matrix, among the classes so far."""
END = Questions(forward=False, asked=0, lags=(), at_end=True, among="all")
"""The end alone."""
EVERYTHING = Questions(matrix=True, lags=(1, 2), at_end=True, diagnose_every=2)
"""All there is, for tests of a learner."""
