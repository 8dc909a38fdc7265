"""`benchmark.py --compare`: two result files side by side."""

import pytest

from episodes import UserError
from metacl.benchmarking.compare import compare, comparison_table
from metacl.benchmarking.measure import Result, Row
from metacl.benchmarking.report import write_result
from metacl.cli import benchmark_main
from metacl.runs.files import read_json, write_json


def result(folder, seconds: dict[str, float], peak: int | None = 100, subject: str = "attention", **options):
    """A result.json with a row for each form."""
    rows = [Row({"tokens": 8, "form": form}, [s, 2 * s, s], 1.5, peak, 8, {}) for form, s in seconds.items()]
    write_result(Result(subject, "tokens", rows, about={"options": {"repeats": 3, **options}}), folder)
    return folder / "result.json"


def test_rows_are_matched_by_their_labels(tmp_path):
    files = (result(tmp_path / "a", {"x": 1.0, "y": 3.0}), result(tmp_path / "b", {"z": 1.0, "x": 0.5}, peak=400))
    found = compare(files)
    ((labels, figures),) = found.rows.items()
    assert labels == (("tokens", 8), ("form", "x"))
    assert (figures["time A / B"], figures["memory A / B"], figures["x row 0 A"]) == (2.0, 0.25, 1.5)
    assert [line for line in found.lines if line.startswith("only")] == ["only in A: 8, y", "only in B: 8, z"]


def test_what_was_not_measured_has_no_ratio(tmp_path):
    files = (result(tmp_path / "a", {"x": 1.0}, peak=None), result(tmp_path / "b", {"x": 1.0}))
    table = comparison_table(compare(files))
    assert table.columns[0].header == "form"
    assert list(table.columns[4].cells) == ["-"] and list(table.columns[3].cells) == ["1.00"]


def test_options_and_machines_that_differ_are_said(tmp_path):
    files = (result(tmp_path / "a", {"x": 1.0}, width=64), result(tmp_path / "b", {"x": 1.0}, width=128))
    other = read_json(files[1])
    other["environment"]["processor"] = "another one"
    other["environment"]["packages"]["torch"] = "1.0"
    write_json(files[1], other)
    lines = compare(files).lines
    assert "width: A 64, B 128" in lines and "packages torch" in " ".join(lines)
    assert any(line.startswith("processor: A ") and line.endswith("B another one") for line in lines)
    assert not any(line.startswith("repeats") for line in lines)


def test_files_that_cannot_be_compared(tmp_path):
    file = result(tmp_path / "a", {"x": 1.0})
    (tmp_path / "not.json").write_text("{}")
    with pytest.raises(UserError, match="There is no file"):
        compare((file, tmp_path / "none.json"))
    with pytest.raises(UserError, match="no result of"):
        compare((file, tmp_path / "not.json"))
    with pytest.raises(UserError, match=r"of the subject attention, .* of learners"):
        compare((file, result(tmp_path / "b", {"x": 1.0}, subject="learners")))


def test_the_command(tmp_path, capsys):
    files = (result(tmp_path / "a", {"x": 1.0}), result(tmp_path / "b", {"x": 0.25}))
    benchmark_main(["--compare", *map(str, files)])
    shown = capsys.readouterr().out
    assert "time A / B" in shown and "4.00" in shown and f"A: {files[0]}" in shown
    with pytest.raises(SystemExit):
        benchmark_main(["--compare", str(files[0])])
