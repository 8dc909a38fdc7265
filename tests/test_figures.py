"""Pictures are drawn whatever the place: without a window, with the back end of a notebook named, under any title."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metacl.report.figures import figure, plain

ROOT = Path(__file__).parents[1]


def in_a_new_python(code: str, backend: str) -> str:
    place = os.environ | {"MPLBACKEND": backend}
    got = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=place, capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    return got.stdout.strip()


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no-such-back-end"])
def test_back_ends_that_are_not_installed(backend, tmp_path):
    code = f"""
import os
from episodes.data.glyphs import draw_glyphs
from metacl.report.figures import figure
drawn = figure(2, 1)
drawn.subplots().plot([1, 2])
drawn.savefig({str(tmp_path / "drawn.png")!r})
print(len(draw_glyphs(8, ["A", "B"]).names), os.environ["MPLBACKEND"])
"""
    assert in_a_new_python(code, backend) == f"2 {backend}"
    assert (tmp_path / "drawn.png").stat().st_size > 0


def test_a_back_end_that_is_known_stays_the_default():
    code = "from episodes.drawing import import_matplotlib; print(import_matplotlib().rcParams['backend'])"
    assert in_a_new_python(code, "svg") == "svg"


@pytest.mark.parametrize("module", ["metacl.cli", "metacl.benchmarking", "episodes"])
def test_nothing_imports_matplotlib_before_something_is_drawn(module):
    assert in_a_new_python(f"import sys, {module}; print('matplotlib' in sys.modules)", "svg") == "False"


@pytest.mark.parametrize("words", ["$100", "$x$ and $y", r"$\frac$", "a\udcffb", "±"])
def test_titles_are_words(words, tmp_path):
    drawn = figure(3, 1)
    axes = drawn.subplots()
    axes.set_title(plain(words))
    drawn.savefig(tmp_path / "drawn.png")
