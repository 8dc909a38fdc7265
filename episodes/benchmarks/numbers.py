"""Regression on the numbers of a data set of one's own."""

from collections.abc import Sequence

import numpy as np

from episodes.benchmarks.benchmark import Benchmark
from episodes.data.digests import digest_of
from episodes.data.pool import ClassPool
from episodes.errors import UserError, note
from episodes.tasks.numbers import Numbers


def regression(name: str, pools: Sequence[ClassPool], columns: Sequence[str] = ()) -> Benchmark:
    """The benchmark whose tasks are the classes of these pools, of the three meta-splits, and whose answers their targets.

    Targets of all are told by the mean and standard deviation of those of meta-train, which a note says.

    Arguments:
        columns: what the targets are called; none: by their places.

    Raises:
        UserError: a target is one number throughout meta-train.
    """
    train = pools[0]
    assert train.targets is not None
    known = train.targets[train.rows()].astype(np.float64)
    names = list(columns) or [f"target {place + 1}" for place in range(known.shape[1])]
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    if same := [own for own, spread in zip(names, deviation, strict=True) if not spread]:
        raise UserError(
            f"{', '.join(same)} of {train.source} is one number throughout: there is nothing to tell. Leave it out."
        )
    words = ", ".join(f"{own} by {m:g} ± {d:g}" for own, m, d in zip(names, mean, deviation, strict=True))
    note(f"{name}: targets are told by the mean and deviation of meta-train, and so are errors: {words}.")
    families = [Numbers(pool, mean, deviation) for pool in pools]
    digest = digest_of("/".join(pool.fingerprint for pool in pools).encode())
    return Benchmark(name, families[0], families[1], families[2], f"numbers-1/{digest}")
