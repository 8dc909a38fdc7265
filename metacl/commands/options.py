"""What stands on a command line as configurations: what the commands have in common."""

import math
from dataclasses import dataclass, fields, is_dataclass, make_dataclass, replace
from typing import Any, TypeVar

import tyro

from episodes import BENCHMARKS, STREAMS, DataConfig, UserError
from metacl.commands.places import located, located_sets, located_trunk
from metacl.recipes.presets import LEARNERS

T = TypeVar("T")


@dataclass(frozen=True)
class NamedData(DataConfig):
    """A data set whose name stands before the options."""

    name: tyro.conf.Suppress[str] = "glyphs"


def check_order(source: str, learner: str) -> None:
    """Raises `UserError` where a learner stands in the place of the data, and the data in the place of a learner."""
    if source in LEARNERS and learner in (*BENCHMARKS, *STREAMS):
        raise UserError(f"First the data, then the learner: {learner} {source}, not {source} {learner}.")


def offered(kind: type[Any], **kinds: Any) -> Any:
    """The same dataclass with other types of some fields: what its options are depends on what stands before them."""
    return make_dataclass(kind.__name__, list(kinds.items()), bases=(kind,), frozen=True)


def plain(kind: type[T], offered: Any) -> T:
    """What was read as one that was offered, as itself. Folders are named from the root, so that a run can be gone on with
    from any folder.

    Raises:
        UserError: a number is not finite.
    """
    _check_finite(offered)
    values = {part.name: getattr(offered, part.name) for part in fields(offered)}
    if "data" in values:
        values["data"] = located(values["data"])
    if "learner" in values:
        values["learner"] = located_trunk(values["learner"])
    stream: Any = values.get("stream")
    if hasattr(stream, "data"):
        values["stream"] = replace(stream, data=located(stream.data), **located_sets(stream))
    return kind(**values)


def _check_finite(options: Any, prefix: str = "--") -> None:
    """Raises `UserError` where a number of a configuration, or of one within it, is not finite."""
    for part in fields(options):
        value = getattr(options, part.name)
        if is_dataclass(value):
            _check_finite(value, f"{prefix}{part.name.replace('_', '-')}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{prefix}{part.name.replace('_', '-')} must be a finite number, not {number}.")


def parse(default: T, options: list[str], prog: str, words: str) -> T:
    return tyro.cli(type(default), default=default, args=options, prog=prog, description=words)
