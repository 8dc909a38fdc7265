"""The vision transformer against others' code and against loops; what is added to it; its files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from episodes import UserError
from episodes.data.backbones.known import backbone_of
from episodes.data.backbones.vit import Added, VisionTransformer, VitConfig, attention
from episodes.data.backbones.vit_files import vit_files
from episodes.data.backbones.vit_weights import network_of
from metacl.nets.vit import ACTIVATIONS, gate, low_rank, normalised, prefix_attention, prefixed

SHAPE = VitConfig(28, 7, 24, 3, 4, 48)
ON_DISK = Path(__file__).parents[2] / "shared" / "data" / "vit-s14-98"
HEADS = {"num_attention_heads": 4}


def network(shape: VitConfig = SHAPE, seed: int = 0) -> VisionTransformer:
    """Weights far from zero, so that everything shows."""
    torch.manual_seed(seed)
    own = VisionTransformer(shape)
    for part in own.parameters():
        torch.nn.init.normal_(part, std=0.3)
    return own.eval().requires_grad_(False)


def images(number: int = 3, side: int = 28) -> torch.Tensor:
    return torch.rand(number, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", [28, 42, 14])
@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_as_transformers(kind, side):
    """Also on images of another size than the positions are for."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 7}
    if kind == "vit":
        about = transformers.ViTConfig(**sizes, intermediate_size=48)
        other = transformers.ViTModel(about)
        options = {"interpolate_pos_encoding": True}
    else:
        about = transformers.Dinov2Config(**sizes, mlp_ratio=2)
        other, options = transformers.Dinov2Model(about), {}
    for part in other.parameters():
        torch.nn.init.normal_(part, std=0.3)
    ours = network_of(other.state_dict(), about.to_dict())
    x = images(side=side)
    with torch.no_grad():
        theirs = other.eval()((x - ours.mean) / ours.deviation, **options).last_hidden_state
    assert_close(ours.tokens(x), theirs, rtol=1e-5, atol=1e-5)
    assert (ours.config.layer_scale, ours.config.hidden) == (kind == "dinov2", 48)


def test_old_names_of_hugging_face_and_those_of_timm():
    own = network(replace(SHAPE, layer_scale=True))
    q, k, v = ("attention.attention." + name for name in ("query", "key", "value"))
    other = {}
    for name, part in own.state_dict().items():
        if ".attn.qkv." in name:
            for new, third in zip((q, k, v), part.chunk(3), strict=True):
                other[name.replace("attn.qkv", new).replace("blocks", "dinov2.encoder.layer")] = third
            continue
        new = name.replace("blocks", "encoder.layer").replace("attn.proj", "attention.output.dense")
        new = new.replace("patch_embed", "embeddings.patch_embeddings.projection").replace("cls_token", "embeddings.cls_token")
        new = new.replace("pos_embed", "embeddings.position_embeddings")
        new = new.replace("ls1.gamma", "layer_scale1.lambda1").replace("ls2.gamma", "layer_scale2.lambda1")
        other["dinov2." + (new.replace("norm.", "layernorm.") if new.startswith("norm.") else new)] = part
    timm = {name.replace("patch_embed.", "patch_embed.proj."): part for name, part in own.state_dict().items()}
    unused = {"head.weight": torch.zeros(5, 24), "fc_norm.weight": torch.zeros(24), "embeddings.mask_token": torch.zeros(1, 24)}
    for weights in (other, timm | unused):
        assert_close(network_of(weights, HEADS)(images()), own.double()(images().double()).float(), rtol=1e-4, atol=1e-4)
        own.float()


