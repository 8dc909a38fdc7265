"""Printing never fails: without UTF-8, with names of files that are no text, and where nobody reads on."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

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
FORKS = """
import os, runpy, sys
import metacl.cli  # once for all of them
for number, words in enumerate({programs}):
    if (child := os.fork()) == 0:
        for kind in (1, 2):
            os.dup2(os.open(f"{{number}}.{{kind}}", os.O_WRONLY | os.O_CREAT), kind)
        sys.argv = [os.fsdecode(word) for word in words]
        runpy.run_path(sys.argv[0], run_name="__main__")
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Programs one after the other, each in a process of its own that ends as a program does."""
FORKING = [sys.executable, "-W", "ignore:This process:DeprecationWarning"]
"""From Python 3.12 on it is said where a process with threads forks."""
STOPS = """
import os, sys
from metacl.report.display import say, with_plain_errors
for print_it in (say, print):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.dup2(writer, 1)
        os.close(reader), os.close(writer)
        with_plain_errors(lambda: [print_it("line") for _ in range(100_000)])
        sys.exit()
    os.close(writer)
    with open(reader, "rb") as lines:
        assert lines.readline() == b"line\\n"
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 1
"""
ODD = "\N{PLUS-MINUS SIGN} $".encode()
SHORT = b"--steps 2 --batch-size 2 --validation.episodes 2 --precision fp32".split()
STREAM = b"slowly-changing-regression bp --tasks 2 --stream.train 20 --stream.held-out 5 --lags 1".split()
COMMANDS = [
    [b"train.py", b"sine", b"transformer", *SHORT, b"--run", ODD + b"/run"],
    [b"evaluate.py", ODD + b"/run", b"--episodes", b"4"],
    [b"evaluate.py", *STREAM, b"--out", ODD + b"/stream"],
    [b"benchmark.py", *b"episodes sine --batch-sizes 1 3 --repeats 1 --out".split(), ODD + b"/benchmark"],
    [b"benchmark.py", b"--help"],
    [b"benchmark.py", b"episodes", b"--help"],
    [b"benchmark.py", b"episode"],
]


class Ended(NamedTuple):
    status: int
    out: bytes
    err: bytes


def place(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO", "PYTHONUTF8"))}
    return kept | more


def ended(folder: Path, programs: list[list[bytes]], **given: str) -> list[Ended]:
    """Each program, with its words, in `folder` and a place of its own; and last the one that says what cannot be shown."""
    (folder / "says.py").write_text(SAYS)
    whole = [[os.fsencode(ROOT / os.fsdecode(script)), *words] for script, *words in programs]
    code = FORKS.format(programs=[*whole, [b"says.py", b"runs/\xff\xc3\xa9"]])
    around = place(**given, PYTHONPATH=str(ROOT))
    got = subprocess.run([*FORKING, "-c", code], cwd=folder, env=around, capture_output=True)
    assert got.returncode == 0, got.stderr
    return [
        Ended(int(status), *((folder / f"{number}.{kind}").read_bytes() for kind in (1, 2)))
        for number, status in enumerate(got.stdout.split())
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, list[Ended]]:
    """Every command in an odd place: from another folder, without UTF-8, with a notebook's back end and a folder whose name
    cannot be shown."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, ended(folder, COMMANDS, **PLAIN, MPLBACKEND="module://matplotlib_inline.backend_inline")


def assert_replaced(got: Ended, sign: bytes) -> None:
    assert got.status == 2 and b"Traceback" not in got.err, got.err
    assert b"97.1" in got.out and b"Written: runs/?" in got.out and b"Error: There is no runs/" in got.err
    assert b"97.1 " + sign in got.out


def test_what_cannot_be_shown_is_replaced(plain):
    assert_replaced(plain[1][-1], b"?")


@pytest.mark.parametrize(
    ("given", "sign"),
    [(PLAIN | {"PYTHONIOENCODING": "latin-1"}, b"\xb1"), ({"PYTHONUTF8": "1"}, b"\xc2\xb1")],
    ids=["latin-1", "utf-8"],
)
def test_what_can_be_shown_is_not(given, sign, tmp_path):
    (got,) = ended(tmp_path, [], **given)
    assert_replaced(got, sign)


def test_a_reader_that_stops_ends_the_program_quietly():
    got = subprocess.run([*FORKING, "-c", STOPS], cwd=ROOT, env=place(), capture_output=True)
    assert (got.returncode, got.stderr) == (0, b"")


@pytest.mark.parametrize(("number", "status"), [(4, 0), (5, 0), (6, 2)])
def test_help_and_errors_of_a_command_line(plain, number, status):
    got = plain[1][number]
    assert got.status == status and b"Traceback" not in got.err
    assert b"episodes" in got.out + got.err


def test_every_command_in_an_odd_place(plain):
    folder, programs = plain
    for got in programs[:4]:
        assert got.status == 0 and b"Traceback" not in got.err, got.err.decode("utf-8", "replace")
    made = [name for _, _, names in os.walk(os.path.join(os.fsencode(folder), ODD)) for name in names]
    assert made.count(b"results.json") == 2 and b"result.csv" in made and sum(name.endswith(b".png") for name in made) > 3
