"""Every attention mechanism against a plain loop over tokens: outputs, states and all gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from episodes import UserError
from metacl.attention import ATTENTION, Attention, make_attention, naive
from metacl.attention.softmax import KeyValueCache

B, H, E = 2, 2, 3
D = H * E
LENGTHS = (1, 2, 63, 64, 65, 130)
"""One, two, a chunk and its neighbours, several chunks and a rest."""
OPTIONS: dict[str, dict[str, int]] = {
    "softmax": {"key_heads": 1},
    "softmax in a window": {"window": 3},
    "linear": {"key_width": 5},
    "performer": {"features": 7},
    "gated-delta": {"key_width": 5, "head_width": 2},
    "gated-delta-product": {"key_width": 5, "steps": 3},
    "kda": {"key_width": 5, "negative": 1},
    "rwkv7": {"key_width": 5, "head_width": 2},
    "ttt-linear": {"batch": 5},
    "mesa": {"iterations": 0},
    "gsa": {"slots": 5, "short_conv": 2, "gate": 1},
    "log-linear": {"levels": 3},
    "gated-delta with its block": {"short_conv": 4, "gate": 1},
    "mesa with its block": {"short_conv": 3, "iterations": 0},
}
CASES: list[tuple[str, dict[str, int]]] = [(name, {}) for name in ATTENTION] + [
    (case.split(" ")[0], options) for case, options in OPTIONS.items()
]
"""A mechanism that is added to ATTENTION is tested by its name alone."""
each_case = pytest.mark.parametrize(
    ("mechanism", "options"), CASES, ids=[" ".join([name, *map(str, sum(o.items(), ()))]) for name, o in CASES]
)
each_mechanism = pytest.mark.parametrize("mechanism", ATTENTION)


def noise(*shape: int, seed: int = 0, grad: bool = True) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_(grad)


def padding(N: int, seed: int = 0) -> Tensor:
    """(B, N): the first token of one stream and about a third of all are not valid."""
    valid = torch.rand(B, N, generator=torch.Generator().manual_seed(seed)) > 0.3
    valid[0, 0] = False
    return valid


def gradients(outputs: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Of a random projection of all outputs that depend on anything."""
    real = [t for t in pytree.tree_leaves(outputs) if t.requires_grad and t.isfinite().all()]
    loss = torch.stack([(t * noise(*t.shape, seed=10 + i, grad=False)).sum() for i, t in enumerate(real)]).sum()
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True))


def build(mechanism: str, **options) -> Attention:
    """A float64 module in eval mode."""
    torch.manual_seed(0)
    return make_attention(mechanism, D, H, **options).double().eval()


def earlier(module: Attention, tokens: int = 6) -> Any:
    """The state after a few tokens, cut off from them, each of its tensors a leaf; or the one before the first token."""
    state = module.init_state(B)
    if tokens:
        state = module.learn(noise(B, tokens, D, seed=20), state)[1]
    return pytree.tree_map(lambda t: t.detach().requires_grad_() if t.is_floating_point() else t, state)


def leaves(state: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(state) if t.is_floating_point()]


@each_case
@pytest.mark.parametrize("N", LENGTHS)
@pytest.mark.parametrize("start", [0, 6], ids=["from the start", "continued"])
def test_learn_is_the_loop(mechanism, options, N, start):
    """Outputs, the state after them, and the gradients of both by tokens, weights and the state before."""
    module, x = build(mechanism, **options), noise(B, N, D, seed=6)
    state = earlier(module, start)
    fast, right = module.learn(x, state), module.learn_naive(x, state)
    assert_close(fast, right)
    inputs = [x, *module.parameters(), *(leaves(state) if start else [])]
    assert_close(gradients(fast, inputs), gradients(right, inputs))


@each_case
@pytest.mark.parametrize("N", [1, 65])
def test_learn_is_the_loop_with_padding(mechanism, options, N):
    module, x, valid = build(mechanism, **options), noise(B, N, D, seed=6), padding(N)
    state = earlier(module)
    (fast, fast_state), (right, right_state) = module.learn(x, state, valid), module.learn_naive(x, state, valid)
    assert_close((fast[valid], fast_state), (right[valid], right_state))
    inputs = [x, *module.parameters(), *leaves(state)]
    assert_close(gradients((fast[valid], fast_state), inputs), gradients((right[valid], right_state), inputs))


