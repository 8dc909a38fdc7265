"""What networks that are trained from scratch are made of: their layers, Adam for many of them at once, and lots to draw."""

import torch
from torch import Tensor, nn

from episodes import EpisodeSpec
from metacl.encoders import EncoderConfig, ImageEncoder, build_encoder

Weights = dict[str, Tensor]
"""Tensors by the name of the network's parameter, each (B, *shape)."""
FIRST, SECOND, SMALL = 0.9, 0.999, 1e-8
"""Adam's constants."""


class Network(nn.Module):
    """The encoder and a linear layer. BatchNorm gives way to GroupNorm with one group: an example on its own has no batch.

    Arguments:
        width: D, features before the last layer.
    """

    def __init__(self, config: EncoderConfig, spec: EpisodeSpec, width: int):
        super().__init__()
        encoder = build_encoder(config, spec, width)
        layers = encoder.convolutions if isinstance(encoder, ImageEncoder) else encoder.layers
        self.layers = nn.Sequential(*(_without_batch(layer) for layer in layers))  # type: ignore[union-attr]
        self.layers.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.linear = nn.Sequential(encoder.linear, nn.ReLU()) if isinstance(encoder, ImageEncoder) else nn.Identity()
        self.answer = nn.Linear(width, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, height, width) in [-1, 1] or (N, F) -> (N, outputs)."""
        return self.answer(self.linear(self.layers(x).flatten(1)))


def _without_batch(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return nn.GroupNorm(1, layer.num_features)
    return nn.ReLU() if isinstance(layer, nn.ReLU) else layer


def adam_(weights: Weights, moments: tuple[Weights, ...], gradients: Weights, step_B: Tensor, rate: float | Tensor) -> None:
    """One step of Adam in place; `step_B` counts from 1; `rate` is one for all or (B,)."""
    rate_B = torch.as_tensor(rate, dtype=torch.float64, device=step_B.device).expand(len(step_B))
    for name, gradient in gradients.items():
        first, second = moments[0][name], moments[1][name]
        shape = -1, *[1] * (gradient.ndim - 1)
        step, rate = step_B.to(gradient).view(shape), rate_B.to(gradient).view(shape)
        adam_step_(weights[name], first, second, gradient, step, rate)


def adam_step_(weight: Tensor, first: Tensor, second: Tensor, gradient: Tensor, step: Tensor, rate: Tensor) -> None:
    """One step of Adam (Kingma and Ba 2015) in place; `step` counts from 1."""
    first.lerp_(gradient, 1 - FIRST)
    second.mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
    root = (second / (1 - SECOND**step)).sqrt_().add_(SMALL)
    weight -= first / root * (rate / (1 - FIRST**step))


def shuffled(kept_BN: Tensor, epoch: int) -> Tensor:
    """(B, N) the places of the examples that are kept, in an order of their own for each epoch; then the others."""
    rank_BN = kept_BN.cumsum(1) - 1
    lot_BN = lots(rank_BN + (epoch + 1) * 2**32)
    return lot_BN.masked_fill(~kept_BN, 2.0).argsort(dim=1, stable=True)


def lots(place: Tensor) -> Tensor:
    """Numbers in [0, 1), a fixed random one for each integer: the same on every device (splitmix64, Steele 2014)."""

    def shifted(z: Tensor, bits: int) -> Tensor:
        return (z >> bits) & (2 ** (64 - bits) - 1)  # as if without a sign

    z = (place + 1) * -0x61C8864680B583EB
    z = (z ^ shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ shifted(z, 27)) * -0x6B2FB644ECCEEE15
    return shifted(z ^ shifted(z, 31), 11).double() * 2.0**-53
