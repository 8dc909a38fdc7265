"""The textbook forms compute what the fast forms compute: equal losses and gradients with equal weights."""

import pytest
import torch
from tiny import SHAPE, image_benchmark, sequence, sine

from episodes import Episode
from metacl.attention import ATTENTION, LinearAttention
from metacl.benchmarking.attention import check
from metacl.benchmarking.textbook import MATRIX, episode_mask, textbook_copy, textbook_loss
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
@pytest.mark.parametrize("attention", MATRIX)
def test_the_published_step_is_the_same_as_in_textbook_form(attention, layout):
    learner = sequence(attention=attention, layout=layout, **PUBLISHED).train()
    assert "auxiliary" in learner.meta_loss(image_episode()).metrics
    assert_same_step(learner, image_episode())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attention", MATRIX)
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ATTENTION)
def test_the_check_before_timing_passes(name, precision):
    torch.manual_seed(0)
    check(name, ATTENTION[name](16, 2), precision)


def test_the_check_before_timing_finds_a_wrong_mechanism():
    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="outputs differ"):
        check("softmax", ATTENTION["linear"](16, 2), "fp32")


class Forgetful(LinearAttention):
    """Loses its state between two calls."""

    def learn(self, x_BND, state, valid_BN=None):
        return super().learn(x_BND, self.init_state(len(x_BND)), valid_BN)


def test_a_mechanism_without_a_textbook_form_is_checked_token_by_token():
    torch.manual_seed(0)
    check("a new one", LinearAttention(16, 2), "fp32")
    with pytest.raises(RuntimeError, match="outputs differ"):
        check("a new one", Forgetful(16, 2), "fp32")
