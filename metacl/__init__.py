"""Continual learning as sequence modelling: meta-train learners on streams of tasks, evaluate them, compare them."""

from metacl.evaluation.episodes import Evaluation, evaluate
from metacl.learners import LEARNERS, Learner, check_learner
from metacl.learners.state import load_state, save_state
from metacl.recipes.recipes import recipe_for
from metacl.runs.folder import Run

__all__ = ["LEARNERS", "Evaluation", "Learner", "Run", "check_learner", "evaluate", "load_state", "recipe_for", "save_state"]
