"""Complete configurations: of meta-training, and of following episodes or a stream. Frozen dataclasses, from which tyro makes
the command lines: the docstring under a field is its help."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from episodes import DataConfig, EpisodeShape, Schedule, ScheduleConfig, StreamConfig, StreamSchedule, UserError
from episodes.augment.config import AugmentConfig
from episodes.errors import MOST, above_zero, at_least
from metacl.evaluation.questions import EPISODES, Questions
from metacl.learners import LearnerConfig

SEEDS = 2**32
"""Seeds are below this: what an evaluation of meta-train draws, and a choice of learning rates, has seeds above it."""
MOST_TOGETHER = 2**16
"""Episodes of a batch, at most."""
OF_ENDLESS = 100
"""Tasks that are followed of an endless stream where nobody says how many."""


@dataclass(frozen=True)
class OptimiserConfig:
    """The outer loop's optimiser: Adam with decoupled weight decay, and a schedule for its rate."""

    rate: float = 2e-3
    """Learning rate after warm-up."""
    behind_encoder: float = 1.0
    """Rate of all weights but the encoder's, as a part of `rate`."""
    schedule: Literal["cosine", "halving"] = "cosine"
    """`cosine`: down to 1 % at the last step. `halving`: halved every `halve_every` steps, as published."""
    halve_every: int = 10_000
    """Steps between two halvings of the rate, where the schedule is `halving`."""
    warmup: int = 100
    """Steps over which the rate rises from zero."""
    clip: float = 1.0
    """Largest norm of the meta-gradient; 0 leaves it as it is."""
    weight_decay: float = 0.3
    """Decoupled weight decay of AdamW: each step takes its rate * weight_decay of every weight."""

    def __post_init__(self) -> None:
        at_least(1, self, "optimiser.", "halve_every")
        at_least(0, self, "optimiser.", "rate", "behind_encoder", "warmup", "clip", "weight_decay")


@dataclass(frozen=True)
class ValidationConfig:
    """Meta-validation as training goes on. It chooses the checkpoint that evaluation takes."""

    every: int = 100
    """Steps between two meta-validations; each also writes a checkpoint."""
    episodes: int = 128
    """Episodes of a meta-validation; they are the same each time."""

    def __post_init__(self) -> None:
        at_least(1, self, "validation.", "every", "episodes")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a meta-training run depends on."""

    data: DataConfig
    learner_name: tyro.conf.Suppress[str]
    """A name of the table of learners."""
    learner: LearnerConfig
    episodes: EpisodeShape = field(default_factory=EpisodeShape)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    steps: int = 1000
    """Meta-training steps."""
    curriculum: int = 0
    """Steps over which streams grow from two tasks to all of them: a way off the plateau before in-context learning."""
    batch_size: int = 16
    """Episodes in a step (B), shared among the processes."""
    seed: tyro.conf.Suppress[int] = 0
    """The seed of the episodes, the initial weights and dropout."""
    smoothing: float = 0.0
    """Label smoothing of the meta-loss: the share of a target that is spread over all symbols that are asked in its episode."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16`: mixed precision. `auto`: bf16 where the device multiplies it fast, else fp32."""
    workers: int | None = None
    """Processes that draw episodes ahead. None: none on a CPU, two with a GPU. They change no episode."""

    def __post_init__(self) -> None:
        at_least(1, self, "", "steps")
        at_least(1, self, "", "batch_size", most=MOST_TOGETHER)
        at_least(0, self, "", "curriculum")
        at_least(0, self, "", "smoothing", most=1)
        if self.smoothing == 1:
            raise UserError("smoothing must be below 1: at 1 a target says nothing of its label. Take 0.1.")
        at_least(0, self, "", "workers", most=256)


