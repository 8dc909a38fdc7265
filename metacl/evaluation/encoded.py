"""Episodes whose inputs are encoded once, in one batch, however often their examples are asked about."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from episodes import Episode, EpisodeSource, EpisodeSpec, Examples
from metacl.evaluation.step import device_of
from metacl.learners.protocol import Learner, State


class OfFeatures(Learner):
    """A learner whose inputs are features already: what stands behind its encoder."""

    def __init__(self, inner: Learner, spec: EpisodeSpec):
        super().__init__(spec, inner.distributed)
        self.inner = inner
        for name in ("block", "support", "trains", "chunkable", "whole_tasks"):
            setattr(self, name, getattr(inner, name))

    def encode(self, x: Tensor) -> Tensor:
        return x

    def init_state(self, batch_size: int) -> State:
        return self.inner.init_state(batch_size)

    def start(self, seeds: Sequence[int], rates: Sequence[float] | None = None, alike: bool = False) -> State:
        return self.inner.start(seeds, rates, alike)

    def learn_features(self, state: State, z_BND: Tensor, examples: Examples) -> State:
        return self.inner.learn_features(state, z_BND, examples)

    def predict_features(self, state: State, z_BMD: Tensor) -> Tensor:
        return self.inner.predict_features(state, z_BMD)

    def task_ends(self, state: State) -> State:
        return self.inner.task_ends(state)


@torch.no_grad()
def encoded_once(learner: Learner, source: EpisodeSource) -> tuple[Learner, EpisodeSource]:
    """The same learner and episodes behind the encoder. A learner whose encoder is what learns stays as it is."""
    overridden = ("learn_predict", "learn_task", "predict_with")
    if not learner.encodes or any(getattr(type(learner), name) is not getattr(Learner, name) for name in overridden):
        return learner, source
    episode = source.episode.to(device_of(learner))
    z_stream, z_query = learner.encode_episode(episode)
    stream, queries = replace(episode.stream, x=z_stream), replace(episode.queries, x=z_query)
    spec = replace(episode.spec, x_kind="vector", x_shape=tuple(z_stream.shape[2:]))
    return OfFeatures(learner, spec).eval(), EpisodeSource(Episode(stream, queries, spec, episode.ends), source.name)
