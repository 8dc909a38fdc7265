"""Several processes that are one run: the first one writes, and the others hear what came of it."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from episodes import UserError

Found = TypeVar("Found")


def from_first(accelerator: Accelerator, work: Callable[[], Found]) -> Found:
    """What `work` gives in the first process, in all of them.

    Raises:
        UserError: it has failed there, and the first process says why; the others end in silence.
    """
    if accelerator.num_processes == 1:
        return work()
    told: list[Found | None] = [None]
    try:
        if accelerator.is_main_process:
            told = [work()]
    except (UserError, OSError):
        broadcast_object_list([None])
        raise
    broadcast_object_list(told)
    if told[0] is None:
        raise SystemExit(2)
    return told[0]


def machine(accelerator: Accelerator) -> dict[str, Any]:
    """What environment.json says of the device and the processes of a run."""
    return {
        "device": str(accelerator.device),
        "precision": accelerator.mixed_precision,
        "processes": accelerator.num_processes,
    }
