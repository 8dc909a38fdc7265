"""The fault harness: that it sees what it is for, and a short round of every kind of attack."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.faults.__main__ import KINDS, table
from tests.faults.child import Command, Counts, Outcome
from tests.faults.compare import differences
from tests.faults.verdict import COLUMNS, Verdict, column_of
from tests.faults.words import BASES, commands

ROOT = Path(__file__).parents[1]


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.faults", *words], cwd=ROOT, capture_output=True, text=True)


def test_a_short_round_of_every_kind():
    got = harness("--tries", "2", "--seconds", "60")
    assert got.returncode == 0, got.stdout + got.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_round_of_one_kind(kind):
    got = harness("--seconds", "120", kind)
    assert got.returncode == 0, got.stdout + got.stderr


@pytest.mark.parametrize(
    ("status", "said", "column"),
    [
        (0, "Done.", "right"),
        (2, "Error: there is no such thing.", "said"),
        (143, "Stopped and saved at step 3.", "said"),
        (2, "", "traceback"),
        (1, "Error", "traceback"),
        (-11, "", "traceback"),
        (0, "Traceback (most recent call last):\n ...", "traceback"),
        (2, "Exception ignored in: <function ...", "traceback"),
    ],
)
def test_columns(status, said, column):
    assert column_of(Outcome(Command("train", ()), status, said, 0.1, Counts())) == column


def test_what_is_still_at_work_when_time_is_up():
    late = Outcome(Command("train", ()), 130, "Stopped.", 9.0, Counts(), late=True)
    hung = Outcome(Command("train", ()), -9, "", 19.0, Counts(), late=True, hung=True)
    assert (column_of(late), column_of(hung)) == ("said", "hung")


def test_the_table_counts_columns():
    verdicts = [Verdict(column, "") for column in (*COLUMNS, "lost", "lost")]
    head, line = table({"kills": verdicts}).splitlines()
    counts = dict(zip((cell.strip() for cell in head.split("|")), (cell.strip() for cell in line.split("|")), strict=True))
    assert counts["tries"] == "8" and counts["lost"] == "3" and counts["hung"] == "1"


def run_folder(folder: Path, weight: float = 1.0, losses=(0.3, 0.2), steps=(10, 20), rate: float = 7.0) -> Path:
    """What a run has: records with times, and a checkpoint."""
    checkpoint = folder / "checkpoints" / "step-00000020"
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.full((3,), weight)}, checkpoint / "learner.safetensors")
    records = [{"step": step, "loss": loss, "episodes_per_second": rate} for step, loss in zip(steps, losses, strict=True)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_runs_that_differ(tmp_path):
    whole = run_folder(tmp_path / "whole")
    assert differences(run_folder(tmp_path / "same", rate=99.0), whole) == []
    assert "tensors" in differences(run_folder(tmp_path / "weights", weight=1.0000001), whole)[0]
    assert "record 2" in differences(run_folder(tmp_path / "records", losses=(0.3, 0.21)), whole)[0]
    (run_folder(tmp_path / "none") / "metrics.jsonl").unlink()
    assert differences(tmp_path / "none", whole) == ["metrics.jsonl is only in one of them"]


def scored(folder: Path, **scores: float) -> Path:
    """A run with checkpoints of some steps, each with its score."""
    for name, score in scores.items():
        checkpoint = folder / "checkpoints" / f"step-{int(name[1:]):08}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "checkpoint.json").write_text(json.dumps({"score": score, "digest": str(folder)}))
    return folder


def test_the_last_and_the_best_checkpoint_count(tmp_path):
    whole = scored(tmp_path / "whole", s10=0.9, s20=0.1, s30=0.5)
    assert differences(scored(tmp_path / "fewer", s10=0.9, s30=0.5), whole) == []
    assert differences(scored(tmp_path / "best", s20=0.1, s30=0.5), whole)
    assert differences(scored(tmp_path / "score", s10=0.8, s30=0.5), whole)
    assert differences(scored(tmp_path / "last", s10=0.9, s20=0.1), whole)


WRITES = """
import errno, os, sys
from pathlib import Path
import safetensors.torch  # before the children
from tests.faults.child import Counts
from tests.faults.operations import fail_from, kill_at, watch

folder = Path(sys.argv[1])
for number in range(1, 6):
    for act in (kill_at(number), fail_from(number, errno.ENOSPC, "write")):
        place = folder / f"{number}"
        place.mkdir()
        if (child := os.fork()) == 0:
            watch(place, act)(Counts())
            try:
                with (place / "part").open("w") as file:
                    file.write("abcd")
                    file.write("efgh")
                os.replace(place / "part", place / "file")
                os._exit(0)
            except OSError as error:
                os._exit(error.errno)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(number, status, *(f"{path.name}={path.read_text()}" for path in place.iterdir()), sep=" ")
        for path in (*place.iterdir(), place):
            path.unlink() if path.is_file() else path.rmdir()
"""


def test_each_writing_operation_is_met(tmp_path):
    got = subprocess.run([sys.executable, "-c", WRITES, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    killed, full = got.stdout.splitlines()[::2], got.stdout.splitlines()[1::2]
    assert killed == ["1 -9", "2 -9 part=ab", "3 -9 part=abcdef", "4 -9 part=abcdefgh", "5 0 file=abcdefgh"], got.stderr
    assert full[:3] == ["1 28 part=ab", "2 28 part=ab", "3 28 part=abcdef"] and full[3:] == [
        "4 0 file=abcdefgh",
        "5 0 file=abcdefgh",
    ]


def test_the_same_number_draws_the_same_commands(monkeypatch):
    known = [{"--steps": "INT", "--learner.norm": "", "--optimiser.rate": "FLOAT"}] * len(BASES)
    monkeypatch.setattr("tests.faults.words._options", lambda scene: known)
    monkeypatch.setattr("tests.faults.words._placed", lambda scene, names: names.split())
    one, again, other = ([str(command) for command in commands(None, number)] for number in (3, 3, 4))
    assert one == again != other and len(set(one)) > 20 and os.sep not in one[0].split()[0]
