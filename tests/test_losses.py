"""Losses: the functions agree with PyTorch's own and with each other, for any leading shape, and under vmap."""

import pytest
import torch
from tiny import IMAGES
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import EpisodeSpec
from metacl.learners.losses import example_losses, mean_loss, query_loss, query_score

MATRICES = EpisodeSpec("vector", (4,), "mse", y_shape=(2, 3))
LEADING = [(), (5,), (2, 5)]


def answers(spec: EpisodeSpec, *leading: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and targets of noise."""
    rng = torch.Generator().manual_seed(len(leading))
    if spec.classification:
        y = torch.randint(spec.symbols, leading, generator=rng)
        return torch.randn(*leading, spec.symbols, generator=rng), y
    return torch.randn(*leading, *spec.y_shape, generator=rng), torch.randn(*leading, *spec.y_shape, generator=rng)


@pytest.mark.parametrize("spec", [IMAGES, MATRICES], ids=["classification", "regression"])
@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_losses_are_those_of_pytorch(spec: EpisodeSpec, leading: tuple[int, ...]) -> None:
    prediction, y = answers(spec, *leading)
    flat, wanted = (t.reshape(-1, *t.shape[len(leading) :]) for t in (prediction, y))
    plain = [F.cross_entropy(p, t) if spec.classification else F.mse_loss(p, t) for p, t in zip(flat, wanted, strict=True)]
    losses = example_losses(prediction, y, spec)
    assert losses.shape == leading == query_score(prediction, y, spec).shape
    assert_close(losses.flatten(), torch.stack(plain))
    assert_close(mean_loss(prediction, y, spec), losses.mean())
    assert_close(query_loss(prediction, y, spec).loss, losses.mean())


@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_targets_may_be_asked_flat(leading: tuple[int, ...]) -> None:
    prediction, y = answers(MATRICES, *leading)
    flat = prediction.flatten(-2)
    assert_close(example_losses(flat, y, MATRICES), example_losses(prediction, y, MATRICES), rtol=0, atol=0)
    assert_close(mean_loss(flat, y, MATRICES), mean_loss(prediction, y, MATRICES), rtol=0, atol=0)


@pytest.mark.parametrize("spec", [IMAGES, MATRICES], ids=["classification", "regression"])
@pytest.mark.parametrize("loss", [mean_loss, example_losses])
def test_one_example_at_a_time_under_vmap(spec: EpisodeSpec, loss) -> None:
    prediction, y = answers(spec, 5)
    each = torch.func.vmap(lambda p, t: loss(p, t, spec))(prediction, y)
    assert_close(each, example_losses(prediction, y, spec))


def test_scores_are_right_or_wrong_and_sums_are_in_float32() -> None:
    logits, y = torch.tensor([[3.0, 1.0], [3.0, 1.0]]).bfloat16(), torch.tensor([0, 1])
    spec = EpisodeSpec("vector", (1,), "cross_entropy", symbols=2)
    assert query_score(logits, y, spec).tolist() == [1, 0]
    assert {loss(logits, y, spec).dtype for loss in (example_losses, mean_loss)} == {torch.float32}
    found = query_loss(logits[None], y[None], spec)
    assert float(found.metrics["accuracy"]) == 0.5
    assert_close(found.loss, F.cross_entropy(logits.float(), y))


def test_label_smoothing_spreads_a_target_over_the_symbols_of_its_episode():
    """Symbols that no query has, with logits as low as they may be, get nothing: a learner may rule them out."""
    logits, y = answers(IMAGES, 2, 6)
    y = y % 4
    logits[:, :, 5] = -torch.inf
    targets = torch.zeros(2, 6, 8)
    for b in range(2):
        asked = y[b].unique()
        for m in range(6):
            targets[b, m, asked] += 0.3 / len(asked)
            targets[b, m, y[b, m]] += 0.7
    expected = F.cross_entropy(
        logits[..., [0, 1, 2, 3, 4, 6, 7]].flatten(0, 1), targets[..., [0, 1, 2, 3, 4, 6, 7]].flatten(0, 1)
    )
    found = query_loss(logits, y, IMAGES, smoothing=0.3)
    assert_close(found.loss, expected)
    assert_close(found.metrics["loss"], mean_loss(logits, y, IMAGES))


@pytest.mark.parametrize("spec", [IMAGES, MATRICES], ids=["classification", "regression"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_padded_queries_do_not_count(spec: EpisodeSpec, smoothing: float) -> None:
    prediction, y = answers(spec, 2, 5)
    padded_x, padded_y = (torch.cat([part, part.flip(0)[:, :3]], 1) for part in (prediction, y))
    if spec.classification:
        padded_y[:, 5:] = spec.symbols - 1  # a symbol that no query has
        y.clamp_(max=spec.symbols - 2)
        padded_y[:, :5].clamp_(max=spec.symbols - 2)
    valid = torch.arange(8).expand(2, -1) < 5
    plain, padded = query_loss(prediction, y, spec, smoothing), query_loss(padded_x, padded_y, spec, smoothing, valid)
    assert_close(padded.loss, plain.loss)
    for name, value in plain.metrics.items():
        assert_close(padded.metrics[name], value)
