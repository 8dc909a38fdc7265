"""SGD on an MLP, example after example, which never builds the weights of an episode.

After n steps a linear layer is its initial weight minus a sum of outer products, W_n = W - r sum_i d_i a_i^T, with r the inner
rate, d_i the gradient at its output and a_i its input. So for a later input a and a later gradient d

    W_n a = W a - r sum_i (a_i.a) d_i          W_n^T d = W^T d - r sum_i (d_i.d) a_i

For streams that are shorter than the layers are wide this takes less time, and in the meta-gradient far less memory, than
weights for every episode and step. The forward pass and its adjoint are in `adjoint.py`; `inner_loop.sgd` is their oracle.

Shapes: B episodes, N stream examples, K inputs, I in and O out of a layer, V outputs.
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from episodes import Examples
from metacl.learners.gradient.adjoint import Layers, Steps, backward_steps, forward_steps
from metacl.learners.gradient.inner_loop import Fast, InnerConfig, check_finite, segments, without_padding

PIECE = 256
"""Steps after which `learn` builds the weights, because a step costs more the more steps were made since."""


class Layer(NamedTuple):
    """A linear layer, shared by all episodes or one for each, and its inner rates."""

    weight: Tensor
    """(O, I) or (B, O, I)"""
    bias: Tensor
    """(O,) or (B, O)"""
    rate: Tensor
    """Inner rate of the weight, a scalar."""
    bias_rate: Tensor
    """Inner rate of the bias, a scalar."""


class Updates(NamedTuple):
    """What N steps have done to a layer."""

    u_BNO: Tensor
    """The gradient at the outputs, times the rate."""
    a_BNI: Tensor
    """The inputs."""
    bias_B1O: Tensor
    """The sum that was taken from the bias."""


def learn(fast: Fast, rates: Fast, z_BND: Tensor, examples: Examples, config: InnerConfig) -> Fast:
    """`inner_loop.sgd` of an MLP (`nets.fast.mlp`) under `losses.mean_loss`; y must be symbols or flat targets.

    Truncated, only the steps after the last cut have a part in the meta-gradient.
    """
    start, length = fast, len(examples)
    cut = (length - 1) // config.truncate * config.truncate if config.truncate and length else 0
    for part in segments(length, PIECE, cut):
        with torch.no_grad() if part.start < cut else nullcontext():
            layers = as_layers(fast, rates)
            fast = built(layers, run(layers, rates, z_BND[:, part], examples[part], config, part.start, length))
        if part.stop == cut:
            fast = {name: start[name] + (w - start[name]).detach() for name, w in fast.items()}
    return fast


def run(
    layers: list[Layer], rates: Fast, z_BND: Tensor, examples: Examples, config: InnerConfig, first: int = 0, steps: int = 0
) -> list[Updates]:
    """The updates of each layer by a stream. Nothing is truncated, whatever `config` says.

    Arguments:
        first: steps before these, for the message of the error.
        steps: steps in all, for that message; 0: these are all.

    Raises:
        UserError: the fast weights are not finite any more.
    """
    z_BND, y, valid_BN = without_padding(z_BND, examples)
    if config.order == 1:
        z_BND = z_BND.detach()
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    rates_L, bias_rates_L = torch.stack([layer.rate for layer in layers]), torch.stack([layer.bias_rate for layer in layers])
    with torch.no_grad() if config.order == 1 else nullcontext():
        found = _Steps.apply(y, valid_BN, z_BND, rates_L, bias_rates_L, *weights, *biases)
    gradients, inputs = found[: len(layers)], [z_BND, *found[len(layers) :]]
    finite_N = torch.stack([d_BNO.isfinite().all(-1).all(0) for d_BNO in gradients]).all(0)
    check_finite({}, finite_N, rates, z_BND, first, steps)
    return [
        Updates(layer.rate * d_BNO, a_BNI, layer.bias_rate * d_BNO.sum(1, keepdim=True))
        for layer, d_BNO, a_BNI in zip(layers, gradients, inputs, strict=True)
    ]


def forward(layers: list[Layer], updates: list[Updates], a_BKI: Tensor) -> Tensor:
    """The MLP after the updates, on any inputs (B, K, I) -> (B, K, V)."""
    with torch.autocast(a_BKI.device.type, enabled=False):
        for i, (layer, done) in enumerate(zip(layers, updates, strict=True)):
            a_BKI = a_BKI.relu() if i else a_BKI
            bias = layer.bias if layer.bias.ndim == 1 else layer.bias[:, None]
            a_BKI = a_BKI @ layer.weight.mT - (a_BKI @ done.a_BNI.mT) @ done.u_BNO + bias - done.bias_B1O
    return a_BKI


def as_layers(fast: Fast, rates: Fast) -> list[Layer]:
    """The layers of `nets.fast.mlp`, from its weights by name."""
    names = [name.removesuffix(".weight") for name in fast if name.endswith(".weight")]
    return [Layer(fast[f"{n}.weight"], fast[f"{n}.bias"], rates[f"{n}.weight"], rates[f"{n}.bias"]) for n in names]


def built(layers: list[Layer], updates: list[Updates]) -> Fast:
    """The weights of every episode, by the names that they have in `nets.fast.mlp`."""
    fast = {}
    with torch.autocast(updates[0].u_BNO.device.type, enabled=False):
        for i, (layer, done) in enumerate(zip(layers, updates, strict=True)):
            fast[f"{2 * i}.weight"] = (layer.weight - done.u_BNO.mT @ done.a_BNI).contiguous()
            fast[f"{2 * i}.bias"] = layer.bias - done.bias_B1O[:, 0]
    return fast


class _Steps(torch.autograd.Function):
    """`forward_steps` and its adjoint. It returns d (B, N, O) of all layers, then a (B, N, I) of all but the first."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, valid_BN: Tensor, z_BND: Tensor, rates_L: Tensor, bias_rates_L: Tensor, *layers: Tensor
    ) -> tuple[Tensor, ...]:
        depth = len(rates_L)
        with torch.autocast(z_BND.device.type, enabled=False):
            own = Layers(layers[:depth], layers[depth:], rates_L.tolist(), bias_rates_L.tolist())
            steps = forward_steps(z_BND, y, valid_BN, own)
        ctx.depth = depth
        ctx.save_for_backward(y, valid_BN, rates_L, bias_rates_L, *layers, *(t for found in steps for t in found))
        return *steps.d, *steps.a[1:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        y, valid_BN, rates_L, bias_rates_L, *saved = ctx.saved_tensors
        L = ctx.depth
        weights, biases, *found = (saved[i * L : (i + 1) * L] for i in range(6))
        layers = Layers(weights, biases, rates_L.tolist(), bias_rates_L.tolist())
        with torch.autocast(valid_BN.device.type, enabled=False):
            z_bar, rate_bars, bias_rate_bars, weight_bars, bias_bars = backward_steps(
                y, valid_BN, layers, Steps(*found), cotangents
            )
        return None, None, z_bar, torch.stack(rate_bars), torch.stack(bias_rate_bars), *weight_bars, *bias_bars
