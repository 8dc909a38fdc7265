"""One task of a learner that is followed: it is learnt, and the learner is asked questions around it."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from episodes import EpisodeSpec, Examples, Part, Source, Task
from metacl.evaluation.drift import Drift
from metacl.evaluation.known import KnownLabels, only, right_among_known
from metacl.evaluation.modules import diagnose_modules
from metacl.evaluation.padding import latest, rows_alone
from metacl.evaluation.plasticity import diagnose
from metacl.evaluation.questions import Questions, Record, Scores
from metacl.learners.losses import example_losses, query_score
from metacl.learners.protocol import AT_ONCE, DivergedError, Learner, State

DIAGNOSED = 1_000
"""Held-out examples on which plasticity is measured."""
Halves = Part | Examples


class Step:
    """What happens around one task."""

    def __init__(
        self,
        learner: Learner,
        source: Source,
        questions: Questions,
        block: int,
        tasks: int,
        must_be_finite: bool,
        drift: Drift | None,
    ):
        self.learner, self.source, self.questions, self.block, self.tasks = learner, source, questions, block, tasks
        self.device, self.must_be_finite, self.known = device_of(learner), must_be_finite, KnownLabels(source)
        self.drift = drift
        self.among_BV: Tensor | None = None

    def __call__(self, state: State, index: int) -> tuple[State, Record]:
        asked, begun = self.questions, time.perf_counter()
        task = self._task(index)
        if self.source.spec.classification and asked.among == "seen":
            self.among_BV = self.known.after(index)
        state, prequential = self.learn(state, task)
        record: Record = {"task": index, "seconds": time.perf_counter() - begun}
        if self.source.spec.classification:
            record["classes"] = self.known.after(index).sum(1)
        if prequential:
            record["prequential"] = prequential
        if asked.forward:
            record["forward"] = self._ask(state, task)
        matrix = asked.matrix or (asked.at_end and index + 1 == self.tasks)
        if matrix or self.drift is not None:
            self._so_far(record, state, index, matrix)
        if self.must_be_finite:
            self._check(record, index)
        if lags := asked.look_back(index):
            self._look_back(record, state, index, lags)
        if asked.diagnose_every and (index + 1) % asked.diagnose_every == 0:
            self._diagnose(record, state, self._held_out(task))
        record["seconds_in_all"] = time.perf_counter() - begun
        return state, record

    def learn(self, state: State, task: Task) -> tuple[State, Scores]:
        """The training part of a task, and the scores of what was asked before it was learnt; none where nothing was.

        Where some of it is padding, each row is asked alone, without it, and what it has learnt so is left.
        """
        asked = self.questions.asked
        rows = None if asked == 0 else rows_alone(state, task.train)
        if rows is None:
            return self._learn(state, task.train, asked, self.among_BV)
        among = [None if self.among_BV is None else self.among_BV[b : b + 1] for b in range(len(rows))]
        found = [self._learn(*row, asked, own)[1] for row, own in zip(rows, among, strict=True)]
        told = {name: torch.cat([own[name] for own in found]) for name in found[0]}
        return self._learn(state, task.train, 0)[0], told

    def _learn(self, state: State, train: Halves, asked: int | None, among_BV: Tensor | None = None) -> tuple[State, Scores]:
        totals, number, spec = dict[str, Tensor](), 0, self.source.spec

        def told(examples: Examples, predictions: Tensor) -> None:
            nonlocal number
            for name, value in scores(predictions, examples.y, spec, among_BV).items():
                totals[name] = totals.get(name, 0) + value * predictions.shape[1]
            number += predictions.shape[1]

        with torch.no_grad():
            state = self.learner.learn_task(state, train, self.block, asked, told)
            state = self.learner.task_ends(state)
        return state, {name: value / number for name, value in totals.items()}

    def _look_back(self, record: Record, state: State, index: int, lags: tuple[int, ...]) -> None:
        plain, supported = record.setdefault("backward", {}), dict[str, Scores]()
        for lag in lags:
            task = self._task(index - lag)
            plain[str(lag)] = self._ask(state, task)
            if support := latest(task.train, self.learner.support):
                held_out = self._held_out(task)
                answers = _in_parts(partial(self.learner.predict_with, state, support), held_out)
                supported[str(lag)] = scores(answers, held_out.y, self.source.spec, self.among_BV)
        if supported:
            record["backward_with_support"] = supported

    def _diagnose(self, record: Record, state: State, held_out: Examples) -> None:
        record["diagnostics"] = diagnose(self.learner, state, held_out[:DIAGNOSED])
        if modules := diagnose_modules(self.learner, state, held_out):
            record["modules"] = modules

    def _so_far(self, record: Record, state: State, index: int, matrix: bool) -> None:
        """Asks about all tasks so far, once: the scores on each and on their examples together, and how far features moved."""
        held_out = [self._held_out(self._task(i)) for i in range(index + 1)]
        every = Examples.concatenate(held_out)
        if self.drift is None:
            answers = _in_parts(partial(self.learner.predict, state), every)
        else:
            ask = self.learner.predict_and_features if matrix else self._features
            answers, features = _in_parts(partial(ask, state), every)
            if moved := self.drift(features, [len(part) for part in held_out]):
                record["drift"] = moved
        if matrix:
            record["matrix"] = self._each(held_out, answers)
            record["together"] = self._scored([every], answers)[0]

    def _features(self, state: State, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features alone; no answers (B, M, 0)."""
        features = self.learner.features(state, x)
        return features[..., :0], features

    def _each(self, held_out: list[Examples], answers: Tensor) -> Scores:
        """(B, tasks so far): the scores on each."""
        found = self._scored(held_out, answers)
        so_far = {name: torch.stack([own[name] for own in found], dim=1) for name in found[0]}
        if self.questions.matrix and self.source.spec.classification:
            so_far["accuracy_known"] = self._among_known(held_out, answers)
        return so_far

    def _among_known(self, held_out: list[Examples], answers: Tensor) -> Tensor:
        """(B, tasks so far): the accuracy on each task where answers are taken from the labels known when it was learnt."""
        sizes = torch.tensor([len(part) for part in held_out])
        known_BTV = torch.stack([self.known.after(i) for i in range(len(held_out))], 1)
        known_BMV = known_BTV.to(answers.device).repeat_interleave(sizes.to(answers.device), 1)
        right_BM = right_among_known(answers, torch.cat([part.y for part in held_out], 1), known_BMV)
        return torch.stack([part.mean(1) for part in right_BM.split(sizes.tolist(), 1)], 1)

    def _ask(self, state: State, task: Task) -> Scores:
        held_out = self._held_out(task)
        return self._scored([held_out], _in_parts(partial(self.learner.predict, state), held_out))[0]

    def _scored(self, held_out: list[Examples], answers: Tensor) -> list[Scores]:
        parts = answers.split([len(part) for part in held_out], dim=1)
        return [scores(part, own.y, self.source.spec, self.among_BV) for part, own in zip(parts, held_out, strict=True)]

    def _held_out(self, task: Task) -> Examples:
        number, most = len(task.held_out), self.questions.most_held_out
        return task.held_out[0 : number if most is None else min(number, most)]

    def _task(self, index: int) -> Task:
        task = self.source.task(index)
        return Task(_on(task.train, self.device), _on(task.held_out, self.device))

    def _check(self, record: Record, index: int) -> None:
        """Raises `DivergedError` where an answer is not finite."""
        found = (record.get("prequential"), record.get("forward"), record.get("matrix"))
        losses = [part["loss"].view(self.source.rows, -1) for part in found if part]
        good_B = torch.cat(losses, dim=1).isfinite().all(1).tolist() if losses else []
        if all(good_B):
            return
        rows = [name for name, good in zip(getattr(self.source, "seeds", range(len(good_B))), good_B, strict=True) if not good]
        rate = getattr(getattr(self.learner, "config", None), "rate", None)
        raise DivergedError(
            f"Learning diverged in task {index} of {self.source.name} ({'seed' if hasattr(self.source, 'seeds') else 'row'} "
            f"{', '.join(map(str, rows))}): its loss is not finite{'' if rate is None else f' at the learning rate {rate:g}'}. "
            "Give a lower --learner.rate, or --rates."
        )


