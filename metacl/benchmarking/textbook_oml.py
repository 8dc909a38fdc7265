"""Row 0 of OML: the inner loop as one finds it in published code, a weight for every episode and step.

It takes the modules of metacl, so that with equal weights it must give equal results, and differs only in how.

Shapes: B episodes, N stream examples, M queries, D width, I in and O out of a layer, V outputs.
"""

from collections.abc import Sequence

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional as F

from episodes import Episode, EpisodeSpec
from metacl.benchmarking.textbook import encode_channels_first
from metacl.learners import MetaLoss, query_loss
from metacl.learners.gradient.oml import OML


def textbook_oml_loss(learner: OML, episode: Episode) -> MetaLoss:
    """`learner.meta_loss` at second order for streams without padding, through all steps: torch.autograd in a Python loop."""
    stream, queries, spec = episode.stream, episode.queries, learner.spec
    z = encode_channels_first(learner.encoder, torch.cat([stream.x, queries.x], dim=1))
    z_BND, z_BMD = z.split([len(stream), len(queries)], dim=1)
    weights = [repeat(p, "... -> b ...", b=len(z)) for p in learner.head.parameters()]
    rates = list(learner.rates().values())
    for n in range(len(stream)):
        loss = _sum_of_losses(_head(weights, z_BND[:, n : n + 1]), stream.y[:, n], spec)
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        weights = [w - rate * g for w, rate, g in zip(weights, rates, gradients, strict=True)]
    prediction = _head(weights, z_BMD)
    return query_loss(prediction if spec.classification else prediction.unflatten(-1, spec.y_shape), queries.y, spec)


def _head(weights: Sequence[Tensor], a_BKI: Tensor) -> Tensor:
    """The MLP of each episode."""
    for i in range(0, len(weights), 2):
        a_BKI = a_BKI.relu() if i else a_BKI
        a_BKI = torch.einsum("bki,boi->bko", a_BKI, weights[i]) + weights[i + 1][:, None]
    return a_BKI


def _sum_of_losses(prediction_B1V: Tensor, y: Tensor, spec: EpisodeSpec) -> Tensor:
    """Over episodes: each one's weights see the loss of its own example."""
    if spec.classification:
        return F.cross_entropy(prediction_B1V[:, 0], y, reduction="sum")
    return (prediction_B1V[:, 0] - y.flatten(1)).square().mean(-1).sum()
