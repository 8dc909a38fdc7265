"""When the examples of a source arrive: the options. What those of episodes do is in `episodes.arrange`, those of streams in
`episodes.scheduled`."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from episodes.errors import UserError, at_least

Domains = Literal["rotation", "permutation", "inversion", "data-set"]
"""How the inputs of a task of an episode differ from those of others."""
StreamDomains = Literal["rotation", "permutation", "inversion"]
"""How the inputs of a task of a stream differ from those of others; for data sets see the stream `datasets`."""


@dataclass(frozen=True)
class Schedule:
    """What of a source arrives together in time; the source itself says only which tasks there are, in their order.

    So far: how many examples arrive at a time. Whether a learner is told of the end of a task belongs here too. Tasks that come
    back, and boundaries that blur, are the source's: see `ScheduleConfig` and `StreamSchedule`.
    """

    block: int = 1
    """Examples that arrive together, and are learnt in one update."""

    def __post_init__(self) -> None:
        at_least(1, self, "schedule.", "block")


@dataclass(frozen=True)
class ScheduleConfig:
    """What an episode is made of, and in which order its stream comes. All of these can be combined.

    Nothing given, a task is one class, and one task comes after another. A picture of each: python -m episodes.preview.
    """

    classes: int = 1
    """Classes of each task; shots and queries are of each class, and the examples of a task come in random order."""
    recur: int = 1
    """Visits to each task, in rounds: of 6 tasks with `recur 2` the last three are the first three again, in another order,
    with other images of the same classes and the same symbols. What is asked of each visit is asked with other images, too."""
    domains: Domains | None = None
    """Domain-incremental: all tasks have the same classes, even the same images, and in each the inputs are changed in another
    way. `rotation`: images turned by a random angle; `permutation`: pixels, or numbers of a vector, in a random order;
    `inversion`: every other task has the negatives of the images; `data-set`: each task has the images of another data set, of
    those that are joined by --data.also, and classes whose labels all of these have."""
    gradual: bool = False
    """The change of domains is gradual: within each task it moves evenly on to the domain of the next."""
    blur: float = 0.0
    """Share of the examples of a task that change places with those of its neighbours in time, half of it with the task before,
    half with the one after. 1: the whole stream in random order (i.i.d.)."""
    shots_least: int | None = None
    """Random shots: of each class of each task there are between so many examples and all shots. None: always all."""
    noise: float = 0.0
    """Share of the labels of the stream that are another label of the episode instead. Queries have the right ones."""

    def __post_init__(self) -> None:
        at_least(1, self, "schedule.", "classes", "recur", "shots_least")
        at_least(0, self, "schedule.", "blur", "noise", most=1)
        if self.domains and self.classes < 2:
            raise UserError(
                "schedule.domains gives all tasks the same classes, so that of one class there is nothing to learn. Say how "
                "many: --schedule.classes 5 (of train.py: --episodes.schedule.classes 5)."
            )
        if self.gradual and not self.domains:
            raise UserError("schedule.gradual is a change of domains: say which, as in --schedule.domains rotation.")

    def different(self, tasks: int) -> int:
        """Of so many tasks those that are no visit to an earlier one."""
        return -(-tasks // self.recur)

    def rows(self, tasks: int) -> int:
        """Classes (or what else a task is of) that an episode of so many tasks has in all."""
        return self.classes * (1 if self.domains else self.different(tasks))

    def most_tasks(self, rows: int | None) -> int | None:
        """Tasks that an episode can have where there are so many classes to draw from; None: any number."""
        if rows is None or (self.domains and self.classes <= rows):
            return None
        return rows // self.classes * self.recur

    @property
    def one_class_each(self) -> bool:
        """Whether a task is one class throughout."""
        return self.classes == 1 and self.domains is None

    @property
    def in_order(self) -> bool:
        """Whether each task is one class, comes once, and as a whole: at most labels and numbers of shots are changed."""
        return self.one_class_each and self.recur == 1 and not self.blur

    def words(self) -> str:
        """What is unlike one class after another, as "classes 2, blur 0.3"; nothing where it is like it."""
        return _unlike(self, ScheduleConfig())


@dataclass(frozen=True)
class StreamSchedule:
    """In which order a stream comes, and what of it. All of these can be combined; none changes what another one draws.

    Nothing given, one task comes after another, as the stream has them.
    """

    different: int | None = None
    """Recurring tasks: the stream is its first so many tasks, again and again without end, in rounds. Each round has them in
    another order, and the examples of a task too. None: each task comes once."""
    blur: float = 0.0
    """Share of the examples of a task that change places with those of its neighbours in time, half of it with the task before,
    half with the one after. 1: the whole stream in random order (i.i.d.), or with `different` each round; of a stream that has
    no end that cannot be."""
    shots_least: int | None = None
    """Imbalanced shots: of the examples of each task between so many and all are learnt from; from 10 to 100 is as likely as
    from 100 to 1000. It is the same share for each seed. None: always all."""
    noise: float = 0.0
    """Share of the labels that are learnt from that are another label of the stream instead. Held-out examples have the right
    ones."""
    domains: StreamDomains | None = None
    """Domain-incremental: every task is the first task of the stream, its inputs changed in another way, without end.
    `rotation`: images turned by a random angle; `permutation`: pixels, or numbers of a vector, in a random order; `inversion`:
    negatives of the images in every other task. Data sets as domains: the stream `datasets` with --stream.shared-classes."""

    def __post_init__(self) -> None:
        at_least(1, self, "schedule.", "shots_least")
        at_least(2, self, "schedule.", "different")
        at_least(0, self, "schedule.", "blur", "noise", most=1)

    def words(self) -> str:
        """What is unlike one task after another, as "different 3, blur 0.3"; nothing where it is like it."""
        return _unlike(self, StreamSchedule())


def _unlike(options: Any, usual: Any) -> str:
    """The options that have another value than usual, in words."""
    values = [(part.name, getattr(options, part.name)) for part in fields(options)]
    named = [
        name.replace("_", "-") + ("" if value is True else f" {value:g}" if isinstance(value, float) else f" {value}")
        for name, value in values
        if value != getattr(usual, name)
    ]
    return ", ".join(named)
