"""Streams whose tasks are data sets: what each task is, how images are brought together, and what is said."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from making import labelled_folder, noise, png, small_pool
from PIL import Image

from episodes import STREAMS, SeededStream, StreamSchedule, UserError, check_stream, scheduled
from episodes.errors import Notice
from episodes.tasks.datasets import Datasets, EachData
from episodes.tasks.splits import Splits
from metacl.cli import evaluate_main
from metacl.runs.files import read_json


def halves(classes: int, each: int, seed: int, shape=(3, 4, 5)):
    """The first pixel of an image is its class, the second counts within it."""
    return small_pool((each,) * classes, shape, seed), small_pool((2,) * classes, shape, seed + 1)


def stream() -> Datasets:
    return Datasets("datasets", [halves(3, 4, 0), halves(2, 5, 2), halves(4, 3, 4)])


def test_it_is_a_stream():
    check_stream(stream())


def test_every_data_set_is_one_task_with_labels_of_its_own():
    whole, orders = stream(), set()
    assert whole.most_tasks == 3 and whole.spec.symbols == 9
    for seed in range(12):
        order, first = whole.order(seed), 0
        orders.add(tuple(order.tolist()))
        for index, place in enumerate(order):
            pair = whole.pairs[place]
            for pool, half in zip(pair, (whole.task(seed, index).train, whole.task(seed, index).held_out), strict=True):
                examples, classes = half[:], len(pool.names)
                assert len(examples) == len(pool.x) and (examples.task == index).all()
                assert torch.equal(examples.y[0] - first, examples.x[0, :, 0, 0, 0].long())
                assert examples.y.unique().tolist() == list(range(first, first + classes))
            first += classes
        assert first == 9
    assert len(orders) > 3
    with pytest.raises(UserError, match="runs out of data: it has 3 data sets, so no task 4"):
        whole.task(0, 3)
    others = [Datasets("datasets", whole.pairs[::-1]), Datasets("other", whole.pairs), Datasets("datasets", whole.pairs[:2])]
    assert stream().fingerprint == whole.fingerprint and len({own.fingerprint for own in (whole, *others)}) == 4


def test_data_sets_that_do_not_go_together():
    with pytest.raises(UserError, match=r"small has inputs of 3 x 4 x 5 \(images\), small of 1 x 4 x 5 .*channels 1"):
        Datasets("datasets", [halves(3, 4, 0), halves(3, 4, 0, (1, 4, 5))])
    with pytest.raises(UserError, match="have other classes: small/2"):
        Datasets("datasets", [(halves(3, 4, 0)[0], halves(2, 4, 0)[1])])
    config = STREAMS["datasets"].config
    for sets, said in (((), "not none"), (("a",), "not a"), (("a", "a"), "not a a")):
        with pytest.raises(UserError, match=rf"--stream\.sets needs two data sets or more, each once, {said}\."):
            replace(config, sets=sets).load()
    with pytest.raises(UserError, match=r"--data\.path means nothing for datasets"):
        replace(config, sets=("a", "b"), data=EachData(path="c")).load()


def test_seeds_side_by_side_say_what_they_leave_out():
    source = SeededStream(stream(), (0, 1, 2, 3))
    assert "examples of datasets are left out: side by side" in source.left_out(3)
    sizes = [[len(stream().task(seed, t).train) + len(stream().task(seed, t).held_out) for seed in range(4)] for t in range(3)]
    assert f" of {sum(map(sum, sizes))} examples" in source.left_out(3)
    assert SeededStream(stream(), (3,)).left_out(3) == "" == SeededStream(stream(), (3, 3)).left_out(3)
    assert SeededStream(Splits("even", *halves(4, 3, 0), 2), (0, 1)).left_out(5) == ""


def test_folders_of_other_sizes_and_colours(cli, tmp_path, cache):
    grey = labelled_folder(tmp_path / "grey", classes=3, each=6)
    for label in range(2):
        (tmp_path / "colours" / f"c{label}").mkdir(parents=True)
        for i in range(6):
            (tmp_path / "colours" / f"c{label}" / f"{i}.png").write_bytes(png(noise(10 * label + i, 17)))
    words = ["datasets", "knn", "--stream.sets", grey, "colours", "--stream.data.size", "8"]
    status, text = cli(evaluate_main, *words, "--out", "mine")
    assert status == 0 and "images of all 2 data sets are brought to 3 x 8 x 8" in text, text
    assert "knn on datasets of grey + colours, 2 tasks" in text
    kept = read_json(Path("mine/config.json"))["stream"]
    assert kept["sets"] == [grey, str(tmp_path / "colours")] and (kept["data"]["size"], kept["data"]["channels"]) == (8, 3)
    assert read_json(Path("mine/results.json"))["results"][0]["source"] == "datasets of grey + colours"
    status, text = cli(evaluate_main, *words, "--seeds", "0", "1", "2", "3", "--out", "seeds")
    assert status == 0 and "examples of datasets are left out" in text
    with pytest.warns(Notice, match="brought to 1 x 9 x 9"):
        loaded = replace(STREAMS["datasets"].config, data=EachData(channels=1, size=9), sets=(grey, "colours")).load()
    assert loaded.spec.x_shape == (1, 9, 9) and loaded.spec.symbols == 5
    status, page = cli(evaluate_main, "datasets", "knn", "--help")
    assert status == 0 and "--stream.sets" in page and "--stream.data.path" not in page and "--stream.data.name" not in page


def test_another_data_set_is_another_domain(cli, tmp_path, cache):
    """Classes of the same name have the same label in each task; others are left out, which is said."""
    for folder, labels in (("photos", "cat dog eel fox"), ("drawings", "dog fox gnu cat")):
        for number, label in enumerate(labels.split()):
            (tmp_path / folder / label).mkdir(parents=True)
            for i in range(6):
                drawn = noise(6 * number + i, 8, 1)
                drawn[0] = 60 * number
                Image.fromarray(drawn).save(tmp_path / folder / label / f"{i}.png")
    config = replace(STREAMS["datasets"].config, data=EachData(channels=1, size=8), shared_classes=True)
    with pytest.warns(Notice) as said:
        whole = replace(config, sets=(str(tmp_path / "photos"), str(tmp_path / "drawings"))).load()
    assert any(
        "3 classes are in all data sets. Left out: 1 class of photos, 1 class of drawings." in str(own.message) for own in said
    )
    check_stream(whole)
    assert (whole.spec.symbols, whole.most_tasks) == (3, 2)
    greys = {"photos": [0, 60, 180], "drawings": [180, 0, 60]}
    for index, place in enumerate(whole.order(0)):
        for half in (whole.task(0, index).train[:], whole.task(0, index).held_out[:]):
            assert torch.equal(half.x[0, :, 0, 0, 0], torch.tensor(list(greys.values())[place])[half.y[0]].to(torch.uint8))
    with pytest.raises(UserError, match="as many classes"):
        Datasets("datasets", stream().pairs, shared_classes=True)
    with pytest.raises(UserError, match="domains rotation has the first task of a stream alone, which of datasets is one"):
        scheduled(whole, StreamSchedule(domains="rotation"))
    plain = Datasets("datasets", whole.pairs)
    assert plain.spec.symbols == 6 and plain.fingerprint != whole.fingerprint
    other = labelled_folder(tmp_path / "numbers", classes=3, each=6)
    with pytest.warns(Notice), pytest.raises(UserError, match=r"there are 0: one of .*photos is called 'cat'"):
        replace(config, sets=(str(tmp_path / "photos"), other)).load()
    for half, classes in (("train", 3), ("test", 2)):
        labelled_folder(tmp_path / "halves" / half, classes=classes, each=6)
    with pytest.warns(Notice), pytest.raises(UserError, match="have other classes"):
        replace(config, sets=(str(tmp_path / "photos"), str(tmp_path / "halves"))).load()
    words = ["--stream.sets", "photos", "drawings", "--stream.shared-classes", "--stream.data.size", "8"]
    status, text = cli(evaluate_main, "datasets", "knn", *words, "--out", "mine")
    assert status == 0 and "3 classes are in all data sets" in text, text
