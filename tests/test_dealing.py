"""Classes are dealt by shares, by a list or by super-classes; what is tested is never trained on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import hf_folder, noise, png

from episodes import STREAMS, ClassPool, DataConfig, UserError, load_benchmark
from episodes.catalog import SPLITS
from episodes.data.dealing import dealt
from episodes.data.reading import Reading
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


WORDS = ("train", "Training", "Train", "dev", "val", "TEST", "testing", "")
ROWS = list(zip("abcdefgh", WORDS, strict=True))


def table(folder: Path, rows=ROWS, images: bool = False, label: str = "label") -> str:
    """A table with a column that says which meta-split a row is for: of numbers, or of images beside it."""
    lines = [f"{'file_name' if images else 'one,two'},{label},fold"]
    folder.mkdir(parents=True, exist_ok=True)
    for i, (own, part) in enumerate(rows * 2):
        if images:
            (folder / f"{i}.png").write_bytes(png(noise(i, 8, 1)))
        lines.append(f"{f'{i}.png' if images else f'{i},{i + 1}'},{own},{part}")
    file = folder / ("metadata.csv" if images else "table.csv")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder) if images else str(file)


def parquet(folder: Path) -> str:
    x = [[float(i), 1.0] for i in range(2 * len(ROWS))]
    return hf_folder(folder, train={"x": x, "label": [own for own, _ in ROWS * 2], "fold": [part for _, part in ROWS * 2]})


@pytest.mark.parametrize("kind", ["numbers", "images", "one label beside the files", "parquet"])
def test_a_column_says_where_a_class_is(kind, tmp_path, cache):
    """Whatever stands beside it; it is neither an input nor a label, and classes of which it says nothing are left out."""
    label = "kind" if kind.startswith("one") else "label"
    place = parquet(tmp_path / "p") if kind == "parquet" else table(tmp_path / "t", images=kind != "numbers", label=label)
    with pytest.warns(Notice, match="1 of 8 classes are left out, as column fold does not list them: h"):
        benchmark = load_benchmark(DataConfig(place, split="column:fold"), 64)
    labels = [[name.split("/")[1] for name in benchmark.classes(split)] for split in SPLITS]
    assert labels == [["a", "b", "c"], ["d", "e"], ["f", "g"]]
    assert benchmark.test.spec.x_shape == ((1, 8, 8) if "file" in kind or kind == "images" else (2,))


@pytest.mark.filterwarnings("ignore::episodes.errors.Notice")
def test_what_a_column_cannot_say(tmp_path, cache):
    for rows, words in (
        ([*ROWS, ("a", "test")], "gives the class a to train and to test. What is tested is never trained on: all rows"),
        ([*ROWS, ("b", "maybe")], "'fold' of .*table.csv says 'maybe' of the class b. Its values must be train, validation or"),
    ):
        with pytest.raises(UserError, match=words):
            load_benchmark(DataConfig(table(tmp_path / rows[-1][1], rows), split="column:fold"), 64)
    for place in (table(tmp_path / "t"), parquet(tmp_path / "p")):
        with pytest.raises(UserError, match=r"Unknown column of .* 'flod'. Did you mean 'fold'"):
            load_benchmark(DataConfig(place, split="column:flod"), 64)
    np.savez(tmp_path / "p.npz", x=np.arange(10)[:, None], y=np.arange(10) // 2)
    for place in (str(tmp_path / "p.npz"), class_folder_of(tmp_path / "folders")):
        with pytest.raises(UserError, match=r"has no columns. List the classes of the meta-splits in a file"):
            load_benchmark(DataConfig(place, split="column:fold"), 64)


def class_folder_of(folder: Path) -> str:
    for i, label in enumerate("abcd"):
        (folder / label).mkdir(parents=True)
        (folder / label / "1.png").write_bytes(png(noise(i, 8, 1)))
    return str(folder)


def test_a_pool_of_before_is_found_again():
    """A reading that asks for nothing new has the key that it had before there was anything new."""
    assert set(Reading().key()) == {
        *("image", "label", "size", "channels", "configuration", "skip_damaged", "levels", "ground", "seen")
    }
    assert Reading(split="fold").key()["split"] == "fold"
