"""The measuring tools, and each subject of `benchmark.py` at a tiny size."""

import csv
import json
from importlib import metadata

import pytest
import torch
from making import labelled_folder
from tiny import without_learn2learn

from metacl.attention import ATTENTION
from metacl.benchmarking import Case, Result, Row, interleaved, measure, peak_bytes, result_table, slope
from metacl.benchmarking.attention import AttentionOptions, attention
from metacl.benchmarking.measure import FEWEST, ROUNDS, UNTIMED, calls, slopes, varied
from metacl.cli import benchmark_main
from metacl.recipes.presets import LEARNERS

CPU = torch.device("cpu")
MIB = 2**20


def silent(case: Case) -> None:
    pass


def row(**values) -> Row:
    return Row(**{"labels": {}, "seconds": [1.0], "speed": None, "peak_bytes": None, "units": 1, "extra": {}} | values)


def run(capsys, line: str, *more: str) -> str:
    """What `python benchmark.py LINE` prints, on one thread."""
    subject, *words = line.split()
    benchmark_main([subject, *words, *more, "--threads", "1"])
    return capsys.readouterr().out


def test_slope_is_the_power_of_growth():
    assert slope([10, 20, 40], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    assert slope([10, 20, 40], [5.0, 20.0, 80.0]) == pytest.approx(2.0)


def test_slopes_are_taken_within_each_kind_of_row():
    rows = [
        row(labels={"tokens": n, "form": form}, seconds=[n**power], peak_bytes=n)
        for n in (2, 4, 8)
        for form, power in (("a", 1.0), ("b", 2.0))
    ]
    alone = row(labels={"tokens": 2, "form": "c"})
    found = slopes([*rows, alone], "tokens")
    assert found == pytest.approx(
        {"slope of time: a": 1, "slope of peak memory: a": 1, "slope of time: b": 2, "slope of peak memory: b": 1}
    )


def test_repetitions_are_taken_in_turns():
    order: list[str] = []
    cases = [Case({"form": name}, lambda name=name: order.append(name)) for name in "ABC"]
    seconds = interleaved(cases, 2, CPU, silent)
    assert "".join(order) == "ABCABC"
    assert [len(times) for times in seconds] == [2, 2, 2]


def test_measure_compares_with_row_0_but_not_what_stands_beside():
    ticks: list[Case] = []
    cases = [Case({"form": name}, lambda: torch.zeros(8), beside=name == "C") for name in "ABC"]
    rows = measure(cases, 3, CPU, ticks.append, row_0=True)
    assert rows[0].speed == 1.0 and rows[1].speed is not None and rows[2].speed is None
    assert [r.peak_bytes for r in rows] == [32, 32, None]
    assert all(len(r.seconds) == 3 for r in rows)
    assert len(ticks) == 3 * (UNTIMED + 3)


def test_median_and_rate():
    own = row(seconds=[2.0, 8.0, 4.0], units=12)
    assert own.median == 4.0 and own.rate == 3.0


def test_peak_memory_is_what_a_call_holds_at_once():
    held = torch.zeros(MIB, dtype=torch.uint8)

    def call() -> None:
        first = torch.zeros(3 * MIB, dtype=torch.uint8)
        second = torch.zeros(2 * MIB, dtype=torch.uint8)
        del first
        third = torch.zeros(MIB, dtype=torch.uint8)
        del second, third
        torch.zeros(4 * MIB, dtype=torch.uint8)

    assert peak_bytes(call, CPU) == 5 * MIB
    assert peak_bytes(lambda: held.add_(1), CPU) < 1024


def test_peak_memory_sees_the_backward_pass():
    x = torch.ones(MIB, requires_grad=True)  # 4 MiB
    forward = peak_bytes(lambda: x.detach().exp().sum(), CPU)
    both = peak_bytes(lambda: torch.autograd.grad(x.exp().sum(), x), CPU)
    assert forward == pytest.approx(4 * MIB, abs=1024)
    assert both == pytest.approx(8 * MIB, abs=1024)


def test_long_rounds_are_fewer_where_no_number_is_asked_for(monkeypatch):
    ticks: list[Case] = []
    case = Case({"form": "A"}, lambda: None)
    assert len(interleaved([case], None, CPU, ticks.append)[0]) == ROUNDS == len(ticks)
    monkeypatch.setitem(interleaved.__globals__, "LONG", 0.0)  # `measure` is a module and, in its package, a function
    assert len(interleaved([case], None, CPU, ticks.append)[0]) == FEWEST
    assert len(ticks) == 2 * ROUNDS
    assert len(interleaved([case], 4, CPU, silent)[0]) == 4


def test_what_a_case_counts_is_not_what_is_timed():
    said: list[str] = []
    case = Case({"form": "A"}, lambda: said.append("timed"), counted=lambda: said.append("counted"))
    measure([case], 2, CPU, silent)
    assert said == ["counted"] + ["timed"] * (calls(2) - 1)


def test_labels_that_tell_rows_apart():
    labels = [{"tokens": 1, "precision": "fp32", "form": "a"}, {"tokens": 2, "precision": "fp32", "form": "a"}]
    assert varied(labels) == ["tokens", "form"]


def test_the_table_shows_all_rows():
    rows = [row(labels={"form": "a"}, speed=1.0, peak_bytes=MIB), row(labels={"form": "b"}, seconds=[0.5], speed=2.0)]
    table = result_table(Result("learners", "episodes", rows))
    assert [column.header for column in table.columns] == ["form", "time", "spread", "x row 0", "episodes/s", "memory"]
    assert list(table.columns[3].cells) == ["1.00", "2.00"] and list(table.columns[5].cells) == ["1.0 MiB", "-"]


def check_written(folder, subject: str, rows: int, plot: bool) -> dict:
    result = json.loads((folder / "result.json").read_text())
    assert result["subject"] == subject and len(result["rows"]) == rows
    assert result["environment"]["threads"] == 1 and result["environment"]["packages"]["torch"]
    assert result["options"]["repeats"] == 2 and result["date"]
    assert all(len(r["seconds"]) == 2 and r["median_seconds"] > 0 for r in result["rows"])
    assert (folder / "plot.png").exists() == plot
    with (folder / "result.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["median_seconds"]) for line in lines] == [r["median_seconds"] for r in result["rows"]]
    assert all(line["torch"] == metadata.version("torch") and line["threads"] == "1" and line["commit"] for line in lines)
    return result


TINY = "--width 16 --heads 2 --repeats 2"


def test_attention(tmp_path, capsys):
    line = f"attention --mechanisms softmax linear delta --lengths 10 40 80 --textbook-up-to 40 {TINY}"
    shown = run(capsys, line, "--out", str(tmp_path / "out"))
    result = check_written(tmp_path / "out", "attention", rows=(2 * 5 + 3) + (2 * 4 + 3) + (2 * 3 + 3), plot=True)
    rows = {(r["form"], r["tokens"], r["pass"]): r for r in result["rows"]}
    assert rows["softmax, N x N", 40, "forward"]["times_row_0"] == rows["softmax", 80, "forward"]["times_row_0"] == 1.0
    assert rows["softmax", 40, "one token"]["times_row_0"] == 1.0
    assert {N for form, N, _ in rows if form == "softmax, N x N"} == {10, 40}
    assert {N for form, N, _ in rows if form == "linear, N x N"} == {10}
    state = {key: r.get("state_bytes") for key, r in rows.items()}
    for name in ("forward", "fwd + bwd", "one token"):
        assert state["linear", 40, name] == state["linear", 80, name] == 4 * (2 * 8 * 8 + 2 * 8)
        assert state["softmax", 80, name] == 2 * state["softmax", 40, name]
    assert rows["delta", 80, "one token"]["tokens_per_call"] == 1 and rows["delta", 80, "forward"]["tokens_per_call"] == 80
    assert all(r["times_products"] > 0 and r["products_seconds"] > 0 for r in result["rows"])
    assert "slope of peak memory: fwd + bwd, linear" in result["figures"]
    assert "N x N" in shown and "one token, linear: slope of time" in shown and "x products" in shown


def test_attention_of_every_mechanism(capsys):
    shown = run(capsys, "attention --lengths 5 --width 16 --heads 2 --repeats 1 --key-width 4")
    assert all(name in shown for name in ATTENTION)
    assert "left out: ttt-linear, auto, fp32: its keys are as wide as its values." in shown


def measured(**options) -> Result:
    """The subject attention, in this process and without files."""
    return attention(AttentionOptions(width=16, heads=2, repeats=1, device="cpu", **options))


def test_attention_in_two_precisions_with_as_many_tokens_at_each_length():
    rows = measured(mechanisms=("linear",), lengths=(10, 20), tokens=40, precision=("fp32", "bf16")).rows
    assert {r.units for r in rows if r.labels["pass"] != "one token"} == {40}
    assert {r.units for r in rows if r.labels["pass"] == "one token"} == {2, 4}
    assert [r.labels["precision"] for r in rows if r.speed == 1.0] == ["fp32", "fp32", "bf16", "bf16"] * 2


def test_the_core_of_attention():
    result = measured(core=True, mechanisms=("retention", "mesa"), lengths=(30,), head_width=6, key_width=4)
    forms = ["softmax, N x N", "retention, N x N", "retention"]
    assert [r.labels["form"] for r in result.rows] == forms * 2 and not any(r.extra for r in result.rows)
    assert result.left_out["mesa, auto, fp32"].startswith("Mesa is more than one function")


def test_back_ends_that_cannot_are_left_out(capsys):
    shown = run(capsys, f"attention --mechanisms linear log-linear --lengths 20 --backends torch fla {TINY}")
    assert "left out: linear, fla, fp32" in shown
    assert "left out: log-linear, fla, fp32: log-linear has no kernels of fla" in shown


def test_learners_on_sine(tmp_path, capsys):
    line = "learners sine --learner transformer linear-transformer --batch-size 2 --episodes.tasks 2 --repeats 2"
    shown = run(capsys, line, "--precision", "fp32", "--out", str(tmp_path / "out"))
    result = check_written(tmp_path / "out", "learners", rows=10, plot=False)
    forms = [r["form"] for r in result["rows"][:3]]
    assert forms == ["textbook, fp32", "metacl, fp32", "drawing the episodes"]
    assert [r["times_row_0"] is None for r in result["rows"][:3]] == [False, False, True]
    learn, predict = result["rows"][3:5]
    assert (learn["pass"], predict["pass"]) == ("learn", "predict") and learn["state_bytes"] == predict["state_bytes"] > 0
    assert result["configurations"]["transformer"]["episodes"]["tasks"] == 2
    assert result["data_fingerprint"] == "sine-1"
    assert "linear-transformer, metacl, fp32: drawing / training step" in shown


@pytest.mark.parametrize("learner", [name for name, preset in LEARNERS.items() if preset.meta])
def test_every_learner(learner, cache, tmp_path, capsys):
    without_learn2learn(learner)
    data = (
        ["--threads", "1", "sine"]
        if LEARNERS[learner].only == "regression"
        else ["--data.size", "8", labelled_folder(tmp_path / "images")]
    )
    line = "learners --batch-size 2 --episodes.tasks 2 --episodes.shots 2 --episodes.queries 1 --repeats 1"
    shown = run(capsys, line, "--learner", learner, *data)
    assert ("textbook" in shown) == (learner in ("transformer", "linear-transformer", "oml"))
    assert all(words in shown for words in ("metacl", "training step", "learn", "predict"))


def test_learners_with_an_inner_loop(tmp_path, capsys):
    line = "learners sine --learner oml anml --batch-size 2 --episodes.tasks 2 --repeats 2 --precision fp32"
    run(capsys, line, "--out", str(tmp_path / "out"))
    result = check_written(tmp_path / "out", "learners", rows=10, plot=False)
    steps = [r for r in result["rows"] if r["pass"] == "training step"]
    oml, anml = ([r for r in steps if r["learner"] == name] for name in ("oml", "anml"))
    assert [r["form"] for r in oml] == ["textbook, fp32", "metacl, fp32", "drawing the episodes"]
    assert oml[1]["peak_bytes"] < 0.5 * oml[0]["peak_bytes"]
    assert [r["form"] for r in anml] == ["metacl, fp32", "metacl, fp32, rematerialised", "drawing the episodes"]


def test_episodes(tmp_path, capsys):
    shown = run(capsys, "episodes sine --batch-sizes 1 3 --repeats 2 --out", str(tmp_path / "out"))
    result = check_written(tmp_path / "out", "episodes", rows=2, plot=True)
    first, second = result["rows"]
    assert second["episodes_per_second"] == pytest.approx(3 / second["median_seconds"]) and first["batch size"] == 1
    assert "episodes/s" in shown


def test_vision(tmp_path, capsys):
    """Prefixes on a frozen transformer keep less than the training of all its weights; a step of either LoRA is measured."""
    run(capsys, "vision vit-tiny-32 --side 8 --batch-size 4 --repeats 2 --precision fp32 --out", str(tmp_path / "out"))
    result = check_written(tmp_path / "out", "vision", rows=5, plot=False)
    forward, prefixes, whole, *steps = result["rows"]
    assert [row["form"] for row in steps] == ["a step of lora-sequential", "a step of lora-drs"]
    assert forward["peak_bytes"] < prefixes["peak_bytes"] < whole["peak_bytes"]
    assert all(row["images_per_second"] > 0 for row in result["rows"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("attention --mechanisms softmaxx", "Did you mean 'softmax'"),
        ("attention --width 10 --heads 4", "--width 10 must be a multiple of --heads 4"),
        ("attention --lengths 0", "must be at least 1"),
        ("attention --lengths", "at least one value"),
        ("attention --backends tritn", "Unknown back end"),
        ("attention --mechanisms linear --backends fla --lengths 20", "Nothing can be measured. linear, fla, fp32:"),
        ("attention --tokens 64 --batch-size 2", "leave out --batch-size"),
        ("attention --tokens 64 --lengths 100", "--tokens 64 does not hold one stream of 100 tokens"),
        ("learners sine --learner transfomer", "Did you mean 'transformer'"),
        ("learners sine --recipe big", "Unknown recipe"),
        ("learners sine --batch-size 0", "at least 1"),
        ("learners omniglott", "Did you mean 'omniglot'"),
        ("episodes sine --repeats 0", "--repeats must be at least 1"),
        ("episodes sine --episodes.tasks 0", "at least 1"),
        ("episodes sine --out .", "never overwritten"),
        ("episode", "episodes"),
        ("vision vit-huge", "Unknown backbone 'vit-huge'"),
    ],
)
def test_what_cannot_be_measured_is_said_plainly(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark_main(words.split())
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert said in " ".join((output.out + output.err).split())


def test_no_words_show_the_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark_main([])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(subject in shown for subject in ("attention", "learners", "episodes", "vision"))
