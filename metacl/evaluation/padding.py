"""Streams that are padded: what of them can be asked before it is learnt, and what of them can be handed over as a support."""

import torch

from episodes import EpisodeSource, Examples, Part, UserError
from metacl.evaluation.questions import Questions


def check_padding(source: EpisodeSource, questions: Questions) -> None:
    """Raises `UserError` where examples are to be asked before they are learnt, and some of them are padding."""
    valid = source.episode.stream.valid
    if questions.asked != 0 and valid is not None and not bool(valid.all()):
        raise UserError(
            "Streams of random shots are padded, and what is padding cannot be asked before it is learnt. Take --asked 0, or "
            "leave out --schedule.shots-least."
        )


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
