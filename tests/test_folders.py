"""Folders of images and archives of them: what is a class, what is a split, what is left out, and what would work instead."""

import os
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from making import hf_folder, noise, png
from PIL import Image

from episodes import DataConfig, load_benchmark
from episodes.data.folders import holds_images
from episodes.data.reading import Reading
from episodes.data.sources import read, splits_of
from episodes.errors import Notice, UserError


def images(folder: Path, *files: str) -> Path:
    """Grey noise under these names, each another image."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(png(noise(len(file) + sum(map(ord, file)), 10, 1)))
    return folder


def test_a_class_is_a_folder_with_all_that_is_below_it(tmp_path):
    folder = images(tmp_path / "pics", "b/x.PNG", "b/deep/er/y.png", "a/train-1.png", "a/test-1.png")
    with pytest.warns(Notice, match=r"1 images lie in sub-folders of .* belong to its class: b/deep/er/y.png to b\."):
        pool = read(str(folder), "p")
    assert pool.names == ("p/a", "p/b") and pool.counts.tolist() == [2, 2]
    assert splits_of(str(folder)) == ["train"], "names of files are no splits"


def test_class_folders_that_are_named_like_splits_are_classes(tmp_path):
    folder = images(tmp_path / "pics", "train/1.png", "test/1.png", "bus/1.png")
    assert read(str(folder), "p").names == ("p/bus", "p/test", "p/train")
    assert read(str(images(tmp_path / "two", "train/1.png", "test/1.png")), "p").names == ("p/test", "p/train")


def test_folders_of_classes_that_are_named_like_splits_are_splits(tmp_path, cache):
    folder = images(tmp_path / "pics", "train/a/1.png", "train/b/1.png", "train/b/2.png", "test/a/3.png")
    with pytest.warns(UserWarning, match="the folders test, train are taken for splits"):
        pool = read(str(folder), "p")
    assert pool.names == ("p/a", "p/b") and pool.counts.tolist() == [2, 2] and splits_of(str(folder)) == ["test", "train"]
    with pytest.warns(UserWarning, match="taken for splits"):
        assert read(str(folder), "p", ["train"]).counts.tolist() == [1, 2]
    with pytest.raises(UserError, match=r"Unknown split of .* 'tain'. Did you mean 'train'"):
        read(str(folder), "p", ["tain"])


def test_links_are_followed_and_a_circle_is_not(tmp_path):
    images(tmp_path / "far", "bee/1.png", "2.png")
    folder = images(tmp_path / "pics", "ant/1.png")
    (folder / "bee").symlink_to(tmp_path / "far" / "bee")
    (folder / "ant" / "2.png").symlink_to(tmp_path / "far" / "2.png")
    (folder / "ant" / "round").symlink_to(folder)
    pool = read(str(folder), "p")
    assert pool.names == ("p/ant", "p/bee") and pool.counts.tolist() == [2, 1]


def test_what_is_no_image_is_left_out_and_counted(tmp_path):
    folder = images(tmp_path / "pics", "a/1.png", "b/1.png", "b/._1.png", "loose.png")
    for name in ("a/Thumbs.db", "read.me"):
        (folder / name).write_text("no image")
    (folder / "empty").mkdir()
    (folder / "nowhere").symlink_to("nothing")
    with pytest.warns(UserWarning, match="left out") as said:
        assert read(str(folder), "p").counts.tolist() == [1, 1]
    words = " ".join(str(one.message) for one in said)
    assert (
        "5 files that are no images of a class are left out, such as a/Thumbs.db (in all 1 .db, 1 hidden, "
        "1 in no folder of a class, 1 links to nothing, 1 .me)."
        in words
        and "1 folders without an image are left out: empty" in words
    )


LAYOUTS = {
    "splits beside a class": (
        ["a/train/1.png", "a/test/1.png", "b/1.png"],
        "some folders hold .*as a split does, but not all .* a/test and a/train would be two classes",
    ),
    "a split beside a class": (["train/a/1.png", "train/b/1.png", "c/1.png"], "train holds folders of images, as a split does"),
    "a test without classes": (["train/a/1.png", "train/b/1.png", "test/1.png"], "one of them alone, as .*data/train"),
    "an image in a split": (
        ["train/a/1.png", "train/2.png", "test/a/1.png"],
        "t[a-z]+ holds folders of images, as a split does",
    ),
    "no folders": (["1.png", "2.png"], r"2 images but no folders: each class needs a sub-folder.*metadata.csv"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_that_do_not_do_say_what_would(case, tmp_path):
    files, words = LAYOUTS[case]
    with pytest.raises(UserError, match=words):
        read(str(images(tmp_path / "data", *files)), "p")


def test_a_class_is_its_path(tmp_path):
    """Classes of the same last name are not one, at any depth, and in splits too."""
    folder = images(tmp_path / "pics", "Greek/char0/1.png", "Latin/char0/1.png", "Latin/small/char0/1.png", "bus/1.png")
    assert read(str(folder), "p").names == ("p/Greek/char0", "p/Latin/char0", "p/Latin/small/char0", "p/bus")
    parts = images(tmp_path / "splits", "train/Greek/char0/1.png", "train/Latin/char0/1.png", "test/Greek/char0/2.png")
    with pytest.warns(Notice, match="are taken for splits"):
        pool = read(str(parts), "p")
    assert pool.names == ("p/Greek/char0", "p/Latin/char0") and pool.counts.tolist() == [2, 1]


SPLIT = {  # files, and the labels of the classes, each of which has an image in both splits
    "capitals": (["Train/a/1.png", "Test/a/2.png"], {"a"}),
    "below a folder": (["images/train/a/1.png", "images/test/a/2.png"], {"images/a"}),
    "in the classes": (["a/train/1.png", "a/test/2.png", "x/b/Train/1.png", "x/b/Test/2.png"], {"a", "x/b"}),
    "between": (["Greek/train/a/1.png", "Greek/test/a/2.png"], {"Greek/a"}),
}


@pytest.mark.parametrize("case", SPLIT)
def test_a_class_in_two_splits_is_one_class_wherever_the_splits_are(case, tmp_path, cache):
    """Else it would be meta-trained on by one name and tested by the other."""
    files, labels = SPLIT[case]
    folder = images(tmp_path / "pics", *files)
    with pytest.warns(Notice, match=r"the folders [Tt]est, .*[Tt]rain are taken for splits"):
        pool = read(str(folder), "p")
    assert set(pool.names) == {f"p/{label}" for label in labels} and set(pool.counts.tolist()) == {2}
    assert splits_of(str(folder)) == ["test", "train"]


def test_odd_names_and_formats_are_read(tmp_path):
    folder = images(tmp_path / "pics", "__x/1.png", "a::b/1.jfif", "%20 é/1.JPE")
    Image.fromarray(noise(0, 10, 1)).save(folder / "__x" / "2.avif")
    (folder / "__x" / "3.heic").write_bytes(b"of a format that Pillow cannot read")
    with pytest.warns(Notice) as said:
        assert read(str(folder), "p", reading=Reading(channels=1)).counts.tolist() == [1, 2, 1]
    assert [str(one.message) for one in said] == [
        f"{folder}: 1 files that are no images are left out, such as __x/3.heic (in all 1 .heic)."
    ]


def test_a_table_of_labels_is_read_where_its_name_and_columns_are_known(tmp_path):
    folder = images(tmp_path / "pics", "images/1.png", "images/2.png")
    (folder / "labels.csv").write_text("file,kind\n1.png,a\n2.png,b\n")
    with pytest.raises(
        UserError, match=r"one folder of images, images, and the table labels.csv.*metadata.csv.*file_name \(paths from"
    ):
        read(str(folder), "p")
    (folder / "labels.csv").unlink()
    (folder / "images" / "metadata.csv").write_text("file_name,label\n1.png,a\n2.png,b\n")
    assert read(str(folder), "p").names == ("p/a", "p/b")


@pytest.mark.parametrize("kind", ["zip", "gztar", "tar"])
@pytest.mark.parametrize("inside", ["pics", "."])
def test_an_archive_is_read_like_its_folder(kind, inside, tmp_path, cache):
    images(tmp_path / "whole" / "pics", *(f"{name}/{i}.png" for name in "abcde" for i in range(3)))
    root = tmp_path / "whole" if inside == "pics" else tmp_path / "whole" / "pics"
    archive = shutil.make_archive(str(tmp_path / "pics"), kind, root)
    pool, again = read(archive, "p"), read(str(tmp_path / "whole" / "pics"), "p")
    assert pool.names == tuple(f"p/{name}" for name in "abcde")
    assert pool.fingerprint == again.fingerprint and np.array_equal(pool.ids, again.ids)
    benchmark = load_benchmark(DataConfig(archive), 8)
    assert benchmark.fingerprint == load_benchmark(DataConfig(str(tmp_path / "whole" / "pics")), 8).fingerprint
    assert benchmark.name == "pics" and len(benchmark.classes("train")) == 3


def test_what_was_unpacked_is_not_believed_when_it_was_changed(tmp_path, cache):
    images(tmp_path / "pics", "a/1.png", "b/1.png", "b/2.png")
    archive = shutil.make_archive(str(tmp_path / "pics"), "zip", tmp_path / "pics")
    before = read(archive, "p").fingerprint
    (gone,) = (cache / "unpacked").rglob("b/2.png")
    gone.unlink()
    with pytest.warns(Notice, match=r"unpacked from .*pics.zip .*damaged. It is unpacked again"):
        assert read(archive, "p").fingerprint == before


def test_names_in_an_archive_that_are_there_twice_or_written_as_on_windows(tmp_path, cache):
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for seed, name in enumerate(("a/1.png", "b/1.png", "a/1.png")):
            archive.writestr(name, png(noise(seed, 8, 1)))
    with pytest.warns(Notice, match=r"a.zip: 1 names are there more than once, such as a/1.png. The last file of each is read"):
        assert np.array_equal(read(str(tmp_path / "a.zip"), "p").x[0, 0], noise(2, 8, 1))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for seed, name in enumerate(("a+1.png", "b+1.png", "b+2.png")):
            archive.writestr(name, png(noise(seed, 8, 1)))
    packed = (tmp_path / "b.zip").read_bytes().replace(b"a+", b"a\\").replace(b"b+", b"b\\")
    (tmp_path / "b.zip").write_bytes(packed)
    assert read(str(tmp_path / "b.zip"), "p").counts.tolist() == [1, 2]


def test_archives_that_do_not_do(tmp_path, cache):
    (tmp_path / "x.zip").write_bytes(b"PK but no archive")
    (tmp_path / "y.doc").write_text("a,b")
    for name, words in (("x.zip", "is damaged, or no archive"), ("y.doc", "is neither a zip or tar archive nor a .parquet")):
        with pytest.raises(UserError, match=f"{name} {words}"):
            read(str(tmp_path / name), "p")
    with tarfile.open(tmp_path / "out.tar", "w") as archive:
        archive.add(images(tmp_path / "f", "a/1.png") / "a" / "1.png", "../../outside.png")
    wanted = pytest.raises(UserError, match=r"out.tar holds no files. It should hold a folder of images for each class")
    with pytest.warns(Notice, match=r"out.tar: 1 links or files of other places are left out"), wanted:
        read(str(tmp_path / "out.tar"), "p")
    assert not list(tmp_path.glob("**/outside.png"))
    shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path / "f")
    shutil.make_archive(str(tmp_path / "twice"), "zip", tmp_path, "in.zip")
    assert read(str(tmp_path / "twice.zip"), "p").names == ("p/a",), "an archive in an archive"
    (tmp_path / "several").mkdir()
    for name in ("train.zip", "test.zip"):
        shutil.copy(tmp_path / "in.zip", tmp_path / "several" / name)
    with pytest.raises(UserError, match=r"several holds 2 archives and nothing else. Unpack them"):
        read(str(tmp_path / "several"), "p")


def test_a_parquet_file(tmp_path, cache):
    kinds = {"image": datasets.Image(), "label": datasets.Value("string")}
    columns = {"image": [png(noise(i)) for i in range(6)], "label": [*"aabbcc"]}
    file = Path(hf_folder(tmp_path / "set", kinds, train=columns)) / "data" / "train-00000-of-00001.parquet"
    assert read(str(file), "p").names == ("p/a", "p/b", "p/c")
    assert load_benchmark(DataConfig(str(file)), 8).train.spec.x_shape == (3, 10, 10)
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path, "set")
    assert read(archive, "p").fingerprint == read(str(file), "p").fingerprint, "and an archive of a folder of them"


def test_files_with_several_pictures_are_said(tmp_path):
    images(tmp_path / "pics", "a/1.png", "b/1.png")
    frames = [Image.fromarray(noise(i, 10, 1)) for i in range(3)]
    frames[0].save(tmp_path / "pics" / "a" / "2.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(Notice, match="1 of 3 image files that were looked at hold several pictures. The first is read"):
        assert read(str(tmp_path / "pics"), "p").counts.tolist() == [2, 1]


def test_an_arrow_file(tmp_path, cache):
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    columns = {"image": [{"bytes": png(noise(i)), "path": None} for i in range(6)], "label": [*"aabbcc"]}
    datasets.Dataset.from_dict(columns, features=kinds).save_to_disk(str(tmp_path / "set"))
    (file,) = (tmp_path / "set").glob("*.arrow")
    assert load_benchmark(DataConfig(str(file)), 8).train.spec.x_shape == (3, 10, 10)


def test_a_broken_image_is_named_by_its_file(tmp_path):
    folder = images(tmp_path / "pics", "a/1.png", "b/1.png")
    (folder / "a" / "2.png").write_bytes((folder / "a" / "1.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"1 of 3 images of .*pics cannot be read: a/2.png \(.*\)\. Repair or remove them"):
        read(str(folder), "p")


def test_columns_mean_nothing_for_a_folder_of_images(tmp_path):
    folder = images(tmp_path / "pics", "a/1.png", "b/1.png")
    with pytest.raises(UserError, match=r"no columns: leave out --data.image and --data.label \(kind\)"):
        read(str(folder), "p", reading=Reading(label="kind"))


def test_what_may_not_be_read_is_named(tmp_path, cache, monkeypatch):
    folder = images(tmp_path / "pics", "a/1.png", "b/1.png", "c/1.png")

    def denied(place):
        if str(place).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"pics/b cannot be read \(Permission denied\)"):
        load_benchmark(DataConfig(str(folder)), 8)


def test_an_image_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    folder = images(tmp_path / "pics", "a/1.png", "b/1.png")

    def denied(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(UserError, match=r"2 of 2 images of .*pics cannot be read: a/1.png \(Permission denied\), b/1.png"):
        read(str(folder), "p")


def test_parquet_is_left_to_the_library_whatever_lies_beside_it(tmp_path):
    folder = Path(hf_folder(tmp_path / "set", None, train={"image": [png(noise(0))], "label": [0]}))
    assert not holds_images(images(folder, "pictures/of-the-readme.png"))
