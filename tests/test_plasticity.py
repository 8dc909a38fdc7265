"""Diagnostics against NumPy and cases worked by hand."""

from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor
from torch.func import jacrev
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import EpisodeSpec, Examples
from metacl.evaluation.plasticity import (
    active_units,
    attention_entropy,
    diagnose,
    dormant_units,
    effective_rank,
    norm,
    query_losses,
    singular_values,
    stable_rank,
)
from metacl.learners import Learner
from metacl.learners.similarity.kernels import KernelConfig

SPEC = EpisodeSpec("vector", (3,), "cross_entropy", symbols=4)


class State(NamedTuple):
    weights: dict[str, Tensor]


class Linear(Learner):
    """relu(x first) last: what `diagnose` needs, and no more."""

    last_layer: ClassVar = {"last": ...}

    def encode(self, x):
        return x

    def hidden(self, state, x):
        return [(x @ state.weights["first"]).relu()]

    def predict_features(self, state, z):
        return self.hidden(state, z)[0] @ state.weights["last"]

    def attention_weights(self, state, x):
        return [(x @ x.mT).softmax(-1)]


def parts() -> tuple[Linear, State, Examples]:
    rng = torch.Generator().manual_seed(0)
    weights = {"first": torch.randn(2, 3, 5, generator=rng), "last": torch.randn(2, 5, 4, generator=rng)}
    y = torch.randint(0, 4, (2, 9), generator=rng)
    return Linear(SPEC), State(weights), Examples(torch.randn(2, 9, 3, generator=rng), y, torch.zeros_like(y))


def test_ranks_against_numpy():
    matrix = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    for b, values in enumerate(np.linalg.svd(matrix.numpy(), compute_uv=False)):
        assert effective_rank(matrix)[b].item() == pytest.approx(np.exp(entropy(values)), rel=1e-5)
        assert stable_rank(matrix)[b].item() == pytest.approx(np.linalg.norm(matrix[b]) ** 2 / values[0] ** 2, rel=1e-5)


@pytest.mark.parametrize("shape", [(40, 5), (5, 40), (7, 5)])
def test_singular_values_of_long_matrices(shape):
    matrix = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    assert_close(singular_values(matrix), torch.linalg.svdvals(matrix.double()))


@pytest.mark.parametrize("rank", [effective_rank, stable_rank])
def test_ranks_by_hand(rank):
    assert_close(rank(torch.eye(4)), torch.tensor(4.0).double())
    assert_close(rank(torch.ones(3, 7)), torch.tensor(1.0).double())
    assert rank(torch.zeros(2, 3)) == 0


def test_units_by_hand():
    h = torch.tensor([[1.0, 0.0, 9.0, 0.1], [3.0, 0.0, -9.0, 0.1]])  # means of |h|: 2, 0, 9, 0.1; of the layer 2.775
    assert dormant_units(h).tolist() == [False, True, False, False]
    assert dormant_units(h, threshold=0.1).tolist() == [False, True, False, True]
    assert dormant_units(torch.zeros(5, 3)).all()
    assert active_units(h).item() == 5 / 8


def test_norms_are_of_each_row():
    assert_close(
        norm({"a": torch.tensor([[3.0], [0.0]]), "b": torch.tensor([[[4.0]], [[2.0]]])}), torch.tensor([5.0, 2.0]).double()
    )


def test_attention_entropy_by_hand():
    even, sharp = torch.full((2, 8), 1 / 8), torch.eye(8)[:2]
    assert attention_entropy(even).item() == pytest.approx(np.log(8))
    assert attention_entropy(sharp).item() == 0
    assert attention_entropy(torch.cat([even, sharp])).item() == pytest.approx(np.log(8) / 2)


def test_losses_are_of_each_row():
    learner, state, queries = parts()
    got = query_losses(learner, state, queries)
    for b in range(2):
        logits = learner.predict(state, queries.x)[b]
        assert_close(got[b], F.cross_entropy(logits, queries.y[b]))


def test_diagnose_measures_each_row_alone():
    learner, state, queries = parts()
    both = diagnose(learner, state, queries)
    for b in range(2):
        own = State({name: w[b : b + 1] for name, w in state.weights.items()})
        alone = diagnose(learner, own, Examples(queries.x[b : b + 1], queries.y[b : b + 1], queries.task[b : b + 1]))
        for name, value in alone.items():
            assert_close(both[name][b : b + 1], value, rtol=1e-4, atol=1e-5, msg=name)


def test_diagnose_against_the_parts():
    learner, state, queries = parts()
    got = diagnose(learner, state, queries)
    h = learner.hidden(state, queries.x)[0]
    assert_close(got["feature_rank"], effective_rank(h))
    assert_close(
        got["weight_rank"], (effective_rank(state.weights["first"]) / 3 + effective_rank(state.weights["last"]) / 4) / 2
    )
    assert_close(got["dormant"], dormant_units(h).double().mean(1), check_dtype=False)
    w = {name: v.clone().requires_grad_() for name, v in state.weights.items()}
    query_losses(learner, State(w), queries).sum().backward()
    assert_close(got["gradient_norm"], norm({name: v.grad for name, v in w.items() if v.grad is not None}))
    assert set(got) >= {"feature_stable_rank", "active", "weight_stable_rank", "weight_norm", "attention_entropy"}
    assert set(got) - set(diagnose(learner, state, queries, hessian=False)) == {
        "last_layer_rank",
        "hessian_rank",
        "hessian_rank_between_probes",
        "sharpness",
    }


def test_the_last_layer_rank_is_the_papers():
    """Equation 11, with its code's ridge and floor, in NumPy on the Hessian of reverse over reverse mode."""
    learner, state, queries = parts()
    got = diagnose(learner, state, queries)["last_layer_rank"]
    for b in range(2):
        h, y = learner.hidden(state, queries.x)[0][b], queries.y[b]
        H = jacrev(jacrev(lambda w, h=h, y=y: F.cross_entropy(h @ w, y)))(state.weights["last"][b])
        values = np.linalg.eigvalsh(H.reshape(20, 20).double().numpy() + 1e-6 * np.eye(20)).clip(1e-12)
        assert got[b].item() == pytest.approx(np.exp(entropy(values)), rel=1e-3)


def test_what_has_no_weights_has_no_diagnosis():
    assert diagnose(Linear(SPEC), (), parts()[2]) == {}
    kernel = KernelConfig().build(SPEC)
    assert diagnose(kernel, kernel.start([0, 1]), parts()[2]) == {}
