"""The learner of an evaluation: from a checkpoint, or from nothing."""

from dataclasses import replace
from pathlib import Path

import torch

from episodes import STREAMS, EpisodeSpec, UserError
from metacl.commands.grid import grid_part
from metacl.evaluation.drift import must_have_features
from metacl.learners import Learner, LearnerConfig
from metacl.recipes.config import FollowConfig, StreamRunConfig
from metacl.recipes.presets import title
from metacl.recipes.settings import EPISODES, along
from metacl.runs.folder import Run


def learner_of(config: FollowConfig, spec: EpisodeSpec, seed: int = 0, rate: float | None = None) -> Learner:
    """The learner, built for `spec`, in eval mode.

    Arguments:
        seed: of its initial weights, where it is not meta-trained.
        rate: its learning rate; None: the configuration's.

    Raises:
        UserError: it cannot learn from such examples, its checkpoint does not fit, or it cannot be asked what is to be asked.
    """
    learner = _learner(config, spec, seed, rate)
    if config.questions.drift:
        must_have_features(learner, config.learner_name)
    return learner


def _learner(config: FollowConfig, spec: EpisodeSpec, seed: int, rate: float | None) -> Learner:
    if config.run is not None:
        return Run.open(Path(config.run)).load_learner(spec, config.checkpoint)
    torch.manual_seed(seed)
    own = config.learner if rate is None else replace(config.learner, rate=rate)
    return built(own, spec).eval()


def built(config: LearnerConfig, spec: EpisodeSpec) -> Learner:
    """The learner that is configured. Raises `UserError` also where no machine has room for its sizes."""
    try:
        return config.build(spec)
    except RuntimeError as error:
        raise UserError(
            f"A learner of these sizes cannot be made here ({str(error).splitlines()[0]}). Smaller ones need less memory."
        ) from error


def learner_in_words(config: FollowConfig) -> str:
    """The learner in words: its name, what is unlike its recipe for such a source, and where it is one of a grid, of which."""
    settings = along(STREAMS[config.stream.name]) if isinstance(config, StreamRunConfig) else EPISODES
    data = None if isinstance(config, StreamRunConfig) else config.data
    words = title(config.learner_name, config.learner, settings, not config.rates, data)
    part = grid_part(Path(config.run or "").name)
    return f"{words} [{part}]" if part else words
