"""What of a mechanism is timed: the whole layer or its core, in its fast, naive and N x N forms, forward and backward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from episodes import UserError
from metacl.attention import Attention, backends, make_attention, naive
from metacl.attention.interface import State
from metacl.attention.scan import Tokens, divided
from metacl.benchmarking.textbook import matrix_form, mixed, tokens_of

Kind = Literal["fast", "naive", "N x N"]
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Relative error in the check, of outputs and of gradients."""
CHECK_LENGTH, CHECK_WIDE = 150, 301
"""Tokens of the check: more than one chunk and an odd rest, for heads of up to 128 keys and for wider ones."""


@dataclass(frozen=True)
class Work:
    """A computation, and what its gradients are taken of."""

    run: Callable[[], Tensor]
    leaves: dict[str, Tensor]


@dataclass(frozen=True)
class Form:
    """A mechanism as it is measured.

    Arguments:
        core: from queries, keys, values and gates to the outputs of the heads, without projections, norms and the rest.
        streams: its back end can go on from a state.
    """

    name: str
    module: Attention
    kind: Kind = "fast"
    core: bool = False
    streams: bool = True

    @property
    def label(self) -> str:
        return self.name if self.kind == "fast" else f"{self.name}, {self.kind}"

    def work(self, x_BND: Tensor, precision: str) -> Work:
        """The computation on tokens x, or in the core on what the mechanism makes of them in this precision."""
        return self._core(x_BND, precision) if self.core else self._whole(x_BND)

    def _whole(self, x_BND: Tensor) -> Work:
        module, x_BND = self.module, x_BND.detach().requires_grad_()
        leaves = {"the input": x_BND, **dict(module.named_parameters())}
        if self.kind == "N x N":
            mask_NN = causal(x_BND)
            return Work(lambda: matrix_form(self.name, module, x_BND, mask_NN)[0], leaves)
        learn = module.learn if self.kind == "fast" else module.learn_naive
        return Work(lambda: learn(x_BND, module.init_state(len(x_BND)))[0], leaves)

    def _core(self, x_BND: Tensor, precision: str) -> Work:
        with autocast(x_BND, precision):
            made = tokens_of(self.module, x_BND)
        if self.kind == "N x N":
            made = made._replace(v=made.v[..., : self.module.head_width])  # without the column that adds up to the normaliser
        tokens = Tokens(*(None if t is None else t.detach().requires_grad_(t.requires_grad) for t in made))  # type: ignore[arg-type]
        leaves = {field: t for field, t in tokens._asdict().items() if t is not None and t.requires_grad}
        if self.kind == "N x N":
            mask_NN = causal(x_BND)
            return Work(lambda: mixed(self.name, tokens, mask_NN)[0], leaves)
        run = self._softmax if self.name == "softmax" else self._scan
        return Work(lambda: run(tokens), leaves)

    def _softmax(self, tokens: Tokens) -> Tensor:
        if self.kind == "naive":
            return naive.softmax_attention(*tokens[:3])
        return backends.softmax(*tokens[:3], None, 0.0, self.module.backend)

    def _scan(self, tokens: Tokens) -> Tensor:
        B, H, _, E = tokens.q.shape
        state = self.module.zeros(B, H, E, tokens.v.shape[-1])
        divide = self.module.has_weights
        if self.kind == "naive":
            out = naive.recurrence(tokens, state)[0]
            return divided(out) if divide else out
        return backends.scan(tokens, state, self.module.backend, divide)[0]

    def in_torch(self, call: Callable[[], object]) -> Callable[[], None]:
        """The same call without kernels whose matrix products nobody can count."""

        def without() -> None:
            backend, self.module.backend = self.module.backend, "torch"
            call()
            self.module.backend = backend

        return without


