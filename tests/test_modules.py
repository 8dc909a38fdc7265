"""Measures of modules and layers against plain NumPy on a small vision transformer."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax
from scipy.stats import entropy
from tiny_vit import SPEC, TINY, after, examples, only, tiny  # noqa: F401
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import Examples
from metacl.evaluation.modules import MEASURES, Seen, active_share, as_matrix, diagnose_modules, rank_share, unit_measures
from metacl.evaluation.plasticity import diagnose
from metacl.evaluation.step import DIAGNOSED
from metacl.learners.vision.prefix import PrefixConfig
from metacl.learners.vision.tuned import Tuned, TunedConfig
from metacl.nets.vit import Added

CONFIG = TunedConfig(rate=3e-3, epochs=2, batch_size=4, trunk=TINY)
ACTIVATIONS = ["q", "k", "v", "attention out", "mlp hidden", "mlp out", "features"]
MATRICES = ACTIVATIONS[:-1]
pytestmark = pytest.mark.usefixtures("tiny")


def learnt():
    """A learner, its state of two rows that have learnt other things, and examples of both."""
    learner = CONFIG.build(SPEC)
    own = [examples([0, 1], seed) for seed in range(2)]
    both = Examples(*(torch.cat([getattr(part, name) for part in own]) for name in ("x", "y", "task")))
    return learner, learner.learn(learner.start([0, 1]), both), both


class Naive:
    """The transformer in NumPy, image by image and head by head: what each module of each layer gives, all tokens below each
    other, and the logits of attention."""

    def __init__(self, weights, x, heads=4, depth=3):
        self.w = {name: part.double().numpy() for name, part in weights.items()}
        self.out: dict[tuple[str, int], list] = {}
        self.logits: dict[int, list] = {layer: [] for layer in range(depth)}
        for image in x.numpy() / 255:
            self._pass(image, heads, depth)

    def _pass(self, image, heads, depth):
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        image = (image - mean[:, None, None]) / deviation[:, None, None]
        patches = [image[:, i : i + 4, j : j + 4].ravel() for i in (0, 4) for j in (0, 4)]
        kernel, bias = self.w["patch_embed.weight"].reshape(24, -1), self.w["patch_embed.bias"]
        h = np.stack([self.w["cls_token"][0, 0], *(kernel @ patch + bias for patch in patches)]) + self.w["pos_embed"][0]
        for layer in range(depth):
            own = f"blocks.{layer}."
            q, k, v = np.split(self.linear(self.norm(h, own + "norm1"), own + "attn.qkv"), 3, 1)
            parts, E = [], 24 // heads
            for head in range(heads):
                at = slice(head * E, (head + 1) * E)
                scores = q[:, at] @ k[:, at].T / math.sqrt(E)
                self.logits[layer].append(scores)
                parts.append(softmax(scores, 1) @ v[:, at])
            out = self.linear(np.concatenate(parts, 1), own + "attn.proj")
            h = h + out
            before = self.linear(self.norm(h, own + "norm2"), own + "mlp.fc1")
            hidden = before * (1 + erf(before / math.sqrt(2))) / 2
            last = self.linear(hidden, own + "mlp.fc2")
            h = h + last
            for module, part in zip([*MATRICES, "before"], (q, k, v, out, hidden, last, before), strict=True):
                self.out.setdefault((module, layer), []).append(part)
        self.out.setdefault(("features", 0), []).append(self.norm(h, "norm")[:1])

    def linear(self, h, name):
        return h @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, h, name):
        away = h - h.mean(1, keepdims=True)
        return away / np.sqrt(away.var(1, keepdims=True) + 1e-6) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def __getitem__(self, place):
        return np.concatenate(self.out[place])


def naive_rank(matrix):
    return np.exp(entropy(np.linalg.svd(matrix, compute_uv=False))) / min(matrix.shape)


def naive_dormant(h, threshold):
    sizes = [np.mean([abs(value) for value in unit]) for unit in h.T]
    return np.mean([size / (np.mean(sizes) + 1e-9) <= threshold for size in sizes])


def naive_matrices(weights, layer):
    """The matrices of a layer, in the order of `MATRICES`."""
    qkv = weights[f"blocks.{layer}.attn.qkv.weight"]
    names = ("attn.proj", "mlp.fc1", "mlp.fc2")
    return [qkv[:24], qkv[24:48], qkv[48:], *(weights[f"blocks.{layer}.{name}.weight"] for name in names)]


def test_activations_against_numpy():
    learner, state, queries = learnt()
    found = diagnose_modules(learner, state, queries)
    for b in range(2):
        naive = Naive({name: w[b] for name, w in state.weights.items()}, queries.x[b])
        for module in ACTIVATIONS:
            assert found["feature_rank"][module].shape == (2, 1 if module == "features" else 3)
            for layer, got in enumerate(found["feature_rank"][module][b].tolist()):
                h = naive[module, layer]
                assert got == pytest.approx(naive_rank(h), rel=1e-3)
                dormant = [naive_dormant(h, threshold) for threshold in (0.025, 0.1)]
                measures = ("dormant_0.025", "dormant_0.1", "active_tau")
                assert [found[measure][module][b, layer].item() for measure in measures] == [*dormant, 1 - dormant[1]]
        for layer in range(3):
            before = naive["before", layer]
            share = np.mean([sum(value > 0 for value in unit) >= len(before) / 100 for unit in before.T])
            assert found["active_0"]["mlp hidden"][b, layer].item() == pytest.approx(share)


def test_attention_against_numpy():
    learner, state, queries = learnt()
    found = diagnose_modules(learner, state, queries)
    for b in range(2):
        naive = Naive({name: w[b] for name, w in state.weights.items()}, queries.x[b])
        for layer in range(3):
            scores = np.stack(naive.logits[layer])
            wanted = {
                "attention_entropy": np.mean([entropy(row) for head in scores for row in softmax(head, 1)]),
                "logit_max": scores.max(),
                "logit_std": scores.std(),
            }
            for measure, value in wanted.items():
                assert found[measure]["attention"][b, layer].item() == pytest.approx(value, rel=1e-3), measure


def test_weights_against_numpy():
    learner, state, queries = learnt()
    found = diagnose_modules(learner, state, queries)
    start = {name: part.detach().numpy() for name, part in learner.trunk.network.named_parameters()}
    for b in range(2):
        now = {name: w[b].numpy() for name, w in state.weights.items()}
        for layer in range(3):
            pairs = zip(naive_matrices(now, layer), naive_matrices(start, layer), strict=True)
            for module, (new, old) in zip(MATRICES, pairs, strict=True):
                assert found["weight_rank"][module][b, layer].item() == pytest.approx(naive_rank(new), rel=1e-4)
                change = math.sqrt(sum((x - y) ** 2 for x, y in zip(new.ravel(), old.ravel(), strict=True)) / new.size)
                assert found["weight_change"][module][b, layer].item() == pytest.approx(change, rel=1e-4)


def test_gradients_against_a_loop():
    """Twelve probes are ten batches, of which the first two have two images."""
    learner, state, queries = learnt()
    found = diagnose_modules(learner, state, queries)["gradient_rank"]
    for b in range(2):
        batches = []
        for w in range(10):
            network = TINY.load().requires_grad_(True)
            network.load_state_dict({name: own[b] for name, own in state.weights.items()})
            head, x, y = state.head, queries.x[b, w::10], queries.y[b, w::10]
            logits = network(x / 255) @ head["weight"][b].T + head["bias"][b]
            F.cross_entropy(logits.masked_fill(~state.seen[b], -torch.inf), y).backward()
            grads = {name: part.grad.double().numpy() for name, part in network.named_parameters()}
            batches.append([[m.ravel() for m in naive_matrices(grads, layer)] for layer in range(3)])
        for layer in range(3):
            for i, module in enumerate(MATRICES):
                values = np.linalg.svd(np.stack([own[layer][i] for own in batches]), compute_uv=False) ** 2
                assert found[module][b, layer].item() == pytest.approx(np.exp(entropy(values)), rel=1e-3)


def test_measures_by_hand():
    h = torch.tensor([[1.0, -1.0, 0.0, -3.0]] * 99 + [[1.0, 2.0, 0.0, -3.0]])
    assert active_share(h) == 0.5  # the second is positive once in a hundred
    assert active_share(torch.cat([h, -h])) == 0.75  # the first and the last half of the time, the second almost
    assert active_share(torch.cat([h, h[:1]])) == 0.25  # once in 101 is not enough
    sizes = unit_measures(torch.tensor([[1.0, 0.08, 0.0, 1.0]]))  # scores 1.92, 0.15, 0, 1.92
    assert [sizes[name].item() for name in ("dormant_0.025", "dormant_0.1", "active_tau")] == [0.25, 0.25, 0.75]
    assert rank_share(torch.eye(4)[:, :2]) == 1 and rank_share(torch.ones(3, 7)).item() == pytest.approx(1 / 3)
    q = torch.arange(24.0).view(1, 2, 3, 4)  # one image, two heads, three tokens
    assert torch.equal(as_matrix(q)[1], torch.cat([q[0, 0, 1], q[0, 1, 1]]))


def test_a_window_of_the_same_gradients_has_rank_one():
    learner, state, queries = learnt()
    same = queries.take(np.zeros(20, dtype=np.int64))
    found = diagnose_modules(learner, state, same)["gradient_rank"]
    assert all(bool(((value > 0.99) & (value < 1.01)).all()) for value in found.values())


def test_nothing_has_changed_before_the_first_task():
    learner = CONFIG.build(SPEC)
    state = learner.start([0])._replace(seen=torch.ones(1, 6, dtype=torch.bool))
    found = diagnose_modules(learner, state, examples([0, 1]))
    assert list(found) == list(MEASURES) and all(not value.any() for value in found["weight_change"].values())


def test_probes_are_spread_over_all_that_is_held_out(monkeypatch):
    """A hundred of them at most, whatever their order; and padding is none."""
    learner, state, queries = learnt()
    many = queries.take(np.repeat(np.arange(12), 25))
    asked, real = [], learner.answers_tapped
    monkeypatch.setattr(learner, "answers_tapped", lambda s, x, tap=None: asked.append((x, tap)) or real(s, x, tap))
    diagnose_modules(learner, state, many)
    (first, _), *_ = [own for own in asked if own[1]]
    assert len(first) == 100 and all((first == image).flatten(1).all(1).any() for image in queries.x[0])
    assert len([own for own in asked if own[1]]) == 2 and sum(len(x) for x, tap in asked if not tap) == 200
    valid = torch.ones_like(queries.y, dtype=torch.bool)
    valid[:, 8:] = False
    padded = diagnose_modules(learner, state, replace(queries, valid=valid))
    assert_close(padded, diagnose_modules(learner, state, queries[:8]))


def test_what_is_not_finite_is_told():
    learner, state, queries = learnt()
    state.weights["blocks.1.mlp.fc1.weight"][1] = torch.nan
    found = diagnose_modules(learner, state, queries)
    assert found["weight_rank"]["mlp hidden"].isfinite().tolist() == [[True] * 3, [True, False, True]]
    assert found["feature_rank"]["mlp out"].isfinite().tolist() == [[True] * 3, [True, False, False]]
    for measure in set(MEASURES) - {"weight_rank", "weight_change"}:
        assert all(value[0].isfinite().all() and value[1, -1].isnan() for value in found[measure].values()), measure


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_taps_leave_the_answers_as_they_are(blocks):
    """Whatever a learner adds to its blocks."""

    class Adding(Tuned):
        def added(self):
            return [Added(attend=lambda q, k, v: v.mean(-2, keepdim=True).expand_as(v))] * blocks

    learner = Adding(CONFIG, SPEC)
    state, x = after(learner, [0, 1]), examples([0, 1, 2]).x
    seen: list[tuple[int, str]] = []
    tapped = learner.answers_tapped(only(state), x[0], lambda layer, module, part: seen.append((layer, module)))
    assert_close(tapped, learner.predict(state, x)[0])
    assert torch.equal(tapped, learner.answers_tapped(only(state), x[0]))
    assert [place for place in seen if place[1] in ("q", "features")] == [(0, "q"), (1, "q"), (2, "q"), (2, "features")]
    assert torch.equal(tapped, after_plain(state, x)) == (blocks == 0)


def after_plain(state, x):
    """The answers of the same weights, without anything added."""
    return CONFIG.build(SPEC).answers_tapped(only(state), x[0])


def test_measuring_changes_nothing_and_is_in_float32():
    learner = replace(CONFIG, trunk=replace(TINY, precision="bf16")).build(SPEC)
    state, queries = after(learner, [0, 1]), examples([0, 1])
    before = {name: part.clone() for name, part in state.weights.items()}
    exact = diagnose_modules(CONFIG.build(SPEC), state, queries)
    assert_close(diagnose_modules(learner, state, queries), exact, rtol=0, atol=0)
    assert all(torch.equal(part, state.weights[name]) and not part.requires_grad for name, part in before.items())
    seen = Seen()
    learner.answers_tapped(only(state), queries.x[0], seen)
    assert seen.q.dtype == torch.float32


class Layers(NamedTuple):
    weights: dict[str, torch.Tensor]


class Plain:
    """Two layers of one module, and no attention: what `diagnose_modules` needs, and no more."""

    spec = SPEC

    def answers_tapped(self, state, x, tap=None):
        h = x.flatten(1).float() / 255
        for layer in range(2):
            h = (h @ state.weights[str(layer)].T).relu()
            if tap is not None:
                tap(layer, "mlp hidden", h[:, None])
        return h[:, :6]

    def module_weights(self, state):
        return {"mlp hidden": state.weights["1"][None]}

    def before_first_task(self, state):
        return Layers({name: torch.zeros_like(w) for name, w in state.weights.items()})


def test_any_learner_with_modules():
    rng = torch.Generator().manual_seed(0)
    state = Layers({"0": torch.randn(1, 8, 192, generator=rng), "1": torch.randn(1, 8, 8, generator=rng)})
    queries = examples([0, 1])
    found = diagnose_modules(Plain(), state, queries)
    assert list(found) == [name for name in MEASURES if not name.startswith(("attention", "logit"))]
    assert found["feature_rank"]["mlp hidden"].shape == (1, 2) and found["weight_rank"]["mlp hidden"].shape == (1, 1)
    assert found["weight_change"]["mlp hidden"].item() == pytest.approx(state.weights["1"].square().mean().sqrt().item())
    h = (queries.x[0].flatten(1).float() / 255 @ state.weights["0"][0].T).relu().numpy()
    assert found["feature_rank"]["mlp hidden"][0, 0].item() == pytest.approx(naive_rank(h), rel=1e-4)


def test_learners_without_such_modules():
    """Whole-network measures, curvature among them, are not taken of transformers."""
    learner = PrefixConfig(trunk=TINY, epochs=1, blocks=2).build(SPEC)
    assert diagnose_modules(learner, after(learner, [0, 1]), examples([0, 1])) == {}
    learner, state, queries = learnt()
    assert diagnose(learner, state, queries[:DIAGNOSED]) == {}
