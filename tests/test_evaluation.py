"""Evaluation against a plain loop, and the files that a report writes."""

import io
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny import ENCODER, SHAPE, image_benchmark, prototypes, sequence, sine

from episodes import DataConfig, EpisodeGenerator, EpisodeShape, Examples
from metacl.evaluation.curves import ends, slope, smoothed
from metacl.evaluation.episodes import evaluate
from metacl.evaluation.metrics import deviation, measured
from metacl.evaluation.resampling import ClassSums, half_width_over_seeds, half_widths
from metacl.evaluation.result import Evaluation, Result
from metacl.learners import Learner, PrototypesConfig
from metacl.learners.statistics.prototypes import PrototypicalNetwork
from metacl.recipes.presets import LEARNERS
from metacl.report.plots import draw
from metacl.report.results import read_results, write_results
from metacl.report.tables import matrix_table

BENCHMARKS = {"images": image_benchmark, "sine": sine}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "softmax": ("images", {}),
    "linear interleaved": ("images", {"attention": "linear", "layout": "interleaved"}),
    "regression": ("sine", {"positions": "sinusoidal"}),
}


def case(name: str) -> tuple[Learner, EpisodeGenerator]:
    benchmark, options = CASES[name]
    generator = BENCHMARKS[benchmark]().generator("test", SHAPE, seed=3)
    return sequence(generator.family.spec, **options), generator


@torch.no_grad()
def by_hand(learner: Learner, generator: EpisodeGenerator, index: int) -> torch.Tensor:
    """The score matrix of one episode: the whole stream up to task t from scratch, and each query alone."""
    episode, T, K, Q = generator.batch([index]), generator.shape.tasks, generator.shape.shots, generator.shape.queries
    matrix = torch.full((T, T), torch.nan)
    for t in range(T):
        state = learner.learn(learner.init_state(1), episode.stream[: (t + 1) * K])
        for i in range(t + 1):
            scores = []
            for query in range(i * Q, (i + 1) * Q):
                prediction, y = learner.predict(state, episode.queries.x[:, [query]])[0, 0], episode.queries.y[0, query]
                right = (
                    (prediction.argmax() == y).float()
                    if generator.family.spec.classification
                    else (prediction - y).square().mean()
                )
                scores.append(right)
            matrix[t, i] = torch.stack(scores).mean()
    return matrix


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_the_matrix_is_that_of_a_plain_loop(name, batch_size):
    learner, generator = case(name)
    got = evaluate(learner, generator, episodes=5, batch_size=batch_size)
    expected = torch.stack([by_hand(learner, generator, i) for i in range(5)])
    torch.testing.assert_close(got.scores_ETT, expected, equal_nan=True, rtol=1e-4, atol=1e-5)
    assert got.classification == generator.family.spec.classification


def test_a_learner_that_knows_everything_and_one_that_forgets():
    """Prototypes on pixels that name their class; then the same learner that keeps the last task only."""
    generator = image_benchmark().generator("test", SHAPE, 0)

    class Names(PrototypicalNetwork):  # the feature of an image is its class, on a circle
        def encode(self, x):
            angle = x[..., 0, 0, 0].float()
            return torch.stack([angle.cos(), angle.sin(), *[torch.zeros_like(angle)] * 10], dim=-1)

    class LastTask(Names):
        def learn_features(self, state, z, examples: Examples):
            return super().learn_features(self.init_state(len(z)), z, examples)

    scores = {}
    for kind in (Names, LastTask):
        learner = kind(PrototypesConfig(width=12, encoder=ENCODER), generator.family.spec)
        scores[kind] = evaluate(learner, generator, episodes=6).measures
    assert scores[Names]["final"].mean == 1 and scores[Names]["forgetting"].mean == 0
    assert scores[LastTask]["learned"].mean == 1 and scores[LastTask]["final"].mean == pytest.approx(1 / 3)
    assert scores[LastTask]["forgetting"].mean == 1
    symbols = generator.batch(range(6)).stream.y[:, :: SHAPE.shots]  # of what it does not know it names the first symbol
    wrong = (symbols[:, 1] > symbols[:, 0]).float().mean().item()
    assert scores[LastTask]["interference"].mean == pytest.approx(wrong / 2) and 0 < wrong < 1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["pn", "gemcl", "gemcl-map", "query-only"])
def test_what_keeps_classes_or_examples_apart_loses_nothing_by_interference(name):
    """It forgets nevertheless: later classes are more to choose from. Of every episode, not in the mean alone."""
    generator = image_benchmark().generator("test", replace(SHAPE, tasks=6), 0)
    config = replace(LEARNERS[name].meta["small"](DataConfig("glyphs"), name).learner, encoder=ENCODER)
    found = evaluate(config.build(generator.family.spec).double(), generator, episodes=12)
    assert found.known_ETT is not None and (found.measures["interference"].mean, found.measures["interference"].std) == (0, 0)
    assert found.measures["forgetting"].mean > 0.05
    assert torch.equal(found.known_ETT.diagonal(dim1=1, dim2=2), found.scores_ETT.diagonal(dim1=1, dim2=2))


