"""Learners of frozen features: nearest class mean, RanPAC and the linear probe, against closed forms in float64."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from making import labelled_folder
from test_backbones import script
from test_features import Small

from episodes import EpisodeSpec, Examples, UserError
from metacl.cli import evaluate_main
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners.protocol import state_bytes
from metacl.learners.statistics.ncm import NearestMeanConfig
from metacl.learners.statistics.ranpac import RanPACConfig, solved
from metacl.learners.trained.finetune import FinetuneConfig
from metacl.recipes.presets import LEARNERS
from metacl.recipes.settings import EPISODES, linear_probe
from metacl.report.results import read_results

SPEC = EpisodeSpec("vector", (6,), "cross_entropy", symbols=8)
CONFIGS = {
    "ncm": NearestMeanConfig(),
    "ranpac, few numbers": RanPACConfig(projected=3),
    "ranpac, few examples": RanPACConfig(projected=40),
    "linear-probe": replace(linear_probe(EPISODES), epochs=2),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_a_learner(name):
    check_learner(CONFIGS[name].build(SPEC), SPEC)


@pytest.mark.parametrize("name", ["ncm", "ranpac", "linear-probe"])
def test_images_and_regression_are_refused_in_words(name):
    config = next(iter(LEARNERS[name].trained.values()))(EPISODES)
    with pytest.raises(UserError, match=r"images of 1 x 8 x 8.*--stream.data.features NAME.*--data.features NAME"):
        config.build(replace(SPEC, x_kind="image", x_shape=(1, 8, 8)))
    if name != "linear-probe":
        with pytest.raises(UserError, match=f"{name} is for classification"):
            config.build(EpisodeSpec("vector", (6,), "mse", y_shape=(1,)))


def test_ncm_takes_the_class_mean_of_highest_cosine():
    learner, episode = NearestMeanConfig().build(SPEC), random_episode(SPEC, 0, batch_size=3, tasks=6)
    answers = learner.predict(learner.learn(learner.init_state(3), episode.stream), episode.queries.x)
    for b in range(3):
        x, y, asked = (part[b].double().numpy() for part in (episode.stream.x, episode.stream.y, episode.queries.x))
        classes = np.unique(y).astype(int)
        means = np.stack([x[y == c].mean(0) for c in classes])
        cosine = asked @ means.T / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(means, axis=1)
        np.testing.assert_allclose(answers[b][:, classes], cosine, atol=1e-5)
        np.testing.assert_array_equal(answers[b].argmax(-1), classes[cosine.argmax(1)])
        assert (np.delete(answers[b].numpy(), classes, 1) < -1e8).all(), "classes that have not come are no answer"


def by_hand(tasks: list[tuple[np.ndarray, np.ndarray]], W: np.ndarray, asked: np.ndarray, V: int) -> tuple[np.ndarray, float]:
    """RanPAC's code in NumPy: solves for every ridge, with the whole matrix."""
    M, eye = W.shape[1], np.eye(W.shape[1])
    G, C, ridge = np.zeros((M, M)), np.zeros((M, V)), 1.0
    for x, y in tasks:
        H, Y = np.maximum(x @ W, 0), np.eye(V)[y]
        n = int(len(x) * 0.8)
        losses = []
        for power in range(-8, 9):
            own = np.linalg.solve(H[:n].T @ H[:n] + 10.0**power * eye, H[:n].T @ Y[:n])
            losses.append(((H[n:] @ own - Y[n:]) ** 2).mean())
        ridge = 10.0 ** (int(np.argmin(losses)) - 8)
        G, C = G + H.T @ H, C + H.T @ Y
    return np.maximum(asked @ W, 0) @ np.linalg.solve(G + ridge * eye, C), ridge


@pytest.mark.parametrize("projected", [10, 60, 80], ids=["many examples", "about as many", "few examples"])
def test_ranpac_is_the_closed_form(projected):
    """Three tasks of two classes, in float64, row by row: the ridge, and the answers."""
    learner = RanPACConfig(projected).build(SPEC).double()
    rng, seeds = np.random.default_rng(0), [3, 7]
    centres = rng.standard_normal((8, 6))
    state, rows = learner.start(seeds), [[], []]
    for t in range(3):
        y = rng.integers(2 * t, 2 * t + 2, (2, 50))
        x = centres[y] + rng.standard_normal((2, 50, 6))
        for b in range(2):
            rows[b].append((x[b], y[b]))
        examples = Examples(torch.from_numpy(x), torch.from_numpy(y), torch.full((2, 50), t))
        state = learner.task_ends(learner.learn_task(state, examples))
    asked = rng.standard_normal((2, 30, 6))
    answers = learner.predict(state, torch.from_numpy(asked))
    for b in range(2):
        expected, ridge = by_hand(rows[b], state.projection[b].numpy(), asked[b], 8)
        assert float(state.ridge[b]) == ridge
        np.testing.assert_allclose(answers[b, :, :6], expected[:, :6], rtol=1e-5, atol=1e-7)
        assert (answers[b, :, 6:] < -1e8).all(), "classes that have not come are no answer"
    assert not torch.equal(state.projection[0], state.projection[1])
    assert torch.equal(learner.start([7]).projection[0], state.projection[1])
    alike = learner.start(seeds, alike=True).projection
    assert torch.equal(alike[0], learner.projection) and torch.equal(alike[1], learner.projection)


