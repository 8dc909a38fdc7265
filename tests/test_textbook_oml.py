"""The textbook form of OML computes what the fast form computes."""

import pytest
import torch
from tiny import ENCODER, SHAPE, image_benchmark, sine
from torch.testing import assert_close

from metacl.benchmarking.textbook import textbook_copy
from metacl.benchmarking.textbook_oml import textbook_oml_loss
from metacl.learners.gradient.oml import OMLConfig


@pytest.mark.parametrize("rates", ["one", "tensor"])
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("benchmark", [image_benchmark, sine])
def test_loss_and_gradients_are_the_same(benchmark, layers, rates):
    torch.manual_seed(0)
    generator = benchmark().generator("train", SHAPE, seed=0)
    config = OMLConfig(rate=0.3, rates=rates, width=12, hidden=16, layers=layers, encoder=ENCODER)
    learner, episode = config.build(generator.family.spec).train(), generator.batch(range(2))
    plain = textbook_copy(learner)
    ours, theirs = learner.meta_loss(episode), textbook_oml_loss(plain, episode)
    assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-6)
    assert_close(ours.metrics, theirs.metrics, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(ours.loss, list(learner.parameters()))
    expected = torch.autograd.grad(theirs.loss, list(plain.parameters()))
    for (name, _), *pair in zip(learner.named_parameters(), gradients, expected, strict=True):
        assert pair[1].any(), name
        assert_close(*pair, rtol=1e-3, atol=1e-5, msg=f"The gradients of {name} differ.")