def test_intervals_are_over_the_classes_of_the_episodes():
    """Each class has its sums; the interval is that of these."""
    generator = image_benchmark().generator("test", SHAPE, 0)
    found = evaluate(prototypes(), generator, episodes=20)
    result, class_ET = found.result("pn"), generator.classes(range(20))
    assert class_ET.shape == (20, 3) and result.chance == pytest.approx([1, 1 / 2, 1 / 3])
    for name, values_Et in measured(found.scores_ETT, True, found.known_ETT).items():
        sums = ClassSums.read(result.classes[name])
        for c in range(8):
            of_c = class_ET[:, : values_Et.shape[1]] == c
            assert sums.tasks_C[c] == of_c.sum() and sums.sums_C[c] == pytest.approx(values_Et[of_c].sum().item(), abs=1e-4)
        (width,) = half_widths([sums])
        assert result.measures[name]["half_width"] == pytest.approx(width, abs=1e-5)
    assert evaluate(sequence(sine().test.spec), sine().generator("test", SHAPE, 0), 4).result("x").classes is None


def test_results_of_earlier_versions_are_read_as_they_are_defined_now(tmp_path):
    """Forgetting was since the best time; since the time just after the task it is backward transfer, the other way round."""
    old = some_evaluation().result("mine").to_json()
    del old["measures"]["interference"]
    old["measures"] |= {"forgetting": {"mean": 0.3, "half_width": 0.1}, "backward_transfer": {"mean": -0.2, "half_width": 0.05}}
    for name in ("classes", "chance"):
        del old[name]
    (tmp_path / "results.json").write_text(json.dumps({"results": [old]}))
    (result,) = read_results(tmp_path)
    assert result.measures["forgetting"] == {"mean": 0.2, "half_width": 0.05} and "backward_transfer" not in result.measures
    assert "interference" not in result.measures and draw([result], tmp_path, "old")


def test_evaluation_leaves_no_trace_and_tells_its_progress():
    learner, generator = case("softmax")
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    done = []
    result = evaluate(learner.train(), generator, episodes=5, batch_size=2, progress=done.append)
    assert done == [2, 4, 5] and not result.scores_ETT.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())


def test_the_bytes_of_the_state():
    learner, generator = case("softmax")
    small = evaluate(learner, generator, episodes=2).state_bytes
    generator = image_benchmark().generator("test", EpisodeShape(6, 2, 2, 8), seed=3)
    assert evaluate(learner, generator, episodes=2).state_bytes > 1.9 * small


def some_evaluation(tasks: int = 3, episodes: int = 4, classification: bool = True, seed: int = 0) -> Evaluation:
    """In classification with 9 classes, and the scores among the known labels as they were asked."""
    rng = torch.Generator().manual_seed(seed)
    above = torch.ones(tasks, tasks).triu(1).bool()
    scores = torch.rand(episodes, tasks, tasks, generator=rng).masked_fill(above, torch.nan)
    found = Evaluation(EpisodeShape(tasks, 2, 2), scores, classification, 2048, "noise/test/0")
    if not classification:
        return found
    classes = torch.rand(episodes, 20, generator=rng).argsort(1)[:, :tasks] % 9
    chance: list[float | None] = [1 / (t + 1) for t in range(tasks)]
    return replace(found, known_ETT=scores, class_ET=classes, chance=chance)


def test_scores_by_position():
    evaluation = some_evaluation()
    positions = evaluation.result("mine").positions
    for i in range(3):
        learnt, final = positions["just after"][i], positions["at the end"][i]
        assert learnt["mean"] == pytest.approx(evaluation.scores_ETT[:, i, i].mean().item())
        assert final["mean"] == pytest.approx(evaluation.scores_ETT[:, 2, i].mean().item())


def no_constants(name: str):
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("classification", [True, False])
@pytest.mark.parametrize("tasks", [1, 3])
def test_the_files_of_a_report(tmp_path, classification, tasks):
    evaluations = [some_evaluation(tasks, classification=classification), some_evaluation(7, classification=classification)]
    results, folder = [evaluation.result("mine") for evaluation in evaluations], tmp_path / "new" / "results"
    write_results(results, {"run": "mine"}, folder, "a title")
    assert len(list(folder.iterdir())) == 5 and read_results(folder) == results
    values = json.loads((folder / "results.json").read_text(), parse_constant=no_constants)
    assert values["run"] == "mine" and len(values["results"]) == 2
    result = values["results"][0]
    assert result["score"] == ("accuracy" if classification else "mse")
    shape = {"tasks": tasks, "shots": 2, "queries": 2, "vocabulary": 64}
    assert result["episodes"] == {"address": "noise/test/0", "first": 0, "number": 4} | shape
    assert result["measures"]["final"]["mean"] == evaluations[0].measures["final"].mean
    assert result["measures"]["final"]["half_width"] == evaluations[0].measures["final"].half_width
    assert ("forgetting" in result["measures"]) == (tasks > 1)
    for t, row in enumerate(result["matrix"]):
        assert [value is None for value in row] == [i > t for i in range(tasks)]
        assert row[t] == pytest.approx(evaluations[0].scores_ETT[:, t, t].mean().item())
    for file in folder.glob("*.png"):
        assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and file.stat().st_size > 5000


