"""SGD on an MLP, example after example, without ever building the weights of an episode.

After n steps a linear layer is its initial weight minus a sum of outer products, W_n = W - sum_i u_i a_i^T, with u_i the
inner rate times the gradient at its output and a_i its input. So for K inputs a

    a W_n^T = a W^T - (a A^T) U,        with rows a_i in A (B, n, I) and u_i in U (B, n, O),

which for streams shorter than the layers are wide costs less time, and in the meta-gradient far less memory, than one weight
an episode and step. Forward and backward pass are written out, so that autograd gives the second order. The oracle is
`inner_loop.sgd`.

Shapes: B episodes, N stream examples, C of them in a block, K inputs, I in and O out of a layer, V outputs.
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from episodes import Examples
from metacl.learners.inner_loop import Fast, InnerConfig, check_finite, rematerialised, segments, without_padding

BLOCK = 16
"""Steps after which the updates are gathered; between, each step gathers those of its own block."""
PIECE = 256
"""Steps after which `learn` builds the weights: the cost of a step grows with the steps since."""


class Layer(NamedTuple):
    """A linear layer, shared by all episodes or one for each, and its inner rates."""

    weight: Tensor
    """(O, I) or (B, O, I)"""
    bias: Tensor
    """(O,) or (B, O)"""
    rate: Tensor
    """Of the weight, a scalar."""
    bias_rate: Tensor


class Updates(NamedTuple):
    """What n steps have done to a layer."""

    u_BnO: Tensor
    """Rate times the gradient at the outputs."""
    a_BnI: Tensor
    """Inputs."""
    bias_B1O: Tensor
    """What was taken from the bias."""


def learn(fast: Fast, rates: Fast, z_BND: Tensor, examples: Examples, config: InnerConfig) -> Fast:
    """`inner_loop.sgd` of an MLP (`networks.mlp`) under `inner_loop.example_loss`; y must be symbols or flat targets."""
    start = fast
    piece = config.truncate * max(1, PIECE // config.truncate) if config.truncate else PIECE
    for part in segments(len(examples), piece):
        if config.truncate and part.start:
            fast = {name: start[name] + (w - start[name]).detach() for name, w in fast.items()}
        layers = as_layers(fast, rates)
        fast = built(layers, run(layers, rates, z_BND[:, part], examples[part], config))
    return fast


def run(layers: list[Layer], rates: Fast, z_BND: Tensor, examples: Examples, config: InnerConfig) -> list[Updates]:
    """The updates of each layer by a stream.

    Raises:
        UserError: the fast weights are not finite any more.
    """
    z_BND, y, valid_BN = without_padding(z_BND, examples)
    updates = [_none(layer, z_BND) for layer in layers]
    block: Any = rematerialised(_block) if config.rematerialise else _block
    for part in segments(len(examples), config.rematerialise or BLOCK, config.truncate):
        if config.truncate and part.start and part.start % config.truncate == 0:
            updates = [Updates(*(t.detach() for t in own)) for own in updates]
        with torch.no_grad() if config.order == 1 else nullcontext():
            found = block(layers, updates, z_BND[:, part], y[:, part], valid_BN[:, part])
        updates = [
            _gathered([old, _update(layer, delta, into)])
            for layer, old, (delta, into) in zip(layers, updates, found, strict=True)
        ]
    finite_N = torch.stack([own.u_BnO.isfinite().all(-1).all(0) for own in updates]).all(0)
    check_finite([], finite_N, rates, z_BND)
    return updates


def forward(layers: list[Layer], updates: list[Updates], a_BKI: Tensor) -> Tensor:
    """The MLP after the updates, on any inputs (B, K, I) -> (B, K, V)."""
    with torch.autocast(a_BKI.device.type, enabled=False):
        for i, (layer, done) in enumerate(zip(layers, updates, strict=True)):
            a_BKI = _affine(layer, a_BKI.relu() if i else a_BKI, done)
    return a_BKI


def as_layers(fast: Fast, rates: Fast) -> list[Layer]:
    """The layers of `networks.mlp` from its weights by name."""
    names = [name.removesuffix(".weight") for name in fast if name.endswith(".weight")]
    return [Layer(fast[f"{n}.weight"], fast[f"{n}.bias"], rates[f"{n}.weight"], rates[f"{n}.bias"]) for n in names]


def built(layers: list[Layer], updates: list[Updates]) -> Fast:
    """The weights of every episode, by the names of `networks.mlp`."""
    fast = {}
    with torch.autocast(updates[0].u_BnO.device.type, enabled=False):
        for i, (layer, done) in enumerate(zip(layers, updates, strict=True)):
            fast[f"{2 * i}.weight"] = (layer.weight - done.u_BnO.mT @ done.a_BnI).contiguous()
            fast[f"{2 * i}.bias"] = layer.bias - done.bias_B1O[:, 0]
    return fast


def _block(layers: list[Layer], old: list[Updates], z_BCI: Tensor, y: Tensor, valid_BC: Tensor) -> list[tuple[Tensor, Tensor]]:
    """C steps after the updates `old`: the gradients at the outputs (B, C, O) of each layer, and its inputs (B, C, I)."""
    with torch.autocast(z_BCI.device.type, enabled=False):
        found: list[list[Updates]] = [[] for _ in layers]
        deltas: list[list[Tensor]] = [[] for _ in layers]
        # The first layer's inputs are known: all that its weights at the start of the block say of them, at once.
        first_BCO = _affine(layers[0], z_BCI, old[0])
        gram_BCC = z_BCI @ z_BCI.mT
        for i in range(z_BCI.shape[1]):
            recent = [_gathered(own) if own else None for own in found]
            out_B1O = first_BCO[:, i : i + 1]
            if recent[0] is not None:
                out_B1O = out_B1O - gram_BCC[:, i : i + 1, :i] @ recent[0].u_BnO - recent[0].bias_B1O
            inputs = [z_BCI[:, i : i + 1]]
            for layer, *done in zip(layers[1:], old[1:], recent[1:], strict=True):
                inputs.append(out_B1O.relu())
                out_B1O = _affine(layer, inputs[-1], *done)
            delta_B1O = _loss_gradient(out_B1O, y[:, i : i + 1]) * valid_BC[:, i : i + 1, None]
            for place in range(len(layers) - 1, -1, -1):
                layer, a_B1I = layers[place], inputs[place]
                deltas[place].append(delta_B1O)
                found[place].append(_update(layer, delta_B1O, a_B1I))
                if place:
                    back = _transposed(layer, delta_B1O, old[place], recent[place])
                    delta_B1O = torch.where(a_B1I > 0, back, 0)
        return [
            (torch.cat(d, dim=1), torch.cat([one.a_BnI for one in own], dim=1)) for d, own in zip(deltas, found, strict=True)
        ]


def _affine(layer: Layer, a_BKI: Tensor, *updates: Updates | None) -> Tensor:
    """(B, K, I) -> (B, K, O) by the layer after its updates."""
    bias = layer.bias if layer.bias.ndim == 1 else layer.bias[:, None]
    out_BKO = a_BKI @ layer.weight.mT + bias
    for done in updates:
        if done is not None and done.u_BnO.shape[1]:
            out_BKO = out_BKO - (a_BKI @ done.a_BnI.mT) @ done.u_BnO - done.bias_B1O
    return out_BKO


def _transposed(layer: Layer, delta_BKO: Tensor, *updates: Updates | None) -> Tensor:
    """(B, K, O) -> (B, K, I): the gradient at the inputs of the layer after its updates."""
    back_BKI = delta_BKO @ layer.weight
    for done in updates:
        if done is not None and done.u_BnO.shape[1]:
            back_BKI = back_BKI - (delta_BKO @ done.u_BnO.mT) @ done.a_BnI
    return back_BKI


def _loss_gradient(out_BKV: Tensor, y: Tensor) -> Tensor:
    """Of `inner_loop.example_loss`, at the outputs: p - y in classification, 2 (f - y) / V in regression."""
    if y.is_floating_point():
        return (out_BKV - y) * (2 / out_BKV.shape[-1])
    return out_BKV.softmax(-1) - F.one_hot(y, out_BKV.shape[-1]).to(out_BKV.dtype)


def _update(layer: Layer, delta_BCO: Tensor, a_BCI: Tensor) -> Updates:
    """What C steps do to a layer, from the gradients at its outputs and its inputs."""
    return Updates(layer.rate * delta_BCO, a_BCI, layer.bias_rate * delta_BCO.sum(1, keepdim=True))


def _gathered(updates: list[Updates]) -> Updates:
    if len(updates) == 1:
        return updates[0]
    u, a, bias = zip(*updates, strict=True)
    return Updates(torch.cat(u, dim=1), torch.cat(a, dim=1), torch.stack(bias).sum(0))


def _none(layer: Layer, z_BND: Tensor) -> Updates:
    into, out = layer.weight.shape[-1], layer.weight.shape[-2]
    return Updates(*(z_BND.new_zeros(len(z_BND), *shape) for shape in ((0, out), (0, into), (1, out))))
