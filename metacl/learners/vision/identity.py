"""Which task an image is of (HiDe-Prompt's task-identity inference): a small network on the features of the plain transformer.

It is trained on each task's classes, then aligned on features drawn from what is kept of all classes so far. The task of an
image is that of the class it is taken for.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metacl.learners.vision.base import among
from metacl.learners.vision.class_statistics import ClassStatistics, draw
from metacl.learners.vision.fitting import detached, fit, trainable

Weights = dict[str, Tensor]
WIDER = 2
"""Width of the inner layer, in widths of the features."""


def no_head(symbols: int, width: int, like: Tensor) -> Weights:
    """A linear layer from features to all symbols, of zeros."""
    return {"weight": like.new_zeros(symbols, width), "bias": like.new_zeros(symbols)}


def head_logits(head: Weights, h_ND: Tensor) -> Tensor:
    return F.linear(h_ND, head["weight"], head["bias"])


def no_identity(symbols: int, width: int, like: Tensor) -> Weights:
    """The network before the first task: two layers beside the features, a norm, and a head."""
    shapes = {"up": (WIDER * width, width), "down": (width, WIDER * width), "scale": (width,)}
    return {name: like.new_zeros(shape) for name, shape in shapes.items()} | {
        "up_bias": like.new_zeros(WIDER * width),
        "down_bias": like.new_zeros(width),
        "shift": like.new_zeros(width),
        **no_head(symbols, width, like),
    }


def drawn_identity(weights: Weights, rng: np.random.Generator) -> Weights:
    """The network as its first task finds it: uniform layers as torch's, a norm that changes nothing."""
    new = dict(weights)
    for name in ("up", "down"):
        bound = weights[name].shape[1] ** -0.5
        new[name] = torch.from_numpy(rng.uniform(-bound, bound, weights[name].shape).astype(np.float32)).to(weights[name])
    return new | {"scale": torch.ones_like(weights["scale"])}


def identity_logits(weights: Weights, h_ND: Tensor) -> Tensor:
    """(N, V)."""
    inner = F.linear(F.gelu(F.linear(h_ND, weights["up"], weights["up_bias"])), weights["down"], weights["down_bias"])
    return head_logits(weights, F.layer_norm(h_ND + inner, inner.shape[-1:], weights["scale"], weights["shift"]))


def trained_identity(
    weights: Weights, h_ND: Tensor, y_N: Tensor, rate: float, epochs: int, batch_size: int, rng: np.random.Generator
) -> Weights:
    """The network after a task's own examples, among whose classes alone it answers meanwhile (Adam)."""
    own, new_V = trainable(weights), present(y_N, len(weights["bias"]))

    def loss(places: np.ndarray) -> Tensor:
        return F.cross_entropy(among(identity_logits(own, h_ND[places]), new_V), y_N[places])

    fit(torch.optim.Adam(own.values(), rate), loss, len(y_N), epochs, batch_size, rng, clip=1.0)
    return detached(own)


def aligned(
    logits: Callable[[Weights, Tensor], Tensor],
    weights: Weights,
    statistics: ClassStatistics,
    seen_V: Tensor,
    rate: float,
    epochs: int,
    samples: int,
    rng: np.random.Generator,
) -> Weights:
    """The weights after training on features that are drawn from what is kept of all classes so far (SGD, cosine).

    Arguments:
        logits: from weights and features (N, D) to (N, V).
        samples: drawn of each class for each epoch, and in a batch.
    """
    own, classes = trainable(weights), seen_V.nonzero()[:, 0].tolist()
    y_N = torch.tensor(classes, device=seen_V.device).repeat_interleave(samples)
    drawn: list[Tensor] = []

    def begins() -> None:
        drawn[:] = [torch.cat([draw(statistics, c, samples, rng) for c in classes])]

    def loss(places: np.ndarray) -> Tensor:
        return F.cross_entropy(among(logits(own, drawn[0][places]), seen_V), y_N[places])

    optimiser = torch.optim.SGD(own.values(), rate, momentum=0.9)
    fit(optimiser, loss, len(y_N), epochs, samples, rng, "cosine", begins=begins)
    return detached(own)


def present(y_N: Tensor, symbols: int) -> Tensor:
    """(V,) bool: the symbols that occur."""
    return torch.bincount(y_N, minlength=symbols) > 0
