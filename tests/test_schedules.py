"""Schedules of episodes: what each promises, for any size and any seed; and that they are functions of the address alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import small_pool
from scipy.stats import chisquare

from episodes import Episode, EpisodeGenerator, EpisodeShape, ScheduleConfig, UserError, domains
from episodes.tasks.classification import Classification
from episodes.tasks.sine import Sine
from episodes.tasks.tracking import Tracking

POOL = small_pool([24] * 30, (1, 4, 6))
"""Thirty classes of 24 images; the first two pixels of each image are its class and its number."""
MANY = settings(max_examples=25, deadline=None, derandomize=True, database=None)
SCHEDULES = {
    "in order": ScheduleConfig(),
    "classes": ScheduleConfig(classes=2),
    "recur": ScheduleConfig(recur=2),
    "domains": ScheduleConfig(classes=2, domains="permutation"),
    "gradual": ScheduleConfig(classes=2, domains="inversion", gradual=True),
    "rotation": ScheduleConfig(classes=2, domains="rotation", gradual=True),
    "blur": ScheduleConfig(blur=0.5),
    "iid": ScheduleConfig(blur=1.0),
    "shots": ScheduleConfig(shots_least=1),
    "noise": ScheduleConfig(noise=0.3),
    "all": ScheduleConfig(classes=2, recur=2, blur=0.4, shots_least=1, noise=0.2),
}


@st.composite
def shapes(draw, **fixed) -> EpisodeShape:
    """Shapes with any combination of what a schedule can do, but domains, which hide which image is which."""
    tasks, shots = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    options = {
        "classes": draw(st.integers(1, 3)),
        "recur": draw(st.integers(1, min(3, tasks))),
        "blur": draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])),
        "shots_least": draw(st.none() | st.integers(1, shots)),
    }
    least = draw(st.none() | st.integers(1, tasks))
    return EpisodeShape(tasks, shots, draw(st.integers(1, 3)), 16, least, ScheduleConfig(**options | fixed))


def generator(shape: EpisodeShape, seed: int = 0) -> EpisodeGenerator:
    return EpisodeGenerator(Classification(POOL, shape.symbols), shape, "noise", "train", seed)


def scheduled(name: str, **options) -> EpisodeGenerator:
    shape = EpisodeShape(tasks=4, shots=4, queries=2, vocabulary=8, schedule=SCHEDULES[name])
    return generator(replace(shape, **options))


def tensors(episode: Episode) -> list[torch.Tensor]:
    every = [getattr(part, name) for part in (episode.stream, episode.queries) for name in ("x", "y", "task", "valid")]
    return [tensor for tensor in every if tensor is not None]


def same(a: Episode, b: Episode) -> bool:
    return a.ends == b.ends and all(torch.equal(left, right) for left, right in zip(tensors(a), tensors(b), strict=True))


def cells(part, b: int) -> list[tuple[int, int, int, int]]:
    """(task, class, image, symbol) of the valid examples of a row, in their order."""
    valid = torch.ones_like(part.task[b], dtype=torch.bool) if part.valid is None else part.valid[b]
    x = part.x[b, valid].long()
    return list(zip(*(t.tolist() for t in (part.task[b, valid], x[:, 0, 0, 0], x[:, 0, 0, 1], part.y[b, valid])), strict=True))


@MANY
@given(shapes(), st.integers(0, 2**16))
def test_what_every_episode_promises(shape, seed):
    schedule, episode = shape.schedule, generator(shape, seed).batch([0, 1])
    assert episode.ends == tuple(shape.phase * (t + 1) for t in range(shape.tasks))
    for b in range(2):
        told, asked = cells(episode.stream, b), cells(episode.queries, b)
        tasks = 1 + max(task for task, *_ in asked)
        assert (shape.tasks_least or shape.tasks) <= tasks <= shape.tasks
        images = [(own, image) for _, own, image, _ in told + asked]
        assert len(set(images)) == len(images), "an image comes twice"
        symbols = {(own, symbol) for _, own, _, symbol in told + asked}
        assert len(symbols) == len({own for own, _ in symbols}) == len({symbol for _, symbol in symbols})
        for task in range(tasks):
            classes = [own for t, own, *_ in asked if t == task]
            assert len(set(classes)) == schedule.classes and len(classes) == schedule.classes * shape.queries
            shots = [sum((t, own) == (task, c) for t, own, *_ in told) for c in set(classes)]
            assert min(shots) >= (schedule.shots_least or shape.shots) and max(shots) <= shape.shots
            assert {own for t, own, *_ in told if t == task} == set(classes)
        of_task = [frozenset(own for t, own, *_ in asked if t == task) for task in range(tasks)]
        first = of_task[: schedule.different(shape.tasks)]
        assert len(set(first)) == len(first) and set(of_task) == set(first)
        if schedule.classes == 1:
            assert [next(iter(own)) for own in of_task] == generator(shape, seed).classes([0, 1])[b, :tasks].tolist()


@MANY
@given(shapes(blur=0.0), st.integers(0, 2**16))
def test_without_blur_each_phase_has_its_task(shape, seed):
    stream = generator(shape, seed).batch([0]).stream
    assert stream.task[0].tolist() == [t for t in range(shape.tasks) for _ in range(shape.phase)]


@MANY
@given(st.integers(2, 6), st.integers(1, 9), st.sampled_from([0.1, 0.3, 0.5, 0.8]), st.integers(0, 2**16))
def test_blur_changes_places_between_neighbours(tasks, shots, blur, seed):
    shape = EpisodeShape(tasks, shots, 1, 8, schedule=ScheduleConfig(blur=blur))
    task = generator(shape, seed).batch([0]).stream.task[0].view(tasks, shots)
    strange = (task != torch.arange(tasks)[:, None]).sum(1)
    most = int(np.ceil(blur * shots / 2))
    assert (strange <= 2 * most).all() and strange[0] <= most + 1 and strange[-1] <= most + 1
    assert torch.equal(task.flatten().sort().values, torch.arange(tasks).repeat_interleave(shots))


def test_the_share_that_blur_says():
    shape = EpisodeShape(5, 10, 1, 8, schedule=ScheduleConfig(blur=0.3))
    task_BTK = generator(shape).batch(range(200)).stream.task.view(200, 5, 10)
    strange_T = (task_BTK != torch.arange(5)[:, None]).double().mean((0, 2))
    assert strange_T.tolist() == pytest.approx([0.15, 0.3, 0.3, 0.3, 0.15], abs=0.02)
    assert ((task_BTK - torch.arange(5)[:, None]).abs() <= 1).double().mean() > 0.97


def test_iid_is_any_order():
    """Each task is in each tenth of the stream as often as in any other."""
    shape = EpisodeShape(5, 10, 1, 8, schedule=ScheduleConfig(blur=1.0))
    task_BTK = generator(shape).batch(range(200)).stream.task.view(200, 5, 10)
    found = [(task_BTK[:, phase] == task).sum().item() for phase in range(5) for task in range(5)]
    assert chisquare(found).pvalue > 0.01


def test_random_shots_and_tasks_are_each_as_likely():
    shape = EpisodeShape(4, 5, 1, 8, tasks_least=2, schedule=ScheduleConfig(shots_least=2))
    episode = generator(shape).batch(range(600))
    tasks = episode.queries.valid.sum(1)
    assert chisquare(torch.bincount(tasks)[2:].numpy()).pvalue > 0.01
    shots = episode.stream.valid.view(600, 4, 5).sum(2)
    assert chisquare(torch.bincount(shots[shots > 0])[2:].numpy()).pvalue > 0.01


def test_label_noise_is_of_the_episode_and_not_of_its_queries():
    plain, noisy = (scheduled(name).batch(range(300)) for name in ("in order", "noise"))
    wrong = noisy.stream.y != plain.stream.y
    assert wrong.double().mean() == pytest.approx(0.3, abs=0.02) and torch.equal(noisy.queries.y, plain.queries.y)
    for own, labels in zip(noisy.stream.y, plain.queries.y, strict=True):
        assert set(own.tolist()) <= set(labels.tolist())


def test_classes_and_images_are_each_as_likely():
    """The sampler, of episodes in order: which class, which of its images, which symbol, by chi-square."""
    shape = EpisodeShape(6, 2, 2, 12)
    episode = generator(shape, 1).batch(range(500))
    image = torch.cat([part.x[:, :, 0, 0, :2].long() for part in (episode.stream, episode.queries)], 1)
    classes = torch.bincount(generator(shape, 1).classes(range(500)).flatten(), minlength=30)
    images = torch.bincount((24 * image[..., 0] + image[..., 1]).flatten(), minlength=720)
    symbols = torch.bincount(episode.queries.y[:, ::2].flatten(), minlength=12)
    for counts in (classes, images, symbols):
        assert chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_episode_is_a_function_of_its_address(name):
    """Whatever the batch, and whether drawn before or after others."""
    whole = scheduled(name, tasks_least=2).batch(range(6))
    parts = [scheduled(name, tasks_least=2).batch(indices) for indices in ([0], [1, 2], [3, 4, 5])]
    for index, tensor in enumerate(tensors(whole)):
        assert torch.equal(torch.cat([tensors(part)[index] for part in parts]), tensor)
    assert not same(scheduled(name).batch([0]), scheduled(name).batch([1]))


def test_workers_change_nothing():
    found = list(scheduled("all", tasks_least=2).batches(3, 0, 3, workers=1))
    for batch, episode in enumerate(found):
        assert same(episode, scheduled("all", tasks_least=2).batch(range(3 * batch, 3 * batch + 3)))


def test_a_schedule_changes_no_other_draw():
    """Each has its own random numbers: noise is where it was, whatever the order, and the images are the same."""
    plain, noisy, fewer = (scheduled(name).batch([0]) for name in ("in order", "noise", "shots"))
    both = generator(replace(scheduled("noise").shape, schedule=ScheduleConfig(noise=0.3, shots_least=1))).batch([0])
    assert torch.equal(noisy.stream.x, plain.stream.x) and torch.equal(both.stream.valid, fewer.stream.valid)
    assert torch.equal(both.stream.y[both.stream.valid], noisy.stream.y[fewer.stream.valid])
    for name in ("iid", "blur"):
        order = scheduled(name).batch([0])
        assert sorted(cells(order.stream, 0)) == sorted(cells(plain.stream, 0)) and cells(order.queries, 0) == cells(
            plain.queries, 0
        )
    shorter = scheduled("in order", tasks_least=2).batch([0])
    assert cells(shorter.stream, 0) == cells(plain.stream, 0)[: int(shorter.stream.valid.sum())]


@pytest.mark.parametrize("gradual", [False, True])
def test_domains_change_the_inputs_and_nothing_else(gradual):
    """All tasks have the same images: the inverse of what was done to them is the plain image."""
    episodes = {
        kind: generator(EpisodeShape(4, 3, 2, 8, schedule=ScheduleConfig(classes=2, domains=kind, gradual=gradual))).batch(
            [0, 1]
        )
        for kind in ("permutation", "inversion", "rotation")
    }
    for part in ("stream", "queries"):
        kinds = [getattr(episode, part) for episode in episodes.values()]
        assert all(torch.equal(kinds[0].y, other.y) and torch.equal(kinds[0].task, other.task) for other in kinds)
    queries = episodes["permutation"].queries
    assert torch.equal(queries.y.view(2, 4, 4)[:, :1].expand(-1, 4, -1), queries.y.view(2, 4, 4))
    if gradual:
        return
    pixels = queries.x.view(2, 4, 4, 24).long()
    assert torch.equal(pixels.sort(-1).values, pixels[:, :1].sort(-1).values.expand_as(pixels))
    moves = [(pixels[0, t, :, None, :] == pixels[0, 0, :, :, None]).all(0) for t in range(4)]  # [new place] = old place
    assert all(move.any(0).all() for move in moves) and not torch.equal(pixels[0, 1], pixels[0, 0])
    inverted = episodes["inversion"].queries.x.view(2, 4, 4, 24).long()
    assert torch.equal(inverted[:, 0], inverted[:, 2]) and torch.equal(inverted[:, 1], 255 - inverted[:, 0])


def test_a_quarter_turn_is_one():
    x = torch.randint(256, (1, 4, 3, 6, 6), dtype=torch.uint8)

    class Quarter:
        def random(self, size):
            return np.arange(size) / 4

    turned = domains._rotated(x, np.array([[0.0, 1.0, 2.0, 3.5]]), 5, [Quarter()])
    assert torch.equal(turned[0, 0], x[0, 0])
    assert torch.equal(turned[0, 1], x[0, 1].rot90(-1, (-2, -1))) and torch.equal(turned[0, 2], x[0, 2].rot90(2, (-2, -1)))
    late = domains._rotated(x[:, 3:], np.array([[0.5]]), 2, [Quarter()])
    assert torch.equal(domains._rotated(x[:, 3:], np.array([[4.5]]), 6, [Quarter()]), late), "405 degrees are 45"


def test_a_gradual_change_is_one():
    """An inversion moves from an image to its negative, and back; a permutation pixel by pixel."""
    shape = EpisodeShape(3, 10, 1, 8, schedule=ScheduleConfig(classes=2, domains="inversion", gradual=True))
    for kind in ("inversion", "permutation"):
        sudden, slow = (
            generator(replace(shape, schedule=replace(shape.schedule, domains=kind, gradual=how)))
            .batch([0])
            .stream.x[0]
            .double()
            for how in (False, True)
        )
        changed_TL = (slow - sudden).abs().mean((1, 2, 3)).view(3, 20)
        assert (changed_TL[:, :5].mean(1) < changed_TL[:, 15:].mean(1) / 2).all() and (changed_TL[:, 0] < 15).all()


def test_visits_in_regression_are_of_the_same_task():
    """The waves of a later visit have the frequency and phases of the first: the targets are multiples of each other."""
    shape = EpisodeShape(4, 2, 1, 8, schedule=ScheduleConfig(recur=2))
    own = EpisodeGenerator(Sine(), shape, "sine", "train", 0)
    y = torch.nn.functional.normalize(own.batch([0]).stream.y[0].view(4, 2, 50)[:, 0], dim=-1)
    alike = (y @ y.T > 0.9999).long()
    assert alike[:2, :2].equal(torch.eye(2, dtype=torch.long)) and alike.sum(1).tolist() == [2] * 4
    assert own.classes([0]) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"domains": "rotation"}, "the same classes"),
        ({"gradual": True}, "say which"),
        ({"blur": 1.5}, "at most 1"),
        ({"noise": -0.1}, "at least 0"),
        ({"recur": 0}, "at least 1"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(UserError, match=words):
        ScheduleConfig(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks_least": 5}, "more than there are tasks, 4"),
        ({"schedule": ScheduleConfig(shots_least=6)}, "more than there are shots, 5"),
        ({"schedule": ScheduleConfig(recur=5)}, "recur 5 is more"),
    ],
)
def test_shapes_that_cannot_be(options, words):
    with pytest.raises(UserError, match=words):
        EpisodeShape(tasks=4, **options)


@pytest.mark.parametrize(
    ("family", "schedule", "words"),
    [
        (Tracking(), ScheduleConfig(blur=0.5), "no schedule blur 0.5"),
        (Sine(), ScheduleConfig(noise=0.5), "these targets are none"),
        (Sine(), ScheduleConfig(classes=2, domains="permutation"), "needs classes"),
        (Classification(POOL, 40), ScheduleConfig(classes=11), "have 44 classes, and there are 30. Ask for 2 tasks"),
        (Classification(POOL, 40), ScheduleConfig(classes=31, domains="rotation"), "Ask for 30 classes"),
        (Classification(POOL, 40), ScheduleConfig(recur=4), "20 shots"),
    ],
)
def test_families_that_cannot_be_arranged_so(family, schedule, words):
    with pytest.raises(UserError, match=words):
        EpisodeGenerator(family, EpisodeShape(4, 5, 5, 8, schedule=schedule), "x", "train", 0)


def test_most_tasks():
    assert ScheduleConfig().most_tasks(30) == 30 and ScheduleConfig(classes=4).most_tasks(30) == 7
    assert ScheduleConfig(recur=3).most_tasks(5) == 15 and ScheduleConfig(blur=1.0).most_tasks(None) is None
    assert ScheduleConfig(classes=4, domains="rotation").most_tasks(30) is None


def test_words_say_what_is_not_usual():
    assert ScheduleConfig().words() == ""
    schedule = ScheduleConfig(classes=2, domains="rotation", gradual=True, blur=0.25, shots_least=1)
    assert schedule.words() == "classes 2, domains rotation, gradual, blur 0.25, shots-least 1"


@pytest.mark.parametrize("family", [Classification(POOL, 8), Sine(), Tracking()])
def test_in_order_the_table_says_what_is_drawn_without_one(family):
    own = EpisodeGenerator(family, EpisodeShape(4, 5, 2, 8), "x", "train", 0)
    expected = own.batch([0, 5])
    own._plain = False
    assert same(own.batch([0, 5]), expected)
