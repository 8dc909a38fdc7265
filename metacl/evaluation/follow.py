"""`follow`: a learner takes in the tasks of a source one after the other, and is asked questions in between.

One function for all: meta-trained learners and learners that start from nothing, episodes (many short ones at a time) and
streams (long, one for each seed). B rows go side by side: the episodes of a batch, or the seeds.
"""

from collections.abc import Iterator
from typing import Any

from episodes import EpisodeSource, Schedule, Source, UserError
from metacl.evaluation.drift import Drift, Kept
from metacl.evaluation.encoded import encoded_once
from metacl.evaluation.padding import check_padding
from metacl.evaluation.questions import Questions, Record
from metacl.evaluation.step import Step
from metacl.learners.protocol import Learner, State


def follow(
    learner: Learner,
    source: Source,
    questions: Questions,
    state: State | None = None,
    first: int = 0,
    tasks: int | None = None,
    schedule: Schedule | None = None,
    must_be_finite: bool = True,
    kept: Kept | None = None,
) -> Iterator[tuple[State, Record]]:
    """The state after each task, and the record of what was asked.

    Arguments:
        learner: is put into eval mode.
        source: of B rows; its examples go to the learner's device.
        state: to go on from, which is handed over; None: `init_state`.
        first, tasks: the tasks first, ..., tasks - 1 are followed; None: all that the source has.
        schedule: how examples arrive; None: one by one.
        must_be_finite: answers that are not are an error; False: they are recorded as they are.
        kept: where drift is asked, of each task before `first` the features of its held-out examples just after it; those of
            the tasks that are followed are put there. None: in memory.

    Raises:
        DivergedError: what a learner predicts is not finite any more.
        UserError: the source has fewer tasks; or drift is asked of a learner that does not change its features.
    """
    check_length(source, tasks)
    last = source.most_tasks if tasks is None else tasks
    if last is None:
        raise UserError(f"{source.name} is endless: say how many tasks are to be followed.")
    learner.eval()
    if isinstance(source, EpisodeSource):
        check_padding(source, questions)
        learner, source = encoded_once(learner, source)
    drift = Drift(learner, {} if kept is None else kept) if questions.drift else None
    step = Step(learner, source, questions, (schedule or Schedule()).block, last, must_be_finite, drift)
    state = learner.init_state(source.rows) if state is None else state
    for index in range(first, last):
        state, record = step(state, index)
        yield state, record


def followed(learner: Learner, source: Source, questions: Questions, **options: Any) -> tuple[State, list[Record]]:
    """`follow` to its end: the last state, and all records. At least one task must be followed."""
    steps = list(follow(learner, source, questions, **options))
    return steps[-1][0], [record for _, record in steps]


def check_length(source: Source, tasks: int | None) -> None:
    """Raises `UserError` where the source has fewer tasks than are asked."""
    if source.most_tasks is not None and tasks is not None and tasks > source.most_tasks:
        raise UserError(
            f"{source.name} runs out of data: it has {source.most_tasks} tasks, not {tasks}. "
            f"Ask for --tasks {source.most_tasks} or fewer."
        )
