"""Printing never fails: without UTF-8, with names of files that are no text, and where nobody reads on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A place without UTF-8."""
SAYS = r"""
import sys
from pathlib import Path
from rich.box import SIMPLE_HEAD
from rich.table import Table
from episodes import UserError
from metacl.report.display import bar, console, say, with_plain_errors

def work():
    table = Table(title="Omniglot \N{MIDDLE DOT} 5", box=SIMPLE_HEAD)
    table.add_column("accuracy")
    table.add_row("97.1 \N{PLUS-MINUS SIGN} 0.2")
    with bar("\N{GREEK SMALL LETTER ALPHA}") as progress:
        progress.add_task("", total=1, now="")
    console.print(table)
    say("Written: " + str(Path(sys.argv[1])))
    raise UserError(f"There is no {sys.argv[1]}.")

with_plain_errors(work)
"""
MANY = (
    "from metacl.report.display import say, with_plain_errors\nwith_plain_errors(lambda: [{}('line') for _ in range(100_000)])"
)


def place(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO", "PYTHONUTF8"))}
    return kept | more


@pytest.mark.parametrize(
    "given", [PLAIN, PLAIN | {"PYTHONIOENCODING": "latin-1"}, {"PYTHONUTF8": "1"}], ids=["C", "latin-1", "utf-8"]
)
def test_what_cannot_be_shown_is_replaced(given):
    got = subprocess.run([sys.executable, "-c", SAYS, b"runs/\xff\xc3\xa9"], cwd=ROOT, env=place(**given), capture_output=True)
    assert got.returncode == 2 and b"Traceback" not in got.stderr, got.stderr
    assert b"97.1" in got.stdout and b"Written: runs/?" in got.stdout and b"Error: There is no runs/" in got.stderr
    assert ("\N{PLUS-MINUS SIGN}" if "C" not in given.values() else "97.1 ").encode() in got.stdout


@pytest.mark.parametrize("print_it", ["say", "print"])
def test_a_reader_that_stops_ends_the_program_quietly(print_it):
    words = [sys.executable, "-c", MANY.format(print_it)]
    with subprocess.Popen(words, cwd=ROOT, env=place(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout and running.stderr
        assert running.stdout.readline() == b"line\n"
        running.stdout.close()
        assert running.wait(60) == 1 and running.stderr.read() == b""


@pytest.mark.parametrize("words", [["--help"], ["episodes", "--help"], ["episode"]])
def test_help_and_errors_of_a_command_line(words):
    got = subprocess.run([sys.executable, "benchmark.py", *words], cwd=ROOT, env=place(**PLAIN), capture_output=True)
    assert got.returncode == (0 if "--help" in words else 2) and b"Traceback" not in got.stderr
    assert b"episodes" in got.stdout + got.stderr


def test_every_command_in_an_odd_place(tmp_path):
    """From another folder, without UTF-8, with a notebook's back end and a folder whose name cannot be shown."""
    given = place(**PLAIN, MPLBACKEND="module://matplotlib_inline.backend_inline", PYTHONPATH=str(ROOT))
    odd = "\N{PLUS-MINUS SIGN} $".encode()
    short = b"--steps 2 --batch-size 2 --validation.episodes 2 --precision fp32".split()
    stream = b"slowly-changing-regression bp --tasks 2 --stream.train 20 --stream.held-out 5 --lags 1".split()
    commands = {
        "train.py": [b"sine", b"transformer", *short, b"--run", odd + b"/run"],
        "evaluate.py": [odd + b"/run", b"--episodes", b"4"],
        "evaluate.py ": [*stream, b"--out", odd + b"/stream"],
        "benchmark.py": [b"episodes", b"sine", b"--batch-sizes", b"1", b"3", b"--repeats", b"1", b"--out", odd + b"/benchmark"],
    }
    for script, words in commands.items():
        whole = [sys.executable, ROOT / script.strip(), *words]
        got = subprocess.run(whole, cwd=tmp_path, env=given, capture_output=True)
        assert got.returncode == 0 and b"Traceback" not in got.stderr, got.stderr.decode("utf-8", "replace")
    made = [name for _, _, names in os.walk(os.path.join(os.fsencode(tmp_path), odd)) for name in names]
    assert made.count(b"results.json") == 2 and b"result.csv" in made and sum(name.endswith(b".png") for name in made) > 3