def test_wrong_weights_are_named():
    weights = network().state_dict()
    gone = {name: part for name, part in weights.items() if name != "blocks.1.norm2.bias"}
    with pytest.raises(ValueError, match=r"blocks\.1\.norm2\.bias is missing"):
        network_of(gone, HEADS)
    with pytest.raises(ValueError, match=r"blocks\.0\.strange is none of a vision transformer's"):
        network_of(weights | {"blocks.0.strange": torch.zeros(1)}, HEADS)
    with pytest.raises(ValueError, match=r"norm\.bias \(3,\) for \(24,\) is of another shape"):
        network_of(weights | {"norm.bias": torch.zeros(3)}, HEADS)
    with pytest.raises(ValueError, match=r"not finite .* blocks\.2\.attn\.proj\.bias"):
        network_of(weights | {"blocks.2.attn.proj.bias": torch.full((24,), torch.nan)}, HEADS)
    with pytest.raises(ValueError, match="register_tokens is none of"):
        network_of(weights | {"register_tokens": torch.zeros(1, 4, 24)}, HEADS)
    with pytest.raises(ValueError, match="no cls_token, no pos_embed"):
        network_of({"patch_embed.weight": weights["patch_embed.weight"]})


def test_files(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    own = network()
    save_file(own.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 4, "image_mean": [0.1, 0.2, 0.3]}))
    for place in (folder, folder / "model.safetensors"):
        files = vit_files(str(place))
        assert files is not None and files.config() == replace(SHAPE, mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.5, 0.5))
        backbone = backbone_of(str(place))
        assert (
            backbone.side == 28
            and backbone_of(str(place), 14).side == 14
            and backbone.digest == backbone_of(str(folder)).digest
        )
        assert backbone.load()(images()).shape == (3, 24)
    digest = backbone_of(str(folder)).digest
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    assert backbone_of(str(folder)).digest != digest  # features of other heads are other features
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read as safetensors"):
        backbone_of(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no safetensors files"):
        backbone_of(str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"dinov2-small \(facebook/dinov2-small\) are neither on this machine"):
        backbone_of("dinov2-small")


def test_an_image_that_patches_do_not_divide():
    with pytest.raises(UserError, match=r"30 x 30 pixels are not divided by square patches of 7 x 7.* 28 for instance"):
        network()(images(side=30))
    with pytest.raises(UserError, match="Patches of 5 pixels do not divide an image of 28"):
        VitConfig(28, 5, 24, 1, 4, 48)
    with pytest.raises(UserError, match="added to 4 blocks, but the transformer has 3"):
        network()(images(), [Added()] * 4)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_prefix_attention_is_a_loop(activation):
    """Row by row in float64; and only the scores of the prefix are changed."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 5, 6, generator=generator, dtype=torch.float64)
    prefix_k, prefix_v = torch.randn(2, 2, 4, 3, 6, generator=generator, dtype=torch.float64)
    tau, alpha = torch.tensor(0.7, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    own = None if activation is None else lambda s: gate(s, tau, alpha, activation)
    found = prefix_attention(q, k, v, prefix_k, prefix_v, own)
    for b, h, n in ((0, 0, 0), (1, 3, 4), (1, 2, 1)):
        scores, values = [], []
        for key, value in zip(prefix_k[b, h], prefix_v[b, h], strict=True):
            s = float(q[b, h, n] @ key) / 6**0.5
            if activation is not None:
                s = s + 1.3 * float(ACTIVATIONS[activation](torch.tensor(0.7 * s, dtype=torch.float64)))
            scores.append(s)
            values.append(value)
        for key, value in zip(k[b, h], v[b, h], strict=True):
            scores.append(float(q[b, h, n] @ key) / 6**0.5)
            values.append(value)
        weights = torch.tensor(scores, dtype=torch.float64).exp()
        expected = sum(w * value for w, value in zip(weights / weights.sum(), values, strict=True))
        assert_close(found[b, h, n], expected)


def test_attention_is_in_float32_on_a_cpu_whatever_is_asked():
    """Forwards and backwards; only what comes in and out is rounded."""
    q, k, v = (torch.randn(2, 3, 50, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(q, k, v)
    whole = scaled_dot_product_attention(q.float(), k.float(), v.float()).bfloat16()
    assert torch.equal(found, whole)
    gradients = [torch.autograd.grad(out.float().square().sum(), (q, k, v)) for out in (found, whole)]
    assert all(torch.equal(*both) for both in zip(*gradients, strict=True))
    assert attention(q.double(), k.double(), v.double()).dtype == torch.float64


def test_a_gate_with_alpha_zero_and_a_prefix_of_no_tokens_change_nothing():
    own = network()
    prefix = torch.randn(1, 2, 2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    zero = [lambda s: gate(s, torch.tensor(1.0), torch.tensor(0.0), "gelu")] * 2
    plain = own(images(), prefixed(prefix))
    assert torch.equal(own(images(), prefixed(prefix, zero)), plain) and not torch.allclose(plain, own(images()))
    assert torch.equal(own(images(), prefixed(prefix[:, :, :, :0])), own(images()))


def test_each_image_has_its_own_prefix():
    own = network()
    prefixes = torch.randn(3, 2, 2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    together = own(images(), prefixed(prefixes))
    for b in range(3):
        assert_close(together[b : b + 1], own(images()[b : b + 1], prefixed(prefixes[b : b + 1])))


def test_low_rank_weights_are_merged_weights():
    own, generator = network(), torch.Generator().manual_seed(0)
    pairs = {name: (torch.randn(2, 24, generator=generator), torch.randn(24, 2, generator=generator)) for name in ("k", "v")}
    beside = own(images(), [low_rank(pairs)])
    with torch.no_grad():
        for place, name in ((1, "k"), (2, "v")):
            A, B = pairs[name]
            own.blocks[0].attn.qkv.weight[24 * place : 24 * (place + 1)] += B @ A
    assert_close(beside, own(images()), rtol=1e-4, atol=1e-4)


def test_taps_and_input_prompts():
    own, seen = network(), {}
    own(images(), [Added(tap=lambda name, part: seen.update({name: tuple(part.shape)}))])
    tokens, heads = (3, 17, 24), (3, 4, 17, 6)
    names = ("attention in", "heads", "attention out", "mlp in", "mlp out")
    assert seen == dict.fromkeys(names, tokens) | dict.fromkeys("qkv", heads) | {"mlp hidden": (3, 17, 48)}
    assert own.tokens(images(), prompts_BLD=torch.zeros(3, 5, 24)).shape == (3, 22, 24)


def test_the_frozen_part_has_no_gradients():
    own = network()
    prefix = torch.zeros(1, 1, 2, 3, 4, 6, requires_grad=True)
    own(images(), prefixed(prefix)).sum().backward()
    assert prefix.grad is not None and bool(prefix.grad.any())
    assert all(part.grad is None for part in own.parameters())


@pytest.mark.skipif(not ON_DISK.is_dir(), reason="the pre-trained transformer is not there")
def test_a_pre_trained_transformer():
    backbone = backbone_of(str(ON_DISK))
    h = backbone.load()(images(2, 98))
    assert backbone.side == 98 and h.shape == (2, 384) and bool(h.isfinite().all())


def test_a_norm_before_the_gelu():
    """None leaves the transformer bit for bit as it was; a LayerNorm makes the size of the first layer's weights irrelevant."""
    own, x = network(), images()
    seen = []
    plain = own.tokens(x)
    assert torch.equal(own.tokens(x, [Added(before_gelu=None)] * 3), plain)
    assert torch.equal(own.tokens(x, [Added(before_gelu=lambda inputs: inputs)] * 3), plain)
    added = normalised(own.config.depth, [Added(tap=lambda name, part: seen.append(part) if name == "mlp hidden" else None)])
    assert len(added) == own.config.depth and added[0].tap is not None
    normal = own.tokens(x, added)
    inputs = own.blocks[0].mlp.fc1(own.blocks[0].norm2(halfway(own, x)))
    expected = torch.nn.functional.gelu((inputs - inputs.mean(-1, keepdim=True)) / inputs.std(-1, keepdim=True, correction=0))
    assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(normal, plain, atol=1e-2)
    for block in own.blocks:
        block.mlp.fc1.weight.mul_(7)
        block.mlp.fc1.bias.mul_(7)
    assert_close(own.tokens(x, added), normal, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="something is added before the GELU already"):
        normalised(3, added)


def halfway(own, x):
    """The tokens after the attention of the first block."""
    h = own.embedded(x)
    return h + own.blocks[0].ls1(own.blocks[0].attn(own.blocks[0].norm1(h), Added()))
