"""Streams that are padded: what of them can be asked before it is learnt, and what of them can be handed over as a support."""

from dataclasses import replace

import torch
from torch.utils import _pytree as pytree

from episodes import EpisodeSource, Examples, Part, UserError
from metacl.evaluation.questions import Questions
from metacl.learners.protocol import State


def check_padding(source: EpisodeSource, questions: Questions) -> None:
    """Raises `UserError` where examples are to be asked before they are learnt, and a phase of a row has none."""
    valid_BN = source.episode.stream.valid
    if questions.asked == 0 or valid_BN is None:
        return
    start = 0
    for end in source.episode.phases():
        if not bool(valid_BN[:, start:end].any(1).all()):
            raise UserError("A phase of a stream is nothing but padding, which cannot be asked before it is learnt: --asked 0.")
        start = end


def rows_alone(state: State, train: Part | Examples) -> list[tuple[State, Examples]] | None:
    """A copy of the state of each row, and its examples without padding; None where nothing is padding."""
    examples = train[0 : len(train)]
    if examples.valid is None or bool(examples.valid.all()):
        return None
    rows = []
    for b, valid_N in enumerate(examples.valid):
        own = replace(examples, valid=None).row(b)[valid_N]
        rows.append((pytree.tree_map(lambda t, b=b: t[b : b + 1].clone(), state), own))
    return rows


def latest(train: Part | Examples, number: int) -> Examples | None:
    """The last examples of each row that are no padding, as many of each; None where they are to be none."""
    size = min(number, len(train))
    last = train[len(train) - size : len(train)]
    if size and last.valid is not None:
        whole = train[0 : len(train)]
        assert whole.valid is not None
        size = min(number, int(whole.valid.sum(1).min()))
        place_BN = whole.valid.long().argsort(dim=1, stable=True)[:, len(train) - size :]
        row_B1 = torch.arange(len(place_BN), device=place_BN.device)[:, None]
        last = Examples(*(part[row_B1, place_BN] for part in (whole.x, whole.y, whole.task)))
    return last if size else None
