"""What the paper of sequence models for continual learning (CL-Seq, NeurIPS 2023) says, and what was measured of it here."""

import statistics
from collections.abc import Callable

from studies import learners, mechanisms, omniglot
from studies.words import spread, table

Check = Callable[[], tuple[str, str]]
"""The verdict, and the figure here."""


def below(published: float, errors: Callable[[], list[float]]) -> Check:
    """Whether the errors are below a published one by more than they vary; one seed cannot say."""

    def check() -> tuple[str, str]:
        found = errors()
        if len(found) < 2:
            return ("lower, one seed" if found[0] < published else "not reached, one seed"), f"{found[0]:.1f}"
        margin = 2 * statistics.stdev(found)
        verdict = "holds" if statistics.mean(found) + margin < published else "not after so short a training"
        return verdict, spread(found)

    return check


def short(learner: str) -> list[float]:
    """Errors in % on 20 tasks of Omniglot after the short training of the study `learners`."""
    return [100 * run["meta_test_error"] for run in learners.ranked("omniglot", 20)[learner]]


def fewer(first: str, second: str) -> Check:
    """Whether one learner errs less than another in each seed of the short training."""

    def check() -> tuple[str, str]:
        pairs = list(zip(short(first), short(second), strict=True))
        verdict = "holds" if all(one < other for one, other in pairs) else "not after so short a training"
        return verdict, f"{spread(short(first))} against {spread(short(second))}"

    return check


CLAIMS: list[tuple[str, str, Check]] = [
    ("transformer: 13.7 % after 50 000 steps", "omniglot", below(13.7, lambda: omniglot.errors("transformer", 20))),
    ("linear transformer: 36.0 %", "mechanisms --only linear", below(36.0, lambda: mechanisms.errors("linear", 20))),
    ("Performer: 37.1 %", "mechanisms --only performer", below(37.1, lambda: mechanisms.errors("performer", 20))),
    ("OML: 24.8 %", "learners --only omniglot-20/oml", below(24.8, lambda: short("oml"))),
    ("ANML: 31.0 %", "learners --only omniglot-20/anml", below(31.0, lambda: short("anml"))),
    ("offline, no meta-learning: 35.0 %", "learners --only omniglot-20/offline", below(35.0, lambda: short("offline"))),
    ("OML errs less than ANML", "learners --only omniglot-20", fewer("oml", "anml")),
    ("OML errs less than offline learning", "learners --only omniglot-20", fewer("oml", "offline")),
]
"""What is said of Omniglot, 20 tasks of 5 examples (error in %); the study that has the figure; and the check."""


def results() -> str:
    lines = []
    for claim, study, check in CLAIMS:
        verdict, figure = check()
        lines.append([claim, verdict, f"`python benchmarks/run.py {study} --data ../shared/data`", figure])
    return table(["published, Omniglot, 20 tasks of 5", "verdict", "command", "here, error in %"], lines, words=3)


TABLES: dict[str, Callable[[], str]] = {"claims": results}
