"""How classes are dealt to meta-train, meta-validation and meta-test: by shares, a list, a column, or super-classes."""

import hashlib
import json
import os
import re
from collections.abc import Sequence

import numpy as np

from episodes.data.config import DataConfig, local_copy, reading_of, split_column
from episodes.data.leaving_out import left_in, matching
from episodes.data.places import user_path
from episodes.data.pool import ClassPool
from episodes.data.split_column import parts_of_classes
from episodes.errors import UserError, listed, note, unknown
from episodes.rng import random_numbers

PARTS = ("train", "validation", "test")
SHARES = (60, 20, 20)
"""Of the classes in per cent, to meta-train, meta-validation and meta-test, unless something else is asked."""


def dealt(pool: ClassPool, config: DataConfig, name: str) -> list[ClassPool]:
    """The pools of the three meta-splits, as `config.split` says, without the classes that `config` leaves out.

    Arguments:
        name: qualifies the class names: "name/label".

    Raises:
        UserError: the split is none of the four kinds, its file is not as it should be, or there are too few classes.
    """
    split = config.split or "/".join(map(str, SHARES))
    if shares := re.fullmatch(r"(\d+)/(\d+)/(\d+)", split):
        (pool,) = left_in([pool], config, name)
        numbers = [int(number) for number in shares.groups()]
        if not min(numbers):
            raise UserError(f"data.split {split}: each meta-split needs a share above 0, as in 60/20/20.")
        return cut(pool, name, dealt_by_label(pool, name), numbers, PARTS)
    if (column := split_column(config)) is not None:
        return left_in(by_column(pool, name, config, column), config, name)
    if split == "hierarchy":
        (pool,) = left_in([pool], config, name)
        return by_hierarchy(pool, name)
    return left_in(by_list(pool, name, split), config, name)


def by_hierarchy(pool: ClassPool, name: str) -> list[ClassPool]:
    """Deals super-classes, with all their classes: a class is SUPER-CLASS/..., as in folders of folders.

    Raises:
        UserError: there are fewer than three super-classes.
    """
    tops = [own.removeprefix(f"{name}/").split("/")[0] for own in pool.names]
    groups = sorted(set(tops), key=lambda top: (_digest(top), top))
    if not any("/" in own.removeprefix(f"{name}/") for own in pool.names):
        raise UserError(
            f"No class of {pool.source} has a super-class: for --data.split hierarchy a class is a folder in the folder of its "
            "super-class. Leave it out, or list the classes in a file: --data.split FILE."
        )
    if len(groups) < len(PARTS):
        raise UserError(
            f"{pool.source} has {len(groups)} super-classes ({listed(sorted(groups))}), and --data.split hierarchy needs "
            "three or more: a class must be a folder in the folder of its super-class."
        )
    parts = np.split(np.array(groups), _ends(len(groups), SHARES))
    places = [[i for i, top in enumerate(tops) if top in set(part)] for part in parts]
    return [pool.select(own, f"{name}, meta-{part}") for own, part in zip(places, PARTS, strict=True)]


def by_column(pool: ClassPool, name: str, config: DataConfig, column: str) -> list[ClassPool]:
    """Deals the classes as a column of the data set says, whose values are train, validation and test.

    Raises:
        UserError: there is no such column, a value is another, or the rows of a class say different things.
    """
    place = local_copy(config) or user_path(config.name)
    where = str(place) if place.exists() else config.name
    return _given(pool, name, parts_of_classes(where, reading_of(config, None, None), column), f"column {column}")


