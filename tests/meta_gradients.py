"""Float64 finite differences of a meta-loss, for the tests of learners."""

import dataclasses

import torch
from torch import Tensor
from torch.testing import assert_close

from episodes import Episode, EpisodeSpec, Examples
from metacl.evaluation.check import random_episode
from metacl.learners import Learner


def episode_in_float64(spec: EpisodeSpec, seed: int = 0, **shape) -> Episode:
    def wide(part: Examples) -> Examples:
        x, y = (t.double() if t.is_floating_point() else t for t in (part.x, part.y))
        return dataclasses.replace(part, x=x, y=y)

    episode = random_episode(spec, seed, **shape)
    return dataclasses.replace(episode, stream=wide(episode.stream), queries=wide(episode.queries))


def meta_gradient(learner: Learner, episode: Episode) -> dict[str, Tensor]:
    """By the name of each parameter."""
    named = dict(learner.named_parameters())
    found = torch.autograd.grad(learner.meta_loss(episode).loss, list(named.values()))
    return dict(zip(named, found, strict=True))


def slope_by_gradient(learner: Learner, episode: Episode, direction: dict[str, Tensor]) -> Tensor:
    gradient = meta_gradient(learner, episode)
    return sum(((gradient[name] * d).sum() for name, d in direction.items()), torch.zeros((), dtype=torch.float64))


@torch.no_grad()
def slope_by_difference(learner: Learner, episode: Episode, direction: dict[str, Tensor], step: float = 1e-8) -> Tensor:
    """Central differences. A tiny step: a larger one crosses kinks of the ReLUs."""
    values, named = [], dict(learner.named_parameters())
    for amount in (step, -2 * step):
        for name, d in direction.items():
            named[name].add_(d, alpha=amount)
        values.append(learner.meta_loss(episode).loss)
    for name, d in direction.items():
        named[name].add_(d, alpha=step)
    return (values[0] - values[1]) / (2 * step)


def assert_meta_gradient(learner: Learner, spec: EpisodeSpec, directions: int = 3, **shape) -> None:
    """The gradient of the meta-loss along random directions of all meta-parameters, and along each one's own."""
    learner, episode = learner.double(), episode_in_float64(spec, **shape)
    rng = torch.Generator().manual_seed(0)

    def random(*names: str) -> dict[str, Tensor]:
        named = dict(learner.named_parameters())
        return {name: torch.randn(named[name].shape, generator=rng, dtype=torch.float64) for name in names}

    names = [name for name, _ in learner.named_parameters()]
    for chosen in [names] * directions + [[name] for name in names if "log" in name or "lrs" in name]:
        direction = random(*chosen)
        expected = slope_by_difference(learner, episode, direction)
        assert_close(slope_by_gradient(learner, episode, direction), expected, rtol=1e-5, atol=1e-6)
