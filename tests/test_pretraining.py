"""A backbone of one's own: what `train.py pretrain` learns, leaves and refuses, and how it goes on."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from making import png
from safetensors.torch import load_file

from episodes import EpisodeSpec
from episodes.data.backbones.known import backbone_of
from metacl.cli import evaluate_main, train_main
from metacl.commands.data_of import found
from metacl.commands.parse_evaluate import parse_evaluate
from metacl.learners.vision.trunk import TrunkConfig
from metacl.recipes.pretraining import ShapeConfig
from metacl.runs.files import read_lines
from metacl.runs.trained_on import FILE, met_by_backbone, trained_on
from metacl.training import pretraining

SHAPE = ["--shape.side", "8", "--shape.patch", "4", "--shape.width", "24", "--shape.depth", "1", "--shape.heads", "2"]
TINY = [*SHAPE, "--batch-size", "10", "--precision", "fp32", "--run", "mine"]
CLASSES, EACH = 5, 12


@pytest.fixture
def colours(tmp_path, cache) -> Path:
    """Five classes, each of a colour; ten of its twelve images are learnt from."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        colour = rng.integers(0, 200, 3)
        (tmp_path / "colours" / f"c{label}").mkdir(parents=True)
        for i in range(EACH):
            x = colour + rng.integers(0, 50, (8, 8, 3))
            (tmp_path / "colours" / f"c{label}" / f"{i:02}.png").write_bytes(png(x.astype(np.uint8)))
    return tmp_path / "colours"


def records(folder: str = "mine") -> list[dict]:
    """Without the times."""
    return [record | {"images_per_second": 0} for record in read_lines(Path(folder) / "metrics.jsonl")]


def weights(folder: str = "mine") -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "backbone" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns(cli, colours):
    options = ["--epochs", "6", "--batch-size", "5", "--optimiser.rate", "1e-2"]
    status, text = cli(train_main, "pretrain", "colours", *TINY, *options)
    assert status == 0 and "5 classes, 50 images and 10 held out" in text and "The backbone is in mine/backbone" in text
    assert [(record["step"], record["epoch"]) for record in records()] == [(10 * n, n) for n in range(1, 7)]
    assert records()[-1]["held_out_accuracy"] >= 0.8 and records()[-1]["loss"] < records()[0]["loss"]


@pytest.mark.parametrize("stop", [7, 10])
def test_stopped_and_gone_on_with_it_ends_as_if_it_had_never_stopped(cli, colours, monkeypatch, stop):
    """At step 7 within an epoch, whose sums go on too; at step 10 with the end of one."""
    options = [*TINY[:-1], "whole", "--epochs", "3"]
    assert cli(train_main, "pretrain", "colours", *options)[0] == 0
    plain = pretraining._Pretraining._step

    def signalled(self, step):
        plain(self, step)
        if step == stop - 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining._Pretraining, "_step", signalled)
        status, text = cli(train_main, "pretrain", "colours", *TINY, "--epochs", "3")
    assert status == 130 and f"saved at step {stop}. Go on with: python train.py --resume mine" in text
    assert not same(weights(), weights("whole"))
    status, text = cli(train_main, "--resume", "mine")
    assert status == 0 and "Done" in text and "Note" not in text
    assert records() == records("whole") and same(weights(), weights("whole"))
    last = "checkpoints/step-00000015/{}.safetensors"
    for name in ("learner", "optimiser"):
        assert same(load_file(Path("mine", last.format(name))), load_file(Path("whole", last.format(name))))


def test_where_it_is_done_what_is_missing_is_written_also_where_the_data_have_moved(cli, colours):
    assert cli(train_main, "pretrain", "colours", *TINY, "--epochs", "1")[0] == 0
    before = weights()
    shutil.rmtree("mine/backbone")
    colours.rename("elsewhere")
    status, text = cli(train_main, "--resume", "mine")
    assert status == 2 and "Unknown data set" in text
    assert cli(train_main, "--resume", "mine", "--data.path", "elsewhere")[0] == 0
    assert same(weights(), before) and len(records()) == 1


