"""One choice of a learning rate for whatever has one: on meta-validation episodes, or along a stream of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from episodes import EpisodeGenerator, Examples, Part, Schedule, SeededStream, Stream, Task, UserError
from metacl.evaluation.episodes import evaluate, validate
from metacl.evaluation.follow import follow
from metacl.evaluation.questions import END, Questions, Record
from metacl.learners.protocol import DivergedError, Learner

SWEEP = 2**32
"""Added to the seed of the stream on which a learning rate is chosen."""
KEPT_APART = 6
"""Of so many training examples one is kept apart, where rates of what is learnt in whole tasks are judged."""
Measured = dict[float, float | None]
"""What each rate was found to be worth; None where learning diverged."""
Build = Callable[[float], Learner]
"""Builds the learner with a learning rate, the same initial weights each time."""


@dataclass(frozen=True)
class RateChoice:
    """How a learning rate was chosen."""

    rate: float
    measure: str
    """What the rates were compared by."""
    scores: dict[str, float | None]
    """By rate; None where learning diverged. Empty where there was nothing to choose."""


def choose(found: Measured, measure: str) -> RateChoice:
    """The best of the rates: of highest accuracy, or of least loss.

    Raises:
        DivergedError: learning diverged at all of them.
    """
    finite = {rate: score for rate, score in found.items() if score is not None}
    if not finite:
        listed = ", ".join(f"{rate:g}" for rate in sorted(found))
        raise DivergedError(f"Learning diverged at every one of the rates {listed}. Give lower --rates.")
    best = (max if measure == "accuracy" else min)(finite, key=lambda rate: finite[rate])
    return RateChoice(best, measure, {f"{rate:g}": score for rate, score in found.items()})


def in_words(choice: RateChoice) -> str:
    told = ", ".join(f"{rate}: {'diverged' if score is None else f'{score:.4f}'}" for rate, score in choice.scores.items())
    return f"{choice.rate:g}, the best of {', '.join(choice.scores)} ({choice.measure} {told})"


def on_episodes(
    build: Build,
    rates: Sequence[float],
    generator: EpisodeGenerator,
    episodes: int,
    batch_size: int,
    accelerator: Accelerator,
    done: Callable[[], None] = lambda: None,
) -> RateChoice:
    """By the score at the end of episodes, one rate after the other. `done` is called after each."""
    found: Measured = {}
    measure = "accuracy" if generator.family.spec.classification else "mse"
    for rate in sorted(set(rates)):
        try:
            learner = build(rate).to(accelerator.device)
            if learner.whole_tasks:  # the end of a stream is the same as if it were one task, at a fraction of the cost
                score = validate(learner, generator, episodes, batch_size, accelerator)[measure]
            else:
                evaluation = evaluate(learner, generator, episodes, batch_size, accelerator.device, questions=END)
                score = evaluation.measures["final"].mean
            found[rate] = score if abs(score) < float("inf") else None
        except DivergedError:
            found[rate] = None
        done()
    return choose(found, measure)


def along_stream(
    learner: Learner,
    rates: Sequence[float],
    stream: Stream,
    seed: int,
    tasks: int,
    questions: Questions,
    schedule: Schedule,
    done: Callable[[], None] = lambda: None,
) -> RateChoice:
    """By the mean prequential loss over the second half of the first tasks of another stream, all rates side by side.

    Of what is learnt in whole tasks nothing is known before: these learners are asked after each task, about training examples
    that are kept apart from it, or where the matrix is asked about those of all tasks so far.
    Every rate has the same stream and the same initial weights. `done` is called after each task.

    Raises:
        UserError: nothing was learnt in so few tasks.
    """
    rates = sorted(set(rates))
    whole = learner.whole_tasks and learner.spec.classification
    if whole:
        asked = replace(END, forward=not questions.matrix, matrix=questions.matrix, at_end=False, among=questions.among)
    else:
        asked = Questions(forward=False, asked=questions.asked or None, lags=(), among=questions.among)
    tasks = min(tasks, stream.most_tasks or tasks)

    def losses(rates: Sequence[float]) -> list[float | None]:
        try:
            found, seeds = list[Tensor](), [seed + SWEEP] * len(rates)
            state = learner.start(seeds, rates)
            source = Apart(SeededStream(stream, seeds)) if whole else SeededStream(stream, seeds)
            for new, record in follow(learner, source, asked, state, 0, tasks, schedule, must_be_finite=False):
                state = new
                found.append(_score(record))
                done()
        except DivergedError:  # of all rows, or of one, where a learner does not tell them apart
            return [None] if len(rates) == 1 else [loss for rate in rates for loss in losses([rate])]
        if learner.trains and hasattr(state, "used") and not bool(state.used.any()):
            raise UserError(
                f"No update was made in {tasks} tasks, so all rates are alike. Raise --sweep-tasks, or leave --rates out."
            )
        mean_B = torch.stack(found[tasks // 2 :]).mean(0).tolist()
        return [loss if abs(loss) < float("inf") else None for loss in mean_B]

    return choose(dict(zip(rates, losses(rates), strict=True)), "accuracy" if whole else "prequential loss")


def _score(record: Record) -> Tensor:
    """(B,) by which a rate is judged after one task. What answers with numbers that are not finite is right by chance: NaN."""
    found = record.get("together") or record.get("forward")
    if found is None:
        return record["prequential"]["loss"]
    return found["accuracy"].where(found["loss"].isfinite(), torch.nan)


class Apart:
    """A source that holds out a sixth of what another one learns from; of what that one holds out nothing is seen."""

    def __init__(self, source: SeededStream):
        self.source, self.name, self.spec = source, source.name, source.spec
        self.most_tasks, self.rows, self.seeds = source.most_tasks, source.rows, source.seeds

    def task(self, index: int) -> Task:
        """The first examples of the task to learn from, and its last ones. Raises `UserError` where it has one alone."""
        train = self.source.task(index).train
        if len(train) < 2:
            raise UserError(
                f"Task {index} of {self.name} has one example: none can be kept apart to judge rates by. Leave --rates out."
            )
        first = len(train) - max(1, len(train) // KEPT_APART)
        return Task(_part(train, 0, first), _part(train, first, len(train)))


def _part(half: Part | Examples, start: int, end: int) -> Part:
    return Part(end - start, lambda where: half[start + where.start : start + where.stop : where.step])
