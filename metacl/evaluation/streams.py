"""Along a stream: each block is predicted, then learnt; each task is asked about at its end, and again some tasks later.

The learners of all seeds run side by side. Scores are (B,), one for each of them.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from episodes import EpisodeSpec, Examples, Stream, UserError, side_by_side
from episodes import Task as StreamTask
from metacl.learners.protocol import DivergedError, query_score
from metacl.recipes.online_recipes import FollowConfig

CHUNK = 4_000
"""Examples that are fetched, or predicted, at a time."""
COUNTED = 1_000
"""Examples over which multiply-adds are averaged, or the whole blocks in them: some methods do not learn from every block."""
SWEEP = 2**32
"""Added to the seeds of the streams on which a learning rate is chosen."""
Scores = dict[str, Tensor]
"""`loss`, and `accuracy` in classification, each (B,)."""


def score(predictions: Tensor, y: Tensor, spec: EpisodeSpec) -> Scores:
    """Mean loss of predictions (B, M, ...) over M, and the share of right ones."""
    if not spec.classification:
        return {"loss": query_score(predictions, y, spec).mean(1)}
    loss_BM = F.cross_entropy(predictions.float().mT, y, reduction="none")
    return {"loss": loss_BM.mean(1), "accuracy": query_score(predictions, y, spec).mean(1)}


class Follower:
    """A learner on its way along a stream, for all seeds.

    Arguments:
        seeds: of the streams, one a learner.
    """

    def __init__(self, config: FollowConfig, stream: Stream, learner: Any, seeds: tuple[int, ...]):
        self.config, self.stream, self.learner, self.seeds = config, stream, learner, seeds
        self.device = next(iter(learner.parameters()), torch.zeros(0)).device

    def task(self, state: Any, index: int) -> tuple[Any, dict[str, Any]]:
        """Task `index` is learnt and asked about.

        Returns:
            The new state; and the record: `prequential`, `forward`, `backward` and `backward_with_support` by lag, each a
            `Scores`; `diagnostics` where they are due; `seconds` of learning, `seconds_in_all`.

        Raises:
            DivergedError: a learner's predictions or losses are not finite.
        """
        begun = time.perf_counter()
        tasks = self.tasks(index)
        state, found = self.learn(state, tasks)
        record: dict[str, Any] = {"task": index, "seconds": time.perf_counter() - begun, "prequential": found}
        held_out = self.held_out(tasks)
        record["forward"] = self.ask(lambda x: self.learner.predict(state, x), held_out)
        self._check(record, index)
        if (index + 1) % self.config.backward_every == 0:
            record |= self.look_back(state, index)
        if self.config.diagnose_every and (index + 1) % self.config.diagnose_every == 0:
            record["diagnostics"] = self.diagnose(state, held_out)
        return state, record | {"seconds_in_all": time.perf_counter() - begun}

    def learn(self, state: Any, tasks: list[StreamTask]) -> tuple[Any, Scores]:
        """The training part of a task, each block predicted before any of its labels is shown to the learner."""
        block, spec = self.learner.config.block, self.stream.spec
        asked = block if self.config.asked is None else min(self.config.asked, block)
        totals: Scores = {}
        number = 0
        for examples in self.chunks(tasks, block):
            state, predictions = self.learner.learn_predict(state, examples, asked)
            first = torch.arange(len(examples), device=self.device) % block < asked
            found = score(predictions, examples.y[:, first], spec)
            totals = {name: totals.get(name, 0) + value * predictions.shape[1] for name, value in found.items()}
            number += predictions.shape[1]
        state = self.learner.task_ends(state) if self.learner.needs_tasks else state
        return state, {name: value / number for name, value in totals.items()}

    def look_back(self, state: Any, index: int) -> dict[str, dict[str, Scores]]:
        """The scores on earlier tasks: of the state as it is, and given labelled examples of that task as its support."""
        found: dict[str, dict[str, Scores]] = {"backward": {}, "backward_with_support": {}}
        for lag in (lag for lag in self.config.lags if lag <= index):
            tasks = self.tasks(index - lag)
            held_out = self.held_out(tasks)
            found["backward"][str(lag)] = self.ask(lambda x: self.learner.predict(state, x), held_out)
            if self.learner.support:
                size = min(self.learner.support, *(len(task.train) for task in tasks))
                support = side_by_side([task.train[len(task.train) - size :] for task in tasks]).to(self.device)
                answers = self.ask(lambda x, s=support: self.learner.predict_with(state, s, x), held_out)  # type: ignore[misc]
                found["backward_with_support"][str(lag)] = answers
        return {name: scores for name, scores in found.items() if scores}

    def diagnose(self, state: Any, held_out: Examples) -> dict[str, Tensor]:
        from metacl.evaluation.plasticity import diagnose

        return diagnose(self.learner, state, held_out[:1_000])

    @torch.no_grad()
    def ask(self, predict: Callable[[Tensor], Tensor], examples: Examples) -> Scores:
        parts = [predict(examples.x[:, i : i + CHUNK]) for i in range(0, len(examples), CHUNK)]
        return score(torch.cat(parts, 1), examples.y, self.stream.spec)

    def compute(self, state: Any) -> dict[str, float]:
        """Multiply-adds of learning an example, and of predicting one, counted from the products done; and examples, so far,
        of whose loss a gradient was taken for each one learnt.

        By the first learner alone: of convolutions side by side torch counts the gradients once too often for each.
        """
        block = self.learner.config.block
        examples = next(self.chunks(self.tasks(0)[:1], block))[: max(1, COUNTED // block) * block]
        state = pytree.tree_map(lambda tensor: tensor[:1].clone(), state)
        used, seen = int(state.used), int(state.seen)
        with torch.no_grad(), FlopCounterMode(display=False) as predicting:
            self.learner.predict(state, examples.x[:, :1])
        with FlopCounterMode(display=False) as learning:
            self.learner.learn_predict(state, examples, 0)
        return {
            "multiply_adds_to_learn": learning.get_total_flops() / 2 / len(examples),
            "multiply_adds_to_predict": predicting.get_total_flops() / 2,
            "gradient_examples": used / max(1, seen),
        }

    def tasks(self, index: int) -> list[StreamTask]:
        return [self.stream.task(seed, index) for seed in self.seeds]

    def held_out(self, tasks: list[StreamTask]) -> Examples:
        """As many of each seed; where classes are of unequal size, tasks are too."""
        number = min(len(task.held_out) for task in tasks)
        number = number if self.config.held_out is None else min(number, self.config.held_out)
        return side_by_side([task.held_out[:number] for task in tasks]).to(self.device)

    def chunks(self, tasks: list[StreamTask], block: int) -> Iterator[Examples]:
        """The training parts side by side, whole blocks at a time."""
        size = block * max(1, CHUNK // block)
        number = min(len(task.train) for task in tasks)
        for start in range(0, number, size):
            yield side_by_side([task.train[start : min(start + size, number)] for task in tasks]).to(self.device)

    def _check(self, record: dict[str, Any], index: int) -> None:
        bad = ~(record["prequential"]["loss"].isfinite() & record["forward"]["loss"].isfinite())
        if bad.any():
            seeds = ", ".join(str(seed) for seed, wrong in zip(self.seeds, bad.tolist(), strict=True) if wrong)
            rate = getattr(self.learner.config, "rate", None)
            raise DivergedError(
                f"Learning diverged in task {index} of the stream (seed {seeds}): its loss is not finite"
                f"{'' if rate is None else f' at the learning rate {rate:g}'}. Give a lower --learner.rate."
            )


def check_length(config: FollowConfig, stream: Stream) -> None:
    """Raises `UserError` where the stream has fewer tasks than are asked."""
    if stream.most_tasks is not None and config.tasks > stream.most_tasks:
        raise UserError(
            f"{stream.name} runs out of data: it has {stream.most_tasks} tasks, not {config.tasks}. "
            f"Ask for --tasks {stream.most_tasks} or fewer."
        )


def sweep(
    config: FollowConfig, stream: Stream, device: torch.device | str, done: Callable[[], None]
) -> dict[float, float | None]:
    """The mean prequential loss of each learning rate on a stream of its own, all of them side by side; None: it diverged.

    Every rate has the same stream and the same initial weights. `done` is called after each task.

    Raises:
        UserError: nothing was learnt in so few tasks.
    """
    rates = sorted(set(config.rates))
    learner = replace(config.learner, rate=rates[0]).build(stream.spec).to(device)
    tasks = min(config.sweep_tasks, stream.most_tasks or config.sweep_tasks)
    follower = Follower(config, stream, learner, (config.seeds[0] + SWEEP,) * len(rates))
    state = learner.start([config.seeds[0] + SWEEP] * len(rates), rates)
    losses = []
    for index in range(tasks):
        try:
            state, found = follower.learn(state, follower.tasks(index))
        except DivergedError:
            return dict.fromkeys(rates)
        losses.append(found["loss"])
        done()
    if learner.trains and not bool(state.used.any()):
        raise UserError(
            f"No update was made in {tasks} tasks, so all rates are alike. Raise --sweep-tasks, or leave --rates out."
        )
    mean_B = torch.stack(losses[tasks // 2 :]).mean(0).tolist()
    return {rate: loss if abs(loss) < float("inf") else None for rate, loss in zip(rates, mean_B, strict=True)}
