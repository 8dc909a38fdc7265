"""Query-only attention on episodes: what every learner owes, equation 6, and what its support changes."""

from dataclasses import replace

import pytest
import torch
from tiny import ENCODER, IMAGES, VECTORS, image_benchmark, train, train_config
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import UserError
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners.similarity.pairwise import ScoreConfig
from metacl.learners.similarity.query_only import QueryOnlyConfig, QueryOnlyLearner

SPECS = {"images": IMAGES, "regression": VECTORS}
SMALL = QueryOnlyConfig(width=10, score=ScoreConfig(8, 3, label=True, normalise="softmax"), support=5, encoder=ENCODER)


def learner(spec=IMAGES, **options) -> QueryOnlyLearner:
    torch.manual_seed(0)
    return replace(SMALL, **options).build(spec).eval()


@pytest.mark.parametrize("bound", ["all", "fifo", "reservoir", "balanced"])
@pytest.mark.parametrize("spec", SPECS)
def test_promises(spec, bound):
    if bound == "balanced" and not SPECS[spec].classification:
        pytest.skip("regression has no classes")
    check_learner(learner(SPECS[spec], bound=bound), SPECS[spec])


@pytest.mark.parametrize("score", [ScoreConfig(8), ScoreConfig(8, 3, label=True, pair="difference"), SMALL.score])
@pytest.mark.parametrize("spec", SPECS)
def test_the_equation(spec, score):
    """y = sum_j d_j y_j by loops over the queries and the stream."""
    made, episode = learner(SPECS[spec], score=score), random_episode(SPECS[spec], 0)
    with torch.no_grad():
        answer = made.predict(made.learn(made.init_state(2), episode.stream), episode.queries.x)
        z_s, z_q, y = made.encode(episode.stream.x), made.encode(episode.queries.x), episode.stream.y
        target = F.one_hot(y, 8).float() if SPECS[spec].classification else y
        label = made.codes_VL[y] if SPECS[spec].classification else y
        for b, m in ((0, 0), (1, 5)):
            d = torch.stack(
                [
                    made.score(
                        z_q[b : b + 1, m : m + 1],
                        z_s[b : b + 1, j : j + 1],
                        label[b : b + 1, j : j + 1] if score.label else None,
                    )[0, 0, 0]
                    for j in range(12)
                ]
            )
            w = d.softmax(0) if score.normalise == "softmax" else d
            expected = sum(w[j] * target[b, j] for j in range(12))
            logarithm = score.normalise == "softmax" and SPECS[spec].classification
            assert_close(answer[b, m], (expected + 1e-6).log() if logarithm else expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_the_stream_does_not_matter():
    made, episode = learner(), random_episode(IMAGES, 0)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    plain, mixed = (
        made.predict(made.learn(made.init_state(2), s), episode.queries.x) for s in (episode.stream, episode.stream[order])
    )
    assert_close(plain, mixed)


def test_symbols_are_interchangeable_without_labels_in_the_pair():
    made, episode = learner(score=ScoreConfig(8, normalise="softmax")), random_episode(IMAGES, 0)
    other = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    renamed = replace(episode.stream, y=other[episode.stream.y])
    plain, moved = (made.predict(made.learn(made.init_state(2), s), episode.queries.x) for s in (episode.stream, renamed))
    assert_close(plain, moved[..., other])


def test_nothing_is_bound_to_the_vocabulary():
    made, wide = learner(), learner(replace(IMAGES, symbols=30))
    wide.load_state_dict(made.state_dict())
    episode = random_episode(IMAGES, 0)
    few, many = (m.predict(m.learn(m.init_state(2), episode.stream), episode.queries.x) for m in (made, wide))
    assert_close(few, many[..., :8])


def test_an_empty_support_and_one_that_lost_a_class():
    for score in (SMALL.score, ScoreConfig(8)):
        made, episode = learner(bound="fifo", support=2, score=score), random_episode(IMAGES, 0)
        before = made.predict(made.init_state(2), episode.queries.x)
        assert before.isfinite().all()
        assert_close(before, before[:1, :1, :1].expand_as(before))
        loss = made.meta_loss(episode).loss
        loss.backward()
        assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


def test_bad_input():
    with pytest.raises(UserError, match=r"this is a regression. Take fifo or reservoir"):
        learner(VECTORS, bound="balanced")
    with pytest.raises(UserError, match=r"learner.support must be at least 1"):
        replace(SMALL, support=0)


def test_it_meta_trains(tmp_path):
    config = train_config(replace(SMALL, encoder=ENCODER), learner_name="query-only", episodes=train_config().episodes)
    run = train(tmp_path / "run", config, image_benchmark())
    losses = [r["loss"] for r in run.metrics() if "loss" in r]
    assert run.best() and losses[-1] < losses[0]
