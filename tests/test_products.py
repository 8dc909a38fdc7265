"""The matrix products of a call are counted, in custom functions and backward passes too, and timed alone."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from metacl.attention import make_attention
from metacl.benchmarking.measure import Case, measure
from metacl.benchmarking.products import Product, Products, largest, repeated, repetitions

CPU = torch.device("cpu")


def flops(seen: Products) -> float:
    return sum(product.flops * times for product, times in seen.counts.items())


def learn(name: str, backward: bool):
    module = make_attention(name, 16, 2)
    x = torch.randn(2, 70, 16, requires_grad=True)
    out = module.learn(x, module.init_state(2))[0]
    if backward:
        out.sum().backward()  # FlopCounterMode cannot look into autograd.grad


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", ["linear", "gated-delta", "mesa", "log-linear"])
def test_as_many_operations_as_pytorch_counts(name, backward):
    torch.manual_seed(0)
    with Products() as seen:
        learn(name, backward)
    torch.manual_seed(0)
    with FlopCounterMode(display=False) as counter:
        learn(name, backward)
    assert flops(seen) == counter.get_total_flops() > 0


def test_the_backward_pass_of_the_scan_is_counted():
    counts = []
    for backward in (False, True):
        with Products() as seen:
            learn("linear", backward)
        counts.append(seen.counts[Product(4, 64, 64, 9, torch.float32)])
    assert counts[0] == 1 and counts[1] > 1


def test_fused_attention_counts_the_half_below_the_diagonal():
    q = torch.randn(2, 3, 64, 8, requires_grad=True)
    with Products() as seen:
        out = F.scaled_dot_product_attention(q, q, q, is_causal=True)
        forward = flops(seen)
        out.sum().backward()
    assert forward == 2 * (2 * 3 * 64 * 64 * 8) * 2 / 2
    assert flops(seen) == forward + 5 * (2 * 3 * 64 * 64 * 8) * 2 / 2


def test_the_largest_products_stand_for_the_rest():
    large, small = Product(1, 100, 100, 100, torch.float32), Product(1, 2, 2, 2, torch.float32)
    with Products() as seen:
        for product, times in ((large, 3), (small, 2)):
            for _ in range(times):
                torch.randn(product.rows, product.inner) @ torch.randn(product.inner, product.columns)
    found, share = largest(seen.counts)
    assert found == {large: 3} and share == pytest.approx(1, abs=1e-4) and share < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_repeated_until_it_takes_a_while(dtype):
    product = Product(2, 100, 100, 100, dtype)
    with Products() as seen:
        repeated(product, CPU)()
    assert seen.counts == {product: repetitions(product)} and repetitions(product) == 50


def test_a_call_that_is_its_products_takes_as_long_as_they_do():
    a = torch.randn(256, 256)

    def call() -> None:
        for _ in range(20):
            torch.mm(a, a)

    for _ in range(5):  # the machine may be busy
        row, plain = measure([Case({}, call, counted=call), Case({}, call)], 3, CPU, lambda case: None)
        assert row.products is not None and row.products > 0 and len(row.seconds) == 3
        assert plain.products is None and plain.times_products is None
        assert row.times_products is not None
        if 0.2 < row.times_products < 5:
            return
    pytest.fail(f"{row.times_products} times as long")
