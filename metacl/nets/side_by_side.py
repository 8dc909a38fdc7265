"""The network that `bp` and its relatives train online. B networks are computed side by side, by a pure function of weights.

P parameters of one network, W units of a layer, R inputs of the next layer that come from one unit.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from episodes import EpisodeSpec, UserError
from episodes.errors import at_least
from metacl.nets.encoders import FeatureEncoder
from metacl.nets.scratch import Weights


@dataclass(frozen=True)
class NetworkConfig:
    """Hidden layers on the inputs; images pass three convolutions first."""

    hidden: tuple[int, ...] = (200, 200, 200, 200)
    """Units of the hidden layers, one number for each layer."""
    activation: Literal["relu", "crelu"] = "relu"
    """Activation of hidden units. `crelu`: half as many units, each passed on as relu(h) and relu(-h) (Shang et al. 2016)."""
    normalise: bool = False
    """Put LayerNorm before each activation."""
    initial: Literal["kaiming", "xavier"] = "kaiming"
    """Uniform distribution from which initial weights of linear layers are drawn. Their biases start at 0."""

    def __post_init__(self) -> None:
        at_least(1, self, "learner.network.", "hidden")
        share = 2 if self.activation == "crelu" else 1
        if any(width < share or width % share for width in self.hidden):
            raise UserError(f"learner.network.hidden {self.hidden}: widths must be positive, and even for crelu.")


class OnlineNetwork(nn.Module):
    """Holds initial weights and computes with others: `forward(weights, x)`."""

    def __init__(self, config: NetworkConfig, spec: EpisodeSpec):
        super().__init__()
        self.config, self.image = config, spec.x_kind == "image"
        encoder, share = FeatureEncoder(spec), 2 if config.activation == "crelu" else 1
        layers: list[nn.Conv2d | nn.Linear] = []
        into = spec.x_shape[0]
        for convolution in encoder.layers:
            if isinstance(convolution, nn.Conv2d):
                out, kernel = convolution.out_channels, convolution.kernel_size[0]
                layers.append(nn.Conv2d(into, out // share, kernel, padding=1))
                into = out
        sizes = [encoder.width, *config.hidden]
        layers += [_linear(a, b // share, config.initial, "relu") for a, b in itertools.pairwise(sizes)]
        layers.append(_linear(sizes[-1], spec.outputs, config.initial, "linear"))
        self.layers = nn.ModuleList(layers)
        self.units = [len(layer.weight) for layer in layers[:-1]]
        """Units that each hidden layer computes."""
        if config.normalise:
            self.scales = nn.ParameterList(nn.Parameter(torch.ones(width)) for width in self.units)
            self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in self.units)

    @property
    def depth(self) -> int:
        """Hidden layers, the convolutions among them."""
        return len(self.layers) - 1

    def bound(self, i: int) -> float:
        """The weights of layer i, hidden ones first, are drawn from U(-bound, bound)."""
        out, fan_in = self.get_parameter(f"layers.{i}.weight").flatten(1).shape
        if isinstance(self.layers[i], nn.Conv2d):
            return fan_in**-0.5
        if self.config.initial == "xavier":
            return (6 / (fan_in + out)) ** 0.5
        return ((6 if i < self.depth else 3) / fan_in) ** 0.5

    def bounds(self) -> dict[str, float]:
        """For each parameter by name the bound of the U(-bound, bound) that it is drawn from; 0 where nothing is drawn."""
        found = dict.fromkeys((name for name, _ in self.named_parameters()), 0.0)
        for i, layer in enumerate(self.layers):
            found[f"layers.{i}.weight"] = self.bound(i)
            if isinstance(layer, nn.Conv2d):  # PyTorch draws these biases like the weights
                found[f"layers.{i}.bias"] = self.bound(i)
        return found

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Weights (B, *shape) and inputs (B, N, *x_shape) -> answers (B, N, outputs), and what each hidden layer passes on.

        That is (B, N, W) for a linear layer, (B, N, W, height, width) after pooling for a convolution.
        """
        h, hidden = self.scaled(x), []
        for i, layer in enumerate(self.layers):
            weight, bias = weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]
            h = convolved(h, weight, bias) if isinstance(layer, nn.Conv2d) else linear(h.flatten(2), weight, bias)
            if i < self.depth:
                h = self._activated(weights, i, h)
                h = pooled(h) if isinstance(layer, nn.Conv2d) else h
                hidden.append(h)
        return h, hidden

    def scaled(self, x: Tensor) -> Tensor:
        """Images (B, N, C, height, width) scaled to [0, 1], or vectors (B, N, F), flat."""
        dtype = self.get_parameter("layers.0.weight").dtype
        return x.to(dtype) / 255 if self.image else x.to(dtype).flatten(2)

    def _activated(self, weights: Weights, i: int, h: Tensor) -> Tensor:
        if self.config.normalise:
            places = (1,) * (h.ndim - 3)
            scale, shift = (weights[f"{name}.{i}"].unflatten(1, (1, -1, *places)) for name in ("scales", "shifts"))
            h = F.layer_norm(h, h.shape[2:]) * scale + shift
        return torch.cat([h, -h], dim=2).relu() if self.config.activation == "crelu" else h.relu()


def linear(h_BNI: Tensor, weight_BOI: Tensor, bias_BO: Tensor) -> Tensor:
    """(B, N, O): a linear layer of each network on its own inputs."""
    return torch.baddbmm(bias_BO[:, None], h_BNI, weight_BOI.mT)


def convolved(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, N, C, height, width) -> (B, N, O, ...): a convolution of each network, (B, O, C, k, k), padded by 1.

    The networks come one after the other, with channels last in memory: on a CPU that is faster than one grouped convolution.
    """
    last = torch.channels_last
    parts = [F.conv2d(x.contiguous(memory_format=last), w, b, padding=1) for x, w, b in zip(h, weight, bias, strict=True)]
    return torch.stack(parts)


def pooled(h: Tensor) -> Tensor:
    """(B, N, C, height, width) through 2 x 2 max-pooling."""
    return F.max_pool2d(h.flatten(0, 1), 2).unflatten(0, h.shape[:2])


def over_examples(h: Tensor) -> Tensor:
    """Activations (B, N, W[, height, width]) -> (B, N', W): each place of an image counts as an example."""
    return h.flatten(3).transpose(2, 3).flatten(1, 2) if h.ndim > 3 else h


def incoming(weights: Weights, i: int) -> Tensor:
    """(B, W, inputs), a view of the weights that enter the units of hidden layer i."""
    return weights[f"layers.{i}.weight"].flatten(2)


def outgoing(weights: Weights, i: int, units: int) -> Tensor:
    """(B, O, W, R), a view of the weights that leave the units of hidden layer i for the O units of the next layer."""
    return weights[f"layers.{i + 1}.weight"].flatten(2).unflatten(2, (units, -1))


def _linear(a: int, b: int, initial: str, activation: Literal["relu", "linear"]) -> nn.Linear:
    layer = nn.Linear(a, b)
    if initial == "kaiming":
        nn.init.kaiming_uniform_(layer.weight, nonlinearity=activation)
    else:
        nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
