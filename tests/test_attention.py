"""Every attention mechanism against a plain loop over tokens: outputs, states and all gradients."""

from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from metacl.attention import ATTENTION, naive
from metacl.attention.linear import LinearAttention, LinearState, linear_attention
from metacl.attention.softmax import KeyValueCache, SoftmaxAttention

B, H, E = 2, 2, 3
LENGTHS = (1, 5, 63, 64, 65, 130)


def noise(*shape: int, seed: int = 0, grad: bool = True) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_(grad)


def padding(N: int, seed: int = 0) -> Tensor:
    """(B, N): the first token of one stream and about a third of all are not valid."""
    valid = torch.rand(B, N, generator=torch.Generator().manual_seed(seed)) > 0.3
    valid[0, 0] = False
    return valid


def tokens(N: int) -> list[Tensor]:
    return [noise(B, H, N, E, seed=seed) for seed in (1, 2, 3)]


def gradients(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Of a random projection of all outputs."""
    loss = torch.stack([(out * noise(*out.shape, seed=10 + i, grad=False)).sum() for i, out in enumerate(outputs)]).sum()
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True))


def features(x: Tensor) -> Tensor:
    return F.elu(x) + 1


def start_state(empty: bool) -> list[Tensor]:
    """S and z of some earlier tokens, or zeros."""
    if empty:
        return [
            torch.zeros(B, H, E, E, dtype=torch.float64, requires_grad=True),
            torch.zeros(B, H, E, dtype=torch.float64, requires_grad=True),
        ]
    return [noise(B, H, E, E, seed=4), noise(B, H, E, seed=5).detach().abs().requires_grad_()]


@pytest.mark.parametrize("N", LENGTHS)
@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("empty", [True, False])
def test_chunked_linear_attention_is_the_loop(N, chunk, padded, empty):
    q, k, v = tokens(N)
    sums, norm = start_state(empty)
    valid = padding(N) if padded else None
    out, state = linear_attention(features(q), features(k), v, LinearState(sums, norm), valid, chunk)
    expected = naive.linear_attention(q, k, v, sums, norm, valid)
    got = [out, state.sums, state.norm]
    assert_close(got, list(expected))
    inputs = [q, k, v, sums, norm]
    assert_close(gradients(got, inputs), gradients(list(expected), inputs))


def with_weights(mechanism: str, N: int, **options) -> tuple[torch.nn.Module, Tensor]:
    """A float64 module in eval mode and tokens (B, N, D)."""
    torch.manual_seed(0)
    return ATTENTION[mechanism](H * E, H, **options).double().eval(), noise(B, N, H * E, seed=6)


def split(module: Any, x: Tensor) -> list[Tensor]:
    return list(rearrange(module.qkv(x), "b n (part h e) -> part b h n e", part=3, h=H))


def merge(module: Any, out: Tensor) -> Tensor:
    return module.out(rearrange(out, "b h n e -> b n (h e)"))


def by_loop(module: torch.nn.Module, x: Tensor, valid: Tensor | None) -> Tensor:
    """What `learn` should give for a whole stream."""
    q, k, v = split(module, x)
    if isinstance(module, SoftmaxAttention):
        return merge(module, naive.softmax_attention(q, k, v, valid))
    zeros = q.new_zeros(B, H, E, E)
    return merge(module, naive.linear_attention(q, k, v, zeros, zeros[..., 0], valid)[0])


@pytest.mark.parametrize("mechanism", ATTENTION)
@pytest.mark.parametrize("N", LENGTHS)
@pytest.mark.parametrize("padded", [False, True])
def test_learn_is_the_loop(mechanism, N, padded):
    module, x = with_weights(mechanism, N)
    valid = padding(N) if padded else None
    out, _ = module.learn(x, module.init_state(B), valid)
    expected = by_loop(module, x, valid)
    assert_close(out, expected)
    inputs = [x, *module.parameters()]
    assert_close(gradients([out], inputs), gradients([expected], inputs))


@pytest.mark.parametrize("mechanism", ATTENTION)
@pytest.mark.parametrize("cuts", [(1,), (64,), (5, 6, 129), (63, 64, 65)])
@pytest.mark.parametrize("padded", [False, True])
def test_pieces_of_a_stream_are_the_stream(mechanism, cuts, padded):
    module, x = with_weights(mechanism, 130)
    valid = padding(130) if padded else None
    outputs, state = [], module.init_state(B)
    for start, stop in zip((0, *cuts), (*cuts, 130), strict=True):
        out, state = module.learn(x[:, start:stop], state, None if valid is None else valid[:, start:stop])
        outputs.append(out)
    whole, final = module.learn(x, module.init_state(B), valid)
    pieces = torch.cat(outputs, dim=1)
    assert_close(pieces, whole)
    for left, right in zip(pytree.tree_leaves(state), pytree.tree_leaves(final), strict=True):
        assert_close(left, right)
    inputs = [x, *module.parameters()]
    assert_close(gradients([pieces], inputs), gradients([whole], inputs))


@pytest.mark.parametrize("mechanism", ATTENTION)
@pytest.mark.parametrize("N", [0, 1, 65])
@pytest.mark.parametrize("padded", [False, True])
def test_read_is_what_learn_gives_for_the_token_alone(mechanism, N, padded):
    module, x = with_weights(mechanism, N + 4)
    stream, queries = x[:, :N], x[:, N:]
    state = module.init_state(B)
    if N:
        state = module.learn(stream, state, padding(N) if padded else None)[1]
    before = [t.clone() for t in pytree.tree_leaves(state)]
    read = module.read(queries, state)
    learnt = torch.cat([module.learn(queries[:, [i]], state)[0] for i in range(4)], dim=1)
    assert_close(read, learnt)
    assert_close(gradients([read], [x]), gradients([learnt], [x]))
    for left, right in zip(before, pytree.tree_leaves(state), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("mechanism", ATTENTION)
def test_padding_leaves_no_trace(mechanism):
    module, x = with_weights(mechanism, 12)
    valid = torch.ones(B, 12, dtype=torch.bool)
    valid[:, [0, 4, 5, 11]] = False
    out, state = module.learn(x, module.init_state(B), valid)
    plain, plain_state = module.learn(x[:, valid[0]], module.init_state(B))
    assert_close(out[:, valid[0]], plain)
    queries = noise(B, 3, H * E, seed=8)
    assert_close(module.read(queries, state), module.read(queries, plain_state))
    assert out.isfinite().all()


@pytest.mark.parametrize("mechanism", ATTENTION)
def test_later_tokens_do_not_change_earlier_outputs(mechanism):
    module, x = with_weights(mechanism, 70)
    out, _ = module.learn(x, module.init_state(B))
    for changed in (1, 63, 69):
        other = x.detach().clone()
        other[:, changed] += 1
        again, _ = module.learn(other, module.init_state(B))
        assert_close(again[:, :changed], out[:, :changed], rtol=0, atol=1e-12)
        assert (again[:, changed] - out[:, changed]).abs().max() > 1e-3


@pytest.mark.parametrize("mechanism", ATTENTION)
def test_streams_of_a_batch_do_not_see_each_other(mechanism):
    module, x = with_weights(mechanism, 9)
    out, state = module.learn(x, module.init_state(B))
    alone, alone_state = module.learn(x[:1], module.init_state(1))
    assert_close(out[:1], alone)
    assert_close(module.read(x[:1, :2], alone_state), module.read(x[:, :2], state)[:1])


def naive_weights(module: torch.nn.Module, queries: Tensor, stream: Tensor) -> Tensor:
    """(B, H, M, N + 1): the attention of each query on each token, and last on itself."""
    (q, own, _), (_, k, _) = split(module, queries), split(module, stream)
    keys = torch.cat([k[:, :, None].expand(-1, -1, q.shape[2], -1, -1), own[:, :, :, None]], dim=3)
    if isinstance(module, SoftmaxAttention):
        return (torch.einsum("bhme,bhmne->bhmn", q, keys) / E**0.5).softmax(-1)
    score = torch.einsum("bhme,bhmne->bhmn", features(q), features(keys))
    return score / score.sum(-1, keepdim=True)


@pytest.mark.parametrize("mechanism", ATTENTION)
@pytest.mark.parametrize("heads", [1, 2])
def test_task_mass_is_the_sum_of_attention_weights(mechanism, heads):
    module, x = with_weights(mechanism, 15)
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
    assert_close(mass.sum(-1), torch.ones_like(mass[..., 0]))
    inputs = [x, *module.qkv.parameters()]
    assert_close(gradients([mass], inputs), gradients([expected], inputs))


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


@pytest.mark.parametrize("padded", [False, True])
def test_linear_attention_never_holds_an_n_by_n_matrix(padded):
    """One head of width 4: the largest thing is N x chunk. The same counter sees the N x N of the quadratic form."""
    N = 2048
    module = LinearAttention(4, 1)
    x = torch.randn(1, N, 4, requires_grad=True)
    valid = torch.ones(1, N, dtype=torch.bool) if padded else None
    task = torch.arange(N)[None] // 512
    with LargestTensor() as largest:
        out, state = module.learn(x, module.init_state(1), valid)
        loss = out.sum() + module.read(x, state).sum() + module.task_mass(x, x, task, 1).sum()
        loss.backward()
    assert x.grad is not None and N * 4 < largest.elements <= N * 64
    with LargestTensor() as quadratic:
        (x[0] @ x[0].T).sum().backward()
    assert quadratic.elements >= N * N


@pytest.mark.parametrize("mechanism", ATTENTION)
def test_the_state_grows_only_where_it_is_said_to(mechanism):
    module, x = with_weights(mechanism, 30)
    small, large = (
        sum(t.numel() for t in pytree.tree_leaves(module.learn(x[:, :n], module.init_state(B))[1])) for n in (1, 30)
    )
    assert (small == large) == module.constant_state


def test_the_linear_state_stays_float32_under_bf16():
    module, x = LinearAttention(16, 2), torch.randn(2, 300, 16)
    exact, exact_state = module.learn(x, module.init_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        out, state = module.learn(x, module.init_state(2))
        read = module.read(x[:, :3], state)
    assert state.sums.dtype == state.norm.dtype == torch.float32
    assert_close(state, exact_state, rtol=0.03, atol=0.5)
    assert_close(out.float(), exact, rtol=0.05, atol=0.05)
    assert read.isfinite().all()


@pytest.mark.parametrize("mechanism", ATTENTION)
def test_pieces_and_reads_under_bf16(mechanism):
    torch.manual_seed(0)
    module, x = ATTENTION[mechanism](16, 2).eval(), torch.randn(2, 40, 16)
    state = module.learn(x[:, :20], module.init_state(2))[1]
    exact = module.learn(x[:, 20:], state)[0]
    with torch.autocast("cpu", torch.bfloat16):
        state = module.learn(x[:, :20], module.init_state(2))[1]
        out, state = module.learn(x[:, 20:], state)
        read = module.read(x[:, :1], state)
    assert_close(out.float(), exact, rtol=0.05, atol=0.05)
    assert read.isfinite().all()


def test_dropout_is_for_training_only():
    for mechanism in ATTENTION:
        module, x = with_weights(mechanism, 9, dropout=0.5)
        plain = with_weights(mechanism, 9)[0]
        out, state = module.learn(x, module.init_state(B))
        assert_close(out, plain.learn(x, plain.init_state(B))[0])
        module.train()
        assert not torch.allclose(module.learn(x, module.init_state(B))[0], out)
        assert not torch.allclose(module.read(x, state), plain.read(x, state))


def test_the_naive_softmax_by_hand():
    """Two tokens, width 1: the second sees both with weights softmax(q k)."""
    q, k, v = (torch.tensor(values, dtype=torch.float64).view(1, 1, 2, 1) for values in ([3.0, 1.0], [0.5, 2.0], [10.0, 20.0]))
    out = naive.softmax_attention(q, k, v).flatten()
    weight = torch.tensor([0.5, 2.0], dtype=torch.float64).softmax(0)
    assert_close(out, torch.stack([torch.tensor(10.0, dtype=torch.float64), 10 * weight[0] + 20 * weight[1]]))


def test_the_naive_linear_by_hand():
    """Positive values x have phi(x) = x + 1."""
    q, k, v = (torch.tensor(values, dtype=torch.float64).view(1, 1, 2, 1) for values in ([3.0, 1.0], [0.5, 2.0], [10.0, 20.0]))
    zeros = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    out, sums, norm = naive.linear_attention(q, k, v, zeros, zeros[..., 0])
    assert out.flatten().tolist() == pytest.approx([10.0, (1.5 * 10 + 3 * 20) / 4.5])
    assert (sums.item(), norm.item()) == pytest.approx((1.5 * 10 + 3 * 20, 4.5))


def test_a_cache_holds_what_was_seen():
    module, x = with_weights("softmax", 5)
    state = module.learn(x[:, 3:], module.learn(x[:, :3], module.init_state(B), padding(3))[1])[1]
    assert isinstance(state, KeyValueCache)
    assert_close(state.k, split(module, x)[1])
    assert torch.equal(state.valid, torch.cat([padding(3), torch.ones(B, 2, dtype=torch.bool)], dim=1))
