"""Classes are dealt by shares, by a list or by super-classes; what is tested is never trained on."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from making import hf_folder

from episodes import STREAMS, ClassPool, DataConfig, UserError, load_benchmark
from episodes.catalog import SPLITS
from episodes.data.dealing import dealt
from episodes.errors import Notice
from metacl.commands.places import located

LABELS = [f"{top}/{i}" for top in ("Greek", "Latin", "Thai", "Thaana", "Tamil") for i in range(3 if top == "Thai" else 2)]


def pool(labels=LABELS) -> ClassPool:
    x = np.arange(len(labels) * 2, dtype=np.float32).reshape(-1, 1)
    return ClassPool.from_arrays(x, np.arange(len(x)) // 2, labels, "p")


def labels_of(config: DataConfig, labels=LABELS) -> list[list[str]]:
    return [[name.removeprefix("p/") for name in part.names] for part in dealt(pool(labels), config, "p")]


def flat(parts: list[list[str]]) -> list[str]:
    return [label for part in parts for label in part]


def test_shares():
    usual, same, other = (labels_of(DataConfig(split=split)) for split in (None, "60/20/20", "30/30/40"))
    assert usual == same and list(map(len, usual)) == [7, 2, 2] and list(map(len, other)) == [3, 4, 4]
    assert sorted(flat(other)) == sorted(LABELS) and set(other[0]) <= set(usual[0]), "in the same order"
    assert [part.source for part in dealt(pool(), DataConfig(), "p")] == ["p, meta-train", "p, meta-validation", "p, meta-test"]


def test_the_hierarchy_keeps_super_classes_together():
    parts = labels_of(DataConfig(split="hierarchy"))
    tops = [{label.split("/")[0] for label in part} for part in parts]
    assert sorted(flat(parts)) == sorted(LABELS) and list(map(len, tops)) == [3, 1, 1]
    assert not tops[0] & tops[1] and not tops[0] & tops[2] and not tops[1] & tops[2]
    assert labels_of(DataConfig(split="hierarchy"), LABELS[::-1])[2] == parts[2][::-1], "by their names alone"
    with pytest.raises(UserError, match=r"p has 2 super-classes \(a, b\), and --data.split hierarchy needs three or more"):
        labels_of(DataConfig(split="hierarchy"), ["a/1", "a/2", "b/1"])
    with pytest.raises(UserError, match=r"No class of p has a super-class: for --data.split hierarchy a class is a folder in"):
        labels_of(DataConfig(split="hierarchy"), [*"abcde"])


def listed(folder: Path, **parts: list[str]) -> str:
    (folder / "split.json").write_text(json.dumps(parts), encoding="utf-8")
    return str(folder / "split.json")


def test_a_list_in_a_file(tmp_path):
    file = listed(tmp_path, train=["Greek/*", "Latin/0"], validation=["Latin/1"], test=["Thai/?", "Tamil/0"])
    with pytest.warns(
        Notice, match=r"p: 3 of 11 classes are left out, as .*split.json does not list them: Tamil/1, Thaana/0, Thaana/1"
    ):
        parts = labels_of(DataConfig(split=file))
    assert parts == [["Greek/0", "Greek/1", "Latin/0"], ["Latin/1"], ["Thai/0", "Thai/1", "Thai/2", "Tamil/0"]]
    with pytest.warns(Notice, match="left out as asked: Greek/1|does not list"):
        assert labels_of(DataConfig(split=file, without=("Greek/1",)))[0] == ["Greek/0", "Latin/0"]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"train": ["Greek/*"], "validation": ["Latin/0"], "test": ["Greek/1"]}, "lists Greek/1 for train and for test"),
        ({"train": ["Greek/*"], "validation": ["Latin/0"], "test": ["Thia/0"]}, "Unknown class of p in .* 'Thia/0'. Did you"),
        ({"train": ["Greek/*"], "test": ["Thai/0"]}, "is not as it should be. A split file is JSON with the lists 'train', "),
        ({"train": "Greek/*", "validation": [], "test": []}, "is not as it should be"),
    ],
)
def test_lists_that_do_not_do(parts, words, tmp_path):
    with pytest.raises(UserError, match=words):
        labels_of(DataConfig(split=listed(tmp_path, **parts)))


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("60/40", "data.split 60/40 is neither three shares, as 60/20/20, nor hierarchy, nor column:NAME, nor a file that"),
        ("hierachy", "neither three shares"),
        ("80/20/0", "each meta-split needs a share above 0"),
        ("broken.json", r"broken.json is no JSON .*with the lists"),
    ],
)
def test_splits_that_are_none(split, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=words):
        labels_of(DataConfig(split=split))


def test_a_benchmark_of_a_list(tmp_path, cache, monkeypatch):
    np.savez(tmp_path / "p.npz", x=np.arange(22, dtype=np.float32)[:, None], y=np.arange(22) // 2, names=LABELS)
    listed(tmp_path, train=["Greek/*"], validation=["Latin/*"], test=["Th*"])
    monkeypatch.chdir(tmp_path)
    config = located(DataConfig("p.npz", split="split.json"))
    monkeypatch.chdir("/")
    with pytest.warns(Notice, match="2 of 11 classes are left out"):
        benchmark = load_benchmark(config, 8)
    assert [len(benchmark.classes(split)) for split in SPLITS] == [2, 2, 5]
    listed(tmp_path, train=["Greek/*"], validation=["Latin/*"], test=[])
    with pytest.raises(UserError, match="The meta-test part of p has no classes"), pytest.warns(Notice):
        load_benchmark(config, 8)


def test_a_column_says_of_each_class_where_it_belongs(tmp_path, cache):
    parts = {"a": "train", "b": "Train", "c": "val", "d": "test", "e": ""}
    rows = [f"{i},{label},{part}" for i in range(2) for label, part in parts.items()]
    table = tmp_path / "p.csv"
    table.write_text("\n".join(["x,label,fold", *rows]) + "\n")
    kinds = {"x": datasets.List(datasets.Value("float32")), "label": datasets.Value("string"), "fold": datasets.Value("string")}
    columns = {"x": [[i] for i in range(5)] * 2, "label": [*parts] * 2, "fold": [*parts.values()] * 2}
    for where in (str(table), hf_folder(tmp_path / "p", kinds, train=columns)):
        with pytest.warns(Notice, match=r"p: 1 of 5 classes are left out, as column fold .*: e|no numbers are left out"):
            benchmark = load_benchmark(DataConfig(where, split="column:fold"), 8)
        assert [benchmark.classes(split) for split in SPLITS] == [["p/a", "p/b"], ["p/c"], ["p/d"]]
    for row, words in (
        ("9,a,test", "gives the class a to train and to test. What is tested is never trained on: all rows"),
        ("9,a,left", "'fold' of .*p.csv says 'left' of the class a. Its values must be train, validation or test"),
    ):
        table.write_text("\n".join(["x,label,fold", *rows, row]) + "\n")
        with pytest.warns(Notice), pytest.raises(UserError, match=words):
            load_benchmark(DataConfig(str(table), split="column:fold"), 8)
    with pytest.raises(UserError, match=r"Unknown column of .*p.csv 'flod'. Did you mean 'fold'"):
        load_benchmark(DataConfig(str(table), split="column:flod"), 8)
    np.savez(tmp_path / "p.npz", x=np.arange(10)[:, None], y=np.arange(10) // 2)
    with pytest.raises(UserError, match=r"p.npz has no columns. List the classes of the meta-splits in a file"):
        load_benchmark(DataConfig(str(tmp_path / "p.npz"), split="column:fold"), 8)


def test_named_benchmarks_and_streams_have_a_split_of_their_own(tmp_path):
    for name in ("glyphs", "sine"):
        with pytest.raises(UserError, match=f"--data.split means nothing for {name}; leave it out"):
            load_benchmark(DataConfig(name, split="hierarchy"), 8)
    with pytest.raises(UserError, match=r"--data.skip-damaged means nothing for glyphs"):
        load_benchmark(DataConfig("glyphs", skip_damaged=True), 8)
    with pytest.raises(UserError, match=r"--stream.data.split means nothing for a stream"):
        replace(STREAMS["permuted-mnist"].config, data=DataConfig("glyphs", split="60/20/20")).load()


def test_classes_are_left_out_by_pattern():
    with pytest.warns(Notice, match=r"5 of 11 classes are left out as asked: Thai/0 \(2\), Thai/1 \(2\)"):
        parts = labels_of(DataConfig(without=("Thai/*", "Latin/*")))
    assert not [label for label in flat(parts) if label.startswith(("Thai", "Latin"))]
    with pytest.raises(UserError, match=r"Unknown class of p 'Thia/\*'"):
        labels_of(DataConfig(without=("Thia/*",)))
    with pytest.warns(Notice, match=r"a10 \(2\), .* a20 \(2\) \.\.\. \(81 in all\)\.$"):
        labels_of(DataConfig(without=("a?[0-8]",)), [f"a{i}" for i in range(10, 110)])
    with pytest.warns(Notice, match="1 of 4 classes are left out"):
        assert "a[1]" not in flat(labels_of(DataConfig(without=("a[1]",)), ["a[1]", "a1", "b", "c"]))
