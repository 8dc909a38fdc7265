"""Learners: the protocol, and one file a family. `LEARNERS` names the configurations that `train.py` can build,
`FROM_SCRATCH` those of learners without meta-training, `ONLINE` those that train along a stream, both for `evaluate.py`."""

from typing import Any

from metacl.learners.check import check_learner
from metacl.learners.gradient.anml import ANMLConfig
from metacl.learners.gradient.maml import MAMLConfig
from metacl.learners.gradient.oml import OMLConfig
from metacl.learners.gradient.reptile import ReptileConfig
from metacl.learners.protocol import Learner, MetaLoss, query_loss, query_score, state_bytes, task_parts
from metacl.learners.sequence import SequenceConfig
from metacl.learners.similarity.full_attention import FullAttentionConfig
from metacl.learners.similarity.kernels import KernelConfig
from metacl.learners.similarity.online_query_only import OnlineQueryOnlyConfig
from metacl.learners.similarity.query_only import QueryOnlyConfig
from metacl.learners.statistics.alpaca import AlpacaConfig
from metacl.learners.statistics.bayes import BayesConfig
from metacl.learners.statistics.gemcl import GemclConfig
from metacl.learners.statistics.prototypes import PrototypesConfig
from metacl.learners.trained.backprop import BackpropConfig
from metacl.learners.trained.ewc import EWCConfig
from metacl.learners.trained.finetune import FinetuneConfig
from metacl.learners.trained.online_maml import OnlineMAMLConfig
from metacl.learners.trained.replay import ReplayConfig, SameBufferConfig
from metacl.learners.trained.units import ContinualConfig, RedoConfig

LEARNERS: dict[str, type[Any]] = {"transformer": SequenceConfig, "linear-transformer": SequenceConfig, "pn": PrototypesConfig}
LEARNERS |= {"query-only": QueryOnlyConfig}
LEARNERS |= {"gemcl": GemclConfig, "gemcl-map": GemclConfig, "alpaca": AlpacaConfig}
LEARNERS |= {"sb-mcl": BayesConfig, "sb-mcl-map": BayesConfig}
LEARNERS |= {"oml": OMLConfig, "anml": ANMLConfig, "reptile": ReptileConfig}
LEARNERS |= {"maml": MAMLConfig, "meta-sgd": MAMLConfig, "anil": MAMLConfig}
FROM_SCRATCH: dict[str, type[Any]] = {"online": FinetuneConfig, "offline": FinetuneConfig, "replay": FinetuneConfig}
ONLINE: dict[str, type[Any]] = {"query-only": OnlineQueryOnlyConfig, "full-attention": FullAttentionConfig}
ONLINE |= dict.fromkeys(("bp", "l2", "l2-init", "shrink-perturb", "crelu", "layernorm", "reinit", "bp-one"), BackpropConfig)
ONLINE |= {"er": ReplayConfig, "der": ReplayConfig, "bp-same-buffer": SameBufferConfig, "ewc": EWCConfig}
ONLINE |= {"cbp": ContinualConfig, "redo": RedoConfig, "online-maml": OnlineMAMLConfig}
ONLINE |= {"nadaraya-watson": KernelConfig, "knn": KernelConfig}

__all__ = [
    "FROM_SCRATCH",
    "LEARNERS",
    "ONLINE",
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