def test_another_seed_is_another_backbone(cli, colours):
    for seed, folder in (("0", "a"), ("0", "b"), ("1", "c")):
        assert cli(train_main, "pretrain", "colours", *TINY[:-1], folder, "--epochs", "1", "--seed", seed)[0] == 0
    assert same(weights("a"), weights("b")) and not same(weights("a"), weights("c"))


def test_the_backbone(cli, colours, tmp_path):
    assert cli(train_main, "pretrain", "colours", *TINY, "--epochs", "1")[0] == 0
    x = torch.rand(2, 3, 8, 8)
    own = TrunkConfig("mine").load()
    assert own.config == ShapeConfig(8, 4, 24, 1, 2).vit()
    assert same(own.state_dict(), weights()) and not any(part.requires_grad for part in own.parameters())
    for place in ("mine", "mine/backbone", "mine/backbone/model.safetensors"):
        backbone = backbone_of(place)
        assert backbone.side == 8 and torch.equal(backbone.load()(x), own(x))
    about = json.loads(Path("mine/backbone/config.json").read_text())
    assert about["id2label"] == {str(i): f"colours/c{i}" for i in range(CLASSES)} and about["epochs"] == 1
    assert (about["image_size"], about["num_attention_heads"], about["layer_norm_eps"]) == (8, 2, 1e-6)
    assert len(trained_on(Path("mine/backbone"), "config.json")) == 50
    assert len(np.load(Path("mine/backbone") / FILE)) == 50


def test_as_features_and_as_the_trunk_of_a_learner(cli, colours, capsys):
    """What the backbone was trained on is said wherever it is asked about."""
    assert cli(train_main, "pretrain", "colours", *TINY, "--epochs", "1")[0] == 0
    few = ["--episodes", "1", "--tasks", "1", "--shots", "2", "--queries", "1"]
    status, text = cli(evaluate_main, "colours", "knn", *few, "--data.features", "mine")
    assert status == 0 and "Note: 1 class of colours, meta-test is one that the backbone" in text
    assert "mine was trained on, such as colours/c" in text
    trunk = ["--learner.trunk.backbone", "mine", "--learner.trunk.side", "8", "--learner.blocks", "1"]
    (config,) = parse_evaluate(["colours", "hide-prompt", *few, *trunk]).configs
    found([config])
    assert "/mine was trained on" in capsys.readouterr().out
    learner = config.learner.build(EpisodeSpec("image", (3, 8, 8), "cross_entropy", symbols=5))
    assert same(learner.trunk.network.state_dict(), weights())
    steps = ["--steps", "1", "--batch-size", "1", "--validation.episodes", "1", "--learner.width", "8"]
    shape = ["--episodes.tasks", "1", "--episodes.shots", "1", "--episodes.queries", "1"]
    status, text = cli(train_main, "colours", "pn", *steps, *shape, "--data.features", "mine/backbone", "--run", "other")
    assert status == 0 and "mine/backbone was trained on" in text


def test_what_is_not_known_of_other_backbones(tmp_path):
    assert met_by_backbone("dinov2-small", []) == [] and met_by_backbone(str(tmp_path), []) == []


def test_of_a_named_benchmark_the_classes_of_meta_train_are_taken(cli, tmp_path, cache):
    rng = np.random.default_rng(0)
    for label in range(10):
        (tmp_path / "digits" / str(label)).mkdir(parents=True)
        for i in range(6):
            (tmp_path / "digits" / str(label) / f"{i}.png").write_bytes(png(rng.integers(0, 256, (8, 8), dtype=np.uint8)))
    status, text = cli(train_main, "pretrain", "mnist", "--data.path", "digits", *TINY, "--epochs", "1")
    assert status == 0 and "on mnist (6 classes, 30 images and 6 held out)" in text
    data = json.loads(Path("mine/config.json").read_text())["data"]
    assert (data["size"], data["channels"], data["path"]) == (28, 1, str(tmp_path / "digits"))


