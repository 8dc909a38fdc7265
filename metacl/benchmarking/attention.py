"""The subject `attention`: what each mechanism costs as streams grow, projections included."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from episodes import UserError
from episodes.errors import unknown
from metacl.attention import ATTENTION, Attention
from metacl.benchmarking.measure import Case, Result, measure, progress, slopes
from metacl.benchmarking.options import Options, provenance
from metacl.benchmarking.textbook import MATRIX
from metacl.learners import state_bytes

CHECK_LENGTH = 150
"""Tokens of the check before anything is timed: several chunks and an odd rest."""
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Relative error in the check, of outputs and of gradients."""
ROW_0 = "softmax"
"""The mechanism whose N x N form all others are compared with."""
PASSES = ("forward", "fwd + bwd")

Form = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(Options):
    """How time and memory of each attention mechanism grow with the length of the stream.

    Row 0 of each block is softmax attention with the whole masked N x N matrix, as in published code. Every mechanism is
    checked at a small length, outputs and gradients, before it is timed. Projections are part of all times.

    Example: python benchmark.py attention --mechanisms softmax linear --lengths 256 1024 4096
    """

    mechanisms: tuple[str, ...] = tuple(ATTENTION)
    """Names of metacl.attention.ATTENTION."""
    lengths: tuple[int, ...] = (1000, 2000, 4000, 8000, 16000)
    """Tokens in the stream (N)."""
    batch_size: int = 1
    """Streams side by side (B)."""
    width: int = 512
    """D, the width of tokens."""
    heads: int = 8
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: automatic mixed precision, for row 0 too."""
    textbook_up_to: int = 4000
    """The longest stream for which the N x N forms run: their memory grows with the square (3 GiB at 4 000)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.mechanisms:
            if name not in ATTENTION:
                raise unknown("mechanism", name, ATTENTION)
        if not self.mechanisms or not self.lengths:
            raise UserError("--mechanisms and --lengths each need at least one value.")
        if min(*self.lengths, self.batch_size, self.width, self.heads) < 1:
            raise UserError("--lengths, --batch-size, --width and --heads must be at least 1.")
        if self.width % self.heads:
            raise UserError(f"--width {self.width} must be a multiple of --heads {self.heads}.")


def attention(options: AttentionOptions) -> Result:
    """Measures all mechanisms at all lengths."""
    device = options.torch_device()
    torch.manual_seed(0)
    names = dict.fromkeys((ROW_0, *options.mechanisms))
    modules = {name: ATTENTION[name](options.width, options.heads).to(device) for name in names}
    for name in options.mechanisms:
        check(name, modules[name], options.precision)
    rows = []
    calls = sum(N * len(PASSES) * len(_forms(options, N)) for N in options.lengths)
    with progress("attention", options.batch_size * calls, options.repeats) as tick:
        for N in options.lengths:
            x_BND = torch.randn(options.batch_size, N, options.width, device=device)
            for mode in PASSES:
                forms = _forms(options, N)
                cases = [_case(modules[name], name, whole, x_BND, mode, options.precision) for name, whole in forms]
                rows += measure(cases, options.repeats, device, tick, row_0=forms[0][1])
    return Result("attention", "tokens", rows, slopes(rows, "tokens"), {"options": provenance(options)}, axis="tokens")


def _forms(options: AttentionOptions, N: int) -> list[tuple[str, bool]]:
    """The mechanisms to be measured at length N; True stands for the form with the whole matrix. Row 0 is the first."""
    whole = [name for name in dict.fromkeys((ROW_0, *options.mechanisms)) if name in MATRIX]
    if options.textbook_up_to < N:
        whole = []
    return [(name, True) for name in whole] + [(name, False) for name in options.mechanisms]


def _case(module: Attention, name: str, whole: bool, x_BND: Tensor, mode: str, precision: str) -> Case:
    B, N = x_BND.shape[:2]
    run = _textbook(name, module, N) if whole else _learn(module)
    labels: dict[str, str | int] = {"tokens": N, "pass": mode, "form": f"{name}, N x N" if whole else name}
    extra = {} if whole else {"state_bytes": _state_bytes(module, x_BND, precision)}
    return Case(labels, _pass(run, module, x_BND, mode, precision), B * N, extra=extra)


def _learn(module: Attention) -> Form:
    return lambda x_BND: module.learn(x_BND, module.init_state(len(x_BND)))[0]


def _textbook(name: str, module: Attention, N: int) -> Form:
    mask_NN = torch.ones(N, N, dtype=torch.bool, device=module.out.weight.device).tril()
    return lambda x_BND: MATRIX[name](module, x_BND, mask_NN)[0]


def _stepwise(module: Attention) -> Form:
    """One token after another, through the state: what a mechanism without a textbook form is checked against."""

    def run(x_BND: Tensor) -> Tensor:
        state, outputs = module.init_state(len(x_BND)), []
        for x_B1D in x_BND.split(1, dim=1):
            out, state = module.learn(x_B1D, state)
            outputs.append(out)
        return torch.cat(outputs, dim=1)

    return run


def _pass(run: Form, module: Attention, x_BND: Tensor, mode: str, precision: str) -> Callable[[], object]:
    """One pass in the given precision; backward gives the gradients of the input and of every weight."""

    def forward() -> Tensor:
        with torch.no_grad(), _autocast(x_BND, precision):
            return run(x_BND)

    def forward_backward() -> tuple[Tensor, ...]:
        return gradients(run, module, x_BND, precision)[1:]

    return forward if mode == "forward" else forward_backward


def gradients(run: Form, module: Attention, x_BND: Tensor, precision: str) -> tuple[Tensor, ...]:
    """The outputs, and the gradients of their mean square with respect to the input and every weight."""
    x_BND = x_BND.detach().requires_grad_()
    with _autocast(x_BND, precision):
        out_BND = run(x_BND)
    return out_BND.detach(), *torch.autograd.grad(out_BND.float().square().mean(), [x_BND, *module.parameters()])


def _autocast(x: Tensor, precision: str) -> torch.autocast:
    return torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16")


def _state_bytes(module: Attention, x_BND: Tensor, precision: str) -> int:
    with torch.no_grad(), _autocast(x_BND, precision):
        return state_bytes(module.learn(x_BND, module.init_state(len(x_BND)))[1])


def check(name: str, module: Attention, precision: str) -> None:
    """Compares a mechanism with its N x N form in fp32 (or with itself, token by token): outputs and every gradient.

    Raises:
        RuntimeError: they differ by more than the precision explains; a wrong result is not worth timing.
    """
    x_BND = torch.randn(2, CHECK_LENGTH, module.out.out_features, device=module.out.weight.device)
    reference = _textbook(name, module, CHECK_LENGTH) if name in MATRIX else _stepwise(module)
    fast, right = (gradients(run, module, x_BND, p) for run, p in ((_learn(module), precision), (reference, "fp32")))
    names = ("outputs", "gradient of the input", *(f"gradient of {name}" for name, _ in module.named_parameters()))
    for what, a, b in zip(names, fast, right, strict=True):
        error = float((a.float() - b).norm() / b.norm())
        if not error <= TOLERANCE[precision]:
            raise RuntimeError(
                f"{name} in {precision}: {what} differ by {error:.1e} (relative) from the plain form. Nothing was timed."
            )
