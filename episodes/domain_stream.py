"""Domain-incremental streams: the same task again and again, its inputs changed in another way each time.

How inputs are changed is what episodes do (`episodes.domains`). Letters: N examples.
"""

import numpy as np
import torch
from torch import Tensor

from episodes.domains import CHANGES
from episodes.errors import UserError
from episodes.rng import stream_numbers
from episodes.schedule import StreamDomains
from episodes.source import Part, Task
from episodes.stream import Stream, shared_images
from episodes.types import Examples

TOGETHER = 512
"""Examples that are changed at a time, however many are looked at."""


class InDomains:
    """The first task of a stream, without end: in each task of this one its examples come in another order, and all of them,
    also those held out, are changed in another way.

    Arguments:
        stream: any stream, of whose first task all tasks are.
        kind: `rotation` by a random angle, a random `permutation`, or `inversion` in every other task.

    Raises:
        UserError: images are to be changed, and the inputs are vectors; or there is one class to tell apart.
    """

    most_tasks: int | None = None

    def __init__(self, stream: Stream, kind: StreamDomains):
        if kind != "permutation" and stream.spec.x_kind != "image":
            raise UserError(
                f"schedule.domains {kind} needs images, and {stream.name} has vectors. Take permutation, or a stream of "
                "images, such as class-incremental."
            )
        if stream.spec.classification and _one_class(stream.task(0, 0).train):
            raise UserError(
                f"schedule.domains gives all tasks the classes of the first one, and that of {stream.name} has one: there is "
                "nothing to tell apart. Take more, as in --stream.classes 5."
            )
        self.stream, self.kind, self.name, self.spec = stream, kind, stream.name, stream.spec
        self.fingerprint = f"{stream.fingerprint}/domains-1/{kind}"

    def task(self, seed: int, index: int) -> Task:
        own = self.stream.task(seed, 0)
        order_N = stream_numbers(self.name, seed, "schedule/domains/order", index).permutation(len(own.train))
        plain_N = np.arange(len(own.held_out))
        halves = ((own.train, order_N), (own.held_out, plain_N))
        return Task(*(self._changed(half, places_N, seed, index) for half, places_N in halves))

    def shared_images(self) -> list[str]:
        """What the stream says."""
        return shared_images(self.stream)

    def _changed(self, half: Part | Examples, places_N: np.ndarray, seed: int, index: int) -> Part:
        """A half of the first task, in another order, as that of task `index`."""

        def at(which: slice | np.ndarray) -> Examples:
            if not len(wanted := places_N[which]):
                return half[0:0]
            examples = half.take(wanted)
            x = torch.cat([self._in_domain(x, seed, index) for x in examples.x.split(TOGETHER, 1)], 1)
            return Examples(x, examples.y, torch.full_like(examples.task, index))

        return Part(len(places_N), at, at)

    def _in_domain(self, x: Tensor, seed: int, index: int) -> Tensor:
        """Inputs (1, N, ...) as they are in task `index`. An angle or a permutation is drawn for each task, as the first of two
        domains of which none is on its way to the second; which tasks have negatives is drawn once."""
        drawn = self.kind != "inversion"
        domain_1N = np.full((1, x.shape[1]), 0.0 if drawn else index)
        rng = stream_numbers(self.name, seed, "schedule/domains", index if drawn else 0)
        return CHANGES[self.kind](x, domain_1N, 2, [rng])


def _one_class(half: Part | Examples) -> bool:
    """Whether all examples have one label. Mostly the first hundred tell."""
    return all(len(half[:most].y.unique()) < 2 for most in (100, len(half)))