def test_a_published_split_is_held_out(cli, tmp_path, cache):
    rng = np.random.default_rng(0)
    for split, number in (("train", 4), ("test", 2)):
        for label in "ab":
            (tmp_path / "pics" / split / label).mkdir(parents=True)
            for i in range(number):
                (tmp_path / "pics" / split / label / f"{i}.png").write_bytes(png(rng.integers(0, 256, (9, 9), dtype=np.uint8)))
    status, text = cli(train_main, "pretrain", "pics", *TINY, "--epochs", "1")
    assert status == 0 and "2 classes, 8 images and 4 held out" in text
    assert json.loads(Path("mine/config.json").read_text())["data"]["size"] == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["colours", "--shape", "vit-huge"],
            "Unknown shape 'vit-huge'. There is: vit-micro-32, vit-tiny-32. Make one of your own",
        ),
        (
            ["colours", "--shape.patch", "5"],
            "Patches of 5 pixels do not divide an image of 32. Give others that do: --shape.side",
        ),
        (["colours", "--shape.heads", "5"], "5 heads do not divide a width of 192"),
        (["colours", "--shape.depth", "0"], "shape.depth must be at least 1"),
        (["colours", "--shape.side", "2048", "--shape.patch", "8"], "shape.side must be at most 1024"),
        (["colours", "--area", "0"], "area is a part of an image"),
        (["colours", "--smoothing", "1"], "smoothing must be at least 0 and below 1"),
        (["colours", "--optimiser.warmup", "5"], "optimiser.warmup must be at most 1"),
        (["colours", "--data.split", "hierarchy"], "--data.split"),
        (["colours", "--data.without", "c[0-3]"], "has one class: there is nothing to tell apart"),
        (["sine"], "sine has none"),
        (["colors"], "Unknown data set 'colors'"),
        (["colours", "transformer"], "Name the data set, then options"),
        ([], "Name the data set, then options"),
    ],
)
def test_refused(cli, colours, words, said):
    options = TINY[10:] if any(word.startswith("--shape") for word in words) else TINY
    status, text = cli(train_main, "pretrain", *words, *options)
    assert status == 2 and said in text and not Path("mine").exists()


def test_folders_of_another_kind(cli, colours, monkeypatch):
    assert cli(train_main, "pretrain", "colours", *TINY, "--epochs", "1")[0] == 0
    for words, said in (
        (("pretrain", "colours", *TINY), "mine exists and is not overwritten. Go on with --resume mine"),
        (("--resume", "mine", "--launch", "local:2"), "--launch is for several runs"),
    ):
        status, text = cli(train_main, *words)
        assert status == 2 and said in text
    status, text = cli(evaluate_main, "mine")
    assert status == 2 and "mine is a backbone that train.py pretrain made" in text and "--data.features mine" in text
    status, text = cli(evaluate_main, "--resume", "mine")
    assert status == 2 and "mine is a pre-training. Go on with it by: python train.py --resume mine" in text
    (colours / "c0" / "00.png").unlink()
    status, text = cli(train_main, "--resume", "mine")
    assert status == 2 and "The data of mine have changed" in text
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, text = cli(train_main, "--resume", "mine")
    assert status == 2 and "leave out torchrun" in text


def test_a_loss_that_is_not_finite_is_said_and_nothing_is_lost(cli, colours, monkeypatch):
    plain = pretraining._Pretraining._step

    def broken(self, step):
        plain(self, step)
        if step == 7:
            self.sums[0] = torch.nan

    monkeypatch.setattr(pretraining._Pretraining, "_step", broken)
    status, text = cli(train_main, "pretrain", "colours", *TINY, "--epochs", "2")
    assert status == 2 and "not finite at step 10 or shortly before. The checkpoint of step 5 is kept in mine" in text
    assert all(part.isfinite().all() for part in weights().values())


def test_help(cli):
    for words in (["pretrain", "--help"], ["pretrain", "glyphs", "--help"]):
        status, text = cli(train_main, *words)
        assert status == 0 and "--shape.patch INT" in text and "--optimiser.warmup" in text
        assert "--data.split" not in text and "--data.features" not in text
    assert "train.py pretrain DATA" in cli(train_main)[1]
