"""The script that compares all learners: it shares its work, goes on where it stopped, and makes a table."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "learners.py"


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("comparison", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(script, tmp_path: Path, **options):
    small = {"benchmarks": ("sine",), "learners": ("pn", "alpaca", "online"), "tasks": (2,), "seeds": (0, 1)}
    few = {"steps": 2, "batch_size": 2, "episodes": 2, "validation_episodes": 2}
    return script.Arguments(**small | few | {"out": tmp_path / "out.jsonl"} | options)


def test_it_shares_its_work_and_goes_on(script, tmp_path, capsys):
    whole = list(script.cases(arguments(script, tmp_path)))
    parts = [list(script.cases(arguments(script, tmp_path, part=part))) for part in ("1/2", "2/2")]
    assert [(c["learner"], c["seed"]) for c in whole] == [("alpaca", 0), ("online", 0), ("alpaca", 1), ("online", 1)]
    assert sorted(map(str, parts[0] + parts[1])) == sorted(map(str, whole))
    script.main(arguments(script, tmp_path, part="1/2"))
    first = (tmp_path / "out.jsonl").read_text()
    with (tmp_path / "out.jsonl").open("a") as file:
        file.write('{"learner": "onl')  # a process was killed
    assert len(script.lines(tmp_path / "out.jsonl")) == 2
    script.main(arguments(script, tmp_path))
    found = script.lines(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text().startswith(first) and len({script.key(line) for line in found}) == len(
        found
    ) == 4
    for line in found:
        assert {
            "meta_train_error",
            "meta_test_error",
            "training_seconds",
            "state_bytes",
            "parameters",
            "environment",
        } <= line.keys()
    assert found[0]["state_bytes"] == (128 * 128 + 128 * 50) * 4
    capsys.readouterr()
    script.main(arguments(script, tmp_path, table=True))
    table = capsys.readouterr().out
    assert "**sine, 2 tasks** (2 steps of 2 episodes)" in table and "| alpaca |" in table and " ± " in table


def test_the_best_stands_first(script):
    def line(learner: str, error: float, seed: int) -> dict[str, Any]:
        case = {"benchmark": "glyphs", "tasks": 5, "learner": learner, "seed": seed, "steps": 3, "batch_size": 4}
        sizes = {"measure": "error in %", "training_seconds": 1.5, "state_bytes": 2048, "parameters": 1234}
        return case | {"meta_test_error": error, "meta_train_error": error / 2} | sizes

    broken = line("broken", 0.0, 0) | {"error": "It diverged."}
    rows = script.table([line("far", 0.5, 0), broken, line("near", 0.1, 0), line("near", 0.3, 1)])[4:]
    assert rows[0] == "| near | 20.0 ± 14.1 | 10.0 ± 7.1 | 2 s | 2.0 KiB | 1,234 | 2 |"
    assert rows[1].startswith("| far | 50.0 | 25.0 |") and rows[2].startswith("| broken | It diverged.")
