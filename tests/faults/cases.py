"""The commands that are attacked: each a small experiment of a second or less, whose undisturbed end is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tests.faults.child import Command

T = TypeVar("T")
FOLDER = "run"
"""What each case writes, in the working directory of its try."""

SMALL = """--learner.width 16 --episodes.tasks 3 --episodes.shots 2 --episodes.queries 2 --episodes.vocabulary 8 --batch-size 4
    --steps 24 --validation.every 8 --validation.episodes 4 --precision fp32"""
TINY = "--learner.layers 1 --learner.heads 2 --learner.hidden 16"
ENCODER = "--learner.encoder.channels 4 6 --learner.encoder.strides 2 2"
SHORT = "--stream.train 20 --stream.held-out 5 --tasks 6 --save-every 2"


@dataclass(frozen=True)
class Case:
    """An experiment: how it is begun, and how it is gone on with."""

    name: str
    script: str
    words: str
    """{images}: a folder of images; {trained}, {regression}: runs that were meta-trained on these, and on a stream."""
    steps: int = 0
    """Steps of meta-training in all; 0 for an evaluation."""
    fresh: bool = False
    """With an empty cache of its own."""

    def start(self, **places: str) -> Command:
        return Command(self.script, tuple(word.format(**places) for word in self.words.split()))

    def resume(self) -> Command:
        return Command(self.script, ("--resume", FOLDER))


def _train(name: str, words: str, steps: int = 24, fresh: bool = False) -> Case:
    data, learner, rest = words.split(" ", 2)
    return Case(name, "train", f"{data} {learner} --run {FOLDER} {SMALL} {rest}", steps, fresh)


def _evaluate(name: str, words: str, fresh: bool = False) -> Case:
    return Case(name, "evaluate", f"{words} --out {FOLDER}", fresh=fresh)


SINE = _train("sine", f"sine transformer {TINY} --learner.dropout 0.1")
IMAGES = _train("images", f"{{images}} transformer {TINY} {ENCODER}")
REGRESSION = _train("regression", f"slowly-changing-regression transformer {TINY}")
TRAINING = (
    SINE,
    IMAGES,
    _train("prototypes", f"{{images}} pn {ENCODER} --workers 1"),
    _train("linear", f"sine linear-transformer {TINY} --learner.dropout 0.1 --curriculum 12"),
    _train("seeds", f"sine transformer {TINY} --seeds 0 1", steps=0),
    _train("oml", f"{{images}} oml {ENCODER}"),
    _train("fresh", f"{{images}} gemcl {ENCODER}", fresh=True),
)
EPISODES = _evaluate("episodes", "{trained} --tasks 2 3 --episodes 8 --seeds 0 1")
STREAM = _evaluate("stream", f"slowly-changing-regression bp {SHORT} --seeds 0 1 --matrix")
EVALUATIONS = (
    EPISODES,
    STREAM,
    _evaluate("compared", "{images} bp knn --tasks 2 3 --shots 2 --queries 2 --episodes 4 --rate-episodes 2 --rates 1e-3 1e-2"),
    _evaluate("rated", f"slowly-changing-regression er {SHORT} --rates 1e-3 1e-2 --sweep-tasks 2"),
    _evaluate("along", f"{{regression}} slowly-changing-regression {SHORT} --lags 2"),
)
CASES = (*TRAINING, *EVALUATIONS)


def one_of(things: Sequence[T], seed: int) -> T:
    """Each in its turn, near ones far apart: where time is up before the last of many, all kinds of them were tried."""
    return things[seed * 7919 % len(things)]
