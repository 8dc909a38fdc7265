"""Encoders make a feature vector of each input. Examples influence each other only through BatchNorm, and only in training."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from episodes import EpisodeSpec, UserError
from episodes.errors import at_least
from metacl.nets.shared_batch import BatchNorm1d, BatchNorm2d


@dataclass(frozen=True)
class EncoderConfig:
    """Convolutions of the image encoder, and what vectors pass instead."""

    channels: tuple[int, ...] = (32, 64, 128, 256, 256)
    """Channels of each 3 x 3 convolution of the image encoder."""
    strides: tuple[int, ...] = (1, 2, 2, 2, 2)
    """Stride of each 3 x 3 convolution of the image encoder. A first stride of 1 takes half of the encoder's time."""
    residual: bool = False
    """Each number of channels stands for two residual blocks in place of one convolution: 32 64 128 256 with strides 1 2 2 2 is
    the ResNet-18 of CL-Seq."""
    vectors: Literal["layers", "linear"] = "layers"
    """What vectors pass. `layers`: three linear layers with BatchNorm and ReLU, as published. `linear`: one, which starts as a
    short rotation, or projection: for frozen features. Networks of fast weights have layers of their own."""

    def __post_init__(self) -> None:
        at_least(1, self, "learner.encoder.", "channels", "strides")
        if not self.channels or len(self.channels) != len(self.strides) or min(self.channels + self.strides) < 1:
            raise UserError(
                f"learner.encoder.channels {self.channels} and learner.encoder.strides {self.strides} must be equally "
                "many, and positive."
            )


def build_encoder(config: EncoderConfig, spec: EpisodeSpec, width: int) -> nn.Module:
    """The encoder that makes `width` features of inputs such as `spec` describes."""
    if spec.x_kind == "image":
        return ImageEncoder(spec.x_shape, width, config.channels, config.strides, config.residual)
    return LinearEncoder(spec.x_shape, width) if config.vectors == "linear" else VectorEncoder(spec.x_shape, width)


def strided(sides: list[int], stride: int) -> tuple[tuple[int, int], list[int]]:
    """The strides of a 3 x 3 convolution, padded by 1, along the two sides of a map, and the sides of what comes out.

    No stride is longer than the side, so that along one pixel it is 1. The result is the same, and some processors give wrong
    gradients in bf16 where a stride goes beyond the map.
    """
    height, breadth = (min(stride, side) for side in sides)
    return (height, breadth), [math.ceil(side / step) for side, step in zip(sides, (height, breadth), strict=True)]


class ImageEncoder(nn.Module):
    """3x3 convolutions, each with BatchNorm and ReLU, then a linear layer (CL-Seq, appendix).

    Arguments:
        shape: (C, height, width) of the uint8 images; they are scaled to [-1, 1].
        width: features that come out (D).
        channels, strides: one number for each convolution, or for each two residual blocks.
        residual: a ResNet-18 (He 2016) of these widths: a convolution, two residual blocks for each width, of which the first
            has the stride, no max-pooling, and the mean over all places before the linear layer.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        residual: bool = False,
    ):
        super().__init__()
        into, *sides = shape
        layers: list[nn.Module] = []
        if residual:
            layers += _convolution(into, channels[0], (1, 1))
            into = channels[0]
        for out, stride in zip(channels, strides, strict=True):
            step, sides = strided(sides, stride)
            layers += [Residual(into, out, step), Residual(out, out, (1, 1))] if residual else _convolution(into, out, step)
            into = out
        if residual:
            layers.append(nn.AdaptiveAvgPool2d(1))
        self.convolutions = nn.Sequential(*layers)
        self.convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.linear = nn.Linear(into * (1 if residual else math.prod(sides)), width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C, height, width) uint8 -> (B, N, D). Channels last in memory: on a CPU that takes half the time."""
        images = x.flatten(0, 1).to(memory_format=torch.channels_last)
        images = images.to(self.linear.weight.dtype) / 127.5 - 1
        return self.linear(self.convolutions(images).flatten(1)).unflatten(0, x.shape[:2])


