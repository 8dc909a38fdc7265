"""What a run along a stream depends on, and recipes: the published settings of each online learner for each stream."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import tyro

from episodes import STREAMS, StreamConfig, UserError
from episodes.errors import above_zero, at_least, unknown
from episodes.stream_catalog import BLOCKS
from metacl.learners import LEARNERS
from metacl.learners.similarity.online_query_only import OnlineQueryOnlyConfig
from metacl.learners.similarity.pairwise import ScoreConfig
from metacl.recipes.online_baselines import BASELINES, buffer, of_stream, support

L = TypeVar("L")
"""The configuration of a learner."""


@dataclass(frozen=True)
class FollowConfig(Generic[L]):
    """Everything that a run along a stream depends on."""

    stream: StreamConfig
    learner_name: tyro.conf.Suppress[str]
    """A name of `metacl.learners.ONLINE`."""
    learner: L
    """The configuration of that learner."""
    tasks: int = 100
    """Tasks of the stream."""
    seeds: tuple[int, ...] = (0,)
    """One learner and one stream for each, side by side."""
    rates: tuple[float, ...] = ()
    """Learning rates, of which the best by prequential loss on another stream is taken. Default: the learner's own."""
    sweep_tasks: int = 10
    """Tasks of that other stream; its second half counts."""
    asked: int | None = None
    """Examples of each block that are predicted before they are learnt. None: all."""
    held_out: int | None = None
    """Held-out examples that are asked of each task. None: all."""
    lags: tuple[int, ...] = (5,)
    """Backward: tasks this long ago are asked about again."""
    backward_every: int = 1
    """Tasks between two looks back."""
    diagnose_every: int = 0
    """Tasks between two measurements of plasticity (ranks, units, norms). 0: never."""
    save_every: int = 10
    """Tasks between two checkpoints."""

    def __post_init__(self) -> None:
        at_least(1, self, "", "tasks", "sweep_tasks", "asked", "held_out", "backward_every", "save_every")
        at_least(0, self, "", "diagnose_every")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError(f"--seeds needs one number or more, from 0, each once, not {' '.join(map(str, self.seeds))}.")
        if any(lag < 1 for lag in self.lags):
            raise UserError(f"--lags counts tasks back from the present one, from 1, not {' '.join(map(str, self.lags))}.")
        above_zero("--rates", *self.rates)


def query_only(stream: str) -> OnlineQueryOnlyConfig:
    """The paper's settings; softmax on regression as in its code, none on images as in its equation 6."""
    regression, mnist = ScoreConfig(hidden=20, normalise="softmax"), ScoreConfig(hidden=100, depth=11, label=True)
    return OnlineQueryOnlyConfig(
        block=BLOCKS[stream],
        support=support(stream),
        buffer=buffer(stream),
        queries="one" if stream.endswith("mnist") or stream == "split-tiny-imagenet" else "block",
        score=of_stream(stream, regression, mnist, ScoreConfig(hidden=128, depth=3)),
    )


ONLINE_RECIPES: dict[str, Callable[[str], Any]] = {"query-only": query_only} | BASELINES
"""From the name of a stream to the configuration of each online learner."""


def online_recipe_for(learner: str, stream: str) -> FollowConfig:
    """The run of a named learner along a named stream.

    Raises:
        UserError: there is no such stream or online learner.
    """
    if stream not in STREAMS:
        raise unknown("stream", stream, STREAMS)
    if learner in LEARNERS and learner not in ONLINE_RECIPES:
        raise UserError(
            f"{learner} is meta-trained, on episodes: python train.py DATA {learner}. Along a stream go "
            f"{', '.join(sorted(ONLINE_RECIPES))}."
        )
    if learner not in ONLINE_RECIPES:
        raise unknown("online learner", learner, ONLINE_RECIPES)
    asked, held_out = (1, 500) if stream.endswith("mnist") else (None, None)
    return FollowConfig(StreamConfig(stream), learner, ONLINE_RECIPES[learner](stream), asked=asked, held_out=held_out)