@each_case
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_pieces_of_a_stream_are_the_stream(mechanism, options, padded):
    """However it is cut; the whole is done once."""
    module, x = build(mechanism, **options), noise(B, 130, D, seed=6)
    valid = padding(130) if padded else torch.ones(B, 130, dtype=torch.bool)
    inputs = [x, *module.parameters()]
    whole, final = module.learn(x, module.init_state(B), valid if padded else None)
    expected = (whole[valid], final), gradients((whole[valid], final), inputs)
    for cuts in ((1,), (64,), (5, 6, 129), (63, 64, 65)):
        outputs, state = [], module.init_state(B)
        for start, stop in zip((0, *cuts), (*cuts, 130), strict=True):
            out, state = module.learn(x[:, start:stop], state, valid[:, start:stop] if padded else None)
            outputs.append(out)
        got = torch.cat(outputs, dim=1)[valid], state
        assert_close((got, gradients(got, inputs)), expected, msg=lambda text, cuts=cuts: f"cut at {cuts}: {text}")


@each_case
def test_token_by_token_is_the_stream(mechanism, options):
    module, x = build(mechanism, **options), noise(B, 20, D, seed=6, grad=False)
    outputs, state = [], module.init_state(B)
    for n in range(20):
        out, state = module.learn(x[:, [n]], state)
        outputs.append(out)
    assert_close((torch.cat(outputs, dim=1), state), module.learn(x, module.init_state(B)))


@each_case
@pytest.mark.parametrize("N", [0, 1, 65])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_read_is_what_learn_gives_for_the_token_alone(mechanism, options, N, padded):
    module, x = build(mechanism, **options), noise(B, N + 4, D, seed=6)
    stream, queries = x[:, :N], x[:, N:]
    state = module.learn(stream, module.init_state(B), padding(N) if padded and N else None)[1]
    before = [t.clone() for t in pytree.tree_leaves(state)]
    read = module.read(queries, state)
    learnt = torch.cat([module.learn(queries[:, [i]], state)[0] for i in range(4)], dim=1)
    assert_close(read, learnt)
    inputs = [x, *module.parameters()]
    assert_close(gradients(read, inputs), gradients(learnt, inputs))
    for left, right in zip(before, pytree.tree_leaves(state), strict=True):
        assert torch.equal(left, right)


@each_case
def test_padding_leaves_no_trace(mechanism, options):
    module, x = build(mechanism, **options), noise(B, 12, D, seed=6, grad=False)
    valid = torch.ones(B, 12, dtype=torch.bool)
    valid[:, [0, 4, 5, 11]] = False
    out, state = module.learn(x, module.init_state(B), valid)
    plain, plain_state = module.learn(x[:, valid[0]], module.init_state(B))
    assert_close(out[:, valid[0]], plain)
    queries = noise(B, 3, D, seed=8)
    assert_close(module.read(queries, state), module.read(queries, plain_state))
    assert out.isfinite().all()


@each_case
def test_later_tokens_do_not_change_earlier_outputs(mechanism, options):
    module, x = build(mechanism, **options), noise(B, 70, D, seed=6, grad=False)
    out, _ = module.learn(x, module.init_state(B))
    for changed in (1, 63, 69):
        other = x.clone()
        other[:, changed] += 1
        again, _ = module.learn(other, module.init_state(B))
        assert_close(again[:, :changed], out[:, :changed], rtol=0, atol=1e-12)
        assert (again[:, changed] - out[:, changed]).abs().max() > 1e-3


@each_mechanism
def test_streams_of_a_batch_do_not_see_each_other(mechanism):
    module, x = build(mechanism), noise(B, 9, D, seed=6, grad=False)
    out, state = module.learn(x, module.init_state(B))
    alone, alone_state = module.learn(x[:1], module.init_state(1))
    assert_close(out[:1], alone)
    assert_close(module.read(x[:1, :2], alone_state), module.read(x[:, :2], state)[:1])


@each_mechanism
def test_gradients_by_finite_differences(mechanism):
    """Of the outputs and of what is read from the state, by the tokens: a step in a random direction."""
    module, x, step = build(mechanism), noise(B, 9, D, seed=6), 1e-6 * noise(B, 9, D, seed=7, grad=False)

    def loss(x: Tensor) -> Tensor:
        out, state = module.learn(x, module.init_state(B))
        read = module.read(noise(B, 3, D, seed=31), state)
        return (out * noise(B, 9, D, seed=32)).sum() + (read * noise(B, 3, D, seed=33)).sum()

    (grad,) = torch.autograd.grad(loss(x), [x])
    difference = (loss(x + step) - loss(x - step)) / 2
    assert_close((grad * step).sum(), difference, rtol=1e-4, atol=0)


