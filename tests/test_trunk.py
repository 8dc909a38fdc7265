"""The vision transformer of a learner: where its weights are, and in which precision it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from making import png
from safetensors.torch import save_file
from tiny_vit import SPEC, TINY, tiny  # noqa: F401

from episodes import DataConfig
from episodes.data.backbones.known import backbone_of
from metacl.cli import evaluate_main
from metacl.commands.parse_evaluate import parse_evaluate
from metacl.commands.places import located
from metacl.learners.precision import fast_bf16
from metacl.learners.vision.trunk import TrunkConfig
from metacl.learners.vision.tuned import TunedConfig
from metacl.nets.vit import VisionTransformer, VitConfig

FEW = ["--episodes", "1", "--tasks", "1", "--shots", "2", "--queries", "1"]
QUICK = ["--learner.epochs", "1", "--rates", "0.001", "--learner.trunk.side", "8"]


def vit(folder: Path, seed: int = 0) -> Path:
    """A folder with the weights of a small transformer."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    save_file(VisionTransformer(VitConfig(8, 4, 24, 1, 2, 48)).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    return folder


@pytest.fixture
def colours(tmp_path, cache) -> str:
    """Ten classes of four images."""
    rng = np.random.default_rng(0)
    for label in range(10):
        (tmp_path / "colours" / f"c{label}").mkdir(parents=True)
        for i in range(4):
            x = rng.integers(0, 200, 3) + rng.integers(0, 50, (8, 8, 3))
            (tmp_path / "colours" / f"c{label}" / f"{i}.png").write_bytes(png(x.astype(np.uint8)))
    return str(tmp_path / "colours")


def trunk_of(*words: str) -> str:
    (config,) = parse_evaluate([*words]).configs
    trunk: TrunkConfig = vars(config.learner)["trunk"]
    return trunk.backbone


def test_weights_are_named_from_the_root(tmp_path, monkeypatch):
    """A path is whole in a configuration; a name stays a name, also where a folder is called so."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "vit-b16", "vit-tiny-32"):
        (tmp_path / name).mkdir()
    for named, found in (("mine", str(tmp_path / "mine")), ("vit-b16", "vit-b16"), ("vit-tiny-32", "vit-tiny-32")):
        for source in ("split-cifar100", "glyphs"):
            assert trunk_of(source, "vit-finetune", "--learner.trunk.backbone", named) == found
        assert trunk_of("split-cifar100", "vit-finetune", "--learner.trunk.backbone", "nowhere") == "nowhere"
    assert located(DataConfig(features="vit-b16")).features == "vit-b16"
    assert located(DataConfig(features="mine")).features == str(tmp_path / "mine")


def test_an_evaluation_is_gone_on_with_from_another_folder(cli, colours, tmp_path, monkeypatch):
    vit(tmp_path / "mine")
    words = ["colours", "vit-finetune", *FEW, *QUICK, "--learner.trunk.backbone", "mine", "--out", "followed"]
    status, text = cli(evaluate_main, *words)
    assert status == 0, text
    (tmp_path / "followed" / "metrics.jsonl").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, text = cli(evaluate_main, "--resume", str(tmp_path / "followed"))
    assert status == 0, text


def test_an_evaluation_remembers_the_weights(cli, colours, tmp_path):
    """They stand in its configuration, not in what it is called, and no others of the same name pass for them."""
    vit(tmp_path / "mine")
    words = ["colours", "vit-finetune", *FEW, *QUICK, "--learner.trunk.backbone", "mine"]
    assert cli(evaluate_main, *words, "--out", "followed")[0] == 0
    trunk = json.loads(Path("followed/config.json").read_text())["learner"]["trunk"]
    assert trunk["weights"] == backbone_of("mine").digest
    (result,) = json.loads(Path("followed/results.json").read_text())["results"]
    assert "trunk.backbone" in result["learner"] and "weights" not in result["learner"]
    vit(tmp_path / "mine", seed=1)
    status, text = cli(evaluate_main, "--resume", "followed")
    assert status and f"weights of {tmp_path}/mine are not those that the evaluation was begun with" in text
    assert cli(evaluate_main, *words, "--out", "anew")[0] == 0


def test_a_transformer_without_weights_has_none_to_remember():
    assert TrunkConfig("vit-tiny-32").remembering().weights is None


@pytest.mark.usefixtures("tiny")
def test_precision_is_that_of_the_device(monkeypatch):
    """A learner on the processor of a machine with a GPU has the precision that pays on the processor, and on the GPU then."""
    learner = TunedConfig(trunk=TINY).build(SPEC)
    learner.trunk.config = TrunkConfig("vit-tiny-32")
    for fast in ("cpu", "cuda"):
        monkeypatch.setattr("metacl.learners.vision.trunk.fast_bf16", lambda device, fast=fast: device == fast)
        assert learner.trunk.bf16 is (fast == "cpu")
    assert learner.to("meta").trunk.device.type == "meta" and not learner.trunk.bf16
    learner.trunk.config = TrunkConfig("vit-tiny-32", precision="bf16")
    assert learner.trunk.bf16


def test_bf16_pays_by_the_device(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for processor in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda own=processor: own)
        for card in (True, False):
            monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
            monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda own=card, including_emulation=True: own)
            assert [fast_bf16(device) for device in ("cpu", "cuda", "mps")] == [processor, card, False]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not fast_bf16("cuda")
