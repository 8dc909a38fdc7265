"""The subject `attention`: what each mechanism costs as streams grow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import Literal

import torch
from torch import Tensor

from episodes import UserError
from episodes.errors import unknown
from metacl.attention import ATTENTION
from metacl.attention.backends import BACKENDS
from metacl.benchmarking.forms import Form, Kind, build, check, forward, gradients, learned, obstacle_to_streaming, one_token
from metacl.benchmarking.measure import Case, Json, Result, Row, Tick, calls, measure, progress, slopes
from metacl.benchmarking.options import Options, provenance
from metacl.benchmarking.textbook import WEIGHTS
from metacl.learners import state_bytes

ROW_0 = "softmax"
"""The mechanism that all others are compared with: in its N x N form, or where that is not run, through fused kernels."""
LATENCY_REPEATS = 20
"""One token is soon learnt."""
KERNELS = ("flash-attn", "flash-attn-4", "fla-core", "triton")


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(Options):
    """How time and memory of each attention mechanism grow with the length of the stream.

    Row 0 of each block is softmax attention with the whole masked N x N matrix, as in published code. `x products` is the time
    of a row divided by the time that its matrix products take alone. `one token`: one more, after the whole stream. Every form
    is compared with the token-by-token form of its mechanism, outputs and gradients, before it is timed.

    Example: python benchmark.py attention --mechanisms softmax linear --lengths 256 1024 4096
    """

    mechanisms: tuple[str, ...] = tuple(ATTENTION)
    """The mechanisms that are measured: names of metacl.attention.ATTENTION."""
    lengths: tuple[int, ...] = (1000, 2000, 4000, 8000, 16000)
    """Tokens in the stream (N)."""
    batch_size: int | None = None
    """Streams side by side (B). None: 1, or as many as --tokens says."""
    tokens: int | None = None
    """Tokens in a batch (B * N), the same at all lengths, in place of --batch-size. None: as --batch-size says."""
    width: int = 512
    """Width of the tokens (D)."""
    heads: int = 8
    """Heads of each mechanism (H)."""
    head_width: int | None = None
    """Width of a head's values. None: --width / --heads."""
    key_width: int | None = None
    """Width of a head's queries and keys. None: that of its values."""
    precision: tuple[Literal["fp32", "bf16"], ...] = ("fp32",)
    """Precisions, each measured apart. `bf16`: automatic mixed precision, for row 0 too."""
    backends: tuple[str, ...] = ("auto",)
    """What runs the mechanisms: names of metacl.attention.backends.BACKENDS."""
    core: bool = False
    """Time only the way from queries, keys, values and gates to the outputs of the heads: no projections, norm or streaming."""
    textbook_up_to: int = 4096
    """The longest stream for which row 0 runs, since its memory grows with the square. Other N x N forms stop at a quarter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, names, known in (("mechanism", self.mechanisms, ATTENTION), ("back end", self.backends, BACKENDS)):
            for name in names:
                if name not in known:
                    raise unknown(what, name, known)
        if not (self.mechanisms and self.lengths and self.precision and self.backends):
            raise UserError("--mechanisms, --lengths, --precision and --backends each need at least one value.")
        given = (self.batch_size, self.tokens, self.head_width, self.key_width)
        if min(*self.lengths, self.width, self.heads, *(value for value in given if value is not None)) < 1:
            raise UserError("--lengths, --batch-size, --tokens and all widths must be at least 1.")
        if self.head_width is None and self.width % self.heads:
            raise UserError(f"--width {self.width} must be a multiple of --heads {self.heads}, or give --head-width.")
        if self.tokens is not None and self.batch_size is not None:
            raise UserError("--tokens sets the batch size for each length: leave out --batch-size.")
        if self.tokens is not None and self.tokens < max(self.lengths):
            raise UserError(f"--tokens {self.tokens} does not hold one stream of {max(self.lengths)} tokens.")

    def streams(self, N: int) -> int:
        """B at length N."""
        return self.tokens // N if self.tokens is not None else self.batch_size or 1


def attention(options: AttentionOptions) -> Result:
    """Measures all mechanisms at all lengths."""
    device = options.torch_device()
    forms, left_out = checked_forms(options, device)
    rows: list[Row] = []
    with progress("attention", _units(options, forms)) as tick:
        for N in options.lengths:
            x_BND = torch.randn(options.streams(N), N, options.width, device=device)
            for precision, own in forms.items():
                rows += _measured(options, [form for form in own if _runs(options, form, N)], x_BND, precision, tick)
    about: Json = {"options": provenance(options), "kernels": _kernels()}
    return Result("attention", "tokens", rows, slopes(rows, "tokens"), about, axis="tokens", left_out=left_out)


def checked_forms(options: AttentionOptions, device: torch.device) -> tuple[dict[str, list[Form]], dict[str, str]]:
    """What is to be measured in each precision, row 0 first, and why the rest is not: all that was checked.

    Raises:
        UserError: nothing is left.
    """
    torch.manual_seed(0)
    forms: dict[str, list[Form]] = {}
    left_out: dict[str, str] = {}
    for precision in dict.fromkeys(options.precision):
        found = []
        for name, kind, backend in _asked(options):
            what = f"{name}, {backend}, {precision}"
            try:
                form = _checked(options, name, kind, backend, precision, device)
            except UserError as error:
                left_out[what] = str(error)
                continue
            obstacle = obstacle_to_streaming(form, precision)
            found.append(replace(form, streams=not obstacle))
            if obstacle:
                left_out[f"one token of {what}"] = obstacle
        forms[precision] = sorted(found, key=lambda form: (form.kind != "N x N", form.name != ROW_0))
    if not any(form.kind == "fast" for own in forms.values() for form in own):
        raise UserError("Nothing can be measured. " + " ".join(f"{what}: {why}" for what, why in left_out.items()))
    return forms, left_out


def _asked(options: AttentionOptions) -> Iterator[tuple[str, Kind, str]]:
    """Names, kinds and back ends."""
    for name in dict.fromkeys((ROW_0, *options.mechanisms)):
        if name in WEIGHTS and textbook_up_to(options, name) >= min(options.lengths):
            yield name, "N x N", "torch"
        if name in options.mechanisms:
            yield from ((name, "fast", backend) for backend in dict.fromkeys(options.backends))


def _checked(options: AttentionOptions, name: str, kind: Kind, backend: str, precision: str, device: torch.device) -> Form:
    """A form, after a check with heads like its own: fewer of them, since a loop over tokens keeps all its states."""
    head_width = options.head_width or options.width // options.heads
    few = min(options.heads, 2 if max(options.key_width or 0, head_width) <= 128 else 1)
    small, module = (
        build(name, options.width, heads, backend, head_width, options.key_width).to(device) for heads in (few, options.heads)
    )
    check(Form(name, small, kind, options.core), precision)
    return Form(name, module, kind, options.core)


def textbook_up_to(options: AttentionOptions, name: str) -> int:
    """The longest stream for the N x N form of a mechanism."""
    return options.textbook_up_to if name == ROW_0 else options.textbook_up_to // 4


def _runs(options: AttentionOptions, form: Form, N: int) -> bool:
    return form.kind == "fast" or textbook_up_to(options, form.name) >= N


def _measured(options: AttentionOptions, forms: list[Form], x_BND: Tensor, precision: str, tick: Tick) -> list[Row]:
    """The rows of one length in one precision."""
    works = [form.work(x_BND, precision) for form in forms]
    fast = [form for form in forms if form.kind == "fast" and not options.core]
    states = {form: learned(form.module, x_BND, precision) for form in fast}
    extra = {form: {"state_bytes": state_bytes(state)} for form, state in states.items()}
    row_0, device, rows = forms[0].name == ROW_0, x_BND.device, []
    for name, run in (("forward", forward), ("fwd + bwd", gradients)):
        calls_of = {form: partial(run, work, x_BND, precision) for form, work in zip(forms, works, strict=True)}
        cases = [_case(form, x_BND, precision, name, call, x_BND.shape[1], extra) for form, call in calls_of.items()]
        rows += measure(cases, options.repeats, device, tick, row_0)
    steps = {form: one_token(form.module, x_BND, state, precision) for form, state in states.items() if form.streams}
    cases = [_case(form, x_BND, precision, "one token", call, 1, extra) for form, call in steps.items()]
    return rows + measure(
        cases, options.repeats or LATENCY_REPEATS, device, tick, bool(steps) and next(iter(steps)).name == ROW_0
    )


def _case(
    form: Form, x_BND: Tensor, precision: str, name: str, call: Callable[[], object], N: int, extra: dict[Form, dict[str, int]]
) -> Case:
    """A case that works through N tokens of each stream."""
    labels = _labels(form, x_BND, precision, name)
    return Case(labels, call, len(x_BND) * N, extra=extra.get(form, {}), counted=form.in_torch(call))


def _labels(form: Form, x_BND: Tensor, precision: str, name: str) -> dict[str, str | int]:
    backend = {"backend": form.module.backend} if form.kind == "fast" else {}
    return {"tokens": x_BND.shape[1], "precision": precision, "pass": name, **backend, "form": form.label}


def _units(options: AttentionOptions, forms: dict[str, list[Form]]) -> int:
    """Tokens of all calls."""
    units = 0
    for N in options.lengths:
        own = [form for found in forms.values() for form in found if _runs(options, form, N)]
        fast = 0 if options.core else sum(form.kind == "fast" and form.streams for form in own)
        latency = fast * calls(options.repeats or LATENCY_REPEATS)
        units += options.streams(N) * (2 * N * calls(options.repeats) * len(own) + latency)
    return units


def _kernels() -> dict[str, str | None]:
    """The versions of optional kernels, None where one is not installed."""
    versions: dict[str, str | None] = dict.fromkeys(KERNELS)
    for name in KERNELS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