def by_list(pool: ClassPool, name: str, file: str) -> list[ClassPool]:
    """Deals the classes that a JSON file lists: {"train": [labels], "validation": [labels], "test": [labels]}.

    A label may be a pattern, as Latin/*. Classes that it does not list are left out, with a note.

    Raises:
        UserError: it is no such file, a label is unknown, or is listed twice.
    """
    lists = _lists(file)
    places = {own.removeprefix(f"{name}/"): i for i, own in enumerate(pool.names)}
    given: dict[str, str] = {}
    for part in PARTS:
        for pattern in lists[part]:
            if not (found := matching(pattern, places)):
                raise unknown(f"class of {name} in {file}", pattern, places)
            for label in found:
                if given.setdefault(label, part) != part:
                    raise UserError(
                        f"{file} lists {label} for {given[label]} and for {part}. What is tested is never trained on."
                    )
    return _given(pool, name, given, file)


def _given(pool: ClassPool, name: str, given: dict[str, str], by: str) -> list[ClassPool]:
    """The pools of the classes by their labels; those that none is given are left out, with a note.

    Arguments:
        by: what gives them.
    """
    places = {own.removeprefix(f"{name}/"): i for i, own in enumerate(pool.names)}
    if left := sorted(places.keys() - given.keys()):
        note(f"{name}: {len(left)} of {len(places)} classes are left out, as {by} does not list them: {listed(left)}.")
    chosen = [[place for label, place in places.items() if given.get(label) == part] for part in PARTS]
    return [pool.select(own, f"{name}, meta-{part}") for own, part in zip(chosen, PARTS, strict=True)]


def _lists(file: str) -> dict[str, list[str]]:
    wanted = f"A split file is JSON with the lists {', '.join(map(repr, PARTS))} of labels."
    place = user_path(file)
    if not place.is_file():
        raise UserError(
            f"data.split {file} is neither three shares, as 60/20/20, nor hierarchy, nor column:NAME, nor a file that is "
            f"there. {wanted}"
        )
    try:
        lists = json.loads(place.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no JSON ({error}). {wanted}") from error
    if not isinstance(lists, dict) or lists.keys() != set(PARTS) or not all(isinstance(own, list) for own in lists.values()):
        raise UserError(f"{file} is not as it should be. {wanted}")
    return {part: [str(label) for label in lists[part]] for part in PARTS}


def shuffled_by_name(pool: ClassPool, name: str) -> np.ndarray:
    """(classes,) the places of a named benchmark's classes, in an order that its name says: the same on every machine."""
    return random_numbers(f"classes of {name}").random(len(pool.names)).argsort()


def dealt_by_label(pool: ClassPool, name: str) -> np.ndarray:
    """(classes,) the places of the classes, in the order of digests of their labels, whatever the data set is called."""
    labels = [own.removeprefix(f"{name}/") for own in pool.names]
    digests = [(_digest(label), os.fsencode(label)) for label in labels]
    return np.array(sorted(range(len(labels)), key=digests.__getitem__), dtype=np.int64)


def cut(pool: ClassPool, name: str, order: np.ndarray, shares: Sequence[int], splits: Sequence[str]) -> list[ClassPool]:
    """Deals the classes in this order, in proportion to `shares`, at least one to each split."""
    classes = len(pool.names)
    if classes < len(splits):
        raise UserError(
            f"{pool.source} has too few classes ({classes}: {listed(pool.names)}; {len(splits)} are the least) "
            f"to cut meta-{' and meta-'.join(splits)} from it. Is the label column the right one, or are too many left out?"
        )
    parts = np.split(order, _ends(classes, shares))
    return [pool.select(np.sort(part), f"{name}, meta-{split}") for part, split in zip(parts, splits, strict=True)]


def _ends(number: int, shares: Sequence[int]) -> list[int]:
    """Where to cut a number of things in proportion to shares, at least one to each."""
    ends: list[int] = []
    for i in range(1, len(shares)):  # at least one for each share before this end, and for each after it
        least, most = (ends[-1] if ends else 0) + 1, number - len(shares) + i
        ends.append(min(max(round(number * sum(shares[:i]) / sum(shares)), least), most))
    return ends


def _digest(label: str) -> bytes:
    return hashlib.blake2b(os.fsencode(label), digest_size=8, person=b"classes").digest()  # names of folders may be no text
