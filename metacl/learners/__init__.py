"""Learners: the protocol, and one file a family. `LEARNERS` names the configurations that `train.py` can build."""

from metacl.learners.check import check_learner
from metacl.learners.protocol import Learner, MetaLoss, query_loss, query_score, state_bytes, task_parts
from metacl.learners.prototypes import PrototypesConfig
from metacl.learners.sequence import SequenceConfig

LEARNERS = {"transformer": SequenceConfig, "linear-transformer": SequenceConfig, "pn": PrototypesConfig}

__all__ = [
    "LEARNERS",
    "Learner",
    "MetaLoss",
    "PrototypesConfig",
    "SequenceConfig",
    "check_learner",
    "query_loss",
    "query_score",
    "state_bytes",
    "task_parts",
]
