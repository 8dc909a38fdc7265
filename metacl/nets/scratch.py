"""The network that `online`, `offline` and `replay` train from scratch: an encoder without BatchNorm, and a linear layer."""

import math

import torch
from torch import Tensor, nn

from episodes import EpisodeSpec
from metacl.nets.encoders import EncoderConfig, ImageEncoder, build_encoder, must_be_vectors, refuse_residual

Weights = dict[str, Tensor]
"""The weights of B networks: by the name of a parameter a tensor (B, *shape)."""


class Network(nn.Module):
    """The encoder and a linear layer. GroupNorm with one group replaces BatchNorm: a single example has no batch.

    Arguments:
        width: features before the last layer (D); 0: there is no other layer, and answers are linear in the inputs.

    Raises:
        UserError: the width is 0 and inputs are images.
    """

    def __init__(self, config: EncoderConfig, spec: EpisodeSpec, width: int):
        super().__init__()
        self.layers: nn.Module = nn.Identity()
        self.linear: nn.Module = nn.Identity()
        if width == 0:
            must_be_vectors("A linear probe", spec)
            self.answer = nn.Linear(math.prod(spec.x_shape), spec.outputs)
            return
        refuse_residual(config, "A network that is trained from nothing")
        encoder = build_encoder(config, spec, width)
        layers = encoder.convolutions if isinstance(encoder, ImageEncoder) else encoder.layers
        self.layers = nn.Sequential(*(_without_batch(layer) for layer in layers))  # type: ignore[union-attr]
        self.layers.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if isinstance(encoder, ImageEncoder):
            self.linear = nn.Sequential(encoder.linear, nn.ReLU())
        self.answer = nn.Linear(width, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, height, width) in [-1, 1] or (N, F) -> (N, outputs)."""
        return self.answer(self.linear(self.layers(x).flatten(1)))


def _without_batch(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return nn.GroupNorm(1, layer.num_features)
    return nn.ReLU() if isinstance(layer, nn.ReLU) else layer
