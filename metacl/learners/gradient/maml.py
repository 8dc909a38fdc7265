"""MAML, Meta-SGD and ANIL by the algorithms of learn2learn; the stream is their support set. No other module imports it.

In learn2learn a clone is a module of its own, so a Python loop goes over the episodes of a batch. `inner_loop.sgd` computes the
same without such a loop.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from episodes import EpisodeSpec, Examples, UserError
from episodes.errors import above_zero, at_least
from metacl.learners.distributed import Distributed
from metacl.learners.gradient.inner_loop import Fast, check_finite, initial_fast
from metacl.learners.inputs import check_symbols
from metacl.learners.losses import mean_loss
from metacl.learners.protocol import Learner
from metacl.nets.encoders import EncoderConfig, build_encoder
from metacl.nets.fast import PredictionNetwork, mlp, predict_batch


@dataclass(frozen=True)
class MAMLConfig:
    """Initial weights from which a few steps of SGD suffice (Finn 2017; Meta-SGD: Li 2017; ANIL: Raghu 2020)."""

    algorithm: Literal["maml", "meta-sgd", "anil"] = "maml"
    """What is fast. `maml`: the whole network, with one inner rate. `meta-sgd`: the whole network, with a rate for every single
    weight. `anil`: only the last layer, with one inner rate."""
    rate: float = 0.03
    """Inner learning rate when meta-training starts. It is meta-learned; the papers of MAML and ANIL have a
    fixed one."""
    inner: Literal["sequential", "batched"] = "sequential"
    """Inner steps. `sequential`: one for each example of the stream. `batched`: one for each `batch` of them, in order."""
    batch: int = 5
    """Examples in a step of `batched`. What is left when `learn` ends is a step too: it matters how a stream is cut."""
    order: Literal[1, 2] = 2
    """Order of the meta-gradient. 1: inner gradients count as constants in it (first-order form)."""
    width: int = 128
    """Width of the features in anil, and of the linear layers that vectors pass in maml and meta-sgd (D)."""
    distributed: Distributed = None
    """When meta-training asks a query. None: at the end of the stream. `random`: once, after a random task from its own on.
    `every`: after each task from its own on."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Convolutions. In maml and meta-sgd they are fast and have no BatchNorm; in anil they are not, and have it."""

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "width", "batch")
        above_zero("learner.rate", self.rate)

    def build(self, spec: EpisodeSpec) -> "MAML":
        return MAML(self, spec)


class Clone(Protocol):
    """What of a clone in learn2learn is used here."""

    module: nn.Module
    lr: Tensor

    def __call__(self, z_KD: Tensor) -> Tensor: ...

    def adapt(self, loss: Tensor, first_order: bool) -> None: ...


class MAML(Learner):
    """State: the fast weights of each episode, after clone() and one adapt() a step of the stream.

    Raises:
        UserError: learn2learn is not installed.
    """

    def __init__(self, config: MAMLConfig, spec: EpisodeSpec):
        super().__init__(spec, config.distributed)
        library, self.config, first_order = _learn2learn(), config, config.order == 1
        self.chunkable = config.inner == "sequential"
        self.whole_tasks = not self.chunkable
        anil = config.algorithm == "anil"
        self.encoder = build_encoder(config.encoder, spec, config.width) if anil else None
        network = mlp([config.width, spec.outputs]) if anil else PredictionNetwork(config.encoder, spec, config.width)
        if config.algorithm == "meta-sgd":
            self.algorithm = library.MetaSGD(network, lr=config.rate, first_order=first_order)
        else:
            self.algorithm = library.MAML(network, lr=config.rate, first_order=first_order)
            self.log_rate = nn.Parameter(torch.zeros(()))

    @property
    def network(self) -> nn.Module:
        """The initial weights."""
        return self.algorithm.module

    def encode(self, x: Tensor) -> Tensor:
        if self.encoder is None:
            return cast(PredictionNetwork, self.network).flat(x)
        return self.encoder(x).to(next(self.parameters()).dtype)

    def init_state(self, batch_size: int) -> Fast:
        return initial_fast(self.network, batch_size)

    def learn_features(self, state: Fast, z_BND: Tensor, examples: Examples) -> Fast:
        check_symbols(examples, self.spec)
        episodes = [self._adapted({n: w[b] for n, w in state.items()}, z_BND[b], examples, b) for b in range(len(z_BND))]
        return {name: torch.stack([weights[name] for weights in episodes]) for name in state}

    def predict_features(self, state: Fast, z_BMD: Tensor) -> Tensor:
        return self.shaped(predict_batch(self.network, state, z_BMD))

    def _adapted(self, weights: Fast, z_ND: Tensor, examples: Examples, b: int) -> Fast:
        """The weights of episode b after its stream."""
        outer, losses = torch.is_grad_enabled(), []
        with torch.enable_grad(), torch.autocast(z_ND.device.type, enabled=False):
            clone = self._clone(weights if outer else {name: w.detach().requires_grad_() for name, w in weights.items()})
            for part in self._batches(examples, b):
                losses.append(mean_loss(clone(z_ND[part]), examples.y[b, part], self.spec))
                clone.adapt(losses[-1], first_order=self.config.order == 1 or not outer)
                if not outer:
                    _put(clone.module, {n: w.detach().requires_grad_() for n, w in clone.module.named_parameters()})
        adapted: Fast = dict(clone.module.named_parameters())
        if losses:
            finite_N = torch.stack([loss.detach().isfinite() for loss in losses])
            check_finite(adapted, finite_N, self._rates(), z_ND)
        return adapted if outer else {name: w.detach() for name, w in adapted.items()}

    def _clone(self, weights: Fast) -> Clone:
        clone: Clone = self.algorithm.clone()
        if self.config.algorithm != "meta-sgd":
            clone.lr = self._rates()["rate"]
        _put(clone.module, weights)
        return clone

    def _rates(self) -> Fast:
        if self.config.algorithm == "meta-sgd":
            return {str(i): rate.max() for i, rate in enumerate(self.algorithm.lrs)}
        return {"rate": self.config.rate * self.log_rate.exp()}

    def _batches(self, examples: Examples, b: int) -> Iterator[Tensor]:
        """The places of the valid examples in episode b, in groups, one for each step."""
        places = torch.arange(len(examples), device=examples.task.device)
        if examples.valid is not None:
            places = places[examples.valid[b]]
        size = 1 if self.config.inner == "sequential" else self.config.batch
        return (part for part in places.split(size) if len(part))


def _put(module: nn.Module, weights: Fast) -> None:
    """Makes `weights` the parameters of a clone. As in learn2learn they are tensors with a history, not leaves."""
    for name, w in weights.items():
        path, _, leaf = name.rpartition(".")
        module.get_submodule(path)._parameters[leaf] = w  # type: ignore[assignment]


def _learn2learn() -> ModuleType:
    """`learn2learn.algorithms` alone: the `__init__` of the package wants gym and torchvision for its data sets."""
    spec = importlib.util.find_spec("learn2learn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "The learners maml, meta-sgd and anil need learn2learn, which is not installed. Run make setup, or, with a C "
            "compiler: pip install requests tqdm, then pip install --no-deps --no-cache-dir "
            "--config-settings=--build-option=build_ext learn2learn==0.2.0"
        )
    if "learn2learn" not in sys.modules:
        package = ModuleType("learn2learn")
        package.__path__, package.__spec__ = list(spec.submodule_search_locations), spec
        sys.modules["learn2learn"] = package
    return importlib.import_module("learn2learn.algorithms")
