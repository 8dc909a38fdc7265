"""What an image is: known again whatever it is called, wherever it lies, at any size; and what two parts have in common."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from making import hf_folder, noise, omniglot_zips, png, small_pool

from episodes import Benchmark, ClassPool, DataConfig, UserError, completed, grouped, load_benchmark, shared_images
from episodes.benchmarks.benchmark import SPLITS
from episodes.data.dealing import shuffled_by_name
from episodes.data.identity import identity, ids_of, images_in_both
from episodes.tasks.classification import Classification
from episodes.tasks.permuted import Permuted
from episodes.tasks.splits import Splits


def pictures(folder: Path, classes: int = 10, each: int = 3) -> str:
    """A folder of images; each is another one."""
    for label in range(classes):
        (folder / f"c{label:02}").mkdir(parents=True)
        for i in range(each):
            (folder / f"c{label:02}" / f"{i}.png").write_bytes(png(noise(100 * label + i, 12, 1)))
    return str(folder)


def dealt(config: DataConfig) -> list[set[str]]:
    """The labels of the classes of each meta-split."""
    benchmark = load_benchmark(config, 8)
    return [{name.rsplit("/", 1)[1] for name in benchmark.classes(split)} for split in SPLITS]


def test_classes_are_dealt_by_their_labels_alone(tmp_path, cache, monkeypatch):
    """Not by how the path is written, by the folder's name, by the size, or by what the images are."""
    where = pictures(tmp_path / "a" / "pics")
    expected = dealt(DataConfig(where))
    assert list(map(len, expected)) == [6, 2, 2]
    shutil.copytree(where, tmp_path / "renamed")
    pictures(tmp_path / "others", each=4)
    monkeypatch.chdir(tmp_path)
    for config in (
        DataConfig("a/pics"),
        DataConfig("./a/../a/pics/"),
        DataConfig("a/pics", path=where),
        DataConfig("x/y", path=where),
        DataConfig("renamed", size=5),
        DataConfig("others", channels=3),
    ):
        assert dealt(config) == expected, config


def test_a_name_of_a_folder_that_is_no_text_is_a_label(tmp_path, cache):
    where = pictures(tmp_path / "pics")
    (tmp_path / "pics" / "c00").rename(tmp_path / "pics" / os.fsdecode(b"c\xff"))
    assert "c\udcff" in set().union(*dealt(DataConfig(where)))


def test_a_relative_path_and_a_path_of_the_same_folder_are_the_same_benchmark(tmp_path, cache, monkeypatch):
    where = pictures(tmp_path / "a" / "pics")
    monkeypatch.chdir(tmp_path)
    first = load_benchmark(DataConfig("a/pics"), 8)
    monkeypatch.chdir("/")
    again = load_benchmark(DataConfig("a/pics", path=where), 8)
    assert again.fingerprint == first.fingerprint and again.name == first.name == "pics"


def test_an_image_is_known_again_at_another_size_and_in_another_place(tmp_path, cache):
    first = load_benchmark(DataConfig(pictures(tmp_path / "pics")), 8)
    shutil.move(tmp_path / "pics", tmp_path / "moved")
    again = load_benchmark(DataConfig(str(tmp_path / "moved"), size=5, channels=3), 8)
    for split in SPLITS:
        assert np.array_equal(first.ids(split), again.ids(split)) and first.ids(split).dtype == np.uint64
        assert again.classes_among(split, first.ids(split)) == again.classes(split)
    assert not again.classes_among("test", first.ids("train")) and len(first.ids("train")) == 18
    stored = (tmp_path / "moved" / first.classes("test")[0].rsplit("/", 1)[1] / "1.png").read_bytes()
    assert identity(stored) in first.ids("test")


def test_the_same_file_has_one_id_in_parquet_and_in_a_folder(tmp_path, cache):
    folder = load_benchmark(DataConfig(pictures(tmp_path / "pics")), 8)
    columns = {"image": [png(noise(100 * i + j, 12, 1)) for i in range(10) for j in range(3)]}
    columns |= {"label": [f"c{i:02}" for i in range(10) for _ in range(3)]}
    import datasets

    kinds = {"image": datasets.Image(), "label": datasets.Value("string")}
    parquet = load_benchmark(DataConfig(hf_folder(tmp_path / "set", kinds, train=columns)), 8)
    assert all(np.array_equal(folder.ids(split), parquet.ids(split)) for split in SPLITS)


def test_a_class_was_trained_on_when_most_of_its_images_were(tmp_path, cache):
    benchmark = load_benchmark(DataConfig(pictures(tmp_path / "pics")), 8)
    pool = benchmark.test.pool
    first = pool.ids[pool.starts[0] : pool.starts[0] + 3]
    assert benchmark.classes_among("test", first[:2]) == [pool.names[0]] and not benchmark.classes_among("test", first[:1])


