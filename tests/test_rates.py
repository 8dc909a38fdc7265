"""How a learning rate is chosen on meta-validation episodes. Along streams: `test_follow.py`."""

from dataclasses import replace

import pytest
import torch
from tiny import ENCODER, SHAPE, accelerator, image_benchmark, sine

from metacl.evaluation.episodes import evaluate, held_out
from metacl.evaluation.rates import choose, in_words, on_episodes
from metacl.learners.protocol import DivergedError, Learner
from metacl.learners.trained.finetune import FinetuneConfig
from metacl.recipes.presets import trained_for
from metacl.recipes.settings import EPISODES


def built(benchmark, rate: float) -> Learner:
    torch.manual_seed(0)
    return FinetuneConfig("online", rate, width=8, encoder=ENCODER).build(benchmark.train.spec).eval()


def chosen(benchmark, rates, episodes: int = 4):
    generator = held_out(benchmark, "validation", SHAPE, 0)
    return on_episodes(lambda rate: built(benchmark, rate), rates, generator, episodes, 4, accelerator())


@pytest.mark.parametrize(("benchmark", "better"), [(image_benchmark(), max), (sine(), min)], ids=["accuracy", "mse"])
def test_the_best_rate_on_meta_validation_is_chosen(benchmark, better):
    rates = (1e-2, 1e-4, 3e-1, 1e-2)
    choice, scores = chosen(benchmark, rates), {}
    for rate in sorted(set(rates)):
        generator = held_out(benchmark, "validation", SHAPE, 0)
        scores[rate] = evaluate(built(benchmark, rate), generator, 4).measures["final"].mean
        assert choice.scores[f"{rate:g}"] == pytest.approx(scores[rate], rel=1e-4)
    assert choice.rate == better(scores, key=lambda rate: scores[rate]) and len(set(scores.values())) > 1
    assert choice.measure == ("accuracy" if better is max else "mse")


@pytest.mark.parametrize("name", ["reinit", "ewc", "er"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_rate_is_worth_what_following_finds(name, batch_size):
    """Ends of tasks are told, and what is drawn does not depend on the place in a batch."""
    config = trained_for(name, None, EPISODES)
    generator = held_out(sine(), "validation", SHAPE, 0)

    def build(rate: float) -> Learner:
        torch.manual_seed(0)
        return replace(config, rate=rate).build(sine().train.spec).eval()

    choice = on_episodes(build, (1e-3, 1e-2), generator, 4, batch_size, accelerator())
    for rate in (1e-3, 1e-2):
        expected = evaluate(build(rate), generator, 4).measures["final"].mean
        assert choice.scores[f"{rate:g}"] == pytest.approx(expected, rel=1e-4)


def test_rates_that_diverge_are_not_taken():
    choice = chosen(sine(), (1e-3, 1e20))
    assert choice.rate == 1e-3 and choice.scores["1e+20"] is None and "1e+20: diverged" in in_words(choice)
    with pytest.raises(DivergedError, match=r"every one of the rates 1e\+20, 1e\+21. Give lower"):
        chosen(sine(), (1e20, 1e21))


def test_the_least_loss_and_the_highest_accuracy_win():
    found = {1e-3: 0.3, 1e-2: None, 1e-1: 0.7}
    assert choose(found, "prequential loss").rate == 1e-3 and choose(found, "accuracy").rate == 1e-1


def test_a_rate_of_evaluation_that_diverges_is_said():
    with pytest.raises(DivergedError, match=r"1e\+20"):
        evaluate(built(sine(), 1e20), held_out(sine(), "test", replace(SHAPE, tasks=2), 0), 2)
