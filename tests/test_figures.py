"""Pictures are drawn whatever the place: without a window, with the back end of a notebook named, under any title."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from metacl.evaluation.result import Result
from metacl.report import plots
from metacl.report.figures import figure, lines_of, plain

ROOT = Path(__file__).parents[1]
LONG = "a learner on " + "/".join(["a-folder-of-a-long-name"] * 12) + ", meta-test"


DRAWS = """
import os, sys
from pathlib import Path
import episodes, metacl
for number, backend in enumerate(sys.argv[2:]):
    if os.fork() == 0:  # matplotlib looks for its back end once
        os.environ["MPLBACKEND"] = backend
        from episodes.data.glyphs import draw_glyphs
        from episodes.drawing import import_matplotlib
        from metacl.report.figures import figure
        drawn = figure(2, 1)
        drawn.subplots().plot([1, 2])
        drawn.savefig(Path(sys.argv[1]) / f"{number}.png")
        known = import_matplotlib().rcParams["backend"]
        print(len(draw_glyphs(8, ["A", "B"]).names), os.environ["MPLBACKEND"], known, flush=True)
        break
    assert os.wait()[1] == 0
"""


def test_back_ends_that_are_not_installed_and_one_that_is(tmp_path):
    """Where a back end is not known, something else draws; one that is known stays the default."""
    named = ["module://matplotlib_inline.backend_inline", "no-such-back-end", "svg"]
    forking = "ignore:This process:DeprecationWarning"  # which Python says from 3.12 on where there are threads
    words = [sys.executable, "-W", "error", "-W", forking, "-c", DRAWS, str(tmp_path), *named]
    got = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    told = [line.split() for line in got.stdout.splitlines()]
    assert [line[:2] for line in told] == [["2", backend] for backend in named] and told[2][2] == "svg"
    assert all((tmp_path / f"{number}.png").stat().st_size > 0 for number in range(3))


@pytest.mark.parametrize("words", ["$100", "$x$ and $y", r"$\frac$", "a\udcffb", "±"])
def test_titles_are_words(words, tmp_path):
    drawn = figure(3, 1)
    axes = drawn.subplots()
    axes.set_title(plain(words))
    drawn.savefig(tmp_path / "drawn.png")


@pytest.fixture
def kept(monkeypatch):
    """The pictures that are made, as matplotlib has them."""
    made = []
    monkeypatch.setattr(plots, "figure", lambda *size: made.append(figure(*size)) or made[-1])
    return made


def result(tasks: int = 3, **about) -> Result:
    """A learner that is always right."""
    place: dict[str, float | None] = {"mean": 1.0, "half_width": 0.0, "std": 0.0}
    curve = {"tasks": list(range(tasks)), "mean": [1.0] * tasks, "std": [0.0] * tasks}
    about = {"chance": [1 / (t + 1) for t in range(tasks)], "curves": {"forward accuracy": curve}} | about
    positions = {when: [place] * tasks for when in ("just after", "at the end")}
    matrix = [[1.0 if i <= t else None for i in range(tasks)] for t in range(tasks)]
    return Result("mine", "noise", tasks, "episodes", 4, "accuracy", positions=positions, matrix=matrix, **about)


def lines(axes) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_chance_falls_with_the_classes_that_are_asked_among(kept, tmp_path):
    plots.draw([result()], tmp_path, "a title")
    positions, _, curves = kept
    found = lines(positions.axes[0])
    assert found["chance among the classes so far, just after the task"] == pytest.approx([1, 1 / 2, 1 / 3])
    assert found["chance among the classes so far, after the whole stream"] == pytest.approx([1 / 3] * 2)
    assert pytest.approx([1, 1 / 2, 1 / 3]) in lines(curves.axes[0]).values()
    assert plots.AMONG in [text.get_text() for text in curves.legends[0].get_texts()]


def test_chance_that_does_not_change_is_one_line(kept, tmp_path):
    plots.draw([result(chance=[0.5] * 3)], tmp_path, "a title")
    assert set(lines(kept[0].axes[0])[plots.AMONG]) == {0.5}


def test_no_chance_where_it_is_not_known(kept, tmp_path):
    plots.draw([result(chance=None)], tmp_path, "a title")
    assert not any("chance" in name for picture in kept for name in lines(picture.axes[0]))


def test_a_curve_of_one_point_can_be_seen(kept, tmp_path):
    plots.draw([result(1)], tmp_path, "a title")
    assert all(line.get_marker() not in ("", "None") for line in kept[-1].axes[0].get_lines())


def test_a_long_title_is_whole_or_says_that_it_is_not(kept, tmp_path):
    plots.draw([result()], tmp_path, LONG)
    for picture in kept:
        picture.canvas.draw()
        assert picture.get_suptitle().startswith("a learner on ") and "meta-test" in picture.get_suptitle().replace("\n", "")
        box = picture._suptitle.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= picture.bbox.x1 and box.y1 <= picture.bbox.y1
    assert lines_of("two words", 5) == ["two", "words"] and "…" in "".join(lines_of(LONG, 30))


def test_bands_are_explained(kept, tmp_path):
    one = {"final": {"sums": "1 0 3", "tasks": "1 0 3"}}
    plots.draw([result(classes=one)], tmp_path, "a title")
    assert kept[0].get_supxlabel() == "mean over 4 episodes; band: 95 % interval, the 2 classes drawn again and again"
    assert kept[2].legends[0].get_title().get_text().endswith("band: ± one standard deviation between single episodes")


def test_the_band_of_a_few_streams_is_their_deviation(kept, tmp_path):
    """Three seeds are too few for a normal interval: it would be half as wide as it must be."""
    streams = result(classes=None, curves={})
    streams.positions["at the end"] = [{"mean": 0.5, "half_width": 0.1, "std": 0.3}] * 3
    plots.draw([replace(streams, rows="seeds", number=3)], tmp_path, "a title")
    edges = kept[0].axes[0].collections[1].get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((0.2, 0.8))
    assert kept[0].get_supxlabel() == "mean over 3 seeds; band: ± one standard deviation between single seeds"


def test_an_estimate_from_probes_says_how_far_they_are_apart(kept, tmp_path):
    curve = {"tasks": [0, 1], "mean": [5.0, 6.0], "std": [None, None]}
    between = curve | {"mean": [0.2, 0.4]}
    curves = {"diagnostics hessian_rank": curve, "diagnostics hessian_rank_between_probes": between}
    plots.draw([result(curves=curves)], tmp_path, "a title")
    (axes,) = kept[-1].axes
    assert axes.get_ylabel().replace("\n", " ") == "hessian_rank (± 0.3 between probes)"
