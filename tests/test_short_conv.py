"""The short convolution and the output gate: what they are by their papers. All else is tested with every mechanism."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import UserError
from metacl.attention import make_attention, naive
from metacl.attention.recurrent import RecurrentState
from metacl.attention.scan import Tokens

pytestmark = pytest.mark.usefixtures("float64")


def test_gated_delta_with_both_is_the_token_mixer_of_its_paper():
    """Gated DeltaNet (Yang 2025, figure 1): q, k and v by a linear map, a depthwise convolution and SiLU; q and k of length 1;
    then the gated delta rule, RMSNorm and a SiLU gate."""
    module, x = make_attention("gated-delta", 6, 2, short_conv=4, gate=1), torch.randn(2, 9, 6)
    convolution = torch.nn.Conv1d(18, 18, 4, groups=18, padding=3)
    convolution.weight.data, convolution.bias.data = module.qkv.kernel.data[:, None], module.qkv.bias.data
    projected = F.silu(convolution((x @ module.qkv.weight.T).mT)[..., :9].mT)
    q, k, v = projected.unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
    alpha, beta = module.decay(x)[1], module.beta(x).sigmoid()
    tokens = Tokens(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, alpha, beta)
    read = module.norm(naive.recurrence(tokens, torch.zeros(2, 2, 3, 3))[0])
    gate = F.silu(module.output_gate.linear(x)).unflatten(-1, (2, 3)).transpose(1, 2)
    assert_close(module.learn(x, module.init_state(2))[0], module.merge(read * gate, x))


def test_padding_between_two_tokens_does_not_part_them():
    """What a token sees are the last valid tokens, in each stream apart, also where a stream goes on."""
    module, x = make_attention("delta", 4, 1, short_conv=3), torch.randn(2, 7, 4)
    valid = torch.tensor([[1, 0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1, 1]]).bool()
    state = module.init_state(2)
    for part in (slice(0, 3), slice(3, 5), slice(5, 7)):
        state = module.learn(x[:, part], state, valid[:, part])[1]
    for b in range(2):
        alone = module.learn(x[b : b + 1, valid[b]], module.init_state(1))[1]
        assert_close((state.inner.sums[b], state.recent[b]), (alone.inner.sums[0], alone.recent[0]))


def test_without_them_a_mechanism_is_as_it_was():
    module = make_attention("gated-delta", 6, 2, short_conv=0, gate=0)
    assert type(module.init_state(1)) is RecurrentState and module.output_gate is None
    assert set(module.state_dict()) == set(make_attention("gated-delta", 6, 2).state_dict())


@pytest.mark.parametrize("name", ["mamba2", "gla", "retention", "mesa"])
def test_silu_is_there_once(name):
    """mamba2, gla and retention have none of their own; mesa puts it on queries and keys, and there it stays."""
    module, x = make_attention(name, 4, 1, short_conv=1), torch.randn(1, 5, 4)
    linear = F.linear(x, module.qkv.weight) * module.qkv.kernel[:, 0] + module.qkv.bias
    expected = F.silu(linear)
    if name == "mesa":
        expected[..., :8] = linear[..., :8]
    assert_close(module.qkv(x), expected)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gated-delta", {"short_conv": -1}, "short_conv of gated-delta must be at least 0"),
        ("gated-delta", {"gate": 2}, "gate of gated-delta must be 0 or 1, not 2"),
        ("gated-delta", {"window": 2}, "Of its own it has: .*short_conv, gate"),
        ("softmax", {"short_conv": 4}, "softmax has no option short_conv"),
        ("linear", {"gate": 1}, "linear has no option gate"),
    ],
)
def test_what_cannot_be_built_is_said(name, options, words):
    with pytest.raises(UserError, match=words):
        make_attention(name, 8, 4, **options)


def test_a_state_without_the_convolution_is_refused():
    bare, module = make_attention("delta", 4, 1), make_attention("delta", 4, 1, short_conv=4)
    with pytest.raises(UserError, match="was given a RecurrentState as state; its own is a ConvolvedState"):
        module.learn(torch.randn(1, 3, 4), bare.init_state(1))
    shorter = make_attention("delta", 4, 1, short_conv=3)
    with pytest.raises(UserError, match="field recent has shape"):
        module.learn(torch.randn(1, 3, 4), shorter.init_state(1))
