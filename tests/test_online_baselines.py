"""The methods that query-only attention is compared with: their settings for each stream."""

import pytest

from episodes import STREAMS, EpisodeSpec
from episodes.stream_catalog import BLOCKS
from metacl.learners import ONLINE
from metacl.learners.trained.backprop import Backprop
from metacl.recipes.online_baselines import BASELINES

SPECS = {
    "slowly-changing-regression": EpisodeSpec("vector", (20,), "mse", y_shape=(1,)),
    "permuted-mnist": EpisodeSpec("vector", (49,), "cross_entropy", symbols=10),
    "split-tiny-imagenet": EpisodeSpec("image", (3, 32, 32), "cross_entropy", symbols=2),
}
PARAMETERS = {
    ("bp", "slowly-changing-regression"): 881,
    ("bp", "permuted-mnist"): 132_610,
    ("bp", "split-tiny-imagenet"): 259_138,
    ("full-attention", "slowly-changing-regression"): 2_772,
    ("full-attention", "permuted-mnist"): 106_200,
    ("full-attention", "split-tiny-imagenet"): 395_638,
}
"""Counted from the tables of the paper."""


@pytest.mark.parametrize("name", BASELINES)
def test_every_stream_has_settings_for_every_method(name):
    for stream in STREAMS:
        config = BASELINES[name](stream)
        assert type(config) is ONLINE[name] and config.block == BLOCKS[stream]


@pytest.mark.parametrize(("name", "stream"), PARAMETERS)
def test_networks_are_as_large_as_published(name, stream):
    learner = BASELINES[name](stream).build(SPECS[stream])
    assert sum(p.numel() for p in learner.parameters()) == PARAMETERS[name, stream]


@pytest.mark.parametrize("stream", SPECS)
def test_methods_differ(stream):
    configs = [BASELINES[name](stream) for name in BASELINES]
    assert len({(type(config), config) for config in configs}) == len(configs)


@pytest.mark.parametrize("stream", SPECS)
def test_networks_trained_by_backpropagation_are_given_as_much_support(stream):
    learners = [BASELINES[name](stream).build(SPECS[stream]) for name in ("bp", "l2-init", "er", "ewc", "cbp", "redo")]
    assert all(isinstance(learner, Backprop) for learner in learners)
    assert {learner.support for learner in learners} == {BASELINES["knn"](stream).support}


def test_ends_of_tasks_matter_to_two():
    """The others must not be told."""
    told = {name for name in BASELINES if BASELINES[name]("permuted-mnist").build(SPECS["permuted-mnist"]).needs_tasks}
    assert told == {"ewc", "reinit"}
