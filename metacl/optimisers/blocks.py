"""Parts of a network by the names of its modules, with patterns."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn


def modules_of(network: nn.Module, patterns: Iterable[str]) -> dict[str, nn.Module]:
    """The modules that have parameters and whose name matches, pattern after pattern.

    Arguments:
        patterns: names of modules with * for all but dots and ? for one letter, such as "blocks.5.attn" or "blocks.*.mlp".

    Raises:
        ValueError: a pattern matches no module that has parameters; says what there is.
    """
    if isinstance(patterns, str):
        raise TypeError(f"patterns are a list of names, not one alone: [{patterns!r}]")
    there = {name: part for name, part in network.named_modules() if name and any(True for _ in part.parameters())}
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        own = {name: part for name, part in there.items() if _fits(name, pattern)}
        if not own:
            kinds = sorted({re.sub(r"(?<=\.)\d+", "*", name) for name in there})
            raise ValueError(f"the pattern {pattern!r} matches no module with parameters; there are {', '.join(kinds)}")
        found |= own
    return found


def blocks_of(network: nn.Module, patterns: Iterable[str]) -> dict[str, list[nn.Parameter]]:
    """Blocks of parameters by pattern: all parameters below each module whose name matches is one block.

    Arguments and errors as of `modules_of`.
    """
    return {name: list(part.parameters()) for name, part in modules_of(network, patterns).items()}


def _fits(name: str, pattern: str) -> bool:
    names, patterns = name.split("."), pattern.split(".")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))
