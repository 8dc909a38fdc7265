"""The matrix products of a call, and the time that they alone would take: what a better schedule could gain at most."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ENOUGH = 2e8
"""Floating-point operations of one measurement of a rate: small products are repeated until they come to these."""
COVERED = 0.97
"""Share of a call's operations whose products are measured, the largest first; the rest is taken to go at their rate."""
BLOCK = 256
"""Fused softmax attention is counted as products of such blocks of its N x N scores, the half above the diagonal left out."""


class Product(NamedTuple):
    """(rows x inner) @ (inner x columns), `batch` of them side by side."""

    batch: int
    rows: int
    inner: int
    columns: int
    dtype: torch.dtype

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.rows * self.inner * self.columns


class Products(TorchDispatchMode):
    """Counts the products of everything that is called in its context, backward passes and custom functions included.

    Kernels that PyTorch does not know (flash-attn, Triton) are not seen, nor are triangular solves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for product, times in _products(func.overloadpacket.__name__, args):
            self.counts[product] += times  # type: ignore[assignment]  # blocks of attention may come to halves
        return func(*args, **(kwargs or {}))


def _products(name: str, args: Any) -> Iterator[tuple[Product, float]]:
    if name in ("mm", "bmm"):
        yield _product(*args[:2]), 1
    elif name in ("addmm", "baddbmm"):
        yield _product(*args[1:3]), 1
    elif name.startswith("_scaled_dot_product"):
        back = name.endswith("backward")
        q, k, v = args[1:4] if back else args[:3]
        (B, H, N, E), M, F = q.shape, k.shape[2], v.shape[3]
        share = 0.5 if N == M > 1 else 1.0
        rows, columns = min(N, BLOCK), min(M, BLOCK)
        blocks = share * N * M / (rows * columns)
        for inner, times in ((E, 3 if back else 1), (F, 2 if back else 1)):
            yield Product(B * H, rows, inner, columns, q.dtype), blocks * times


def _product(a: Tensor, b: Tensor) -> Product:
    batch = a.shape[0] if a.ndim == 3 else 1
    return Product(batch, a.shape[-2], a.shape[-1], b.shape[-1], a.dtype)


def largest(counts: Counter[Product]) -> tuple[dict[Product, float], float]:
    """The products that make up most of the operations, and the share that they are."""
    whole = sum(product.flops * times for product, times in counts.items())
    found: dict[Product, float] = {}
    share = 0.0
    for product, times in sorted(counts.items(), key=lambda item: -item[0].flops * item[1]):
        if share >= COVERED:
            break
        found[product] = times
        share += product.flops * times / whole
    return found, share


def repetitions(product: Product) -> int:
    """How often a measurement does it."""
    return min(200, math.ceil(ENOUGH / max(product.flops, 1)))


def repeated(product: Product, device: torch.device) -> Callable[[], None]:
    """Does the product `repetitions` times, into memory that is there already."""
    batch, rows, inner, columns, dtype = product
    a, b = (torch.randn(batch, *shape, device=device).to(dtype) for shape in ((rows, inner), (inner, columns)))
    out = torch.empty(batch, rows, columns, dtype=dtype, device=device)

    def call() -> None:
        for _ in range(repetitions(product)):
            torch.bmm(a, b, out=out)

    return call