def test_archives_and_glyphs_have_ids_too(tmp_path, cache):
    benchmark = load_benchmark(DataConfig("omniglot", path=str(omniglot_zips(tmp_path / "zips", characters=3))), 8)
    assert sum(len(benchmark.ids(split)) for split in SPLITS) == 2 * 2 * 3 * 2
    assert not load_benchmark(DataConfig("sine"), 8).ids("train").size
    pool = small_pool()
    assert pool.ids[0] == identity(pool.x[0].tobytes()) and len(set(pool.ids.tolist())) == 8


def parts(images: np.ndarray) -> list[ClassPool]:
    """Three pools of two classes of two images each."""
    return [
        grouped(np.array([0, 0, 1, 1]), [f"{part}/a", f"{part}/b"], images[4 * i : 4 * i + 4], part)
        for i, part in enumerate(SPLITS)
    ]


def test_identical_images_in_two_meta_splits_are_found():
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 4, 4), dtype=np.uint8)
    train, validation, test = (Classification(pool, 8) for pool in parts(images))
    assert Benchmark("x", train, validation, test, "print").shared_images() == []
    images[[9, 10]] = images[[2, 3]]  # of train/b, in test/a and test/b
    train, validation, test = (Classification(pool, 8) for pool in parts(images))
    (words,) = Benchmark("x", train, validation, test, "print").shared_images()
    assert "train and test have 2 images in common" in words and "train/b" in words and "test/" in words
    images[[9, 10, 11]] = images[8]  # all that test has
    train, validation, test = (Classification(pool, 8) for pool in parts(images))
    (words,) = Benchmark("x", train, validation, test, "print").shared_images()
    assert words == "test has 1 image more than once, byte for byte; one is of test/a."
    assert Benchmark("sine", *[load_benchmark(DataConfig("sine"), 8).test] * 3, "print").shared_images() == []


