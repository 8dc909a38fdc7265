"""Classes that are left out: by name, or because they have too few images."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from episodes.data.config import DataConfig
from episodes.data.pool import ClassPool
from episodes.errors import listed, note, unknown


def left_in(pools: Sequence[ClassPool], config: DataConfig, name: str) -> list[ClassPool]:
    """The pools without the classes that `config` leaves out, which are said as a warning.

    Arguments:
        pools: parts of one data set; the images of a class that is in several of them count together.
        name: what the class names are qualified by.

    Raises:
        UserError: there is no class of such a name.
    """
    if not config.without and config.fewest is None:
        return list(pools)
    counts: dict[str, int] = {}
    for pool in pools:
        for own, count in zip(pool.names, pool.counts.tolist(), strict=True):
            label = own.removeprefix(f"{name}/")
            counts[label] = counts.get(label, 0) + count
    asked = dict.fromkeys(label for pattern in config.without for label in _known(pattern, counts, name))
    small = [label for label, count in counts.items() if count < (config.fewest or 0) and label not in asked]
    _say(name, "as asked", list(asked), counts)
    _say(name, f"with fewer than {config.fewest} images", small, counts)
    out = {f"{name}/{label}" for label in (*asked, *small)}
    return [pool.select([i for i, own in enumerate(pool.names) if own not in out], pool.source) for pool in pools]


def matching(pattern: str, labels: Iterable[str]) -> list[str]:
    """The label that is so called, or those that fit a pattern: * stands for anything, also for folders, ? for one letter."""
    labels = list(labels)
    return [pattern] if pattern in labels else [label for label in labels if fnmatchcase(label, pattern)]


def _known(pattern: str, counts: dict[str, int], name: str) -> list[str]:
    if not (found := matching(pattern, counts)):
        raise unknown(f"class of {name}", pattern, counts)
    return found


def _say(name: str, why: str, labels: list[str], counts: dict[str, int]) -> None:
    if labels:
        words = listed([f"{label} ({counts[label]})" for label in labels])
        note(f"{name}: {len(labels)} of {len(counts)} classes are left out {why}: {words}.")
