"""The complete configuration of a meta-training run: frozen dataclasses, from which tyro makes the command line."""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import tyro

from episodes import DataConfig, EpisodeShape, UserError
from episodes.errors import at_least
from metacl.learners import LEARNERS

L = TypeVar("L")
"""The configuration of a learner."""


@dataclass(frozen=True)
class OptimiserConfig:
    """The outer loop's optimiser: Adam with decoupled weight decay, and a schedule for its rate."""

    rate: float = 2e-3
    """Learning rate after warm-up."""
    schedule: Literal["cosine", "halving"] = "cosine"
    """`cosine`: down to 1 % at the last step. `halving`: halved every `halve_every` steps, as published."""
    halve_every: int = 10_000
    warmup: int = 100
    """Steps over which the rate rises from zero."""
    clip: float = 1.0
    """Largest norm of the meta-gradient; 0 leaves it as it is."""
    weight_decay: float = 0.3

    def __post_init__(self) -> None:
        at_least(1, self, "optimiser.", "halve_every")
        at_least(0, self, "optimiser.", "rate", "warmup", "clip", "weight_decay")


@dataclass(frozen=True)
class ValidationConfig:
    """Meta-validation as training goes on. It chooses the checkpoint that evaluation takes."""

    every: int = 100
    """Steps between two meta-validations; each also writes a checkpoint."""
    episodes: int = 128
    """The same episodes each time."""

    def __post_init__(self) -> None:
        at_least(1, self, "validation.", "every", "episodes")


@dataclass(frozen=True)
class TrainConfig(Generic[L]):
    """Everything that a meta-training run depends on."""

    data: DataConfig
    learner_name: tyro.conf.Suppress[str]
    """A name of `metacl.learners.LEARNERS`."""
    learner: L
    """The configuration of that learner."""
    episodes: EpisodeShape = field(default_factory=EpisodeShape)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    steps: int = 1000
    """Meta-training steps."""
    curriculum: int = 0
    """Steps over which streams grow from two tasks to all of them: a way off the plateau before in-context learning."""
    batch_size: int = 16
    """Episodes in a step (B), shared among the processes."""
    seed: int = 0
    """Of the episodes, the initial weights and dropout."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16`: mixed precision. `auto`: bf16 where the device multiplies it fast, else fp32."""
    workers: int | None = None
    """Processes that draw episodes ahead. None: none on a CPU, two with a GPU. They change no episode."""

    def __post_init__(self) -> None:
        at_least(1, self, "", "steps", "batch_size")
        at_least(0, self, "", "workers", "curriculum")


def to_json(config: Any) -> dict[str, Any]:
    """Plain JSON values, all fields, nested."""
    return dataclasses.asdict(config)


def from_json(values: dict[str, Any], where: Path) -> TrainConfig:
    """The configuration that `to_json` wrote.

    Raises:
        UserError: fields are missing or unknown; `where` says in which file.
    """
    try:
        learner = LEARNERS[values["learner_name"]]
        return built(TrainConfig, values | {"learner": built(learner, values["learner"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is not a configuration of this version of metacl: {error!r}.") from error


def built(kind: Any, value: Any) -> Any:
    """`value` of a JSON file as `kind`: dataclasses from dictionaries, tuples from lists."""
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        if missing := {field.name for field in dataclasses.fields(kind)} - value.keys():
            raise KeyError(", ".join(sorted(missing)))
        hints = typing.get_type_hints(kind)
        make: Any = kind
        return make(**{name: built(hints[name], inner) for name, inner in value.items()})
    if typing.get_origin(kind) is tuple:
        return tuple(value)
    if isinstance(kind, types.UnionType) and isinstance(value, list):
        return tuple(value)
    return value