def test_identical_images_in_both_halves_of_a_stream_are_found():
    train, held_out = small_pool((4, 4)), small_pool((3, 3), seed=1)
    assert shared_images(Splits("x", train, held_out)) == [] == shared_images(Permuted("x", train))
    (words,) = shared_images(Splits("x", train, small_pool((4, 4))))
    assert "have 8 images in common" in words
    images = np.array(train.x)
    images[7] = images[0]
    twice = grouped(np.arange(8) // 4, ["a", "b"], images, "pictures")
    (words,) = shared_images(Permuted("x", twice))
    assert "pictures has 1 image more than once" in words and "one is of a" in words


def test_what_was_found_is_written_down(tmp_path, cache):
    config = DataConfig(pictures(tmp_path / "pics"))
    benchmark = load_benchmark(config, 8)
    whole = completed(config, benchmark.train.spec.x_shape)
    assert (whole.size, whole.channels) == (12, 1)
    assert load_benchmark(whole, 8).fingerprint == benchmark.fingerprint
    assert len(list((cache / "pools").iterdir())) == 1, "it is the same entry"
    (tmp_path / "pics" / "c00" / "0.png").write_bytes(png(noise(0, 30, 3)))
    with pytest.warns(UserWarning, match="12 x 12 to 30 x 30 pixels|1 of 30 images .* have colour"):
        assert load_benchmark(config, 8).train.spec.x_shape == (3, 12, 12)
    assert load_benchmark(whole, 8).train.spec.x_shape == (1, 12, 12)
    assert completed(config, (6,)) == config, "vectors have neither"
    glyphs = completed(DataConfig("glyphs"), (1, 28, 28))
    assert (glyphs.size, glyphs.channels) == (28, None), "which has no option for channels"


def test_classes_are_left_out_by_name_and_by_number(tmp_path, cache):
    where = pictures(tmp_path / "pics", classes=9)
    for number in range(2):
        (tmp_path / "pics" / "c03" / f"{number}.png").unlink()
    (tmp_path / "pics" / "BACKGROUND").mkdir()
    (tmp_path / "pics" / "BACKGROUND" / "1.png").write_bytes(png(noise(1, 12, 1)))
    with pytest.warns(UserWarning, match="left out") as said:
        benchmark = load_benchmark(DataConfig(where, without=("BACKGROUND",), fewest=3), 8)
    assert {name for split in SPLITS for name in benchmark.classes(split)} == {f"pics/c{i:02}" for i in range(9) if i != 3}
    words = [str(one.message) for one in said]
    assert "pics: 1 of 10 classes are left out as asked: BACKGROUND (1)." in words
    assert "pics: 1 of 10 classes are left out with fewer than 3 images: c03 (1)." in words
    with pytest.raises(UserError, match=r"Unknown class of pics 'BACKGRUND'. Did you mean 'BACKGROUND'"):
        load_benchmark(DataConfig(where, without=("BACKGRUND",)), 8)
    for option in ({"without": ("a",)}, {"fewest": 3}):
        with pytest.raises(UserError, match=f"--data.{next(iter(option))} means nothing for sine"):
            load_benchmark(DataConfig("sine", **option), 8)


def test_leaving_classes_out_of_a_named_benchmark_leaves_its_split(cache, monkeypatch):
    import episodes.data.glyphs

    monkeypatch.setattr(episodes.data.glyphs, "glyph_letters", lambda: ["A", "b", "ʰ", "Ω", "Ж", "Ա", "ა"])
    whole = load_benchmark(DataConfig("glyphs", size=16), 8)
    with pytest.warns(UserWarning, match="1 of 7 classes are left out as asked"):
        less = load_benchmark(DataConfig("glyphs", size=16, without=("LATIN CAPITAL LETTER A",)), 8)
    assert less.classes("train") == whole.classes("train")[1:] and less.classes("test") == whole.classes("test")


SUPERCLASSES = """
    beaver dolphin otter seal whale; aquarium_fish flatfish ray shark trout; orchid poppy rose sunflower tulip;
    bottle bowl can cup plate; apple mushroom orange pear sweet_pepper; clock keyboard lamp telephone television;
    bed chair couch table wardrobe; bee beetle butterfly caterpillar cockroach; bear leopard lion tiger wolf;
    bridge castle house road skyscraper; cloud forest mountain plain sea; camel cattle chimpanzee elephant kangaroo;
    fox porcupine possum raccoon skunk; crab lobster snail spider worm; baby boy girl man woman;
    crocodile dinosaur lizard snake turtle; hamster mouse rabbit shrew squirrel;
    maple_tree oak_tree palm_tree pine_tree willow_tree; bicycle bus motorcycle pickup_truck train;
    lawn_mower rocket streetcar tank tractor"""
"""Those of CIFAR-100 (Krizhevsky 2009), by which its label `coarse_label` goes."""
CHARACTERS = "20 29 26 41 40 24 46 14 26 34 33 22 26 43 24 48 22 16 52 47 40 26 40 41 33 14 42 23 17 55"
"""How many characters each of Omniglot's 30 background alphabets has, in the order of their names (Lake 2015)."""


def named(names: list[str]) -> ClassPool:
    images = np.arange(len(names), dtype="<u4").view(np.uint8).reshape(-1, 1, 2, 2)
    return grouped(np.arange(len(names)), names, images, "x")


def test_most_test_classes_of_cifar100_have_a_sibling_in_meta_train():
    family = {name: i for i, names in enumerate(SUPERCLASSES.split(";")) for name in names.split()}
    labels = sorted(family)
    order = shuffled_by_name(named([f"cifar100/{label}" for label in labels]), "cifar100")
    train, test = ({labels[i] for i in part} for part in (order[:50], order[60:]))
    alone = {label for label in test if family[label] not in {family[other] for other in train}}
    assert len(test) == 40 and alone == {"aquarium_fish", "flatfish", "ray", "shark", "trout"}


def test_the_alphabets_that_validate_on_omniglot_are_in_meta_train_too():
    alphabets = np.repeat(np.arange(30), [int(number) for number in CHARACTERS.split()])
    order = shuffled_by_name(named([f"omniglot/{i}" for i in range(len(alphabets))]), "omniglot")
    train, validation = set(alphabets[order[:864]]), set(alphabets[order[864:]])
    assert len(alphabets) == 964 and len(validation) == 25 and validation <= train


def with_ids(*ids: int) -> ClassPool:
    """A pool of one class with such images."""
    own = np.array(ids, dtype=np.uint64)
    count = np.array([len(own)])
    return ClassPool(np.zeros((len(own), 1, 1, 1), np.uint8), np.array([0]), count, ("a",), "a", "print", own)


@pytest.mark.parametrize("others", [[2, 9], [8, 8, 1], [2**64 - 1], [0, 3], []])
def test_ids_are_sorted_and_found_in_both_pools(others):
    own = with_ids(8, 2**64 - 1, 2, 8, 5)
    other = with_ids(*others)
    assert np.array_equal(ids_of([own, other]), np.unique(np.concatenate([own.ids, other.ids])))
    shared = len(np.intersect1d(own.ids, other.ids))
    for words in (images_in_both(own, other), images_in_both(other, own)):
        assert words.startswith(f"a and a have {shared} image") if shared else words == ""