@dataclass(frozen=True)
class EpisodesConfig:
    """Everything that the results of a learner on held-out episodes depend on."""

    data: DataConfig
    learner_name: tyro.conf.Suppress[str]
    """A name of the table of learners."""
    learner: LearnerConfig
    rates: tuple[float, ...]
    """Learning rates, of which the best on meta-validation episodes is taken, for each length of stream. None given, and
    several learners: each learner's own."""
    run: tyro.conf.Suppress[str | None] = None
    """The folder of the meta-trained learner; None: it is not meta-trained."""
    tasks: tuple[int, ...] = (5,)
    """Lengths of the streams, in tasks. Where nobody says them, and there are classes for fewer, streams are shorter."""
    shots: int = 5
    """Stream examples of each task; of tasks of several classes, of each class."""
    queries: int = 5
    """Held-out examples that an episode has of each task; of tasks of several classes, of each class."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    vocabulary: tyro.conf.Suppress[int] = 64
    """Label symbols that the learner knows."""
    questions: Annotated[Questions, tyro.conf.arg(name="")] = EPISODES
    episodes: int = 1024
    """Held-out episodes of each length."""
    rate_episodes: int = 32
    """Meta-validation episodes on which a learning rate is chosen."""
    batch_size: int = 16
    """Episodes that are learnt at the same time."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the held-out episodes and of initial weights, one evaluation for each."""
    split: Literal["test", "validation", "train"] = "test"
    """The meta-split whose classes make the episodes."""
    checkpoint: int | None = None
    """Step of the checkpoint of a meta-trained learner. None: the best by meta-validation."""
    held_out: str | None = None
    """A file of python -m episodes.freeze: its episodes are asked, whatever is said of tasks, shots, seeds and the like above;
    other data are refused."""

    def __post_init__(self) -> None:
        at_least(1, self, "", "shots", "queries", "episodes", "rate_episodes")
        at_least(1, self, "", "batch_size", most=MOST_TOGETHER)
        check_seeds(self.seeds)
        above_zero("--rates", *self.rates)
        self.questions.must_ask()
        if not self.tasks or min(self.tasks) < 1 or max(self.tasks) > MOST:
            raise UserError(f"--tasks needs at least one length, each from 1 to {MOST}.")

    def shape(self, tasks: int) -> EpisodeShape:
        return EpisodeShape(tasks, self.shots, self.queries, self.vocabulary, schedule=self.schedule)


@dataclass(frozen=True)
class StreamRunConfig:
    """Everything that the results of a learner along a stream depend on."""

    stream: StreamConfig
    learner_name: tyro.conf.Suppress[str]
    """A name of the table of learners."""
    learner: LearnerConfig
    rates: tuple[float, ...]
    """Learning rates, of which the best on another stream is taken: by prequential loss; of learners that learn whole tasks by
    accuracy on training examples that are kept apart. None given: the learner's own."""
    run: tyro.conf.Suppress[str | None] = None
    """The folder of the meta-trained learner; None: it is not meta-trained."""
    tasks: int | None = None
    """Tasks of the stream that are followed. None: all that it has; of an endless one 100."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the streams, one learner for each, side by side."""
    sweep_tasks: int = 10
    """Tasks of the stream on which a learning rate is chosen; its second half counts."""
    questions: Annotated[Questions, tyro.conf.arg(name="")] = field(default_factory=Questions)
    schedule: StreamSchedule = field(default_factory=StreamSchedule)
    arrival: tyro.conf.Suppress[Schedule] = field(default_factory=Schedule)
    """What of the stream arrives together."""
    save_every: int = 10
    """Tasks between two checkpoints."""
    checkpoint: int | None = None
    """Step of the checkpoint of a meta-trained learner. None: the best by meta-validation."""

    def __post_init__(self) -> None:
        at_least(1, self, "", "tasks", "sweep_tasks", "save_every")
        self.questions.must_ask()
        check_seeds(self.seeds)
        above_zero("--rates", *self.rates)

    def length(self, most_tasks: int | None) -> int:
        """Tasks that are followed of a stream that has so many; None: of an endless one."""
        return self.tasks or most_tasks or OF_ENDLESS


FollowConfig = EpisodesConfig | StreamRunConfig
"""What `evaluate.py` is about."""


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raises `UserError` where there is none, one is twice there, or one is too small or too large."""
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= SEEDS:
        given = " ".join(map(str, seeds)) or "none"
        raise UserError(f"--seeds needs one number or more, from 0 to {SEEDS - 1}, each once, not {given}.")
