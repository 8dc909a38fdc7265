"""Networks whose weights change in an inner loop. They have no BatchNorm, because an inner step sees one example."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from episodes import EpisodeSpec
from metacl.nets.encoders import EncoderConfig, refuse_residual, strided


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them. In the sequence linear layer l has the index 2l."""
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PredictionNetwork(nn.Module):
    """3 x 3 convolutions with bias and ReLU, then a linear layer on all that comes out (ANML, Beaulieu 2020).

    Vectors pass three linear layers with ReLU in place of the convolutions.

    Arguments:
        width: features of each of these three layers.
    """

    def __init__(self, config: EncoderConfig, spec: EpisodeSpec, width: int):
        super().__init__()
        refuse_residual(config, "A network of fast weights")
        self.shape, self.image = spec.x_shape, spec.x_kind == "image"
        if self.image:
            into, *sides = spec.x_shape
            self.layers = nn.ModuleList()
            for (a, b), stride in zip(pairwise((into, *config.channels)), config.strides, strict=True):
                step, sides = strided(sides, stride)
                self.layers.append(nn.Conv2d(a, b, 3, step, padding=1))
            self.width = config.channels[-1] * math.prod(sides)
        else:
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([math.prod(spec.x_shape), width, width, width]))
            self.width = width
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.answer = nn.Linear(self.width, spec.outputs)

    def forward(self, x_MF: Tensor, gate_MD: Tensor | None = None) -> Tensor:
        """Inputs (..., F) as `flat` gives them -> (..., outputs). The gate (..., width) multiplies what the last layer sees."""
        h = x_MF.unflatten(-1, self.shape) if self.image else x_MF
        for layer in self.layers:
            h = (convolved(h, layer) if self.image else layer(h)).relu()  # type: ignore[arg-type]
        h = h.flatten(-3) if self.image else h
        return self.answer(h if gate_MD is None else h * gate_MD)

    def flat(self, x: Tensor) -> Tensor:
        """(B, N, *x_shape) -> (B, N, F) in the dtype of the weights. Images are scaled to [-1, 1]."""
        flat = x.flatten(2).to(self.answer.weight.dtype)
        return flat / 127.5 - 1 if self.image else flat


def convolved(h: Tensor, layer: nn.Conv2d) -> Tensor:
    """(..., C, height, width) through a convolution (3 x 3, padded by 1), as a product of matrices.

    Where each episode has weights of its own, and in the second derivative, that is faster than grouped convolutions.
    """
    height, breadth = ((side - 1) // stride + 1 for side, stride in zip(h.shape[-2:], layer.stride, strict=True))
    patches = F.unfold(h.reshape(-1, *h.shape[-3:]), 3, padding=1, stride=layer.stride)  # (M, 9 C, height * breadth)
    out = layer.weight.flatten(1) @ patches + layer.bias[:, None]  # type: ignore[index]
    return out.view(*h.shape[:-3], -1, height, breadth)


def predict_batch(network: nn.Module, fast: dict[str, Tensor], z_BMD: Tensor, *more: Tensor) -> Tensor:
    """(B, M, D) -> (B, M, outputs): each episode answers its own queries with its own weights `fast`, each (B, *shape)."""
    call = torch.func.vmap(lambda weights, *z: torch.func.functional_call(network, weights, z))
    with torch.autocast(z_BMD.device.type, enabled=False):
        return call(fast, z_BMD, *more)
