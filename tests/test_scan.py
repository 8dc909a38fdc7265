"""The shared recurrence in chunks against its loop over tokens: every decay with every rule of writing."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from metacl.attention import naive
from metacl.attention.scan import Tokens, divided, look, scan, short_enough

B, H, E, V = 2, 2, 5, 3
DECAYS = ("none", "fixed", "scalar", "vector")
KINDS = [
    *itertools.product(DECAYS, ["add", "delta", "erase"]),
    *(("none", "add twice"), ("scalar", "delta twice"), ("vector", "erase twice"), ("vector", "delta thrice")),
]
"""Decays and rules of writing; a token may write several times."""
each_kind = pytest.mark.parametrize(("decay", "rule"), KINDS, ids=[" ".join(kind) for kind in KINDS])


def make(decay: str, rule: str, N: int, dtype: torch.dtype = torch.float64, least: float = -1.0) -> tuple[Tokens, Tensor]:
    """Tokens with keys of length 1, as delta rules have them, and a state; all leaves."""
    rng = torch.Generator().manual_seed(N)
    many = N * {"twice": 2, "thrice": 3}.get(rule.split(" ")[-1], 1)
    q, k, v, beta, gates, erase = (
        torch.randn(B, H, *shape, generator=rng, dtype=torch.float64)
        for shape in ((N, E), (many, E), (many, V), (many,), (N, E), (many, E))
    )
    k = F.normalize(k, dim=-1)
    log_decay = {
        "none": None,
        "fixed": torch.tensor([[-0.03], [-0.5]], dtype=torch.float64).expand(B, H, N),
        "scalar": least * gates[..., 0].sigmoid(),
        "vector": least * gates.sigmoid(),
    }[decay]
    wide = torch.promote_types(dtype, torch.float32)
    parts: list[Tensor | None] = [q.to(dtype), k.to(dtype), v.to(dtype), None if log_decay is None else log_decay.to(wide)]
    parts += [
        beta.sigmoid().to(wide) if "delta" in rule else None,
        (erase.sigmoid() * k).to(dtype) if "erase" in rule else None,
    ]
    state = torch.randn(B, H, E, V, generator=rng, dtype=torch.float64).to(wide)
    leaves = (None if t is None else t.detach().requires_grad_() for t in parts)
    return Tokens(*leaves), state.requires_grad_()  # type: ignore[arg-type]


def only(tokens: Tokens, places: list[int]) -> Tokens:
    """Some of the tokens, with all that each writes."""
    rows = [n * tokens.writes + i for n in places for i in range(tokens.writes)]
    one_a_token = ("q", "log_decay")
    fields = tokens._asdict().items()
    return Tokens(**{name: None if t is None else t[:, :, places if name in one_a_token else rows] for name, t in fields})  # type: ignore[arg-type]


def gradients(outputs: tuple[Tensor, Tensor], tokens: Tokens, state: Tensor) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    weights = [torch.randn(t.shape, generator=rng, dtype=torch.float64).to(t.dtype) for t in outputs]
    loss = torch.stack([(t * w).sum().double() for t, w in zip(outputs, weights, strict=True)]).sum()
    return list(torch.autograd.grad(loss, [t for t in (*tokens, state) if t is not None]))


@each_kind
@pytest.mark.parametrize("N", [1, 2, 7, 8, 63, 65, 130])
def test_chunks_are_the_loop(decay, rule, N):
    """Of every length; the loop is done once."""
    tokens, state = make(decay, rule, N)
    right = naive.recurrence(tokens, state)
    slopes = gradients(right, tokens, state)
    for chunk in (1, 7, 64, None):
        fast = scan(tokens, state, chunk)
        assert_close(
            (fast, gradients(fast, tokens, state)), (right, slopes), msg=lambda text, c=chunk: f"chunks of {c}: {text}"
        )


@each_kind
def test_sums_are_divided_chunk_by_chunk(decay, rule):
    """As they are afterwards; where the last value adds up to nothing there is no quotient of zeros."""
    tokens, state = make(decay, rule, 20)
    with torch.no_grad():
        state.zero_()
        tokens.v[:, :, : tokens.writes] = 0
    fast, (sums, right) = scan(tokens, state, 7, divide=True), naive.recurrence(tokens, state)
    assert_close(fast, (divided(sums), right))
    assert not fast[0][:, :, 0].any()
    assert_close(gradients(fast, tokens, state), gradients((divided(sums), right), tokens, state))


@each_kind
def test_heads_in_groups_are_all_heads(decay, rule, monkeypatch):
    tokens, state = make(decay, rule, 20)
    right = naive.recurrence(tokens, state)
    slopes = gradients(right, tokens, state)
    for heads in range(4):
        monkeypatch.setattr("metacl.attention.scan.ROOM", heads * E * V)
        fast = scan(tokens, state, 8)
        assert_close((fast, gradients(fast, tokens, state)), (right, slopes), msg=lambda text, h=heads: f"by {h} heads: {text}")


@each_kind
def test_looking_is_the_outputs_of_tokens_alone(decay, rule):
    tokens, state = make(decay, rule, 6)
    alone = [scan(only(tokens, [n]), state)[0] for n in range(6)]
    assert_close(look(tokens, state), torch.cat(alone, dim=2))


@each_kind
def test_float32_keeps_its_precision(decay, rule):
    """With strong decays, too: nothing overflows, and nothing is lost but rounding."""
    least = -60.0
    tokens, state = make(decay, rule, 200, least=least)
    narrow, _ = make(decay, rule, 200, torch.float32, least=least)
    fast, right = scan(narrow, state.float()), naive.recurrence(tokens, state)
    assert_close([t.double() for t in fast], list(right), rtol=1e-4, atol=1e-4)
    start = state.float().detach().requires_grad_()
    got = gradients(scan(narrow, start), narrow, start)
    for a, b in zip(got, gradients(right, tokens, state), strict=True):
        assert float((a - b).norm()) <= 1e-4 * float(b.norm())


@pytest.mark.parametrize(
    ("decay", "rule"), [*itertools.product(["scalar", "vector"], ["add", "delta"]), ("vector", "erase twice")]
)
@pytest.mark.parametrize("least", [-2.6, -20.0, -1000.0, -torch.inf], ids=str)
def test_however_much_is_forgotten(decay, rule, least):
    """At every token, and at one in ten of a stream that forgets little: chunks get shorter where factors would overflow."""
    tokens, state = make(decay, rule, 130)
    assert tokens.log_decay is not None
    for every in (1, 10):
        strong = tokens.log_decay.detach().clone()
        strong[:, :, ::every] = strong[:, :, ::every].clamp_max(-1e-3) * (-least)
        strong = tokens._replace(log_decay=strong.requires_grad_())
        fast, right = scan(strong, state), naive.recurrence(strong, state)
        assert_close(fast, right)
        if least > -torch.inf:  # there exp has no derivative
            assert_close(gradients(fast, strong, state), gradients(right, strong, state))


def test_chunks_are_shorter_only_where_they_must_be():
    mild, odd, strong = torch.full((1, 1, 256, 2), -2.5), torch.full((1, 1, 256, 2), -0.5), torch.full((1, 1, 256, 2), -20.0)
    odd[:, :, 40] = -40
    assert [short_enough(t, float(t.min()), 64) for t in (mild, odd, strong, 10 * strong)] == [64, 64, 8, 1]


@each_kind
def test_bf16_products_leave_a_float32_state(decay, rule):
    tokens, state = make(decay, rule, 200, torch.bfloat16)
    fast, right = scan(tokens, state), naive.recurrence(tokens, state)
    assert fast[0].dtype == torch.bfloat16 and fast[1].dtype == torch.float32
    got = [*fast, *gradients(fast, tokens, state)]
    for a, b in zip(got, [*right, *gradients(right, tokens, state)], strict=True):
        assert float((a.detach().float() - b.detach().float()).norm()) <= 0.06 * float(b.detach().float().norm())


def test_without_gradients_the_result_is_the_same():
    tokens, state = make("vector", "delta", 70)
    with torch.no_grad():
        plain = scan(tokens, state)
    assert_close(plain, scan(tokens, state))


@pytest.mark.parametrize(("decay", "rule"), [("vector", "delta"), ("scalar", "delta twice"), ("vector", "erase twice")])
def test_tokens_that_are_not_valid_do_nothing(decay, rule):
    tokens, state = make(decay, rule, 9)
    valid = torch.ones(B, 9, dtype=torch.bool)
    valid[:, 3:6] = False
    out, after = scan(tokens.masked(valid), state)
    kept, expected = scan(only(tokens, [0, 1, 2, 6, 7, 8]), state)
    assert_close((out[:, :, valid[0]], after), (kept, expected))


def test_a_token_that_writes_twice_is_two_tokens():
    """Of which the first decays and the second is read."""
    tokens, state = make("scalar", "delta twice", 5)
    assert tokens.log_decay is not None
    decay = torch.stack([tokens.log_decay, torch.zeros_like(tokens.log_decay)], dim=3).flatten(2)
    two = tokens._replace(q=tokens.q.repeat_interleave(2, dim=2), log_decay=decay)
    out, after = naive.recurrence(two, state)
    assert_close(naive.recurrence(tokens, state), (out[:, :, 1::2], after))


def test_the_loop_by_hand():
    """Width 1: S = 2, halved, then written to by the delta rule with beta 1/4: 1 + (5 - 3) / 4 * 3 = 2.5 for k = 3, v = 5."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    half = one[..., 0] * torch.tensor(0.5).double().log()
    tokens = Tokens(2 * one, 3 * one, 5 * one, half, one[..., 0] / 4)
    out, state = naive.recurrence(tokens, 2 * one)
    assert (out.item(), state.item()) == pytest.approx((5.0, 2.5))
    out, state = naive.recurrence(tokens._replace(beta=None), 2 * one)
    assert (out.item(), state.item()) == pytest.approx((32.0, 16.0))
    out, state = naive.recurrence(tokens._replace(beta=None, erase=0.5 * one), 2 * one)  # 1 + 3 (5 - 0.5)
    assert (out.item(), state.item()) == pytest.approx((29.0, 14.5))