def build(name: str, width: int, heads: int, backend: str, head_width: int | None, key_width: int | None) -> Attention:
    """A mechanism with the options that it has.

    Raises:
        UserError: its keys cannot have another width than its values, or there is nothing in it for the back end.
    """
    if name != "ttt-linear":
        return make_attention(name, width, heads, backend=backend, head_width=head_width, key_width=key_width)
    if key_width not in (None, head_width or width // heads):
        raise UserError("its keys are as wide as its values.")
    return make_attention(name, width, heads, backend=backend, head_width=head_width)


def causal(x_BND: Tensor) -> Tensor:
    N = x_BND.shape[1]
    return torch.ones(N, N, dtype=torch.bool, device=x_BND.device).tril()


def autocast(x: Tensor, precision: str) -> torch.autocast:
    return torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16")


def forward(work: Work, x: Tensor, precision: str) -> Tensor:
    with torch.no_grad(), autocast(x, precision):
        return work.run()


def gradients(work: Work, x: Tensor, precision: str) -> tuple[Tensor, ...]:
    """The outputs, and the gradients of half their square with respect to all leaves: what comes back is what came out."""
    with autocast(x, precision):
        out = work.run()
    return out.detach(), *torch.autograd.grad(out, list(work.leaves.values()), out.detach())


def learned(module: Attention[State], x_BND: Tensor, precision: str) -> State:
    """The state after the tokens x."""
    with torch.no_grad(), autocast(x_BND, precision):
        return module.learn(x_BND, module.init_state(len(x_BND)))[1]


def one_token(module: Attention[State], x_BND: Tensor, state: State, precision: str) -> Callable[[], tuple[Tensor, State]]:
    """A step of a stream: one token, from a state that has seen all of x."""
    x_B1D = x_BND[:, :1].clone()

    def step() -> tuple[Tensor, State]:
        with torch.no_grad(), autocast(x_B1D, precision):
            return module.learn(x_B1D, state)

    return step


def obstacle_to_streaming(form: Form, precision: str) -> str:
    """Why a step of a stream cannot be taken, or nothing."""
    if form.core or form.kind != "fast":
        return ""
    weight = form.module.out.weight
    x_BND = torch.randn(1, 2, weight.shape[0], device=weight.device)
    try:
        one_token(form.module, x_BND, learned(form.module, x_BND, precision), precision)()
    except UserError as error:
        return str(error)
    return ""


def check(form: Form, precision: str) -> None:
    """Compares a form with the token-by-token form of the same mechanism in fp32: outputs and every gradient.

    Where a norm divides by next to nothing, bf16 rounds any form's gradients badly: it may then be off by four times as much as
    the token-by-token form is in bf16.

    Raises:
        RuntimeError: they differ by more than the precision explains; a wrong result is not worth timing.
    """
    module = form.module
    B, N = (2, CHECK_LENGTH) if module.key_width <= 128 else (1, CHECK_WIDE)
    x_BND = torch.randn(B, N, module.out.out_features, device=module.out.weight.device)
    oracle = Form(form.name, module, "naive", form.core)
    fast = gradients(form.work(x_BND, precision), x_BND, precision)
    right = gradients(oracle.work(x_BND, "fp32"), x_BND, "fp32")
    limits = [TOLERANCE[precision]] * len(right)
    errors = [_error(a, b) for a, b in zip(fast, right, strict=True)]
    if precision != "fp32" and max(errors) > TOLERANCE[precision]:
        rounded = gradients(oracle.work(x_BND, precision), x_BND, precision)
        limits = [max(TOLERANCE[precision], 4 * _error(a, b)) for a, b in zip(rounded, right, strict=True)]
    names = ("outputs", *(f"gradients of {name}" for name in oracle.work(x_BND, precision).leaves))
    for what, error, limit in zip(names, errors, limits, strict=True):
        if not error <= limit:
            raise RuntimeError(
                f"{form.label} in {precision}: {what} differ by {error:.1e} (relative) from the form that goes token by token. "
                "Nothing was timed."
            )


def _error(found: Tensor, right: Tensor) -> float:
    right = right[..., : found.shape[-1]]  # an N x N form has no column for the normaliser
    return float((found.float() - right).norm() / right.norm().clamp_min(1e-30))  # what is to be nothing may be nothing