def scores(predictions: Tensor, y: Tensor, spec: EpisodeSpec, among_BV: Tensor | None = None) -> Scores:
    """Means over the examples of predictions (B, M, ...): the loss, and the share of right ones.

    Arguments:
        among_BV: bool, the labels that an answer may be, which the loss does not know of; None: all.
    """
    found = {"loss": example_losses(predictions, y, spec).mean(1)}
    if spec.classification:
        found["accuracy"] = query_score(only(predictions, among_BV), y, spec).mean(1)
    return found


def device_of(learner: Learner) -> torch.device:
    return next(iter([*learner.parameters(), *learner.buffers()]), torch.zeros(0)).device


def _on(half: Halves, device: torch.device) -> Halves:
    """The examples on a device, when they are looked at."""
    return half.to(device) if isinstance(half, Examples) else Part(len(half), lambda where: half[where].to(device))


def _in_parts(ask: Callable[[Tensor], Any], examples: Examples) -> Any:
    """What is asked of some examples at a time, as of all: (B, M, ...), one tensor or several."""
    with torch.no_grad():
        parts = [ask(examples.x[:, i : i + AT_ONCE]) for i in range(0, len(examples), AT_ONCE)]
    return pytree.tree_map(lambda *own: torch.cat(own, 1), *parts)
