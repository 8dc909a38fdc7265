"""Learners: the protocol, and one file a learner in a folder for each family. Their names: `metacl/recipes/presets.py`."""

from metacl.learners.distributed import task_parts
from metacl.learners.losses import MetaLoss, query_loss, query_score
from metacl.learners.protocol import Learner, LearnerConfig, State, state_bytes
from metacl.learners.sequence import SequenceConfig
from metacl.learners.statistics.prototypes import PrototypesConfig

__all__ = [
    "Learner",
    "LearnerConfig",
    "MetaLoss",
    "PrototypesConfig",
    "SequenceConfig",
    "State",
    "query_loss",
    "query_score",
    "state_bytes",
    "task_parts",
]
