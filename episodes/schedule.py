"""When the examples of a source arrive."""

from dataclasses import dataclass

from episodes.errors import at_least


@dataclass(frozen=True)
class Schedule:
    """What of a source belongs together in time; the source itself says only which tasks there are, in their order.

    So far: how many examples arrive at a time. Whether a learner is told of the end of a task, tasks that come back, and
    boundaries that blur belong here too.
    """

    block: int = 1
    """Examples that arrive together, and are learnt in one update."""

    def __post_init__(self) -> None:
        at_least(1, self, "schedule.", "block")
