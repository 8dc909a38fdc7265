"""The textbook forms compute what the fast forms compute: equal losses and gradients with equal weights."""

import pytest
import torch
from tiny import SHAPE, image_benchmark, sequence, sine

from episodes import Episode
from metacl.attention import ATTENTION
from metacl.attention.interface import Sizes
from metacl.attention.linear import LinearAttention
from metacl.benchmarking.forms import Form, build, check
from metacl.benchmarking.textbook import EPISODE_FORMS, HAVE_CORE, WEIGHTS, episode_mask, textbook_copy, textbook_loss
from metacl.learners import Learner
from metacl.learners.sequence import SequenceLearner

LAYOUTS = ("paired", "interleaved")
PUBLISHED = {"norm": False, "positions": "sinusoidal", "symbols": "learned", "auxiliary_steps": 1}


def image_episode() -> Episode:
    return image_benchmark().generator("train", SHAPE, seed=0).batch(range(2))


def gradients(learner: Learner, loss: torch.Tensor) -> list[torch.Tensor]:
    found = torch.autograd.grad(loss, list(learner.parameters()), allow_unused=True, materialize_grads=True)
    return [gradient.detach() for gradient in found]


def assert_same_step(learner: SequenceLearner, episode: Episode) -> None:
    plain = textbook_copy(learner)
    ours, theirs = learner.meta_loss(episode), textbook_loss(plain, episode)
    assert ours.metrics.keys() == theirs.metrics.keys()
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-6)
    for (name, _), *pair in zip(
        learner.named_parameters(), gradients(learner, ours.loss), gradients(plain, theirs.loss), strict=True
    ):
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-5, msg=f"The gradients of {name} differ.")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attention", EPISODE_FORMS)
def test_the_published_step_is_the_same_as_in_textbook_form(attention, layout):
    learner = sequence(attention=attention, layout=layout, **PUBLISHED).train()
    assert "auxiliary" in learner.meta_loss(image_episode()).metrics
    assert_same_step(learner, image_episode())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attention", EPISODE_FORMS)
def test_the_default_step_is_the_same_as_in_textbook_form(attention, layout):
    assert_same_step(sequence(attention=attention, layout=layout).train(), image_episode())


def test_a_regression_step_is_the_same_as_in_textbook_form():
    benchmark = sine()
    episode = benchmark.generator("train", SHAPE, seed=0).batch(range(2))
    assert_same_step(sequence(benchmark.train.spec).train(), episode)


def test_the_copy_is_channels_first_and_has_weights_of_its_own():
    learner = sequence()
    plain = textbook_copy(learner)
    convolution = plain.encoder.convolutions[3].weight
    assert convolution.is_contiguous() and not learner.encoder.convolutions[3].weight.is_contiguous()
    convolution.data.zero_()
    assert learner.encoder.convolutions[3].weight.any()


def test_a_query_sees_the_stream_and_itself():
    mask = episode_mask(2, 2, torch.device("cpu")).int().tolist()
    assert mask == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]


def form(name: str, kind="fast", core: bool = False) -> Form:
    torch.manual_seed(0)
    return Form(name, build(name, 16, 2, "auto", None, None), kind, core)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ATTENTION)
def test_the_check_before_timing_passes(name, precision):
    check(form(name), precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_whole_matrix_computes_what_the_loop_over_tokens_computes(name, precision):
    check(form(name, "N x N"), precision)
    check(form(name, "N x N", core=True), precision)


@pytest.mark.parametrize("name", [name for name, mechanism in ATTENTION.items() if issubclass(mechanism, HAVE_CORE)])
def test_the_core_computes_what_the_loop_over_tokens_computes(name):
    assert set(form(name, core=True).work(torch.randn(1, 3, 16), "fp32").leaves) >= {"q", "k", "v"}
    check(form(name, core=True), "fp32")


def test_the_core_has_its_gates_as_leaves_where_they_are_learnt():
    x = torch.randn(1, 3, 16)
    assert list(form("gated-delta", core=True).work(x, "fp32").leaves) == ["q", "k", "v", "log_decay", "beta"]
    assert list(form("retention", core=True).work(x, "fp32").leaves) == ["q", "k", "v"]
    work = form("gla", core=True).work(x, "bf16")
    assert (work.leaves["q"].dtype, work.leaves["log_decay"].dtype) == (torch.bfloat16, torch.float32)


class Forgetful(LinearAttention):
    """Loses its state in the middle of a stream."""

    def extend(self, x_BND, state, valid_BN):
        first, _ = super().extend(x_BND[:, :75], state, valid_BN)
        second, state = super().extend(x_BND[:, 75:], state, valid_BN)
        return torch.cat([first, second], dim=1), state


class WrongGradient(LinearAttention):
    """Right outputs, but its keys learn nothing."""

    def extend(self, x_BND, state, valid_BN):
        out, state = super().extend(x_BND, state, valid_BN)
        return out.detach() + 0 * out + (self.out(x_BND) - self.out(x_BND).detach()), state


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("wrong", "what"), [(Forgetful, "outputs differ"), (WrongGradient, "gradients of .* differ")])
def test_the_check_before_timing_finds_a_wrong_mechanism(wrong, what, precision):
    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match=what):
        check(Form("linear", wrong(Sizes(16, 2))), precision)
