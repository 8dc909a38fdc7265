"""Hessians against torch.func and dense eigenvalues."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import jacrev
from torch.testing import assert_close

from metacl.evaluation import curvature
from metacl.evaluation.curvature import (
    block_hessian,
    hessian_product,
    lanczos,
    spectral_rank,
    spectrum,
)

B, M = 2, 7


def problem() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Two networks 3 -> 4 tanh -> 2: 26 parameters each."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"first": (4, 3), "bias": (4,), "last": (2, 4), "answer": (2,)}
    weights = {name: torch.randn(B, *shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}
    x, y = (torch.randn(B, M, width, generator=rng, dtype=torch.float64) for width in (3, 2))
    return weights, x, y


def one_loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    h = torch.tanh(x @ weights["first"].T + weights["bias"])
    return (h @ weights["last"].T + weights["answer"] - y).square().mean()


def losses(weights: dict[str, Tensor]) -> Tensor:
    _, x, y = problem()
    return torch.stack([one_loss({name: w[b] for name, w in weights.items()}, x[b], y[b]) for b in range(B)])


def dense() -> Tensor:
    """(B, P, P) by torch.func, column by column of a flat vector."""
    weights, x, y = problem()
    rows = []
    for b in range(B):
        own = {name: w[b] for name, w in weights.items()}
        blocks = jacrev(jacrev(one_loss))(own, x[b], y[b])
        parts = [[blocks[i][j].reshape(own[i].numel(), own[j].numel()) for j in own] for i in own]
        rows.append(torch.cat([torch.cat(part, 1) for part in parts]))
    return torch.stack(rows)


def test_a_block_of_the_hessian_is_exact():
    weights, H_BPP = problem()[0], dense()
    assert_close(block_hessian(losses, weights, dict.fromkeys(weights, ...)), H_BPP)
    assert_close(block_hessian(losses, weights, {"last": ..., "answer": ...}), H_BPP[:, 16:, 16:])
    got = block_hessian(losses, weights, {"last": 1, "answer": (slice(1, 2),)})
    part = torch.tensor([20, 21, 22, 23, 25])
    assert_close(got, H_BPP[:, part][:, :, part])


def test_many_columns_are_found_in_parts(monkeypatch):
    monkeypatch.setattr("metacl.evaluation.curvature.CHUNK", 3)
    assert_close(block_hessian(losses, problem()[0], dict.fromkeys(problem()[0], ...)), dense())


def test_columns_are_found_one_by_one_where_torch_cannot_batch_them(monkeypatch):
    """As in the second derivative of convolutions behind inner steps."""
    weights = problem()[0]
    block = {next(iter(weights)): ...}
    whole, plain = block_hessian(losses, weights, block), curvature._gradients

    def refuse(*args, **options):
        if options.get("is_grads_batched"):
            raise RuntimeError("NYI: querying is_contiguous inside of vmap")
        return plain(*args, **options)

    monkeypatch.setattr(curvature, "_gradients", refuse)
    assert_close(block_hessian(losses, weights, block), whole)


def test_products_with_the_hessian():
    v_BP = torch.randn(B, 26, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    product = hessian_product(losses, problem()[0])
    assert_close(product(v_BP), torch.einsum("bpq,bq->bp", dense(), v_BP))


def test_a_linear_loss_has_no_curvature():
    weights = {"w": torch.ones(2, 3)}
    assert_close(block_hessian(lambda w: w["w"].sum(1), weights, {"w": ...}), torch.zeros(2, 3, 3))
    assert_close(hessian_product(lambda w: w["w"].sum(1), weights)(torch.ones(2, 3)), torch.zeros(2, 3))


def test_lanczos_to_the_end_finds_the_dense_eigenvalues():
    start_BP = torch.randn(B, 26, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values_BK, weights_BK, _ = lanczos(hessian_product(losses, problem()[0]), start_BP, 100)
    assert values_BK.shape == (B, 26)
    assert_close(values_BK, torch.linalg.eigvalsh(dense()), rtol=1e-6, atol=1e-8)
    assert_close(weights_BK.sum(1), torch.ones(B, dtype=torch.float64))


def test_few_steps_of_lanczos_find_the_largest_eigenvalues():
    """And v' f(H) v for polynomials f of a degree below twice the steps."""
    matrix = torch.diag(torch.cat([torch.linspace(0, 1, 198, dtype=torch.float64), torch.tensor([5.0, 9.0])]))[None]
    start = torch.randn(1, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values_BK, weights_BK, errors_BK = lanczos(lambda v: torch.einsum("bpq,bq->bp", matrix, v), start, 20)
    assert_close(values_BK[0, -2:], torch.tensor([5.0, 9.0], dtype=torch.float64))
    off_K = (values_BK[0][:, None] - matrix[0].diagonal()).abs().amin(1)
    assert (off_K <= errors_BK[0] + 1e-12).all() and (errors_BK[0, -2:] < 1e-6).all() and errors_BK.amax() > 1e-3
    v = start[0] / start.norm()
    assert_close((weights_BK * values_BK**5).sum(1)[0], v @ torch.linalg.matrix_power(matrix[0], 5) @ v)


def test_a_krylov_space_that_ends_early_leaves_no_false_eigenvalues():
    """Row 0 has two eigenvalues, row 1 has six: the spaces end after 2 and 6 steps."""
    values = torch.tensor([[3.0, 3, 3, 7, 7, 7], [1.0, 2, 3, 4, 5, 6]])
    values_BK, weights_BK, _ = lanczos(lambda v: values * v, torch.ones(2, 6), 6)
    assert_close(values_BK[0][weights_BK[0] > 1e-6], torch.tensor([3.0, 7.0], dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert_close(weights_BK[0][weights_BK[0] > 1e-6], torch.full((2,), 0.5, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert_close(values_BK[1], values[1].double(), rtol=1e-5, atol=1e-5)


def turned(exact_BP: torch.Tensor, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The spectrum that is found of 1/2 w' diag(exact) w after a rotation, w in two tensors."""
    rows, P = exact_BP.shape
    turn = torch.linalg.qr(torch.randn(P, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    start = {"a": torch.ones(rows, 4, 5, dtype=torch.float64), "b": torch.ones(rows, P - 20, dtype=torch.float64)}
    return spectrum(
        lambda w: (exact_BP * (torch.cat([w["a"].flatten(1), w["b"]], 1) @ turn).square()).sum(1) / 2, start, **options
    )


def test_the_spectrum_counts_all_parameters_and_keeps_the_trace():
    bulk = torch.linspace(0, 1, 30).tolist()
    exact = torch.tensor([[0.0] * 30 + [1, 1.5, 2, 3, 5, 8], [*bulk, 2, 3, 4, 6, -2, 9]], dtype=torch.float64)
    values_BK, counts_BK = turned(exact, probes=100, steps=8)
    assert_close(counts_BK.sum(1), torch.full((2,), 36.0, dtype=torch.float64))
    assert_close((counts_BK * values_BK).sum(1), exact.sum(1), rtol=0.05, atol=0)
    assert_close(values_BK.amax(1), exact.amax(1), rtol=1e-3, atol=0)
    assert_close(spectral_rank(values_BK, counts_BK), spectral_rank(exact), rtol=0.05, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_one_probe_tells_the_rank_where_few_eigenvalues_are_large(seed):
    """As it is in networks; by the weights of one probe alone it is wrong by up to a factor of several."""
    small = torch.linspace(0, 0.05, 395)
    exact = torch.stack([torch.cat([small, torch.tensor([2.0, 3, 5, 8, top])]) for top in (90.0, 13.0)]).double()
    values_BK, counts_BK = turned(exact, seed=seed)
    assert_close(counts_BK.sum(1), torch.full((2,), 400.0, dtype=torch.float64))
    assert_close(spectral_rank(values_BK, counts_BK), spectral_rank(exact), rtol=0.1, atol=0)


def test_several_probes_say_how_far_they_are_apart():
    """And with as many steps as parameters every one of them is exact."""
    weights, exact_B = problem()[0], spectral_rank(torch.linalg.eigvalsh(dense()))
    for steps in (6, 26):
        ranks = torch.stack([spectral_rank(*spectrum(losses, weights, steps=steps, seed=seed)) for seed in range(3)])
        got = curvature.estimated_rank(losses, weights, steps=steps)
        assert_close(got["rank"], ranks.mean(0))
        assert_close(got["between_probes"], ranks.std(0))
        assert (got["between_probes"] > 0.01 * exact_B).all() == (steps == 6)
    assert_close(got["rank"], exact_B, rtol=1e-3, atol=0)
    assert_close(got["sharpness"], torch.linalg.eigvalsh(dense())[:, -1])


def test_the_rank_of_a_spectrum_by_hand():
    assert spectral_rank(torch.tensor([[2.0, 2, 2, 2, 0]])).item() == pytest.approx(4)
    assert spectral_rank(torch.tensor([[3.0, 1.0, -9.0]])).item() == pytest.approx(
        np.exp(-0.75 * np.log(0.75) + 0.25 * np.log(4))
    )
    assert spectral_rank(torch.tensor([[2.0, 5.0]]), torch.tensor([[4.0, 0.0]])).item() == pytest.approx(4)
    assert spectral_rank(torch.zeros(1, 3)).item() == 0
    paper = torch.tensor([[0.0, 0.0, -1.0]])  # the ridge alone is left, and the floor for negative curvature
    assert spectral_rank(paper, ridge=1e-6, floor=1e-12).item() == pytest.approx(2, abs=1e-3)
