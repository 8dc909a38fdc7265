"""Encoders: shapes at any size, examples on their own, inputs scaled."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import EpisodeSpec, UserError
from metacl.nets.encoders import (
    EncoderConfig,
    FeatureEncoder,
    ImageEncoder,
    LinearEncoder,
    Residual,
    VectorEncoder,
    build_encoder,
)
from metacl.nets.fast import PredictionNetwork
from metacl.nets.scratch import Network
from metacl.recipes.sizes import LIGHT, PUBLISHED


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def encoder(shape=(1, 21, 21), width: int = 7, channels=(4, 5), strides=(1, 2)) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(shape, width, channels, strides).eval()


RESIDUAL = EncoderConfig((4, 8), (1, 2), residual=True)


@pytest.mark.parametrize("config", [LIGHT, PUBLISHED, EncoderConfig((3,), (1,)), RESIDUAL])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (21, 21), (5, 9)])
def test_shapes(config, channels, size):
    spec = EpisodeSpec("image", (channels, *size), "cross_entropy", symbols=5)
    out = build_encoder(config, spec, 11).eval()(images(2, 3, channels, *size))
    assert out.shape == (2, 3, 11) and out.dtype == torch.float32 and out.isfinite().all()


def test_the_published_layers():
    convolutions = [
        m for m in ImageEncoder((3, 32, 32), 512, PUBLISHED.channels, PUBLISHED.strides).modules() if hasattr(m, "stride")
    ]
    assert [(c.out_channels, c.stride[0], c.kernel_size, c.padding, c.bias) for c in convolutions] == [
        (channels, stride, (3, 3), (1, 1), None)
        for channels, stride in zip((32, 64, 128, 256, 256), (1, 2, 2, 2, 2), strict=True)
    ]


def test_the_residual_encoder_is_a_resnet_18():
    """17 convolutions of 3 x 3 and one of 1 x 1 wherever the width or the side changes, with the widths of CL-Seq."""
    model = ImageEncoder((3, 32, 32), 512, (32, 64, 128, 256), (1, 2, 2, 2), residual=True)
    sides = [m.kernel_size[0] for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert (sides.count(3), sides.count(1)) == (17, 3) and model.linear.in_features == 256
    blocks = 9 * (4 * 32**2 + 32 * 64 + 3 * 64**2 + 64 * 128 + 3 * 128**2 + 128 * 256 + 3 * 256**2)
    shortcuts = 32 * 64 + 64 * 128 + 128 * 256
    norms = 2 * (5 * 32 + 5 * 64 + 5 * 128 + 5 * 256)
    assert sum(p.numel() for p in model.convolutions.parameters()) == 9 * 3 * 32 + blocks + shortcuts + norms


@pytest.mark.parametrize(("out", "step"), [(4, (1, 1)), (6, (2, 2))], ids=["as it was", "of another shape"])
def test_a_residual_block_adds(out, step):
    torch.manual_seed(0)
    block, x = Residual(4, out, step).eval(), torch.randn(2, 4, 6, 6)
    first, norm, _, second, last = block.change
    shortcut = block.shortcut[1](F.conv2d(x, block.shortcut[0].weight, stride=step)) if out != 4 else x
    inner = norm(F.conv2d(x, first.weight, stride=step, padding=1)).relu()
    assert_close(block(x), (shortcut + last(F.conv2d(inner, second.weight, padding=1))).relu())


@pytest.mark.parametrize("network", [PredictionNetwork, Network])
def test_other_networks_have_no_residual_blocks(network):
    with pytest.raises(UserError, match=r"leave out learner\.encoder\.residual"):
        network(RESIDUAL, EpisodeSpec("image", (1, 8, 8), "cross_entropy", symbols=5), 4)


@pytest.mark.parametrize("width", [9, 20, 6])
def test_a_linear_encoder_starts_as_a_short_rotation(width):
    """Where features are as many or more, distances are a tenth; a projection makes none longer."""
    own = build_encoder(EncoderConfig(vectors="linear"), EpisodeSpec("vector", (9,), "cross_entropy", symbols=3), width)
    x, y = torch.randn(2, 1, 50, 9)
    before, after = 0.1 * (x - y).norm(dim=-1), (own(x) - own(y)).norm(dim=-1)
    assert isinstance(own, LinearEncoder) and own(x).shape == (1, 50, width)
    assert torch.allclose(before, after, atol=1e-5) if width >= 9 else (after < before).all()


@pytest.mark.parametrize("recipe", [LIGHT, PUBLISHED], ids=["light", "published"])
def test_no_stride_goes_beyond_a_map_of_one_pixel(recipe):
    """Whatever the size of the images, in every network with strides."""
    for sides in [(side, side) for side in range(1, 65)] + [(1, 20), (9, 2)]:
        spec = EpisodeSpec("image", (1, *sides), "cross_entropy", symbols=3)
        config, encoder_sides = replace(recipe, channels=(2,) * len(recipe.channels)), []
        for network in (build_encoder(config, spec, 3), PredictionNetwork(config, spec, 3), Network(config, spec, 3)):
            left, convolutions = list(sides), [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
            for layer, stride in zip(convolutions, config.strides, strict=True):
                assert layer.stride == tuple(min(stride, side) for side in left)
                left = [-(-side // step) for side, step in zip(left, layer.stride, strict=True)]
            encoder_sides.append(left)
        assert encoder_sides[0] == encoder_sides[1] == encoder_sides[2]


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (8, 8), (3, 17)])
def test_a_stride_of_one_over_one_pixel_changes_nothing(size):
    torch.manual_seed(0)
    model, x = ImageEncoder((3, *size), 5, PUBLISHED.channels, PUBLISHED.strides).eval().double(), images(1, 4, 3, *size)
    expected = model(x)
    for layer, stride in zip((m for m in model.modules() if isinstance(m, nn.Conv2d)), PUBLISHED.strides, strict=True):
        layer.stride = stride, stride
    assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_examples_are_encoded_on_their_own():
    model, x = encoder(), images(2, 3, 1, 21, 21)
    out = model(x)
    assert_close(model(x[:, 1:2]), out[:, 1:2])
    assert_close(model(x.flip(0)), out.flip(0))
    changed = x.clone()
    changed[0, 0] = 255 - changed[0, 0]
    assert_close(model(changed)[:, 1:], out[:, 1:])
    assert (model(changed)[0, 0] - out[0, 0]).abs().max() > 1e-3


def test_images_are_scaled_to_minus_one_and_one():
    seen = []
    model = encoder()
    model.convolutions[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.zeros(1, 1, 1, 21, 21, dtype=torch.uint8)
    x[..., 0, 0], x[..., 0, 1] = 255, 51
    model(x)
    assert (seen[0].min().item(), seen[0].max().item()) == (-1, 1)
    assert seen[0][0, 0, 0, 1].item() == pytest.approx(51 / 127.5 - 1)


def test_the_encoder_in_float64_has_the_same_features():
    model, x = encoder(), images(1, 4, 1, 21, 21)
    assert_close(model(x).double(), model.double()(x), rtol=1e-4, atol=1e-5)


def test_vectors_of_any_shape():
    torch.manual_seed(0)
    model = VectorEncoder((2, 3), 8).eval()
    x = torch.randn(4, 5, 2, 3)
    out = model(x)
    assert out.shape == (4, 5, 8)
    assert_close(model(x[1:2, 2:3]), out[1:2, 2:3])
    assert [tuple(p.shape) for p in model.parameters() if p.dim() == 2] == [(8, 6), (8, 8), (8, 8)]


def test_batch_norm_takes_its_statistics_in_training_only():
    model, x = encoder(), images(2, 3, 1, 21, 21)
    mean = model.convolutions[1].running_mean.clone()
    model(x)
    assert torch.equal(model.convolutions[1].running_mean, mean)
    model.train()(x)
    assert not torch.equal(model.convolutions[1].running_mean, mean)


def test_each_convolution_needs_its_stride():
    with pytest.raises(UserError, match="strides"):
        build_encoder(EncoderConfig((3, 3), (1,)), EpisodeSpec("image", (1, 8, 8), "cross_entropy", symbols=5), 4)


def test_the_feature_encoder_of_the_query_only_paper():
    images = FeatureEncoder(EpisodeSpec("image", (3, 32, 32), "cross_entropy", symbols=2))
    assert images.width == 1152 and sum(p.numel() for p in images.parameters()) == 32 * 76 + 64 * 289 + 128 * 577
    x = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert images(x).shape == (4, 1152)
    assert_close(images(x)[:1], images.layers(x[:1] / 255).flatten(1))
    vectors = FeatureEncoder(EpisodeSpec("vector", (2, 3), "mse", y_shape=(1,)))
    assert vectors.width == 6 and torch.equal(vectors(torch.arange(6.0).view(1, 2, 3)), torch.arange(6.0)[None])
    assert FeatureEncoder(EpisodeSpec("image", (1, 10, 10), "cross_entropy", symbols=2)).width == 128
    with pytest.raises(UserError, match=r"9 x 9 are too small"):
        FeatureEncoder(EpisodeSpec("image", (1, 9, 9), "cross_entropy", symbols=2))