def test_the_order_of_tasks_changes_the_sums_of_ranpac_by_rounding_alone():
    learner, episode = RanPACConfig(20).build(SPEC), random_episode(SPEC, 0)
    states = []
    for parts in ((slice(0, 4), slice(4, 8), slice(8, 12)), (slice(8, 12), slice(0, 4), slice(4, 8))):
        state = learner.init_state(2)
        for part in parts:
            state = learner.learn(state, episode.stream[part])
        states.append(state)
    torch.testing.assert_close(states[0].gram, states[1].gram, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(states[0].cross, states[1].cross, rtol=1e-12, atol=1e-12)
    assert states[0].gram.dtype == torch.float64 and state_bytes(states[0]) == state_bytes(learner.init_state(1))


def test_a_ridge_that_is_lost_in_rounding_is_raised():
    h = torch.full((1, 5, 4), 1e6, dtype=torch.float64)
    gram, cross = h.mT @ h, torch.ones(1, 4, 2, dtype=torch.float64)
    ridge, weights = solved(gram.expand(2, -1, -1), cross.expand(2, -1, -1), torch.tensor([1e-8, 1e3], dtype=torch.float64))
    assert 1e-8 < ridge[0] < 1 and ridge[1] == 1e3 and weights.isfinite().all()


def test_one_example_chooses_no_ridge():
    learner, episode = RanPACConfig(5).build(SPEC), random_episode(SPEC, 0)
    state = learner.learn(learner.init_state(2), episode.stream[:1])
    assert state.ridge.tolist() == [1.0, 1.0] and state.counts.sum(1).tolist() == [1, 1]
    learner.predict(state, episode.queries.x)


def test_a_linear_probe_is_one_linear_layer():
    learner = FinetuneConfig("offline", width=0).build(SPEC)
    assert {name: tuple(p.shape) for name, p in learner.network.named_parameters()} == {
        "answer.weight": (8, 6),
        "answer.bias": (8,),
    }
    with pytest.raises(UserError, match=r"learner\.width must be at least 0"):
        FinetuneConfig(width=-1)


@pytest.fixture
def net(tmp_path) -> str:
    torch.manual_seed(1)
    script(Small(), tmp_path / "net.pt")
    return str(tmp_path / "net.pt")


def test_all_of_them_along_a_class_incremental_stream_of_features(cli, net, tmp_path, cache):
    pictures = labelled_folder(tmp_path / "pictures", classes=6, each=8)
    words = ["class-incremental", "--stream.data.name", pictures, "--stream.classes", "2", "--seeds", "0", "1"]
    status, text = cli(evaluate_main, words[0], "ncm", "ranpac", "linear-probe", *words[1:], "--out", "images")
    assert status == 2 and "ncm learns from frozen features, and these are images" in text and not Path("images").exists()
    words = [*words[1:], "--stream.data.features", net]
    status, text = cli(evaluate_main, "class-incremental", "ncm", "linear-probe", *words, "--out", "mine")
    assert status == 0 and "class-incremental of pictures (net.pt features)" in text, text
    assert cli(evaluate_main, "class-incremental", "ranpac", *words, "--learner.projected", "9", "--out", "other")[0] == 0
    found = [*read_results(Path("mine")), *read_results(Path("other"))]
    assert [result.learner for result in found] == ["ncm", "linear-probe", "ranpac (projected 9)"] and found[0].tasks == 3
    assert found[0].measures["interference"]["mean"] == 0 and all("FA" in result.incremental for result in found)


def test_all_of_them_along_episodes_of_vectors(cli, net, tmp_path, cache):
    pictures = labelled_folder(tmp_path / "pictures", classes=10, each=6)
    words = ["--data.features", net, "--tasks", "2", "--shots", "3", "--queries", "2", "--episodes", "4"]
    status, text = cli(evaluate_main, pictures, "ncm", "linear-probe", *words, "--rates", "1e-2", "--out", "mine")
    assert status == 0 and [result.learner for result in read_results(Path("mine"))] == ["ncm", "linear-probe"], text
    assert cli(evaluate_main, pictures, "ranpac", *words, "--learner.projected", "9", "--out", "other")[0] == 0
