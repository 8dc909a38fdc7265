"""Small online learners for tests, and streams of noise for them."""

import torch

from episodes import EpisodeSpec, Examples
from metacl.nets.side_by_side import NetworkConfig

IMAGES = EpisodeSpec("image", (3, 12, 12), "cross_entropy", symbols=5)
LABELLED = EpisodeSpec("vector", (6,), "cross_entropy", symbols=4)
REGRESSION = EpisodeSpec("vector", (5,), "mse", y_shape=(3,))
SPECS = {"images": IMAGES, "labelled": LABELLED, "regression": REGRESSION}
NET = NetworkConfig(hidden=(8, 6))


def noise(spec: EpisodeSpec, examples: int, batch_size: int = 2, seed: int = 0) -> Examples:
    """(B, N) examples without any structure."""
    rng = torch.Generator().manual_seed(seed)
    shape = batch_size, examples
    if spec.x_kind == "image":
        x = torch.randint(0, 256, (*shape, *spec.x_shape), generator=rng, dtype=torch.uint8)
    else:
        x = torch.randn(*shape, *spec.x_shape, generator=rng)
    y = (
        torch.randint(0, spec.symbols, shape, generator=rng)
        if spec.classification
        else torch.randn(*shape, *spec.y_shape, generator=rng)
    )
    return Examples(x, y, torch.zeros(shape, dtype=torch.int64))


def row(examples: Examples, b: int) -> Examples:
    """The examples of learner b, as B = 1."""
    return Examples(examples.x[b : b + 1], examples.y[b : b + 1], examples.task[b : b + 1])
