"""Tables of images and of numbers, columns of vectors, and arrays from files and from Python."""

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from making import hf_folder, noise, png

from episodes import ClassPool, DataConfig, EpisodeShape, UserError, benchmark_of, load_benchmark, pool_of_dataset
from episodes.data.reading import Reading
from episodes.data.sources import read, splits_of
from episodes.errors import Notice


def images(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(png(noise(sum(map(ord, file)), 8, 1)))
    return folder


def written(file: Path, *lines: str) -> str:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


TABLES = {
    "metadata.csv": ("file_name,label", "x/1.png,cat", "2.png,ant", "3.png,cat"),
    "metadata.jsonl": tuple(
        f'{{"file_name": "{file}", "label": "{label}"}}'
        for file, label in (("x/1.png", "cat"), ("2.png", "ant"), ("3.png", "cat"))
    ),
    "labels.csv": ("\ufeffname;kind", "x/1.png;cat", "2.png;ant", "3.png;cat"),
    "quoted.csv": ('"file", label', '"x/1.png","cat"', '2.png,"ant"', "", '"3.png", cat'),
    "labels.tsv": ("x/1.png\tcat", "2.png\tant", "3.png\tcat"),
    "others.csv": ("id,image,class", "7,x/1.png,cat", "8,./2.png,ant", '9,"3.png",cat'),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_which_image_is_of_which_class(name, tmp_path, cache):
    folder = images(tmp_path / "pics", "x/1.png", "2.png", "3.png")
    table = written(folder / name, *TABLES[name])
    archive = shutil.make_archive(str(tmp_path / "pics"), "zip", tmp_path, "pics")
    for where in (str(folder), table, archive):
        pool = read(where, "p")
        assert pool.names == ("p/ant", "p/cat") and pool.counts.tolist() == [1, 2] and splits_of(where) == ["train"]
        assert np.array_equal(pool.x[0, 0], noise(sum(map(ord, "2.png")), 8, 1))


def test_what_a_table_does_not_name_is_left_out_and_what_is_not_there_is_damaged(tmp_path, cache):
    folder = images(tmp_path / "pics", "1.png", "2.png", "3.png", "4.png")
    table = written(folder / "metadata.csv", "file_name,label", "1.png,a", "2.png,b", "3.png,", "5.png,a")
    with pytest.warns(Notice) as said, pytest.raises(UserError, match=r"1 of 3 images of .* 5.png \(No such file"):
        read(str(folder), "p")
    words = " ".join(str(one.message) for one in said)
    assert "1 rows have no file_name or no label and are left out" in words
    assert "2 images that no table names are left out, such as 3.png" in words
    with pytest.warns(Notice, match="left out"):
        assert read(table, "p", reading=Reading(skip_damaged=True)).counts.tolist() == [1, 1]


def test_tables_in_folders_that_are_splits(tmp_path, cache):
    folder = images(tmp_path / "pics", "train/1.png", "train/2.png", "test/1.png")
    written(folder / "train" / "metadata.csv", "file_name,label", "1.png,a", "2.png,b")
    written(folder / "test" / "metadata.csv", "file_name,label", "1.png,b")
    assert splits_of(str(folder)) == ["test", "train"]
    assert read(str(folder), "p").counts.tolist() == [1, 2] and read(str(folder), "p", ["test"]).names == ("p/b",)


def test_columns_of_a_table_are_chosen(tmp_path):
    folder = images(tmp_path / "pics", "1.png", "2.png")
    table = written(folder / "t.csv", "front,back,fine,coarse", "1.png,2.png,a,x", "2.png,1.png,b,x")
    with pytest.raises(UserError, match=r"t.csv has several columns that may be labels: back, fine, coarse.*--data.label"):
        read(table, "p")
    pool = read(table, "p", reading=Reading(image="back", label="fine"))
    assert np.array_equal(pool.x[0, 0], noise(sum(map(ord, "2.png")), 8, 1)) and pool.names == ("p/a", "p/b")
    with pytest.raises(UserError, match=r"Unknown label column of .*t.csv 'fin'. Did you mean 'fine'"):
        read(table, "p", reading=Reading(label="fin"))


def test_the_images_of_a_table_are_part_of_what_it_is(tmp_path, cache):
    folder = images(tmp_path / "pics", *(f"{i}.png" for i in range(5)))
    table = written(folder / "t.csv", "file,label", *(f"{i}.png,{i}" for i in range(5)))
    first = load_benchmark(DataConfig(table), 8)
    assert first.name == "t" and load_benchmark(DataConfig(table), 8).fingerprint == first.fingerprint
    (folder / "0.png").write_bytes(png(noise(99, 8, 1)))
    assert load_benchmark(DataConfig(table), 8).fingerprint != first.fingerprint


def test_a_table_of_captions_beside_folders_of_classes_says_nothing_of_them(tmp_path, cache):
    folder = images(tmp_path / "pics", "cat/1.png", "dog/1.png")
    written(folder / "metadata.csv", "file_name,text", "cat/1.png,a cat", "dog/1.png,another cat")
    written(folder / "boxes.csv", "file_name,label", "cat/1.png,3", "dog/1.png,3")
    with pytest.warns(Notice, match="2 files that are no images are left out, such as boxes.csv"):
        assert read(str(folder), "p").names == ("p/cat", "p/dog")
    assert read(str(folder), "p", reading=Reading(label="text")).names == ("p/a cat", "p/another cat")


WRONG = {
    "empty": ((), "has no rows"),
    "a header alone": (("file,label",), "has no rows"),
    "a column twice": (("a,a", "1,2"), "names a column twice in line 1: a, a"),
    "a short row": (
        ("a,label", "1,2", "3"),
        "cannot be read as a table .*Expected 2 columns, got 1.*as many values in each line",
    ),
    "neither": (
        ("a,label", "far.png,2"),
        "neither a column of image .* nor one of numbers. Beside label it has a .such as 'far.png'",
    ),
    "no label": (("a,b", "1,2"), "no column with a name like label, in a, b. Choose one with --data.label"),
    "a gap": (("a,b,label", "1,2,x", "1,,x"), "1 of 2 rows of .* lack a finite number, such as row 2"),
    "not finite": (("a,label", "inf,x"), "1 of 1 rows of .* lack a finite number, such as row 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tables_that_do_not_do(case, tmp_path):
    lines, words = WRONG[case]
    with pytest.raises(UserError, match=words):
        read(written(tmp_path / "t.csv", *lines), "p")


@pytest.mark.parametrize(
    "lines",
    [
        ("file,label", r"x\1.png,cat", r"2.png,ant", r"x\3.png,cat"),
        ("sep=;", "file;label", "x/1.png;cat", "2.png;ant", "x/3.png;cat"),
        ("file,label", "FOLDER/x/1.png,cat", "x/../2.png,ant", "FOLDER/x/3.png,cat"),
    ],
    ids=["windows", "excel", "absolute"],
)
def test_paths_and_separators_as_other_programs_write_them(lines, tmp_path, cache):
    folder = images(tmp_path / "pics", "x/1.png", "2.png", "x/3.png")
    table = written(folder / "t.csv", *(line.replace("FOLDER", str(folder)) for line in lines))
    assert read(table, "p").counts.tolist() == [1, 2], "and no image is said not to be named"


def test_a_table_beside_the_images_may_be_called_in_capitals(tmp_path, cache):
    folder = images(tmp_path / "pics", "x/1.png", "x/2.png")
    written(folder / "x" / "Metadata.CSV", "file_name,label", "1.png,cat", "2.png,ant")
    assert read(str(folder), "p").names == ("p/ant", "p/cat")


def test_whole_numbers_with_a_point_are_the_same_class_as_without(tmp_path, cache):
    folder = images(tmp_path / "pics", *(f"{i}.png" for i in range(4)))
    with pytest.warns(Notice, match="'-1' is read as the name of a class"):
        pool = read(written(folder / "t.csv", "file,label", "0.png,1", "1.png,1.0", "2.png,2.", "3.png,-1."), "p")
    assert pool.names == (
        "p/-1",
        "p/1",
        "p/2",
    )
    kept = written(folder / "t.csv", "file,label", "0.png,1.0", "1.png,1.1", "2.png,2.0", "3.png,2.0")
    assert read(kept, "p").names == ("p/1.0", "p/1.1", "p/2.0"), "versions, say"


def test_names_that_are_alike_or_mean_no_label_are_said(tmp_path, cache):
    folder = images(tmp_path / "pics", "Cat/1.png", "cat/1.png", "caf\u00e9/1.png", "cafe\u0301/1.png", "nan/1.png", "7/1.png")
    with pytest.warns(Notice) as said:
        assert len(read(str(folder), "p").names) == 6
    words = [str(one.message) for one in said]
    assert "2 classes have a name that another has too" in words[0] and "'Cat' and 'cat'" in words[0]
    assert "'nan' is read as the name of a class" in words[1] and "--data.without=nan" in words[1] and len(words) == 2


def test_columns_that_count_the_rows_and_images_beside_numbers_are_said(tmp_path, cache):
    folder = images(tmp_path / "pics", "img/1.png", "img/2.png")
    rows = [f"{i},{i * i / 10},{i + 1},{'ab'[i % 2]}" for i in range(4)]
    with pytest.warns(Notice) as said:
        pool = read(written(folder / "t.csv", ",a,id,label", *rows), "p")
    assert pool.x.ravel().tolist() == pytest.approx([0, 0.4, 0.1, 0.9])
    words = " ".join(str(one.message) for one in said)
    assert "columns that only count the rows are left out: one without a name (such as '0'), id (such as '1')" in words
    assert "names none of the 2 images that lie beside it, such as img/1.png" in words
    with pytest.raises(UserError, match=r"neither a column of image files .* id \(such as '1'\).*have their ending"):
        read(written(folder / "t.csv", "id,label", "1,a", "2,b", "3,a"), "p")


def test_lists_are_no_labels(tmp_path, cache):
    folder = images(tmp_path / "pics", "1.png", "2.png")
    rows = ('{"file_name": "1.png", "label": [0]}', '{"file_name": "2.png", "label": [1]}')
    with pytest.raises(UserError, match=r"'label' holds lists or objects. A label is one text or number"):
        read(written(folder / "metadata.jsonl", *rows), "p")


def test_a_table_that_is_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00label")
    with pytest.raises(UserError, match=r"t.csv cannot be read as a table .*UTF-8"):
        read(str(tmp_path / "t.csv"), "p")


def test_a_table_of_numbers_is_vectors(tmp_path, cache):
    rows = ["1,2.5,10,ann", "-1,0,9,bob", "3,1e3,10,ann", "0,0,,ann"]
    table = written(tmp_path / "t.csv", "a,b,label,who", *rows)
    with pytest.warns(Notice) as said:
        pool = read(table, "p")
    assert pool.names == ("p/9", "p/10") and pool.counts.tolist() == [1, 2], "numbers are ordered by their value"
    assert pool.x.dtype == np.float32 and np.array_equal(pool.x, [[-1, 0], [1, 2.5], [3, 1000]])
    words = " ".join(str(one.message) for one in said)
    assert "columns that are no numbers are left out: who" in words and "1 rows have no label and are left out" in words
    with pytest.warns(Notice), pytest.raises(UserError, match=r"--data.size means nothing for .*t.csv, whose rows are vectors"):
        read(table, "p", reading=Reading(size=8))


def test_a_table_may_have_lines_in_its_values_and_many_columns(tmp_path, cache):
    rows = [",".join(["7", *(str((i * j) % 256) for j in range(784)), f'"line {i}\n and ""more"""']) for i in range(50)]
    header = ",".join(["label", *(f"p{j}" for j in range(784)), "text"])
    with pytest.warns(Notice, match="no numbers are left out: text"):
        pool = read(written(tmp_path / "t.csv", header, *rows), "p")
    assert pool.x_shape == (784,) and pool.counts.tolist() == [50] and pool.x[3].tolist() == [3 * j % 256 for j in range(784)]


@pytest.mark.parametrize("name", ["t.csv", "t.npz"])
def test_a_folder_or_archive_of_one_table_or_file_of_arrays_is_read_as_it(name, tmp_path, cache):
    (tmp_path / "set").mkdir()
    if name == "t.csv":
        written(tmp_path / "set" / name, "a,b,label", "1,2,x", "3,4,y")
    else:
        np.savez(tmp_path / "set" / name, x=[[1, 2], [3, 4]], y=[*"xy"])
    for where in (str(tmp_path / "set"), shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path, "set")):
        pool = read(where, "p")
        assert pool.names == ("p/x", "p/y") and pool.x.tolist() == [[1, 2], [3, 4]] and splits_of(where) == ["train"]


def test_vectors_are_a_benchmark(tmp_path, cache):
    rows = np.random.default_rng(0).standard_normal((20, 6)).round(3)
    lines = [",".join(map(str, row)) + f",c{i % 5}" for i, row in enumerate(rows)]
    config = DataConfig(written(tmp_path / "t.tsv", *(line.replace(",", "\t") for line in ["a,b,c,d,e,f,label", *lines])))
    for _ in range(2):  # built, and from the cache
        benchmark = load_benchmark(config, 8)
        assert benchmark.train.spec.x_kind == "vector" and benchmark.train.spec.x_shape == (6,)
        assert len(benchmark.classes("train")) == 3


def test_a_column_of_vectors(tmp_path, cache):
    own = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    columns = {"features": own.tolist(), "label": [*"abcabc"]}
    kinds = {"features": datasets.List(datasets.Value("float32")), "label": datasets.Value("string")}
    pool = read(hf_folder(tmp_path / "set", kinds, train=columns), "p")
    assert pool.x_kind == "vector" and np.array_equal(pool.x, own[[0, 3, 1, 4, 2, 5]])
    columns["features"][3] = [0.5]
    with pytest.raises(UserError, match=r"Row 3 of split 'train' of .* has not as many finite numbers in 'features'"):
        read(hf_folder(tmp_path / "other", kinds, train=columns), "p")


SHAPES = {"grey": (6, 5, 4), "channels last": (6, 5, 4, 3), "channels first": (6, 3, 5, 4), "vectors": (6, 7)}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_arrays_and_tensors_are_a_pool(case, kind):
    x = np.random.default_rng(0).integers(0, 256, SHAPES[case], dtype=np.uint8)
    pool = ClassPool.from_arrays(kind(x), kind(np.array([1, 0] * 3)), ["cat", "dog"], "mine")
    assert pool.names == ("mine/cat", "mine/dog") and pool.counts.tolist() == [3, 3]
    own = x[:, None] if case == "grey" else x.transpose(0, 3, 1, 2) if case == "channels last" else x
    assert np.array_equal(pool.x, own[[1, 3, 5, 0, 2, 4]]) and pool.x.dtype == (np.float32 if case == "vectors" else np.uint8)
    assert ClassPool.from_arrays(x, [*"babbab"]).names == ("arrays/a", "arrays/b")
    named = ClassPool.from_arrays(x, [[0], [1]] * 3, {1: "cat", 0: "dog"})
    assert named.names == ("arrays/dog", "arrays/cat") and named.counts.tolist() == [3, 3]
    assert ClassPool.from_arrays(torch.ones(2, 3).bfloat16(), [0, 1]).x.dtype == np.float32


def test_a_pool_of_ones_own_is_a_benchmark(tmp_path, cache):
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    pool = ClassPool.from_arrays(x, np.arange(40) // 4, source="mine")
    benchmark = benchmark_of(pool, 8)
    assert [len(benchmark.classes(split)) for split in ("train", "validation", "test")] == [6, 2, 2]
    episode = benchmark.generator("train", EpisodeShape(3, 2, 2, 8), 0).batch(range(2))
    assert episode.stream.x.shape == (2, 6, 1, 8, 8) and benchmark.name == "mine"
    np.savez(tmp_path / "mine.npz", x=x, y=np.arange(40) // 4)
    assert load_benchmark(DataConfig(str(tmp_path / "mine.npz")), 8).classes("test") == benchmark.classes("test")
    assert len(benchmark_of(pool, 8, "20/20/60").classes("test")) == 6


@pytest.mark.parametrize(
    ("x", "y", "names", "words"),
    [
        (np.zeros((2, 4, 4)), [0, 1], None, "images must be uint8, 0 to 255, not float64"),
        (np.zeros((2, 4, 4, 2), np.uint8), [0, 1], None, r"x is of shape \(2, 4, 4, 2\). Images are"),
        (np.zeros((2, 4)), [0], None, r"y must have a label for each of the 2 inputs, and is of shape \(1,\)"),
        (np.zeros((2, 4)), [0.5, 1], None, "labels must be integers or texts, not float64"),
        (np.zeros((2, 4)), ["a", "b"], ["a", "b"], "with names, labels are the places of names"),
        (np.zeros((2, 4)), [0, 2], ["a", "b"], r"labels must be in 0..1, the places of names, not 0..2"),
        (np.array([[1, 2], [1, 1e300]]), [0, 1], None, r"1 of 2 vectors have numbers that are not finite .* x\[1\]"),
        (np.zeros((2, 4)), [0, 1], {1: "a", 2: "b"}, "names must have the keys 0 to 1, or be a list"),
    ],
)
def test_arrays_that_do_not_do(x, y, names, words):
    with pytest.raises(UserError, match=f"arrays: .*{words}"):
        ClassPool.from_arrays(x, y, names)


def test_an_npz_file(tmp_path, cache):
    x = np.stack([noise(i, 8, 1) for i in range(12)])
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(12) % 6, names=[*"abcdef"])
    pool = read(str(tmp_path / "a.npz"), "p")
    assert pool.names == tuple(f"p/{name}" for name in "abcdef") and np.array_equal(pool.x[0, 0], x[0])
    assert load_benchmark(DataConfig(str(tmp_path / "a.npz")), 8).train.spec.x_shape == (1, 8, 8)
    np.savez(tmp_path / "b.npz", x=x / 255.0, y=np.arange(12) % 6)
    with pytest.warns(Notice, match=r"x\[0\]|0 is read as black, 1 as white"):
        assert np.abs(read(str(tmp_path / "b.npz"), "p").x.astype(int)[0, 0] - x[0]).max() <= 1
    np.savez(tmp_path / "c.npz", x=x.reshape(12, 64).astype(np.float32), y=np.arange(12) % 6)
    assert read(str(tmp_path / "c.npz"), "p").x_shape == (64,) and splits_of(str(tmp_path / "c.npz")) == ["train"]
    for name, arrays, words in (
        ("d.npz", {"x": x}, r"has no array 'y', only x. Write it with numpy.savez"),
        ("e.npz", {"x": x, "y": np.arange(12) % 6, "names": ["a"]}, r"labels must be in 0..0, the places of names, not 0..5"),
        ("f.npz", {"x": np.array([{}]), "y": np.zeros(1)}, r"\(Object arrays cannot be loaded.* texts as y.astype\(str\)"),
    ):
        np.savez(tmp_path / name, **arrays)
        with pytest.raises(UserError, match=words):
            read(str(tmp_path / name), "p")
    (tmp_path / "g.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:200])
    with pytest.raises(UserError, match=r"g.npz cannot be read .*Write it with numpy.savez"):
        read(str(tmp_path / "g.npz"), "p")


def test_a_dataset_from_python_is_a_pool():
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["b", "a"])})
    rows = {"image": [{"bytes": png(noise(i)), "path": None} for i in range(4)], "label": [0, 1, 0, 1]}
    dataset = datasets.Dataset.from_dict(rows, features=kinds)
    pool = pool_of_dataset(dataset, "mine", size=10)
    assert pool.names == ("mine/b", "mine/a") and np.array_equal(pool.x[1], noise(2).transpose(2, 0, 1))
    both = pool_of_dataset(datasets.DatasetDict(train=dataset, test=dataset.select([0])), "mine", channels=1)
    assert both.counts.tolist() == [3, 2] and both.x_shape == (1, 10, 10)
    with pytest.raises(UserError, match="Unknown label column 'lable'"):
        pool_of_dataset(dataset, "mine", label="lable")
    with pytest.raises(UserError, match=r"mine is a IterableDataset, and must be a datasets\.Dataset"):
        pool_of_dataset(dataset.to_iterable_dataset(), "mine")
