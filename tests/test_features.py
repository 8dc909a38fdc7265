"""Frozen features: a pool of vectors, computed once; runs that remember the weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from making import labelled_folder, noise, png, small_pool
from test_backbones import script
from torch import nn

from episodes import STREAMS, DataConfig, EpisodeShape, UserError, load_benchmark
from episodes.augment.config import AugmentConfig
from episodes.augment.episodes import with_rotations
from episodes.data import features
from episodes.data.backbones.known import Backbone
from episodes.data.features import features_of, shown, with_features
from episodes.errors import Notice
from metacl.cli import evaluate_main, train_main
from metacl.commands.parse_train import parse_train
from metacl.recipes.presets import recipe_for

FEW = ["--steps", "2", "--batch-size", "1", "--validation.every", "2", "--validation.episodes", "1", "--precision", "fp32"]
SHAPE = ["--episodes.tasks", "2", "--episodes.shots", "2", "--episodes.queries", "1", "--learner.width", "8"]
TINY = [*FEW, *SHAPE, "--run", "mine"]


class Small(nn.Module):
    """Seven features: linear in the mean of each channel."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.linear = nn.Linear(3, 7)
        nn.init.constant_(self.linear.bias, scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean((2, 3)))


class Flat(nn.Module):
    """Gives a row for all images together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((0, 2, 3))


class Two(nn.Module):
    """Gives two things."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class Holes(nn.Module):
    """No number for images whose first pixel is dark."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2].clamp(min=-1.0).log()


@pytest.fixture
def net(tmp_path) -> str:
    torch.manual_seed(1)
    script(Small(), tmp_path / "net.pt")
    return str(tmp_path / "net.pt")


@pytest.fixture
def pictures(tmp_path, cache) -> str:
    """Twelve classes of four images in colour."""
    for label in range(12):
        (tmp_path / "pics" / f"c{label}").mkdir(parents=True)
        for i in range(4):
            (tmp_path / "pics" / f"c{label}" / f"{i}.png").write_bytes(png(noise(10 * label + i, 12)))
    return str(tmp_path / "pics")


def of(network, side: int | None = None) -> Backbone:
    return Backbone("mine", "digest", side, lambda: network)


def test_images_become_vectors_in_their_places():
    network, pool = Small().eval(), small_pool((3, 40, 4), (3, 6, 6))
    part = pool.select([2, 0])
    found = features_of(part, of(network))
    assert (found.x_kind, found.x_shape, found.x.dtype) == ("vector", (7,), np.float32) and len(found.x) == 7
    assert found.names == part.names and (found.counts == part.counts).all() and (found.ids == part.ids[part.rows()]).all()
    for own, start in zip(part.starts, found.starts, strict=True):
        wanted = network(torch.from_numpy(part.x[own : own + 3]).float() / 255)
        torch.testing.assert_close(torch.from_numpy(found.x[start : start + 3]), wanted.detach())


def test_what_a_backbone_is_shown():
    grey = torch.arange(32, dtype=torch.uint8).view(2, 1, 4, 4) * 8
    assert shown(grey, None).shape == (2, 3, 4, 4) and (shown(grey, None)[:, 2] == grey[:, 0] / 255).all()
    large = shown(grey, 8)
    assert large.shape == (2, 3, 8, 8) and torch.allclose(large.mean((2, 3)), shown(grey, 4).mean((2, 3)), atol=1e-6)


def test_computed_once_and_again_for_other_weights(net, pictures, monkeypatch):
    computed = []
    monkeypatch.setattr(features, "features_of", lambda *words: computed.append(1) or features_of(*words))
    data = DataConfig(pictures, features=net)
    first, again, images = load_benchmark(data, 8), load_benchmark(data, 8), load_benchmark(DataConfig(pictures), 8)
    assert len(computed) == 1 and first.fingerprint == again.fingerprint != images.fingerprint
    assert first.train.spec.x_kind == "vector" and first.train.spec.x_shape == (7,)
    assert all(first.classes(split) == images.classes(split) for split in ("train", "validation", "test"))
    assert (first.ids("train") == images.ids("train")).all()
    shape = EpisodeShape(tasks=2, shots=2, queries=1, vocabulary=8)
    episode = first.generator("train", shape, 0).batch([3])
    assert episode.stream.x.shape == (1, 4, 7) and episode.stream.x.dtype == torch.float32
    assert (episode.stream.y == images.generator("train", shape, 0).batch([3]).stream.y).all()
    sizes = load_benchmark(DataConfig(pictures, features=net, features_size=20), 8)
    script(Small(2.0), net)
    other = load_benchmark(data, 8)
    assert len(computed) == 3 and len({first.fingerprint, sizes.fingerprint, other.fingerprint}) == 3
    with pytest.warns(Notice, match="1 of 12 classes are left out"):  # of what was computed
        load_benchmark(DataConfig(pictures, features=net, without=("c3",)), 8)
    assert len(computed) == 3


def test_other_weights_are_refused(net, pictures):
    remembered = features.remembering(DataConfig(pictures, features=net))
    assert remembered.features_weights and load_benchmark(remembered, 8)
    script(Small(2.0), net)
    with pytest.raises(UserError, match=r"weights of .*net.pt are not those that the run was begun with"):
        load_benchmark(remembered, 8)


def test_backbones_that_give_something_else():
    pool = small_pool((3, 2), (1, 4, 4))
    with pytest.raises(
        UserError, match=r"mine must give a row of features .* Of 5 x 3 x 4 x 4 it gives torch.float32 of shape"
    ):
        features_of(pool, of(Flat()))
    with pytest.raises(UserError, match=r"mine must give .* it gives tuple"):
        features_of(pool, of(Two()))
    with pytest.raises(UserError, match=r"mine fails on images of 5 x 3 x 4 x 4 .*--data.features-size"):
        features_of(pool, of(nn.Conv2d(3, 2, 9)))
    dark = int((pool.x.reshape(5, -1)[:, :2] == 0).any(1).sum())
    with pytest.raises(UserError, match=rf"not finite \(NaN or infinite\) for {dark} of the 5 images of small"):
        features_of(pool, of(Holes()))
    vectors = features_of(pool, of(Small()))
    with pytest.raises(UserError, match="small has vectors already"):
        with_features(vectors, DataConfig(features="net.pt"))


def test_options_that_mean_nothing():
    with pytest.raises(UserError, match="features-size means nothing without data"):
        DataConfig(features_size=64)
    with pytest.raises(UserError, match=r"--data\.features means nothing for sine"):
        load_benchmark(DataConfig("sine", features="efficientnet-lite0"), 8)


def test_features_are_not_augmented(net, pictures):
    family = load_benchmark(DataConfig(pictures, features=net), 8).train
    with pytest.raises(UserError, match=r"features were computed once, of the images as they are"):
        with_rotations(family, EpisodeShape(2, 1, 1, 8), AugmentConfig(flip=True))


def test_a_run_remembers_the_weights(cli, net, pictures, monkeypatch, tmp_path):
    assert cli(train_main, pictures, "pn", "--data.features", "net.pt", *TINY)[0] == 0
    kept = json.loads(Path("mine/config.json").read_text())["data"]
    assert kept["features"] == net and len(kept["features_weights"]) == 64
    assert cli(evaluate_main, "mine", "--episodes", "2")[0] == 0
    Path(net).rename(tmp_path / "moved.pt")
    status, text = cli(evaluate_main, "mine", "--episodes", "2", "--out", "other")
    assert status and "Unknown backbone" in text
    assert cli(evaluate_main, "mine", "--episodes", "2", "--out", "third", "--data.features", "moved.pt")[0] == 0
    script(Small(2.0), net)
    for main, words in ((evaluate_main, ["mine", "--out", "fourth"]), (train_main, ["--resume", "mine"])):
        status, text = cli(main, *words)
        assert status and "are not those that the run was begun with" in text


def test_streams_of_features(cli, net, tmp_path, cache):
    place = labelled_folder(tmp_path / "data", 6, 8)
    named = STREAMS["split-tiny-imagenet"].config
    stream = replace(named, data=DataConfig(place, features=net)).load()
    assert stream.spec.x_kind == "vector" and stream.task(0, 0).train[:3].x.shape == (1, 3, 7)
    options = ["--stream.data.name", place, "--stream.data.features", net, "--tasks", "2", "--out", "followed"]
    assert cli(evaluate_main, "split-tiny-imagenet", "bp", *options)[0] == 0
    kept = json.loads(Path("followed/config.json").read_text())["stream"]["data"]
    assert kept["features"] == net and len(kept["features_weights"]) == 64


def test_a_run_along_features_of_others_is_refused(cli, net, pictures, tmp_path):
    assert cli(train_main, pictures, "pn", "--data.features", net, *TINY)[0] == 0
    script(Small(2.0), tmp_path / "other.pt")
    along = ["mine", "split-tiny-imagenet", "--stream.data.name", pictures, "--tasks", "1", "--stream.data.features"]
    status, text = cli(evaluate_main, *along, str(tmp_path / "other.pt"), "--out", "a")
    assert status and "are of other weights" in text
    assert cli(evaluate_main, *along, net, "--out", "b")[0] == 0


@pytest.mark.parametrize("words", [["--data.features", "a.pt"], ["--data.features=a.pt"], ["--recipe", "features"]])
def test_features_of_characters_are_not_augmented_by_default(words):
    assert parse_train(["omniglot", "pn"]).configs["seed-0"].augment.changes
    config = parse_train(["omniglot", "pn", *words]).configs["seed-0"]
    assert not config.augment.changes and config.data.features in ("a.pt", "efficientnet-lite0")


def test_the_recipe_for_features():
    data = DataConfig("omniglot")
    for learner in ("transformer", "linear-transformer", "pn", "gemcl", "gemcl-map"):
        config = recipe_for(learner, "features", data)
        assert config.data.features == "efficientnet-lite0" and not config.augment.changes
        assert recipe_for(learner, "features", DataConfig(features="a.pt")).data.features == "a.pt"
        assert config.learner.encoder.vectors == "linear"
    assert recipe_for("transformer", "features", data).learner.width == 256
