"""Where the arithmetic is done: plain PyTorch, or fused kernels where they are installed and can take the tensors.

`torch` is PyTorch; `flash` (softmax) and `fla` (recurrences) are an error where they cannot; `auto` takes the first kernel
that can, else PyTorch. A package is imported when a kernel of it is first needed; one line of log says what runs.
Signatures as in flash-attn 2, flash-attn-4 4.0.0b36 and fla-core 0.4 to 0.6.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from episodes import UserError
from episodes.errors import unknown
from metacl.attention.scan import Tokens, divided
from metacl.attention.scan import scan as scan_in_chunks
from metacl.nets.shared_batch import dropout as shared_dropout
from metacl.nets.shared_batch import is_shared

BACKENDS = ("auto", "torch", "flash", "fla")


Run = Callable[..., Any]
"""A function of a package that may not be installed."""


class Kernel(NamedTuple):
    """Where such a function is found."""

    package: str
    module: str
    function: str


FLASH_2 = Kernel("flash-attn", "flash_attn", "flash_attn_func")
FLASH_4 = Kernel("flash-attn-4", "flash_attn.cute", "flash_attn_func")
FLA = {
    ("no", "add"): Kernel("fla-core", "fla.ops.simple_gla", "chunk_simple_gla"),
    ("scalar", "add"): Kernel("fla-core", "fla.ops.simple_gla", "chunk_simple_gla"),
    ("vector", "add"): Kernel("fla-core", "fla.ops.gla", "chunk_gla"),
    ("no", "delta"): Kernel("fla-core", "fla.ops.delta_rule", "chunk_delta_rule"),
    ("scalar", "delta"): Kernel("fla-core", "fla.ops.gated_delta_rule", "chunk_gated_delta_rule"),
    ("vector", "delta"): Kernel("fla-core", "fla.ops.kda", "chunk_kda"),
    ("vector", "erase"): Kernel("fla-core", "fla.ops.generalized_delta_rule", "chunk_dplr_delta_rule"),
}
"""The kernel for each decay and rule (see `scan.py`)."""
FLA_PRODUCT = Kernel("fla-core", "fla.ops.gated_delta_product", "chunk_gated_delta_product")
"""The kernel for a scalar decay and several writes of rule delta a token. Other rules are several tokens to their kernels."""
INSTALL = {
    "flash": "pip install --no-build-isolation 'metacl[flash]' builds flash-attn from source, with nvcc; for Hopper and newer "
    "pip install --pre flash-attn-4 is enough. Both need an NVIDIA GPU",
    "fla": "pip install 'metacl[fla]'. It needs an NVIDIA GPU and triton, which CUDA builds of PyTorch bring along",
}


def scan(tokens: Tokens, state_BHEF: Tensor, backend: str = "auto", divide: bool = False) -> tuple[Tensor, Tensor]:
    """`metacl.attention.scan.scan` by the kernels that `backend` names.

    Raises:
        UserError: `backend` is unknown, or it is asked for by name and is not installed or cannot take the tokens.
    """
    decay = "no" if tokens.log_decay is None else ("scalar" if tokens.log_decay.ndim == 3 else "vector")
    rule = "add" if tokens.taken is None else ("erase" if tokens.beta is None else "delta")
    what, kernel, width = f"recurrence with {decay} decay and rule {rule}", FLA.get((decay, rule)), tokens.k.shape[-1]
    if tokens.writes > 1:
        what, kernel = f"{what}, {tokens.writes} times a token", FLA_PRODUCT if (decay, rule) == ("scalar", "delta") else kernel
    if backend == "flash" or (backend == "fla" and kernel is None):
        other = "fla or auto" if backend == "flash" else "auto"
        raise UserError(f"--learner.backend {backend} has no kernel for a {what}. Take {other}.")
    obstacle = obstacle_of(tokens.v) or (too_wide(width, 256) if rule != "add" else "")
    run = choose(what, backend, [] if kernel is None else [(kernel, obstacle)])
    if run is None:
        return scan_in_chunks(tokens, state_BHEF, divide=divide)
    out, state = scan_by_fla(run, tokens, state_BHEF, product=kernel == FLA_PRODUCT)
    return divided(out) if divide else out, state


def softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, backend: str = "auto") -> Tensor:
    """softmax(q k^T / sqrt(E)) v, (B, H, N, F), causal where there is no mask. k and v may have fewer heads than q.

    Raises:
        UserError: `backend` is unknown, or it is asked for by name and is not installed or cannot take the tensors.
    """
    if backend == "fla":
        raise UserError("--learner.backend fla has no kernel for softmax attention. Take flash or auto.")
    obstacle, width = obstacle_of(q), max(q.shape[-1], v.shape[-1])
    if mask is not None:
        obstacle = obstacle or "there is a mask (for padding, or for a stream that goes on from a state), and it takes none"
    if dropout and is_shared():
        obstacle = obstacle or "several processes share a batch, and it draws no dropout for the whole batch"
    old = "" if ground(q)[0] >= 9 else "it needs Hopper or newer (flash-attn 2 does not)"
    drops = "it has no dropout: set --learner.attention-dropout 0, or install flash-attn 2" if dropout else ""
    kernels = [(FLASH_4, obstacle or old or drops or too_wide(width, 128)), (FLASH_2, obstacle or too_wide(width, 256))]
    run = choose("softmax attention", backend, kernels)
    if run is not None:
        return softmax_by_flash(run, q, k, v, dropout)
    return softmax_by_torch(q, k, v, mask, dropout)


def softmax_by_torch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """`softmax` by PyTorch's own kernel. Where a batch is shared among processes, dropout's mask is that of the whole batch,
    which no kernel draws: then the N x N weights are made."""
    grouped = k.shape[1] != q.shape[1]
    if not (dropout and is_shared()):
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None, enable_gqa=grouped)
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    score_BHMN = (q @ k.mT) * q.shape[-1] ** -0.5
    seen = torch.ones_like(score_BHMN[0, 0], dtype=torch.bool).tril() if mask is None else mask
    weight_BHMN = score_BHMN.masked_fill(~seen, -torch.inf).softmax(-1)
    return shared_dropout(weight_BHMN, dropout, training=True) @ v


def choose(what: str, backend: str, kernels: Sequence[tuple[Kernel, str]]) -> Run | None:
    """The first of `kernels` that has no obstacle beside it and can be imported; None: PyTorch is to do it.

    Raises:
        UserError: there is no such backend, or it is asked for by name and has no such kernel.
    """
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    for kernel, obstacle in [] if backend == "torch" else kernels:
        if not obstacle and callable(run := load(kernel)):
            _say(f"{what}: {kernel.module}.{kernel.function} ({kernel.package})")
            return run
    if backend in ("auto", "torch"):
        _say(f"{what}: PyTorch")
        return None
    for kernel, obstacle in reversed(kernels):
        if callable(load(kernel)):
            raise UserError(f"--learner.backend {backend}: {kernel.package} cannot do this {what}: {obstacle}. Or take auto.")
    missing = "; ".join(f"{kernel.package}: {load(kernel)}" for kernel, _ in kernels)
    obstacle = kernels[-1][1] and f" Here it could not be used: {kernels[-1][1]}."
    raise UserError(
        f"--learner.backend {backend} is not installed ({missing}). To install it: {INSTALL[backend]}.{obstacle} Or take auto."
    )


@functools.cache
def load(kernel: Kernel) -> Run | str:
    """The function, or why it cannot be imported. It is tried once."""
    try:
        return getattr(import_module(kernel.module), kernel.function)
    except Exception as error:  # what was built for another torch or CUDA fails in many ways
        return f"{type(error).__name__}: {error}"


def ground(t: Tensor) -> tuple[int, torch.dtype]:
    """The major compute capability of the GPU that holds a tensor (0: none does), and its dtype. The tests replace this."""
    return torch.cuda.get_device_capability(t.device)[0] if t.is_cuda else 0, t.dtype


def obstacle_of(t: Tensor) -> str:
    """Why no kernel can take a tensor; empty where one can."""
    capability, dtype = ground(t)
    if capability == 0:
        return f"the tensors are on the {t.device.type.upper()}, and it runs on NVIDIA GPUs"
    if capability < 8:
        return f"the GPU has compute capability {capability}, and it needs 8 (Ampere) or more"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"the tensors are {str(dtype).removeprefix('torch.')}, and it takes bfloat16 and float16: set --precision bf16"
    return ""


def too_wide(width: int, most: int) -> str:
    """Why a kernel for heads of at most `most` features cannot take heads of `width`; empty where it can."""
    return f"the heads have {width} features, and it takes up to {most}" if width > most else ""


def scan_by_fla(run: Run, tokens: Tokens, state_BHEF: Tensor, product: bool = False) -> tuple[Tensor, Tensor]:
    """fla has tokens before heads, and multiplies tiles of 16 x 16 and more: widths are filled up with zeros.

    Arguments:
        product: the kernel takes tokens that write several times; others take each write as a token.
    """
    (E, width), n = state_BHEF.shape[2:], tokens.writes
    options: dict[str, Any] = {"num_householder": n} if product else {}
    if n > 1 and not product:
        tokens = _one_write_each(tokens)
    given = {"q": tokens.q, "k": tokens.k, "v": tokens.v, "g": tokens.log_decay, "beta": tokens.beta}
    if tokens.erase is not None:  # S <- exp(gk) S + b (a^T S) + k v^T, in which a sees the old S
        assert tokens.log_decay is not None  # there is a kernel of this rule for vector decays alone
        read = -(tokens.erase * tokens.log_decay.exp()).to(tokens.erase)
        given = {"q": tokens.q, "k": tokens.k, "v": tokens.v, "gk": tokens.log_decay, "a": read, "b": tokens.k}
    there = {name: filled(t.transpose(1, 2), 16 if t.ndim == 4 else 1) for name, t in given.items() if t is not None}
    start_BHEF = filled(filled(state_BHEF, 16).mT, 16).mT
    with torch.autocast(state_BHEF.device.type, enabled=False):
        out_BNHF, end_BHEF = run(**there, **options, scale=1.0, initial_state=start_BHEF, output_final_state=True)
    out_BHNF = out_BNHF[..., :width].transpose(1, 2)
    return out_BHNF if product else out_BHNF[:, :, n - 1 :: n], end_BHEF[:, :, :E, :width].contiguous()


def _one_write_each(tokens: Tokens) -> Tokens:
    """Tokens that write n times as n tokens, of which the first decays and the last is read."""
    n, decay = tokens.writes, tokens.log_decay
    q = F.pad(tokens.q[..., None, :], (0, 0, n - 1, 0)).flatten(2, 3)
    if decay is not None:
        decay = F.pad(decay.unsqueeze(3), ((0, 0) if decay.ndim == 4 else ()) + (0, n - 1)).flatten(2, 3)
    return tokens._replace(q=q, log_decay=decay)


def softmax_by_flash(run: Run, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """flash-attn has tokens before heads, and one width for keys and values, a multiple of 8: filled up with zeros."""
    width = max(q.shape[-1], v.shape[-1])
    parts = (F.pad(t.transpose(1, 2), (0, width - t.shape[-1] + -width % 8)) for t in (q, k, v))
    options = {"dropout_p": dropout} if dropout else {}
    found = run(*parts, softmax_scale=q.shape[-1] ** -0.5, causal=True, **options)
    out_BNHF = found[0] if isinstance(found, tuple) else found  # flash-attn-4 returns logsumexp too
    return out_BNHF[..., : v.shape[-1]].transpose(1, 2)


def filled(t: Tensor, multiple: int) -> Tensor:
    """A tensor with zeros behind its features, so that their number is a multiple of `multiple`."""
    missing = -t.shape[-1] % multiple
    return F.pad(t, (0, missing)) if missing else t


_said: set[str] = set()


def _say(line: str) -> None:
    if line not in _said:
        _said.add(line)
        logging.getLogger("metacl").info(line)
