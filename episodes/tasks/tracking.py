"""Episodes of tracking: things that change places, and questions where they are in the end."""

import numpy as np
import torch
from torch import Tensor

from episodes.errors import UserError
from episodes.tasks.family import Draw
from episodes.types import EpisodeShape, EpisodeSpec


class Tracking:
    """Which thing is where, after many swaps: a word problem of the permutation group S_n, in which order matters.

    A task is a tray of n places, each with one of n things, which are the symbols. The first n shots tell what lies where at
    first (x: the place, y: the thing), in random order. Each further shot is a swap of what lies in two places (x: both places
    and a mark; y is 0 and says nothing). A query asks what lies in a place after all swaps of its tray (x: the place, as in the
    first shots). All random choices are uniform. Swaps do not commute: who only counts them knows after many of them no more
    than chance, 1 in n. n = 3 is the least of which this is so.

    An episode of one task with many shots is the problem of state tracking (Merrill et al. 2024, Grazzi et al. 2025, Siems et
    al. 2025, who ask after each move, and so give more to learn from). Of several tasks each is a tray of its own: a code that
    is drawn for each tray tells its x from those of others, and later tasks do not touch it. So a question has the same answer
    whenever it is asked once its task is over, and interference and forgetting mean what they mean elsewhere.

    x is n numbers, 1 at the places that are meant and 0 elsewhere; 1 for a swap, else 0; and the code of the tray, 8 numbers on
    the unit sphere.

    Arguments:
        places: n, the places of a tray, and the things.
        rests: some of the steps after the first n are rests, at which nothing happens (x: the mark alone): any number of them,
            at random steps. So there are easy episodes to begin with.
    """

    code, most_tasks = 8, None
    ordered = True
    """Its examples mean something else in another order, so that no schedule can change it."""

    def __init__(self, places: int = 3, rests: bool = False):
        self.places, self.rests = places, rests
        self.spec = EpisodeSpec("vector", (places + 1 + self.code,), "cross_entropy", symbols=places)

    def check(self, shape: EpisodeShape) -> None:
        if shape.shots <= self.places:
            raise UserError(
                f"{shape.shots} shots are asked. The first {self.places} of a task tell what lies in its {self.places} places, "
                f"and each further one is a swap: ask for {self.places + 1} shots or more, --shots of evaluate.py, "
                "--episodes.shots of train.py."
            )

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        n, tasks = self.places, shape.tasks
        told, things = (rng.random((tasks, n)).argsort(1) for _ in range(2))
        swaps = rng.random((tasks, shape.shots - n, n)).argsort(2)[..., :2]
        rest = self._rests(rng, tasks, shape.shots - n)
        swaps[rest] = 0
        asked = rng.integers(0, n, (tasks, shape.queries))
        code = rng.standard_normal((tasks, 1, self.code))
        code /= np.linalg.norm(code, axis=-1, keepdims=True)
        one_hot = np.eye(n)
        stream_x = np.concatenate([one_hot[told], one_hot[swaps].sum(2) * ~rest[..., None]], axis=1)
        stream_y = np.concatenate([things, np.zeros(swaps.shape[:2], dtype=np.int64)], axis=1)
        end = swapped(np.take_along_axis(things, told.argsort(1), axis=1), swaps)
        return Draw(
            _inputs(stream_x, code, np.arange(shape.shots) >= n),
            stream_y,
            _inputs(one_hot[asked], code, np.zeros(shape.queries)),
            np.take_along_axis(end, asked, axis=1),
        )

    def _rests(self, rng: np.random.Generator, tasks: int, steps: int) -> np.ndarray:
        """(T, S) bool: at which steps nothing happens."""
        number = rng.integers(0, steps + 1, (tasks, 1)) if self.rests else np.zeros((tasks, 1), dtype=np.int64)
        return rng.random((tasks, steps)).argsort(1) < number

    def fetch(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x)


def swapped(things_Tn: np.ndarray, swaps_TS2: np.ndarray) -> np.ndarray:
    """(T, n) which thing lies in each place after the swaps of each tray.

    Arguments:
        things_Tn: which thing lies in each place at first.
        swaps_TS2: the two places of each of S swaps, in their order.
    """
    things_Tn = things_Tn.copy()
    for swap_T2 in swaps_TS2.swapaxes(0, 1):
        found_T2 = np.take_along_axis(things_Tn, swap_T2, axis=1)
        np.put_along_axis(things_Tn, swap_T2, found_T2[:, ::-1], axis=1)
    return things_Tn


def _inputs(places: np.ndarray, code: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """(T, K, n), the code of each tray (T, 1, 8) and the marks (K,) -> the inputs (T, K, n + 1 + 8)."""
    tasks, examples = places.shape[:2]
    mark = np.broadcast_to(swap[None, :, None], (tasks, examples, 1))
    code = np.broadcast_to(code, (tasks, examples, code.shape[-1]))
    return np.concatenate([places, mark, code], axis=2).astype(np.float32)
