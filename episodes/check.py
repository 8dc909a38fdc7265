"""`check_stream`: what every stream owes, in one call."""

from collections.abc import Iterator

import torch

from episodes.errors import UserError
from episodes.source import Task
from episodes.stream import Stream
from episodes.types import EpisodeSpec, Examples

TASKS = 3
"""Tasks of a stream that are looked at, or all where it has fewer."""
HALVES = ("train", "held_out")


def check_stream(stream: Stream, seed: int = 0) -> None:
    """Holds a stream to what whatever follows it takes for granted.

    - Task i of a seed is a function of the seed and of i alone: asked again, in another order, it is the same; of another seed,
      or another i, it is another. Nothing draws from the global random numbers of torch.
    - A slice of a half has the same examples as these rows of the whole half.
    - The examples fit `spec`, have one row (B = 1), no padding, and `task` filled with i; both halves have some. A stream that
      mixes tasks says so by `mixed = True`: then `task` of an example to learn from may be another.
    - Past `most_tasks` there is a `UserError`; `name` and `fingerprint` are words.

    Arguments:
        seed: the seed whose tasks are looked at; tasks of `seed + 1` are asked for too.

    Raises:
        AssertionError: says what is wrong, and where.
    """
    for attribute in ("name", "fingerprint"):
        value = getattr(stream, attribute)
        assert isinstance(value, str) and value, f"`{attribute}` must be a str that is not empty, but is {value!r}"
    most = stream.most_tasks
    assert most is None or most > 0, f"`most_tasks` must be None or at least 1, but is {most}"
    state = torch.get_rng_state()
    indices = range(TASKS if most is None else min(TASKS, most))
    seen = {index: _looked_at(stream, seed, index) for index in indices}
    _check_addresses(stream, seed, seen)
    assert torch.equal(state, torch.get_rng_state()), "the global random numbers of torch must be left alone"
    if most is not None:
        _check_end(stream, seed, most)


def _looked_at(stream: Stream, seed: int, index: int) -> Task:
    """A copy of a task, its halves checked."""
    task = stream.task(seed, index)
    whole = _copy(task)
    for name, half, examples in _halves(task, whole):
        where = f"{name} of task {index}"
        assert len(half) > 0, f"{where} must not be empty"
        _check_fit(examples, stream.spec, len(half), where)
        mixed = name == "train" and getattr(stream, "mixed", False)
        assert mixed or (examples.task == index).all(), (
            f"{where}: `task` must be {index}, but holds {examples.task.unique().tolist()}"
        )
        N = len(half)
        for part in (slice(0, 1), slice(N // 3, 2 * N // 3 + 1), slice(N - 1, N), slice(N // 2, N + 5)):
            words = f"{where}: the slice [{part.start}:{part.stop}] must have the same examples as these rows of the whole"
            assert _same(half[part], examples[part]), words
    return whole


def _check_fit(examples: Examples, spec: EpisodeSpec, N: int, where: str) -> None:
    """Shapes, types and values of a whole half."""
    x_type = torch.uint8 if spec.x_kind == "image" else torch.float32
    y_type, y_shape = (torch.int64, ()) if spec.classification else (torch.float32, spec.y_shape)
    for name, shape, kind in (("x", spec.x_shape, x_type), ("y", y_shape, y_type), ("task", (), torch.int64)):
        tensor, wanted = getattr(examples, name), (1, N, *shape)
        assert tuple(tensor.shape) == wanted, f"{where}: `{name}` must have the shape {wanted}, but has {tuple(tensor.shape)}"
        assert tensor.dtype == kind, f"{where}: `{name}` must be {kind}, but is {tensor.dtype}"
        assert tensor.isfinite().all(), f"{where}: `{name}` must be finite"
    assert examples.valid is None, f"{where}: a stream has no padding, so `valid` must be None"
    if spec.classification:
        low, high = int(examples.y.min()), int(examples.y.max())
        assert low >= 0 and high < spec.symbols, f"{where}: labels must be in 0..{spec.symbols - 1}, but are in {low}..{high}"


def _check_addresses(stream: Stream, seed: int, seen: dict[int, Task]) -> None:
    """Every task again, in the opposite order and with another seed's in between."""
    others = {}
    for index in reversed(seen):
        again = stream.task(seed, index)
        others[index] = _copy(stream.task(seed + 1, index))
        for words in ("asked again, in another order", "looked at twice"):
            for name, half, examples in _halves(again, seen[index]):
                assert _same(half[:], examples), f"{name} of task {index} must be the same when {words}"
    differ = any(not _equal(others[index], task) for index, task in seen.items())
    assert differ, f"seeds {seed} and {seed + 1} must have other tasks, but have the same"
    for index in list(seen)[1:]:
        assert not _equal(seen[index], seen[index - 1], apart="task"), f"tasks {index - 1} and {index} must not be the same"


def _check_end(stream: Stream, seed: int, most: int) -> None:
    stream.task(seed, most - 1)
    try:
        stream.task(seed, most)
    except UserError:
        return
    raise AssertionError(f"task {most}, past `most_tasks` = {most}, must raise a UserError")


def _halves(task: Task, other: Task) -> Iterator[tuple[str, Examples, Examples]]:
    for name in HALVES:
        yield name, getattr(task, name), getattr(other, name)


def _copy(task: Task) -> Task:
    """Both halves whole, and safe from a stream that writes over what it gave."""
    train, held_out = (half[:]._map(torch.clone) for half in (task.train, task.held_out))
    return Task(train, held_out)


def _equal(task: Task, other: Task, apart: str = "") -> bool:
    return all(_same(half, examples, apart) for _, half, examples in _halves(task, other))


def _same(examples: Examples, other: Examples, apart: str = "") -> bool:
    """Whether all tensors are equal, `apart` from one of them."""
    names = (name for name in ("x", "y", "task") if name != apart)
    return all(torch.equal(getattr(examples, name), getattr(other, name)) for name in names)
