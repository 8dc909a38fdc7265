"""Nadaraya-Watson and kNN against loops and scikit-learn."""

import math
from dataclasses import replace

import pytest
import torch
from online_learners import IMAGES, LABELLED, REGRESSION, SPECS, noise, row
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from torch.testing import assert_close

from episodes import UserError
from metacl.evaluation.check import check_learner
from metacl.learners.similarity.kernels import KernelConfig

CONFIG = KernelConfig(rate=0.3, block=2, support=5)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("nearest", [0, 2])
def test_promises(nearest, spec):
    check_learner(replace(CONFIG, nearest=nearest).build(SPECS[spec]), SPECS[spec])


@pytest.mark.parametrize("seen", [3, 9])
def test_nadaraya_watson_by_a_loop(seen):
    learner, stream, queries = CONFIG.build(REGRESSION), noise(REGRESSION, seen), noise(REGRESSION, 4, seed=1)
    state = learner.learn_predict(learner.start([0, 1], [0.3, 2.0]), stream)[0]
    told = learner.predict(state, queries.x)
    for b, rate in enumerate((0.3, 2.0)):
        for m in range(4):
            weights = [math.exp(-rate * float((queries.x[b, m] - x).square().sum())) for x in stream.x[b, -5:]]
            expected = sum(w * y for w, y in zip(weights, stream.y[b, -5:], strict=True)) / sum(weights)
            assert_close(told[b, m], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nearest", [1, 3])
def test_knn_against_scikit_learn(nearest):
    """With a kernel so wide that all neighbours weigh the same."""
    for spec, kind in ((REGRESSION, KNeighborsRegressor), (IMAGES, KNeighborsClassifier)):
        learner = KernelConfig(rate=1e-9, support=30, nearest=nearest).build(spec)
        support, queries = noise(spec, 30, 1), noise(spec, 20, 1, seed=1)
        told = learner.predict_with(learner.start([0]), support, queries.x)[0]
        other = kind(nearest).fit(support.x[0].flatten(1), support.y[0])
        if spec.classification:
            assert_close(
                told.exp(), torch.as_tensor(other.predict_proba(queries.x[0].flatten(1))).float(), rtol=1e-3, atol=1e-4
            )
        else:
            assert_close(told, torch.as_tensor(other.predict(queries.x[0])), rtol=1e-4, atol=1e-5)


def test_a_given_support_is_as_good_as_one_that_was_learnt():
    learner, support, x = CONFIG.build(LABELLED), noise(LABELLED, 5), noise(LABELLED, 4, seed=1).x
    state = learner.start([0, 1])
    assert_close(learner.predict_with(state, support, x), learner.predict(learner.learn(state, support), x))
    order = torch.tensor([3, 1, 4, 0, 2])
    assert_close(learner.predict_with(state, support[order], x), learner.predict_with(state, support, x))


def test_without_examples_all_labels_are_alike():
    learner = CONFIG.build(LABELLED)
    told = learner.predict(learner.start([0]), noise(LABELLED, 3, 1).x)
    assert told.isfinite().all()
    assert_close(told, told[:1, :1, :1].expand_as(told))


def test_labels_that_no_neighbour_has_are_rare_but_possible():
    support = replace(noise(LABELLED, 5, 1), y=torch.tensor([[0, 0, 2, 2, 2]]))
    told = CONFIG.build(LABELLED).predict_with(CONFIG.build(LABELLED).start([0]), support, support.x)
    assert told.isfinite().all() and set(told.argmax(-1).flatten().tolist()) <= {0, 2}


def test_predictions_come_before_the_labels():
    learner, stream = CONFIG.build(LABELLED), noise(LABELLED, 4)
    other = replace(stream, y=(stream.y + 1) % 4)
    told, changed = (learner.learn_predict(learner.start([0, 1]), s)[1] for s in (stream, other))
    assert torch.equal(told[:, :2], changed[:, :2]) and not torch.equal(told[:, 2:], changed[:, 2:])
    alone = learner.learn_predict(learner.start([1]), row(stream, 1))[1]
    assert_close(told[1:], alone)


def test_wrong_input():
    learner = CONFIG.build(LABELLED)
    with pytest.raises(UserError, match="support set is empty"):
        learner.predict_with(learner.start([0, 1]), noise(LABELLED, 0), noise(LABELLED, 2).x)
    with pytest.raises(UserError, match=r"learner.support must be at least 1"):
        KernelConfig(support=0)
