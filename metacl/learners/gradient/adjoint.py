"""The steps of `fast_mlp.py` and their adjoint, as plain functions of tensors without autograd.

With a_n the input of a layer at step n, o_n its output, d_n the gradient of the loss at o_n and e_n that at a_n, a step is

    o_n = W a_n + b - sum_{i<n} (r a_i.a_n + s) d_i,    a_n = relu(o_n) for the next layer,
    e_n = W^T d_n - r sum_{i<n} (d_i.d_n) a_i,          d_n = e_n where o_n > 0 for the layer before,

r and s being the rates of weight and bias. `x_bar` is the derivative of the meta-loss for x. The adjoint goes from the last
step to the first. What step n does to the a_i and d_i before it is added up when the adjoint reaches step i. So the loop holds
only what depends on the step before it; weights and rates get their derivatives at the end, for all steps at once.

Shapes: B episodes, N steps, I in and O out of a layer, V outputs. Lists have an entry for each layer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Tensors = Sequence[Tensor]


class Layers(NamedTuple):
    """The MLP before the first step, and its inner rates."""

    weights: Tensors
    """(O, I) or (B, O, I)"""
    biases: Tensors
    """(O,) or (B, O)"""
    rates: list[float]
    """r, for the weights."""
    bias_rates: list[float]
    """s, for the biases."""


class Steps(NamedTuple):
    """What the steps find."""

    d: Tensors
    """(B, N, O)"""
    a: Tensors
    """(B, N, I)"""
    a_scores: Tensors
    """(B, N, N): a_n.a_i, for i < n."""
    d_scores: Tensors
    """(B, N, N): d_n.d_i, for i < n."""


def forward_steps(z_BND: Tensor, y: Tensor, valid_BN: Tensor, layers: Layers) -> Steps:
    """All steps on features z_BND with symbols or flat targets y; a step that is not valid changes nothing."""
    weights, B, N = layers.weights, *z_BND.shape[:2]
    d = [z_BND.new_zeros(B, N, w.shape[-2]) for w in weights]
    a = [z_BND, *(z_BND.new_zeros(B, N, w.shape[-1]) for w in weights[1:])]
    a_scores = [z_BND @ z_BND.mT, *(z_BND.new_zeros(B, N, N) for _ in weights[1:])]
    d_scores = [z_BND.new_zeros(B, N, N) for _ in weights]
    top, first_BNO = len(weights) - 1, _affine(z_BND, weights[0], layers.biases[0])
    target = y if y.is_floating_point() else F.one_hot(y, d[top].shape[-1]).to(z_BND.dtype)
    for n in range(N):
        now, past = slice(n, n + 1), slice(0, n)
        o_B1O = first_BNO[:, now]
        for k, (w, b, r, s) in enumerate(zip(*layers, strict=True)):
            if k:
                a_B1I = torch.relu(o_B1O)
                a[k][:, now] = a_B1I
                a_scores[k][:, now, past] = a_B1I @ a[k][:, past].mT
                o_B1O = _affine(a_B1I, w, b)
            o_B1O = torch.baddbmm(o_B1O, a_scores[k][:, now, past] + s / r, d[k][:, past], alpha=-r)
        d_B1O = _loss_gradient(o_B1O, target[:, now], y.is_floating_point()) * valid_BN[:, now, None]
        for k in range(top, -1, -1):
            d[k][:, now] = d_B1O
            if k:
                d_scores[k][:, now, past] = d_B1O @ d[k][:, past].mT
                e_B1I = torch.baddbmm(d_B1O @ weights[k], d_scores[k][:, now, past], a[k][:, past], alpha=-layers.rates[k])
                d_B1O = e_B1I * (a[k][:, now] > 0)
    return Steps(d, a, a_scores, d_scores)


def backward_steps(
    y: Tensor, valid_BN: Tensor, layers: Layers, steps: Steps, cotangents: Tensors
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """The derivatives for z, rates, bias rates, weights and biases.

    Arguments:
        cotangents: the derivatives for all d, then for all a but that of the first layer.
    """
    d, a, a_scores, d_scores = steps
    o_bar, e_bar = _adjoint(y, valid_BN, layers, steps, cotangents)
    across = [(o @ g.mT).tril(-1) for o, g in zip(o_bar, d, strict=True)]
    z_bar = o_bar[0] @ layers.weights[0] - layers.rates[0] * ((across[0] + across[0].mT) @ a[0])
    rate_bars = [-(a_scores[k] * across[k]).sum() - (d_scores[k] * (e_bar[k] @ a[k].mT)).sum() for k in range(len(d))]
    weight_bars = [
        _outer(o_bar[k], a[k], shared=w.ndim == 2) + (_outer(d[k], e_bar[k], shared=w.ndim == 2) if k else 0)
        for k, w in enumerate(layers.weights)
    ]
    bias_bars = [o.sum(1) if b.ndim == 2 else o.sum((0, 1)) for o, b in zip(o_bar, layers.biases, strict=True)]
    return z_bar, rate_bars, [-pairs.sum() for pairs in across], weight_bars, bias_bars


def _adjoint(
    y: Tensor, valid_BN: Tensor, layers: Layers, steps: Steps, cotangents: Tensors
) -> tuple[list[Tensor], list[Tensor]]:
    """o_bar (B, N, O) and e_bar (B, N, I) of each layer, from the last step to the first."""
    weights, rates, (d, a, a_scores, d_scores) = layers.weights, layers.rates, steps
    L, N = len(weights), valid_BN.shape[1]
    d_out, a_out = cotangents[:L], cotangents[L:]
    o_bar, e_bar = [torch.zeros_like(t) for t in d], [torch.zeros_like(t) for t in a]
    probability = None if y.is_floating_point() else d[-1] + F.one_hot(y, d[-1].shape[-1])
    for n in range(N - 1, -1, -1):
        now, past, later = slice(n, n + 1), slice(0, n), slice(n + 1, N)
        d_bar = d_out[0][:, now]
        for k, (w, r, s) in enumerate(zip(weights, rates, layers.bias_rates, strict=True)):
            below, d_bar = d_bar, d_out[k][:, now]
            d_bar = torch.baddbmm(d_bar, a_scores[k][:, later, now].mT + s / r, o_bar[k][:, later], alpha=-r)
            if k:
                ebar = below * (a[k][:, now] > 0)
                e_bar[k][:, now] = ebar
                d_bar = torch.baddbmm(d_bar, a[k][:, now] @ e_bar[k][:, later].mT, d[k][:, later], alpha=-r)
                d_bar = torch.baddbmm(d_bar, ebar @ a[k][:, past].mT, d[k][:, past], alpha=-r) + ebar @ w.mT
        obar = _loss_hessian(d_bar, None if probability is None else probability[:, now]) * valid_BN[:, now, None]
        o_bar[-1][:, now] = obar
        for k in range(L - 1, 0, -1):
            r = rates[k]
            a_bar = torch.baddbmm(a_out[k - 1][:, now], obar @ d[k][:, past].mT, a[k][:, past], alpha=-r) + obar @ weights[k]
            a_bar = torch.baddbmm(a_bar, d_scores[k][:, later, now].mT, e_bar[k][:, later], alpha=-r)
            a_bar = torch.baddbmm(a_bar, d[k][:, now] @ o_bar[k][:, later].mT, a[k][:, later], alpha=-r)
            obar = a_bar * (a[k][:, now] > 0)
            o_bar[k - 1][:, now] = obar
    return o_bar, e_bar


def _affine(a_BKI: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return a_BKI @ weight.mT + (bias if bias.ndim == 1 else bias[:, None])


def _outer(left_BNO: Tensor, right_BNI: Tensor, shared: bool) -> Tensor:
    """Outer products summed over steps (B, O, I), or, where episodes share the weight, over episodes too (O, I)."""
    if shared:
        return left_BNO.flatten(0, 1).mT @ right_BNI.flatten(0, 1)
    return left_BNO.mT @ right_BNI


def _loss_gradient(o_B1V: Tensor, target_B1V: Tensor, regression: bool) -> Tensor:
    """The gradient of the loss of one example at its outputs: p - y in classification, 2 (o - y) / V in regression."""
    return (o_B1V - target_B1V) * (2 / o_B1V.shape[-1]) if regression else o_B1V.softmax(-1) - target_B1V


def _loss_hessian(d_bar_B1V: Tensor, probability_B1V: Tensor | None) -> Tensor:
    """The second derivative of that loss, which is symmetric, times a vector: (diag(p) - p p^T) d_bar, or 2 d_bar / V."""
    if probability_B1V is None:
        return d_bar_B1V * (2 / d_bar_B1V.shape[-1])
    scaled = probability_B1V * d_bar_B1V
    return scaled - probability_B1V * scaled.sum(-1, keepdim=True)