def test_a_report_of_one_episode(tmp_path):
    write_results([some_evaluation(episodes=1).result("mine")], {}, tmp_path, "a title")
    json.loads((tmp_path / "results.json").read_text(), parse_constant=no_constants)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_every_measure(width):
    evaluations = [some_evaluation(1), some_evaluation(20)]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(matrix_table([evaluation.result("mine") for evaluation in evaluations], "a title"))
    text = " ".join(console.export_text().split())
    assert "a title" in text and "20 x 2" in text and "2.0 KiB" in text and "4 episodes" in text
    assert re.search(r"\(the \d to 9 classes drawn", text) and "interference: lost since just after its task" in text
    for value in evaluations[1].measures.values():
        assert f"{100 * value.mean:.1f}" in text and f"{100 * value.half_width:.1f}" in text


def shown(results: list[Result]) -> str:
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(matrix_table(results, "a title"))
    return " ".join(console.export_text().split())


def test_the_table_of_several_seeds_draws_seeds_and_classes():
    results = [some_evaluation(seed=seed).result("mine", seed=seed) for seed in range(3)]
    text = shown(results)
    for name in results[0].measures:
        sums = [ClassSums.read(result.classes[name]) for result in results]
        mean, width = (
            np.mean([r.measures[name]["mean"] for r in results]),
            half_width_over_seeds(sums, [(None, 0), (None, 1), (None, 2)]),
        )
        assert f"{100 * mean:.1f} ± {100 * width:.1f}" in text
    assert re.search(r"3 seeds, of 4 episodes each ± half of the 95 % interval \(the seeds and the [^(]*classes drawn", text)


def test_seeds_without_classes_have_a_deviation():
    of_seed = {seed: some_evaluation(classification=False).result("mine", seed=seed) for seed in (0, 1)}
    results = [replace(of_seed[seed], measures={"final": final(mean)}) for seed, mean in ((0, 0.5), (1, 0.6))]
    text = shown(results)
    assert "0.5500 ± 0.0707" in text and "2 seeds, of 4 episodes each ± the standard deviation between seeds" in text
    assert "interference" not in text and "± half of the 95 % interval over episodes" in shown(results[:1])


def test_a_caption_says_all_kinds_of_rows():
    """Of streams beside each other that have one seed, and several."""
    one = replace(some_evaluation(classification=False).result("mine"), rows="seeds", number=1)
    text = shown([one, replace(one, learner="other", number=3)])
    assert "mean over 1 seed, or mean over 3 seeds ± the standard deviation between them" in text


def final(mean: float) -> dict:
    return {"mean": mean, "half_width": 0.01}


def test_every_spread_is_that_of_a_sample():
    curve = (np.array([0, 1]), np.array([[1.0, 3.0], [2.0, 4.0]]))
    assert float(deviation([1.0, 3.0])) == pytest.approx(2**0.5) and np.isnan(deviation([1.0]))
    assert ends(curve, 1)["first"] == {"mean": 2.0, "std": pytest.approx(2**0.5)}
    assert smoothed(curve, 1)["std"] == [pytest.approx(2**0.5)] * 2
    one = (np.array([0]), np.array([[1.0]]))
    assert ends(curve, 1)["all"] == {"mean": 2.5, "std": pytest.approx(2**0.5)}
    assert ends(one, 1)["last"] == {"mean": 1.0, "std": None} and smoothed(one, 1)["std"] == [None]


def test_the_slope_of_a_curve_is_that_of_a_line_through_it():
    """Of each row, over 100 tasks; also where not every task was asked. Of few measurements there is none."""
    task_T, rng = np.arange(3, 25, 2), np.random.default_rng(0)
    values_TB = rng.normal(size=(11, 2))
    np.testing.assert_allclose(slope((task_T, values_TB)), 100 * np.polyfit(task_T, values_TB, 1)[0])
    line = (np.arange(10), np.stack([np.arange(10) / 10, np.full(10, 0.2)], 1))
    assert ends(line, 1)["slope"] == {"mean": pytest.approx(5.0), "std": pytest.approx(50**0.5)}
    assert ends((task_T[:9], values_TB[:9]), 1)["slope"] == {"mean": None, "std": None}


def test_curves_are_smoothed_row_by_row():
    values = np.random.default_rng(0).normal(size=(6, 3))
    found = smoothed((np.arange(6), values), 2)
    expected = np.stack([(values[i] + values[i + 1]) / 2 for i in range(5)])
    assert found["tasks"] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(found["mean"], expected.mean(1))
    np.testing.assert_allclose(found["std"], expected.std(1, ddof=1))
