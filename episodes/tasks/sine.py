"""Episodes of regression between two sine waves."""

import numpy as np
import torch
from torch import Tensor

from episodes.tasks.family import Draw
from episodes.types import EpisodeShape, EpisodeSpec


class Sine:
    """Regression between two sine waves of one frequency (CL-Seq, section 4 of its appendix).

    A task is a frequency in [0.1, 1.1] and two phases; an example is an amplitude in [0.5, 1.5]: 50 noisy points of the
    first wave over t in [0, 10] are the input, the 50 points of the second wave the target.
    """

    points, noise, most_tasks = 50, 0.1, None
    spec = EpisodeSpec("vector", (50,), "mse", y_shape=(50,))

    def check(self, shape: EpisodeShape) -> None:
        """Any shape can be drawn."""

    def draw(self, rng: np.random.Generator, shape: EpisodeShape) -> Draw:
        tasks, examples = shape.tasks, shape.shots + shape.queries
        time = np.linspace(0.0, 10.0, self.points)
        angle = 2 * np.pi * (0.1 + rng.random((tasks, 1, 1))) * time
        phase_x, phase_y = 2 * np.pi * rng.random((2, tasks, 1, 1))
        amplitude = 0.5 + rng.random((tasks, examples, 1))
        x = amplitude * np.sin(angle + phase_x) + self.noise * rng.standard_normal((tasks, examples, self.points))
        y = amplitude * np.sin(angle + phase_y)
        x, y = x.astype(np.float32), y.astype(np.float32)
        return Draw(x[:, : shape.shots], y[:, : shape.shots], x[:, shape.shots :], y[:, shape.shots :])

    def fetch(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x)
