"""Measures of modules along a stream: in the records, in the result, through a resume, and as heat maps."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import labelled_folder, small_pool
from tiny import stopped_in_task
from tiny_vit import TINY, tiny  # noqa: F401

from episodes import EpisodeGenerator, EpisodeShape
from episodes.tasks.classification import Classification
from metacl.cli import evaluate_main
from metacl.evaluation.episodes import evaluate
from metacl.evaluation.layers import joined, layers, layers_json
from metacl.evaluation.modules import MEASURES
from metacl.evaluation.questions import Questions
from metacl.evaluation.result import Result
from metacl.learners.vision.tuned import TunedConfig
from metacl.report import heat_maps
from metacl.report.figures import figure
from metacl.report.results import read_results
from metacl.runs.files import read_lines

PAGE = Path(__file__).parents[1] / "docs" / "vision.md"
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def words(tmp_path, cache):
    """The command of the page, on a small data set."""
    line = re.search(r"^    python evaluate.py (.* --diagnose-every .*)$", PAGE.read_text(), re.MULTILINE).group(1)
    pictures = labelled_folder(tmp_path / "pictures", classes=6, each=6)
    return [*shlex.split(line.split("#")[0]), "--stream.data.name", pictures, "--learner.epochs", "1"]


def records(folder: str) -> list[dict]:
    return read_lines(Path(folder) / "metrics.jsonl")


def test_the_command_of_the_page(cli, unrendered, words):
    status, text = cli(evaluate_main, *words, "--seeds", "0", "1", "--out", "mine")
    assert status == 0, text
    assert [list(record["modules"]) for record in records("mine")] == [list(MEASURES)] * 4
    (result,) = read_results(Path("mine"))
    assert all(f"| `{measure}` |" in PAGE.read_text() for measure in MEASURES)
    for measure, modules in result.modules.items():
        assert (Path("mine") / f"modules-{measure}.png").is_file()
        for module, own in modules.items():
            values = np.array([record["modules"][measure][module] for record in records("mine")])
            assert own["tasks"] == [0, 1, 2, 3] and values.shape == (4, 2, 1 if module == "features" else 3)
            assert np.allclose(own["mean"], values.mean(1)) and np.allclose(own["std"], values.std(1, ddof=1))
    change = np.array(result.modules["weight_change"]["v"]["mean"])
    assert (change[0] > 0).all() and (change[1:] != change[:-1]).all()


def test_through_a_resume(cli, unrendered, monkeypatch, words):
    words = [*words, "--diagnose-every", "2", "--save-every", "1"]
    assert cli(evaluate_main, *words, "--out", "whole")[0] == 0

    with stopped_in_task(monkeypatch, 2):
        assert cli(evaluate_main, *words, "--out", "part")[0] == 130
    status, text = cli(evaluate_main, "--resume", "part")
    assert status == 0 and "2 tasks are done" in text, text
    assert [sorted(record.get("modules", {})) for record in records("part")] == [[], sorted(MEASURES)] * 2
    assert [record.get("modules") for record in records("part")] == [record.get("modules") for record in records("whole")]
    ours, theirs = (read_results(Path(name))[0] for name in ("part", "whole"))
    assert ours.modules == theirs.modules and ours.modules["gradient_rank"]["q"]["tasks"] == [1, 3]


def test_along_episodes_batches_are_joined():
    family = Classification(small_pool((4,) * 6, (3, 8, 8)), 3)
    learner = TunedConfig(rate=1e-3, epochs=1, batch_size=4, trunk=TINY).build(family.spec)
    generator = EpisodeGenerator(family, EpisodeShape(2, 1, 1, vocabulary=3), "noise", "test", 0)
    asked = Questions(matrix=True, asked=0, lags=(), among="all", diagnose_every=1)
    found = evaluate(learner, generator, 3, batch_size=2, questions=asked)
    tasks, values = found.layers["feature_rank"]["mlp out"]
    assert tasks.tolist() == [0, 1] and values.shape == (2, 3, 3)
    alone = evaluate(learner, generator, 3, batch_size=3, questions=asked)
    assert np.allclose(values, alone.layers["feature_rank"]["mlp out"][1], rtol=1e-4)
    assert found.result("mine").modules.keys() == MEASURES.keys()


def test_means_and_deviations_by_hand():
    kept = [{"task": t, "modules": {"m": {"q": [[1.0, 2.0 + t], [3.0, None]]}}} for t in (1, 3)]
    found = layers([{"task": 0}, *kept])
    told = layers_json(found)["m"]["q"]
    assert told == {"tasks": [1, 3], "mean": [[2.0, None]] * 2, "std": [[pytest.approx(2**0.5), None]] * 2}
    assert joined([found, found])["m"]["q"][1].shape == (2, 4, 2)
    assert layers([{"task": 0}]) == {} == layers_json({})


def test_heat_maps_have_a_scale_each_and_say_what_they_are(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(heat_maps, "figure", lambda *size: made.append(figure(*size)) or made[-1])

    def module(layers, least):
        mean = [[least + 0.1 * layer + t for layer in range(layers)] for t in range(12)]
        return {"tasks": list(range(4, 60, 5))[:12], "mean": mean, "std": mean}

    modules = {"q": module(3, 0.0), "mlp out": module(3, 5.0), "features": module(1, 7.0)}
    modules["q"]["mean"][2][1] = None
    result = Result("mine", "noise", 60, "seeds", 2, "accuracy", modules={"feature_rank": modules, "strange": modules})
    files = heat_maps.heat_maps(result, tmp_path, "-x", "a title")
    assert [file.name for file in files] == ["modules-feature_rank-x.png", "modules-strange-x.png"]
    assert all(file.stat().st_size > 5_000 for file in files)
    *panels, bar = made[0].axes
    assert [axes.get_title() for axes in panels] == ["q: 0 to 11.2", "mlp out: 5 to 16.2", "features: 7 to 18"]
    assert [axes.images[0].get_clim() for axes in panels] == [(0.0, 11.2), (5.0, 16.2), (7.0, 18.0)]
    assert bar.get_ylabel() == "feature rank, in each panel"
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["least", "most"]
    assert made[0].get_suptitle() == f"a title: {MEASURES['feature_rank']}"
    assert made[0].get_supxlabel().startswith("mean over 2 seeds")
    first, last = panels[0], panels[-1]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["5", "20", "35", "50"]
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["1", "2", "3"]
    assert [tick.get_text() for tick in last.get_yticklabels()] == ["last"]
    drawn = first.images[0].get_array()
    assert drawn.shape == (3, 12) and drawn.mask[1, 2] and drawn.mask.sum() == 1
    assert (first.get_ylabel(), first.get_xlabel()) == ("layer", "after task")
    near = {"tasks": [0, 1], "mean": [[2.8268, 2.8325]] * 2, "std": [[None] * 2] * 2}
    heat_maps.heat_maps(replace(result, modules={"m": {"q": near}}), tmp_path, "", "t")
    assert made[-1].axes[0].get_title() == "q: 2.827 to 2.833"  # not one number above two colours
    for same, scale in ((0.0, (0.0, 1.0)), (1.0, (0.0, 1.0)), (4.0, (0.0, 4.0)), (-2.0, (-2.0, 1.0))):
        one = {"tasks": [0, 1], "mean": [[same] * 2] * 2, "std": [[None] * 2] * 2}
        heat_maps.heat_maps(replace(result, modules={"m": {"q": one, "k": one}}), tmp_path, "", "t")
        assert {axes.images[0].get_clim() for axes in made[-1].axes[:-1]} == {scale}
        assert [axes.get_title() for axes in made[-1].axes[:-1]] == [f"q: {same:g}", f"k: {same:g}"]
    nothing = replace(result, modules={"m": {"q": {"tasks": [0], "mean": [[None]], "std": [[None]]}}})
    assert heat_maps.heat_maps(nothing, tmp_path, "", "t")[0].is_file()
    assert not heat_maps.heat_maps(replace(result, modules={}), tmp_path, "", "t")