@each_mechanism
def test_the_same_input_gives_the_same_bits(mechanism):
    torch.manual_seed(0)
    module, x = make_attention(mechanism, 16, 2), torch.randn(2, 150, 16, requires_grad=True)
    results = []
    for _ in range(2):
        out, state = module.learn(x, module.init_state(2))
        results.append([out, *pytree.tree_leaves(state), *torch.autograd.grad(out.square().sum(), [x, *module.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@each_mechanism
def test_the_state_grows_only_where_it_is_said_to(mechanism):
    module, x = build(mechanism), noise(B, 30, D, seed=6)
    small, large = (
        sum(t.numel() for t in pytree.tree_leaves(module.learn(x[:, :n], module.init_state(B))[1])) for n in (1, 30)
    )
    assert (small == large) == module.constant_state


def test_the_log_linear_state_grows_with_the_logarithm():
    module = make_attention("log-linear", 4, 1)
    state, levels = module.init_state(1), []
    for n in (1, 1, 2, 4, 8, 500):
        state = module.learn(torch.randn(1, n, 4), state)[1]
        levels.append(state.buckets.shape[2])
    assert levels == [1, 2, 3, 4, 5, 10]


@each_mechanism
@pytest.mark.parametrize("N", [40, 150])
def test_bf16_is_near_and_its_state_float32(mechanism, N):
    """Under autocast: outputs, the state and every gradient, against the loop in float32, relative to their size.

    Where a norm divides by next to nothing, rounding spoils any form: then it may be off four times as far as the loop in bf16.
    """
    torch.manual_seed(0)
    module, x = make_attention(mechanism, 32, 2), torch.randn(2, N, 32, requires_grad=True)
    right, right_state = module.learn_naive(x, module.init_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        out, state = module.learn(x, module.init_state(2))
        read = module.read(x[:, :3], state)
    assert mechanism == "softmax" or all(t.dtype == torch.float32 for t in leaves(state))
    inputs = [x, *module.parameters()]
    got = [read, out, *leaves(state), *gradients(out, inputs)]
    expected = [module.read(x[:, :3], right_state), right, *leaves(right_state), *gradients(right, inputs)]
    largest = max(float(t.detach().norm()) for t in expected[-len(inputs) :])
    tolerance = 0.15 if mechanism == "mesa" else 0.06  # solving enlarges what rounding the projections did
    errors = [float((a.detach().float() - b.detach()).norm()) for a, b in zip(got, expected, strict=True)]
    limits = [tolerance * max(float(b.detach().norm()), 0.05 * largest) for b in expected]
    if any(error > limit for error, limit in zip(errors, limits, strict=True)):
        with torch.autocast("cpu", torch.bfloat16):
            out, state = module.learn_naive(x, module.init_state(2))
        rounded = [read, out, *leaves(state), *gradients(out, inputs)]
        off = [4 * float((a.detach().float() - b.detach()).norm()) for a, b in zip(rounded, expected, strict=True)]
        limits = [max(limit, far) for limit, far in zip(limits, off, strict=True)]
    assert all(error <= limit for error, limit in zip(errors, limits, strict=True))


@each_mechanism
def test_pieces_under_bf16(mechanism):
    torch.manual_seed(0)
    module, x = make_attention(mechanism, 32, 2).eval(), torch.randn(2, 40, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole, _ = module.learn(x, module.init_state(2))
        first, state = module.learn(x[:, :21], module.init_state(2))
        second, _ = module.learn(x[:, 21:], state)
    assert_close(torch.cat([first, second], dim=1), whole, rtol=0.1, atol=0.1)


@each_mechanism
def test_a_bf16_module_runs(mechanism):
    torch.manual_seed(0)
    module, x = make_attention(mechanism, 16, 2).eval(), torch.randn(2, 40, 16)
    exact = module.learn(x, module.init_state(2))[0]
    module = module.bfloat16()
    out, _ = module.learn(x.bfloat16(), module.init_state(2))
    assert out.dtype == torch.bfloat16
    assert float((out.float() - exact).detach().norm()) <= 0.1 * float(exact.detach().norm())


@each_mechanism
def test_dropout_is_for_training_only(mechanism):
    module, plain, x = build(mechanism), build(mechanism), noise(B, 9, D, seed=6)
    module.dropout = 0.5
    out, state = module.learn(x, module.init_state(B))
    assert_close(out, plain.learn(x, plain.init_state(B))[0])
    module.train()
    assert not torch.allclose(module.learn(x, module.init_state(B))[0], out)
    assert not torch.allclose(module.read(x, state), plain.read(x, state))


@each_case
def test_keys_can_start_like_queries(mechanism, options):
    module, x = build(mechanism, **options), noise(B, 4, D, seed=6)
    module.start_alike()
    q, k, _ = module.project(x)
    assert_close(k, q[:, :: module.heads // module.key_heads])


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation gives, forward and backward."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [t.numel() for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("mechanism", [name for name in ATTENTION if name != "softmax"])
def test_no_mechanism_holds_an_n_by_n_matrix(mechanism):
    """One head of width 4: nothing is larger than N x chunk. The same counter sees the N x N of the quadratic form."""
    N = 2048
    module, x = make_attention(mechanism, 4, 1), torch.randn(1, N, 4, requires_grad=True)
    with LargestTensor() as largest:
        out, state = module.learn(x, module.init_state(1))
        (out.sum() + module.read(x, state).sum()).backward()
    assert x.grad is not None and N * 4 < largest.elements <= N * 64
    with LargestTensor() as quadratic:
        (x[0] @ x[0].T).sum().backward()
    assert quadratic.elements >= N * N


def test_a_window_holds_no_n_by_n_matrix():
    module, x = make_attention("softmax", 4, 1, window=16), torch.randn(1, 2048, 4, requires_grad=True)
    with LargestTensor() as largest:
        module.learn(x, module.init_state(1))[0].sum().backward()
    assert largest.elements <= 2048 * 80


def naive_weights(module: Attention, queries: Tensor, stream: Tensor) -> Tensor:
    """(B, H, M, N + 1): the attention of each query on each token, and last on itself, written out."""
    (q, own, _), (_, k, _) = module.project(queries), module.project(stream)
    share = module.heads // module.key_heads
    own, k = own.repeat_interleave(share, dim=1), k.repeat_interleave(share, dim=1)
    keys = torch.cat([k[:, :, None].expand(-1, -1, q.shape[2], -1, -1), own[:, :, :, None]], dim=3)
    if isinstance(module, ATTENTION["softmax"]):
        return (torch.einsum("bhme,bhmne->bhmn", q, keys) / q.shape[-1] ** 0.5).softmax(-1)

    def features(t: Tensor) -> Tensor:
        if isinstance(module, ATTENTION["linear"]):
            return F.elu(t) + 1
        t = t / t.shape[-1] ** 0.25
        return (torch.einsum("...e,me->...m", t, module.directions_ME) - t.square().sum(-1, keepdim=True) / 2).exp()

    score = torch.einsum("bhme,bhmne->bhmn", features(q), features(keys))
    return score / score.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("mechanism", "options"),
    [*((name, {}) for name in ATTENTION if ATTENTION[name].has_weights), ("softmax", {"key_heads": 1})],
)
@pytest.mark.parametrize("heads", [1, 2])
def test_task_mass_is_the_sum_of_attention_weights(mechanism, options, heads):
    module, x = build(mechanism, **options), noise(B, 15, D, seed=6)
    stream, queries = x[:, :11], x[:, 11:]
    task = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3], [3, 3, 0, 0, 1, 1, 1, 2, 2, 2, 2]])
    mass = module.task_mass(queries, stream, task, heads)
    weights = naive_weights(module, queries, stream)[:, :heads]
    expected = torch.stack(
        [torch.stack([weights[b, :, :, :11][..., task[b] == t].sum(-1) for t in range(4)], dim=-1) for b in range(B)]
    )
    expected = expected / expected.sum(-1, keepdim=True)
    assert mass.shape == (B, heads, 4, 4)
    assert_close(mass, expected)
    inputs = [x, *module.qkv.parameters()]
    assert_close(gradients(mass, inputs), gradients(expected, inputs))


@pytest.mark.parametrize("mechanism", [name for name in ATTENTION if ATTENTION[name].has_weights])
def test_outputs_are_means_weighted_by_attention(mechanism):
    """The textbook form of the mechanisms that have weights, for one query after a stream."""
    module, x = build(mechanism), noise(B, 11, D, seed=6)
    out, _ = module.learn(x, module.init_state(B))
    weights = naive_weights(module, x[:, -1:], x[:, :-1])
    mixed = torch.einsum("bhmn,bhnf->bhmf", weights, module.project(x)[2])
    assert_close(out[:, -1:], module.merge(mixed, x))


def test_a_cache_holds_what_was_seen():
    module, x = build("softmax"), noise(B, 5, D, seed=6)
    state = module.learn(x[:, 3:], module.learn(x[:, :3], module.init_state(B), padding(3))[1])[1]
    assert isinstance(state, KeyValueCache)
    assert torch.equal(state.valid, torch.cat([padding(3), torch.ones(B, 2, dtype=torch.bool)], dim=1))
    assert_close(state.k, module.project(x)[1] * state.valid[:, None, :, None])


@each_mechanism
def test_an_empty_stream_changes_nothing(mechanism):
    module = build(mechanism)
    state = earlier(module)
    out, after = module.learn(noise(B, 0, D), state)
    assert out.shape == (B, 0, D)
    assert all(torch.equal(a, b) for a, b in zip(pytree.tree_leaves(state), pytree.tree_leaves(after), strict=True))


@each_mechanism
def test_a_state_of_another_configuration_is_refused(mechanism):
    module, x = build(mechanism), noise(B, 3, D)
    other = make_attention(mechanism, 2 * D, H).double()
    name = other.init_state(1)._fields[0]
    with pytest.raises(UserError, match=rf"field {name} has shape .* is needed"):
        module.learn(x, other.learn(noise(B, 3, 2 * D), other.init_state(B))[1])
    with pytest.raises(UserError, match=rf"field {name}"):
        module.learn(x, module.init_state(B + 1))
    with pytest.raises(UserError, match="was given a tuple as state"):
        module.learn(x, (x,))


@each_mechanism
def test_tokens_that_are_not_finite_are_refused(mechanism):
    module, x = build(mechanism), noise(B, 3, D, grad=False)
    x[1, 2, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        module.learn(x, module.init_state(B))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sofmax", {}, "Did you mean 'softmax'"),
        ("linear", {"window": 4}, "linear has no option window. Of its own it has: none"),
        ("softmax", {"window": 0}, "window of softmax must be at least 1, not 0"),
        ("softmax", {"key_heads": 3}, "4 heads cannot share 3 key heads"),
        ("delta", {"head_width": 0}, "head_width of delta must be at least 1"),
        ("mesa", {"iterations": -1}, "iterations of mesa must be at least 0"),
        ("kda", {"negative": 2}, "negative of kda must be 0 or 1, not 2"),
        ("gated-delta-product", {"steps": 0}, "steps of gated-delta-product must be at least 1"),
        ("ttt-linear", {"key_width": 5}, "keys as wide as values"),
        ("mesa", {"backend": "fla"}, "mesa has no kernels of fla. Take auto or torch"),
        ("softmax", {"window": 4, "backend": "flash"}, "softmax in a window has no kernels of flash"),
    ],
)
def test_what_cannot_be_built_is_said(name, options, words):
    with pytest.raises(UserError, match=words):
        make_attention(name, 8, 4, **options)


@each_mechanism
def test_a_width_that_heads_do_not_divide_is_refused(mechanism):
    with pytest.raises(UserError, match="10 cannot be shared among 4 heads"):
        make_attention(mechanism, 10, 4)
    make_attention(mechanism, 10, 4, head_width=3)


def test_the_naive_softmax_by_hand():
    """Two tokens, width 1: the second sees both with weights softmax(q k)."""
    q, k, v = (torch.tensor(values, dtype=torch.float64).view(1, 1, 2, 1) for values in ([3.0, 1.0], [0.5, 2.0], [10.0, 20.0]))
    out = naive.softmax_attention(q, k, v).flatten()
    weight = torch.tensor([0.5, 2.0], dtype=torch.float64).softmax(0)
    assert_close(out, torch.stack([torch.tensor(10.0, dtype=torch.float64), 10 * weight[0] + 20 * weight[1]]))
    assert naive.softmax_attention(q, k, v, window=1).flatten().tolist() == pytest.approx([10, 20])
