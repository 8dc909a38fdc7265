"""What counts as an error of an answer, in one place: cross-entropy of logits, or the squared error of a target.

A prediction is (..., V) logits in classification; in regression it is (..., *y_shape), or flat, (..., F). A target is (...)
int64 symbols or (..., *y_shape). The dots are B episodes and M queries, M queries, or nothing for one example; all functions
work under torch.func.vmap. Sums are made in float32 at least, whatever a prediction's dtype.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from episodes import EpisodeSpec


class MetaLoss(NamedTuple):
    """What one batch of episodes gives the outer loop."""

    loss: Tensor
    """Scalar, to be minimised over the meta-parameters."""
    metrics: dict[str, Tensor]
    """Detached scalars to report: `loss`, `accuracy` or `mse` on the queries, and the parts of the loss."""


def example_losses(prediction: Tensor, target: Tensor, spec: EpisodeSpec) -> Tensor:
    """The loss of each example, (...): cross-entropy, or the squared error averaged over the target."""
    prediction = _wide(prediction)
    if spec.classification:
        return F.cross_entropy(prediction.movedim(-1, min(1, target.ndim)), target, reduction="none")
    return _flat(prediction - _as(prediction, target), target, spec).square().mean(-1)


def mean_loss(prediction: Tensor, target: Tensor, spec: EpisodeSpec) -> Tensor:
    """The mean of `example_losses`, a scalar, in one call of PyTorch: the last bit of the two may differ."""
    prediction = _wide(prediction)
    if spec.classification:
        return F.cross_entropy(prediction.reshape(-1, prediction.shape[-1]), target.reshape(-1))
    return F.mse_loss(prediction, _as(prediction, target))


def query_loss(
    prediction: Tensor, target: Tensor, spec: EpisodeSpec, smoothing: float = 0.0, valid: Tensor | None = None
) -> MetaLoss:
    """`mean_loss` of all queries (B, M, ...) of a batch, and the metrics that go with it.

    Arguments:
        valid: (B, M) bool, the queries that count; None: all. Each episode counts the same, however many of its queries do, so
            that the loss is the mean of those of its parts where several processes share a batch.
        smoothing: label smoothing (Szegedy 2016, section 7): this share of each target is spread evenly over the symbols that
            the queries of its episode have. The metric `loss` is without it. Regression has none.
    """
    loss = mean_loss(prediction, target, spec) if valid is None else _mean(example_losses(prediction, target, spec), valid)
    name = "accuracy" if spec.classification else "mse"
    metrics = {"loss": loss.detach(), name: _mean(query_score(prediction.detach(), target, spec), valid)}
    if smoothing and spec.classification:
        loss = (1 - smoothing) * loss + smoothing * _spread_loss(_wide(prediction), target, valid)
    return MetaLoss(loss, metrics)


def _spread_loss(logits_BMV: Tensor, y_BM: Tensor, valid_BM: Tensor | None = None) -> Tensor:
    """The cross-entropy of targets that are spread evenly over the symbols which are asked in an episode."""
    counted_BM = torch.ones_like(logits_BMV[..., 0]) if valid_BM is None else valid_BM.to(logits_BMV)
    asked_BV = torch.zeros_like(logits_BMV[:, 0]).scatter_reduce(1, y_BM, counted_BM, "amax")
    log_p_BMV = logits_BMV.log_softmax(-1).where(asked_BV[:, None] > 0, 0.0)
    loss_BM = -(log_p_BMV.sum(-1) / asked_BV.sum(-1, keepdim=True))
    return _mean(loss_BM, valid_BM)


def _mean(values_BM: Tensor, valid_BM: Tensor | None) -> Tensor:
    """The mean over episodes of the mean over the valid queries of each."""
    if valid_BM is None:
        return values_BM.mean()
    return (values_BM.where(valid_BM, 0).sum(1) / valid_BM.sum(1)).mean()


def query_score(prediction: Tensor, target: Tensor, spec: EpisodeSpec) -> Tensor:
    """What is reported of each query, (...): right (1) or wrong (0) in classification, `example_losses` in regression."""
    if spec.classification:
        return (prediction.argmax(-1) == target).float()
    return example_losses(prediction, target, spec)


def _wide(prediction: Tensor) -> Tensor:
    return prediction.to(torch.promote_types(prediction.dtype, torch.float32))


def _as(prediction: Tensor, target: Tensor) -> Tensor:
    """A target of regression in the shape and dtype of its prediction."""
    return target.reshape(prediction.shape).to(prediction.dtype)


def _flat(error: Tensor, target: Tensor, spec: EpisodeSpec) -> Tensor:
    """(..., *y_shape) or (..., F) -> (..., F)."""
    return error.reshape(*target.shape[: target.ndim - len(spec.y_shape)], -1)
