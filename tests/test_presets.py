"""The one table of names: each is complete, published sizes are as published, and what a run was is said as it was."""

from dataclasses import replace

import pytest
from tiny import IMAGES, SINE, without_learn2learn

from episodes import STREAMS, DataConfig, EpisodeSpec, UserError
from metacl.learners.similarity.query_only import QueryOnlyConfig
from metacl.learners.trained.backprop import Backprop
from metacl.recipes.presets import LEARNERS, META_TRAINED, TRAINED, recipe_for, title, trained_for
from metacl.recipes.settings import EPISODES, along

SPECS = {
    "slowly-changing-regression": EpisodeSpec("vector", (20,), "mse", y_shape=(1,)),
    "permuted-mnist": EpisodeSpec("vector", (49,), "cross_entropy", symbols=10),
    "split-tiny-imagenet": EpisodeSpec("image", (3, 32, 32), "cross_entropy", symbols=2),
}
PARAMETERS = {
    ("query-only", "slowly-changing-regression"): 841,
    ("bp", "slowly-changing-regression"): 881,
    ("bp", "permuted-mnist"): 132_610,
    ("bp", "split-tiny-imagenet"): 259_138,
    ("full-attention", "slowly-changing-regression"): 2_772,
    ("full-attention", "permuted-mnist"): 106_200,
    ("full-attention", "split-tiny-imagenet"): 395_638,
}
"""Counted from the tables of the paper."""
PUBLISHED = [name for name in TRAINED if name not in ("online", "replay", "offline")]
"""Those whose settings differ from stream to stream."""


def on(name: str, stream: str):
    return trained_for(name, None, along(STREAMS[stream]))


@pytest.mark.parametrize("name", LEARNERS)
def test_every_name_is_complete(name):
    """A form at least, each of one kind of configuration, and words for the help."""
    preset = LEARNERS[name]
    assert preset.about and (preset.meta or preset.trained)
    meta = [recipe(DataConfig("sine"), name) for recipe in preset.meta.values()]
    assert all(config.learner_name == name and type(config.learner) is preset.meta_config for config in meta)
    trained = [recipe(EPISODES) for recipe in preset.trained.values()]
    assert all(type(config) is preset.trained_config for config in trained)
    for config in trained:
        assert hasattr(config, "rate") or not preset.rates, f"{name} has rates to choose from and no field `rate`"


@pytest.mark.parametrize("name", META_TRAINED)
def test_every_meta_trained_learner_can_be_built(name):
    without_learn2learn(name)
    spec = SINE if LEARNERS[name].only == "regression" else replace(IMAGES, x_shape=(1, 28, 28))
    learner = recipe_for(name, None, DataConfig("sine")).learner.build(spec)
    assert not learner.has_rate and sum(p.numel() for p in learner.parameters()) > 0


@pytest.mark.parametrize("name", TRAINED)
def test_every_stream_has_settings_for_every_learner(name):
    for stream, named in STREAMS.items():
        config = on(name, stream)
        assert type(config) is LEARNERS[name].trained_config
        assert getattr(config, "block", None) in (None, named.schedule.block)


@pytest.mark.parametrize(("name", "stream"), PARAMETERS)
def test_networks_are_as_large_as_published(name, stream):
    learner = on(name, stream).build(SPECS[stream])
    assert sum(p.numel() for p in learner.parameters()) == PARAMETERS[name, stream]


@pytest.mark.parametrize("stream", SPECS)
def test_methods_differ(stream):
    configs = [on(name, stream) for name in PUBLISHED]
    assert len({(type(config), config) for config in configs}) == len(configs)


@pytest.mark.parametrize("stream", SPECS)
def test_networks_trained_by_backpropagation_are_given_as_much_support(stream):
    learners = [on(name, stream).build(SPECS[stream]) for name in ("bp", "l2-init", "er", "ewc", "cbp", "redo")]
    assert all(isinstance(learner, Backprop) for learner in learners)
    assert {learner.support for learner in learners} == {on("knn", stream).support}


def test_the_query_only_learner_of_either_kind():
    assert LEARNERS["query-only"].meta_config is QueryOnlyConfig
    assert on("query-only", "permuted-mnist").score.depth == 11


def test_sizes_of_the_published_transformer():
    """CL-Seq's S, M and XL: layers, heads, width, hidden width."""
    found = {}
    for name, recipe in LEARNERS["transformer"].meta.items():
        learner = recipe(DataConfig(), "transformer").learner
        found[name] = (learner.layers, learner.heads, learner.width, learner.hidden)
    assert found["published"] == (4, 8, 512, 1024) and found["published-s"] == (2, 4, 256, 512)
    assert found["published-m"] == (2, 8, 512, 1024) and found["published-xl"] == (4, 16, 1024, 2048)


@pytest.mark.parametrize(("data", "query"), [("glyphs", None), ("recall", "input"), ("tracking", "input")])
def test_a_sequence_learner_is_asked_by_input_where_the_inputs_of_a_label_are_not_alike(data, query):
    for size in ("small", "paper", "large"):
        assert LEARNERS["transformer"].meta[size](DataConfig(data), "transformer").learner.query == query


def test_errors():
    with pytest.raises(UserError, match=r"Unknown learner that is meta-trained 'transfomer'.*'transformer'"):
        recipe_for("transfomer", None, DataConfig())
    with pytest.raises(UserError, match=r"Unknown recipe of pn 'smal'.*'small'"):
        recipe_for("pn", "smal", DataConfig())
    with pytest.raises(UserError, match=r"Unknown learner without meta-training 'onlin'.*'online'"):
        trained_for("onlin", None, EPISODES)


def test_a_run_is_called_what_it_was():
    """By its name where it is a recipe, else with what is unlike the nearest one."""
    for name in META_TRAINED:
        for recipe in LEARNERS[name].meta.values():
            for data in map(DataConfig, ("glyphs", "sine")):
                assert title(name, recipe(data, name).learner, data=data) == name
    learner = recipe_for("transformer", None, DataConfig()).learner
    assert title("transformer", replace(learner, query="input")) == "transformer (query input)"
    assert title("transformer", replace(learner, attention="linear")) == "transformer (attention linear)"
    assert title("transformer", replace(learner, attention="linear", width=64)) == "transformer (attention linear, width 64)"
    bp = on("bp", "permuted-mnist")
    assert title("bp", bp, along(STREAMS["permuted-mnist"])) == "bp" != title("bp", bp)
    narrow = replace(bp, network=replace(bp.network, normalise=True), rate=3.0)
    assert title("bp", narrow, along(STREAMS["permuted-mnist"])) == "bp (rate 3.0, network.normalise True)"
    assert title("bp", narrow, along(STREAMS["permuted-mnist"]), rate=False) == "bp (network.normalise True)"
    many = replace(learner, width=8, heads=2, layers=5, hidden=3)
    assert title("transformer", many).endswith("...)")
