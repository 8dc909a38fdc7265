"""Learners: the protocol, and one file a family. `LEARNERS` names the configurations that `train.py` can build,
`FROM_SCRATCH` those of learners without meta-training, `ONLINE` those that train along a stream, both for `evaluate.py`."""

from typing import Any

from metacl.learners.alpaca import AlpacaConfig
from metacl.learners.anml import ANMLConfig
from metacl.learners.backprop import BackpropConfig
from metacl.learners.bayes import BayesConfig
from metacl.learners.check import check_learner
from metacl.learners.ewc import EWCConfig
from metacl.learners.finetune import FinetuneConfig
from metacl.learners.gemcl import GemclConfig
from metacl.learners.kernels import KernelConfig
from metacl.learners.maml import MAMLConfig
from metacl.learners.oml import OMLConfig
from metacl.learners.online_attention import FullAttentionConfig
from metacl.learners.online_maml import OnlineMAMLConfig
from metacl.learners.online_replay import ReplayConfig, SameBufferConfig
from metacl.learners.online_units import ContinualConfig, RedoConfig
from metacl.learners.protocol import Learner, MetaLoss, query_loss, query_score, state_bytes, task_parts
from metacl.learners.prototypes import PrototypesConfig
from metacl.learners.query_only import QueryOnlyConfig
from metacl.learners.query_only_online import OnlineQueryOnlyConfig
from metacl.learners.reptile import ReptileConfig
from metacl.learners.sequence import SequenceConfig

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