class Residual(nn.Module):
    """relu(x + f(x)), f two 3x3 convolutions with BatchNorm and a ReLU between (He 2016, figure 2).

    Where f changes the shape, x passes a 1x1 convolution with BatchNorm.
    """

    def __init__(self, into: int, out: int, step: tuple[int, int]):
        super().__init__()
        self.change = nn.Sequential(*_convolution(into, out, step), *_convolution(out, out, (1, 1))[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if into != out or step != (1, 1):
            self.shortcut = nn.Sequential(nn.Conv2d(into, out, 1, step, bias=False), BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.change(x)).relu()


def _convolution(into: int, out: int, step: tuple[int, int]) -> list[nn.Module]:
    return [nn.Conv2d(into, out, 3, step, padding=1, bias=False), BatchNorm2d(out), nn.ReLU(inplace=True)]


def refuse_residual(config: EncoderConfig, what: str) -> None:
    """Raises `UserError` for networks that are plain convolutions."""
    if config.residual:
        raise UserError(f"{what} has plain convolutions: leave out learner.encoder.residual.")


def must_be_vectors(name: str, spec: EpisodeSpec) -> None:
    """Raises `UserError`, which says how to get vectors, where inputs are images."""
    if spec.x_kind == "image":
        raise UserError(
            f"{name} learns from frozen features, and these are images of {' x '.join(map(str, spec.x_shape))}. A backbone "
            "makes vectors of them, once: --stream.data.features NAME along a stream, --data.features NAME on episodes."
        )


class VectorEncoder(nn.Module):
    """Three linear layers without bias, each with BatchNorm and ReLU (CL-Seq, appendix).

    Arguments:
        shape: the shape of one input, which is laid flat.
        width: features that come out (D).
    """

    def __init__(self, shape: tuple[int, ...], width: int):
        super().__init__()
        sizes = [math.prod(shape), width, width, width]
        layers = [[nn.Linear(a, b, bias=False), BatchNorm1d(b), nn.ReLU()] for a, b in itertools.pairwise(sizes)]
        self.layers = nn.Sequential(*(layer for block in layers for layer in block))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, *shape) float -> (B, N, D)."""
        return self.layers(x.flatten(2).flatten(0, 1)).unflatten(0, x.shape[:2])


class LinearEncoder(nn.Module):
    """One linear layer without bias: at the start a rotation, or a projection, that keeps a tenth of every length.

    Distances between features of variance 1 are then of the size of logits, so that `pn` is not certain from the start.

    Arguments:
        shape: the shape of one input, which is laid flat.
        width: features that come out (D).
    """

    def __init__(self, shape: tuple[int, ...], width: int):
        super().__init__()
        self.linear = nn.Linear(math.prod(shape), width, bias=False)
        nn.init.orthogonal_(self.linear.weight, gain=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, *shape) float -> (B, N, D)."""
        return self.linear(x.flatten(2))


class FeatureEncoder(nn.Module):
    """The encoder of the query-only paper: images through three convolutions, vectors as they are.

    Three convolutions of (channels, kernel) 32 x 5, 64 x 3 and 128 x 3, each padded by 1, with ReLU and 2 x 2 max-pooling.
    There is no BatchNorm: one example is as good as many. `width` features come out, 1152 of a 32 x 32 image.

    Raises:
        UserError: the images are too small for three poolings.
    """

    def __init__(self, spec: EpisodeSpec):
        super().__init__()
        self.image = spec.x_kind == "image"
        layers: list[nn.Module] = []
        if self.image:
            into, *sides = spec.x_shape
            for out, kernel in ((32, 5), (64, 3), (128, 3)):
                layers += [nn.Conv2d(into, out, kernel, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
                into, sides = out, [(side + 3 - kernel) // 2 for side in sides]
            if min(sides) < 1:
                raise UserError(
                    f"Images of {spec.x_shape[1]} x {spec.x_shape[2]} are too small to be encoded: take 10 x 10 or more."
                )
            self.width = into * math.prod(sides)
        else:
            self.width = math.prod(spec.x_shape)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, height, width) uint8, scaled to [0, 1], or (N, *shape) float -> (N, width)."""
        if not self.image:
            return x.flatten(1)
        images = x.to(memory_format=torch.channels_last).to(self.layers[0].weight.dtype) / 255  # type: ignore[arg-type]
        return self.layers(images).flatten(1)
