"""Measures of class-incremental streams by the names of their papers, worked by hand, and those of `metrics` beside them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from making import labelled_folder

from episodes import STREAMS, DataConfig
from metacl.cli import evaluate_main
from metacl.evaluation.incremental import INCREMENTAL, incremental, incremental_json
from metacl.evaluation.metrics import summary
from metacl.evaluation.result import Result, incremental_fields, whole_matrix
from metacl.report.results import read_results
from metacl.report.tables import incremental_table, tables
from metacl.runs.following import Following

NAN = float("nan")
A_RTT = torch.tensor(
    [
        [[0.8, NAN, NAN], [0.9, 0.6, NAN], [0.5, 0.7, 1.0]],
        [[1.0, NAN, NAN], [0.5, 0.8, NAN], [0.7, 0.5, 0.6]],
    ]
)
"""Two seeds of three tasks."""
TOGETHER_RT = torch.tensor([[0.8, 0.7, 0.9], [1.0, 0.6, 0.6]])
BY_HAND = {
    "FA": [(0.5 + 0.7 + 1.0) / 3, (0.7 + 0.5 + 0.6) / 3],
    "CA": [(0.8 + (0.9 + 0.6) / 2 + 2.2 / 3) / 3, (1.0 + (0.5 + 0.8) / 2 + 1.8 / 3) / 3],
    "FM": [((0.9 - 0.5) + 0) / 2, ((1.0 - 0.7) + (0.8 - 0.5)) / 2],
    "AAT": [(0.8 + 0.6 + 1.0) / 3, (1.0 + 0.8 + 0.6) / 3],
    "BWT": [((0.5 - 0.8) + (0.7 - 0.6)) / 2, ((0.7 - 1.0) + (0.5 - 0.8)) / 2],
    "last": [0.9, 0.6],
    "average": [0.8, 2.2 / 3],
}
"""Of each seed. The second task of the first is best at the end, so that its FM is 0."""


@pytest.mark.parametrize("name", INCREMENTAL)
def test_every_measure_by_hand(name):
    found = incremental(A_RTT, TOGETHER_RT)
    assert list(found) == list(INCREMENTAL) == list(BY_HAND)
    torch.testing.assert_close(found[name], torch.tensor(BY_HAND[name]))
    mean = incremental_json(A_RTT, TOGETHER_RT)[name]
    assert mean["mean"] == pytest.approx(sum(BY_HAND[name]) / 2)
    assert mean["std"] == pytest.approx(abs(BY_HAND[name][0] - BY_HAND[name][1]) / 2**0.5, abs=1e-6)


def test_names_of_papers_and_of_here():
    ours, theirs = summary(A_RTT, higher_is_better=True), incremental_json(A_RTT, TOGETHER_RT)
    assert theirs["FA"]["mean"] == pytest.approx(ours["final"].mean)
    assert theirs["AAT"]["mean"] == pytest.approx(ours["learned"].mean)
    assert theirs["BWT"]["mean"] == pytest.approx(-ours["forgetting"].mean)


def test_what_lies_above_the_diagonal_is_not_looked_at():
    other = A_RTT.masked_fill(torch.ones(3, 3).triu(1).bool(), 99.0)
    assert incremental_json(other, TOGETHER_RT) == incremental_json(A_RTT, TOGETHER_RT)


def test_one_task_cannot_be_forgotten():
    assert list(incremental(A_RTT[:, :1, :1], TOGETHER_RT[:, :1])) == ["FA", "CA", "AAT", "last", "average"]


def test_records_of_an_earlier_version_have_none():
    records = [{"task": t, "matrix": {"accuracy": [[0.5] * (t + 1)]}} for t in range(2)]
    assert incremental_fields(records, whole_matrix(records, "accuracy", 1)) == {}


def along(cli, tmp_path, learner: str, *options: str) -> tuple[str, list[dict]]:
    """What is said, and the records, of six classes, two at a time."""
    pictures = labelled_folder(tmp_path / "pictures", classes=6, each=8)
    words = ["class-incremental", learner, "--stream.data.name", pictures, "--stream.classes", "2", *options, "--out", "mine"]
    status, text = cli(evaluate_main, *words)
    assert status == 0, text
    return text, [json.loads(line) for line in Path("mine/metrics.jsonl").read_text().splitlines()]


def test_a_class_incremental_stream_is_reported_by_all_of_them(cli, tmp_path, cache):
    text, records = along(cli, tmp_path, "knn", "--seeds", "0", "1")
    (result,) = read_results(Path("mine"))
    a_RTT = whole_matrix(records, "accuracy", 2)
    together_RT = torch.tensor([record["together"]["accuracy"] for record in records]).T
    assert result.incremental == incremental_json(a_RTT, together_RT) and list(result.incremental) == list(INCREMENTAL)
    assert result.among == "seen" and result.curves["all so far accuracy"]["tasks"] == [0, 1, 2]
    for name, words in INCREMENTAL.items():
        assert f"{name} {words} " in text, name
    assert "answers among the classes so far" in text and Path("mine/accuracy.png").is_file()
    assert all("prequential" not in record and "forward" not in record for record in records)
    assert [len(record["matrix"]["accuracy"][0]) for record in records] == [1, 2, 3]


def test_other_streams_and_questions_have_them_where_the_matrix_was_asked(cli, tmp_path, cache):
    along(cli, tmp_path, "knn", "--no-matrix", "--forward")
    (result,) = read_results(Path("mine"))
    assert result.incremental == {} and result.measures == {} and len(tables([result], "a title")) == 1


def test_a_table_of_several_learners_and_lengths():
    def result(learner: str, tasks: int, run_seed: int | None = None) -> Result:
        found = incremental_json(A_RTT + (run_seed or 0) / 10, TOGETHER_RT)
        return Result(learner, "s", tasks, "seeds", 2, "accuracy", run_seed=run_seed, incremental=found, among="all")

    table = incremental_table([result("a", 3), result("b", 3), result("b", 4)], "a title")
    assert [column.header for column in table.columns] == ["", "accuracy ...", "a", "b, 3 tasks", "b, 4 tasks"]
    assert list(table.columns[0].cells) == list(INCREMENTAL) and "answers" not in str(table.caption)
    assert next(iter(table.columns[2].cells)) == "66.7 ± 9.4"
    seeds = incremental_table([result("a", 3, 0), result("a", 3, 1)], "a title")
    assert next(iter(seeds.columns[2].cells)) == "71.7 ± 7.1"


def test_some_images_of_each_class_are_learnt_from(cli, tmp_path, cache):
    """The first of those to learn from; those held out stay all."""
    along(cli, tmp_path, "knn", "--stream.images", "2")
    stream = Following.open(Path("mine")).config.stream
    few, all_of_them = (replace(stream, images=images).load() for images in (2, None))
    assert [len(few.task(0, 0).train), len(all_of_them.task(0, 0).train)] == [4, 14]
    assert len(few.task(0, 0).held_out) == len(all_of_them.task(0, 0).held_out)
    assert few.fingerprint != all_of_them.fingerprint


@pytest.mark.parametrize("name", ["online-cifar100", "label-permuted-cifar100"])
def test_streams_of_the_same_classes_again_can_have_fewer_images_too(name, tmp_path, cache):
    """The first of each class; of permuted streams those of the one pool that they cut themselves."""
    data = DataConfig(labelled_folder(tmp_path / "pictures", classes=6, each=8))
    config = replace(STREAMS[name].config, data=data, **({"held_out": 3} if "permuted" in name else {}))
    few, every = (replace(config, images=images).load() for images in (2, None))
    own = few.task(0, 0), every.task(0, 0)
    assert len(own[0].train) < len(own[1].train) and few.fingerprint != every.fingerprint
    assert len(own[0].train) == (6 * 2 - 3 if "permuted" in name else few.classes * 2)
