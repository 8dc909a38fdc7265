"""Continual learning as sequence modelling: meta-train learners on streams of tasks, evaluate them, compare them."""

from metacl.evaluation.check import check_learner
from metacl.evaluation.episodes import evaluate
from metacl.evaluation.follow import follow
from metacl.evaluation.questions import Questions
from metacl.evaluation.result import Evaluation, Result
from metacl.learners import Learner
from metacl.learners.state import load_state, save_state
from metacl.recipes.presets import LEARNERS, recipe_for
from metacl.runs.folder import Run

__all__ = [
    "LEARNERS",
    "Evaluation",
    "Learner",
    "Questions",
    "Result",
    "Run",
    "check_learner",
    "evaluate",
    "follow",
    "load_state",
    "recipe_for",
    "save_state",
]
