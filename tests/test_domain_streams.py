"""Domain-incremental streams: the same images and classes in each task, and what changes between two."""

from pathlib import Path

import numpy as np
import pytest
import torch
from making import labelled_folder, small_pool
from tiny_vit import tiny, untrained  # noqa: F401  (a fixture)

from episodes import STREAMS, Schedule, SeededStream, StreamSchedule, UserError, check_stream, domain_stream, scheduled
from episodes.domain_stream import InDomains
from episodes.domains import CHANGES
from episodes.rng import stream_numbers
from episodes.tasks.permuted import Permuted
from episodes.tasks.splits import Splits
from metacl.cli import evaluate_main
from metacl.evaluation.follow import follow
from metacl.evaluation.questions import CLASS_INCREMENTAL
from metacl.recipes.presets import trained_for
from metacl.recipes.settings import along
from metacl.runs.files import read_json

KINDS = ["rotation", "permutation", "inversion"]


def images() -> Splits:
    """Three of five classes in each task; the first pixel of an image is its class."""
    return Splits("splits", small_pool([9] * 5, (3, 6, 6)), small_pool([4] * 5, (3, 6, 6), seed=1), 3)


def sorted_pixels(half) -> list[list[int]]:
    return sorted(x.flatten().sort().values.tolist() for x in half[:].x[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [{}, {"different": 3, "blur": 0.5}, {"shots_least": 3, "noise": 0.3}], ids=str)
def test_it_is_a_stream(kind, order, monkeypatch):
    monkeypatch.setattr(domain_stream, "TOGETHER", 7)  # a half is changed in several parts
    check_stream(scheduled(images(), StreamSchedule(domains=kind, **order)))


def test_vectors_are_permuted_and_not_turned():
    vectors = Permuted("pixels", small_pool([20, 30]), held_out=5)
    check_stream(InDomains(vectors, "permutation"))
    for kind in ("rotation", "inversion"):
        with pytest.raises(UserError, match=f"schedule.domains {kind} needs images, and pixels has vectors"):
            scheduled(vectors, StreamSchedule(domains=kind))


def test_one_class_is_nothing_to_tell_apart():
    one = Splits("splits", small_pool([9] * 5, (3, 6, 6)), small_pool([4] * 5, (3, 6, 6), seed=1), 1)
    with pytest.raises(UserError, match=r"that of splits has one: .* --stream.classes 5"):
        scheduled(one, StreamSchedule(domains="rotation"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_is_the_first_one_in_another_domain(kind):
    """Undone, the images are those of the first task of the stream; so are the labels."""
    plain, stream = images(), InDomains(images(), kind)
    first = plain.task(3, 0)
    assert stream.most_tasks is None and stream.spec == plain.spec
    for index in (0, 1, 6):
        for name in ("train", "held_out"):
            own, changed = getattr(first, name)[:], getattr(stream.task(3, index), name)[:]
            assert (changed.task == index).all()
            if name == "train":
                order = stream_numbers("splits", 3, "schedule/domains/order", index).permutation(len(own))
                own = own.take(order)
            assert torch.equal(changed.y, own.y)
            if kind == "permutation":
                assert sorted_pixels(changed) == sorted_pixels(own) and not torch.equal(changed.x, own.x)
                where = stream_numbers("splits", 3, "schedule/domains", index).random((2, 36)).argsort(1)[0]
                assert torch.equal(changed.x.flatten(3), own.x.flatten(3)[..., where]), "one permutation for the whole task"
            elif kind == "inversion":
                negative = bool((changed.x != own.x).any())
                assert torch.equal(changed.x, 255 - own.x if negative else own.x)
                assert negative == (bool((stream.task(3, 0).held_out[:].x != first.held_out[:].x).any()) ^ (index % 2 == 1))
            else:
                rng = stream_numbers("splits", 3, "schedule/domains", index)
                assert torch.equal(changed.x, CHANGES["rotation"](own.x, np.zeros((1, len(own))), 2, [rng]))


def test_seeds_differ_in_which_tasks_have_negatives():
    firsts = {bool((InDomains(images(), "inversion").task(seed, 0).held_out[:].x != images().task(seed, 0).held_out[:].x).any())
              for seed in range(12)}  # fmt: skip
    assert firsts == {True, False}


def test_tasks_are_turned_by_other_angles_and_come_again():
    stream = scheduled(images(), StreamSchedule(domains="rotation", different=2))
    held_out = [stream.task(0, index).held_out[:].x for index in range(4)]
    assert not torch.equal(held_out[0], held_out[1])
    assert all(any(torch.equal(later, own) for own in held_out[:2]) for later in held_out[2:])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", ["l2p", "lora-sequential", "ease", "vit-bp", "vit-anew"])
def test_learners_of_whole_tasks_meet_the_same_classes_again(name):
    learner = untrained(trained_for(name, None, along(STREAMS["class-incremental"])))
    stream = scheduled(Splits("s", small_pool([6] * 3, (3, 8, 8)), small_pool([2] * 3, (3, 8, 8), seed=1), 3, own_labels=True),
                       StreamSchedule(domains="inversion"))  # fmt: skip
    built, source = learner.build(stream.spec), SeededStream(stream, (0,))
    records = [r for _, r in follow(built, source, CLASS_INCREMENTAL, built.start((0,)), 0, 3, Schedule(10))]
    assert len(records) == 3 and all(record["classes"].tolist() == [3] for record in records)


def test_from_the_command_line(cli, tmp_path, cache):
    folder = labelled_folder(tmp_path / "pictures", classes=4, each=6)
    data = ["--stream.data.name", folder, "--stream.data.size", "10", "--stream.classes", "4"]
    words = ["class-incremental", "knn", *data, "--tasks", "3", "--schedule.domains"]
    status, text = cli(evaluate_main, *words, "rotation", "--out", "turned")
    assert status == 0 and "class-incremental of pictures (domains rotation)" in text, text
    (result,) = read_json(Path("turned/results.json"))["results"]
    assert result["tasks"] == 3 and result["chance"] == [0.25] * 3, "the classes stay"
    assert read_json(Path("turned/environment.json"))["stream_fingerprint"].endswith("/domains-1/rotation")
    assert cli(evaluate_main, "--resume", "turned")[0] == 0
    status, text = cli(evaluate_main, *words, "data-set", "--out", "no")
    assert status == 2 and "inversion" in text
