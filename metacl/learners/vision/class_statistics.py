"""What is kept of the features of each class in place of its images: a normal distribution, or several."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

RIDGE = 1e-4
"""Added to variances (HiDe-Prompt)."""
CENTRES, ROUNDS = 10, 20
"""Of k-means."""
Kind = Literal["full", "diagonal", "k-means"]
"""`full`: mean and covariance. `diagonal`: mean and variances. `k-means`: centres, each with variances."""


class ClassStatistics(NamedTuple):
    """Of V symbols; what belongs to a symbol without examples means nothing."""

    weight: Tensor
    """(V, K) share of each of the K normal distributions of a class."""
    mean: Tensor
    """(V, K, D)"""
    root: Tensor
    """What a standard normal vector is multiplied by: (V, 1, D, D) Cholesky factors of covariances, or (V, K, D) deviations."""


def no_statistics(symbols: int, width: int, kind: Kind, like: Tensor) -> ClassStatistics:
    K = CENTRES if kind == "k-means" else 1
    root = (symbols, 1, width, width) if kind == "full" else (symbols, K, width)
    return ClassStatistics(like.new_zeros(symbols, K), like.new_zeros(symbols, K, width), like.new_zeros(root))


def with_classes(old: ClassStatistics, h_ND: Tensor, y_N: Tensor, kind: Kind, rng: np.random.Generator) -> ClassStatistics:
    """The statistics with those of the classes of a task; a class that comes back has those of its latest examples."""
    weight, mean, root = (part.clone() for part in old)
    for c in y_N.unique().tolist():
        weight[c], mean[c], root[c] = statistics_of(h_ND[y_N == c], kind, rng)
    return ClassStatistics(weight, mean, root)


def statistics_of(h_ND: Tensor, kind: Kind, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K), means (K, D) and roots of one class. Of one example the variance is the ridge alone."""
    if kind == "k-means":
        return _k_means(h_ND, rng)
    mean_D = h_ND.mean(0)
    away_ND = h_ND - mean_D
    most = max(1, len(h_ND) - 1)
    one = torch.ones(1, device=h_ND.device)
    if kind == "diagonal":
        return one, mean_D[None], (away_ND.square().sum(0) / most + RIDGE).sqrt()[None]
    covariance = away_ND.T.double() @ away_ND.double() / most
    covariance.diagonal().add_(RIDGE)
    return one, mean_D[None], torch.linalg.cholesky(covariance).float()[None]


def draw(statistics: ClassStatistics, c: int, number: int, rng: np.random.Generator) -> Tensor:
    """(number, D) features of class c."""
    share = statistics.weight[c].double().cpu().numpy()
    at_N = torch.from_numpy(rng.choice(len(share), number, p=share / share.sum()))
    noise = torch.from_numpy(rng.standard_normal((number, statistics.mean.shape[-1]), dtype=np.float32)).to(statistics.mean)
    root = statistics.root[c]
    away = noise @ root[0].T if root.ndim == 3 else noise * root[at_N]
    return statistics.mean[c][at_N] + away


def means(statistics: ClassStatistics, seen_V: Tensor) -> Tensor:
    """(S, D) of the symbols that have been seen."""
    return (statistics.weight[..., None] * statistics.mean).sum(1)[seen_V]


def _k_means(h_ND: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Lloyd's algorithm from examples drawn at random; centres without examples have weight zero."""
    K = min(CENTRES, len(h_ND))
    centre_KD = h_ND[torch.from_numpy(rng.choice(len(h_ND), K, replace=False))].clone()
    for _ in range(ROUNDS):
        own_NK = torch.nn.functional.one_hot(torch.cdist(h_ND, centre_KD).argmin(1), K).to(h_ND)
        count_K = own_NK.sum(0)
        centre_KD = torch.where(count_K[:, None] > 0, own_NK.T @ h_ND / count_K[:, None].clamp_min(1), centre_KD)
    square_KD = own_NK.T @ h_ND.square() / count_K[:, None].clamp_min(1) - centre_KD.square()
    weight, mean, root = (h_ND.new_zeros(CENTRES, *shape) for shape in ((), h_ND.shape[1:], h_ND.shape[1:]))
    weight[:K], mean[:K], root[:K] = count_K / len(h_ND), centre_KD, (square_KD.clamp_min(0) + RIDGE).sqrt()
    return weight, mean, root
