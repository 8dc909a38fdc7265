"""What learners whose vision transformer trains let be measured of it, module by module and layer by layer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call

from metacl.learners.protocol import State
from metacl.learners.vision.base import VisionLearner, among
from metacl.learners.vision.identity import Weights, head_logits
from metacl.nets.vit import Added

Tap = Callable[[int, str, Tensor], None]
"""Is handed the layer, from 0, the name of a module, and what comes out of it."""
MATRICES = {"attention out": "attn.proj", "mlp hidden": "mlp.fc1", "mlp out": "mlp.fc2"}
"""Modules with a matrix of their own. Those of queries, keys and values are one in the transformer."""


class TrainedTransformer(VisionLearner):
    """Base of learners with the transformer's `weights` in their state, beside a `head` and the symbols `seen`.

    A family writes `fresh` and `learn_row`; `logits` where it has another head, and `added` where it adds to the blocks. The
    last three members are what `metacl.evaluation.modules` asks.
    """

    has_features = True

    def added(self) -> Sequence[Added]:
        """What is added to the first blocks in answers, without taps: nothing."""
        return ()

    def logits(self, state: State, h_MD: Tensor) -> Tensor:
        """Logits (M, V) of one row, from the features of the class token. Gradients go through it."""
        return among(head_logits(state.head, h_MD), state.seen)

    def features_row(self, state: State, x_MCHW: Tensor) -> Tensor:
        return self.trunk.features(x_MCHW, lambda part: self.added(), weights=state.weights)

    def answers_tapped(self, state: State, x_MCHW: Tensor, tap: Tap | None = None) -> Tensor:
        """Logits (M, V) of one row, in float32 whatever the precision, with gradients to its `weights`.

        Arguments:
            x_MCHW: uint8 images, which pass the transformer at once.
            tap: is handed what `Added.tap` is, layer by layer, and in the end "features" (M, D) of the last layer.
        """
        depth, added = self.trunk.shape.depth, list(self.added())
        if tap is not None:
            whole = [*added, *[Added()] * (depth - len(added))]
            added = [replace(own, tap=partial(tap, layer)) for layer, own in enumerate(whole)]
        with torch.autocast(x_MCHW.device.type, enabled=False):
            h_MD = functional_call(self.network, dict(state.weights), (self.trunk.view(x_MCHW), added))
            if tap is not None:
                tap(depth - 1, "features", h_MD)
            return self.logits(state, h_MD)

    def module_weights(self, state: State) -> Weights:
        """The matrices of one row by module, those of all layers together: {"q": (layers, out, in), ...}, without biases."""
        found = dict(zip("qkv", self._stacked(state, "attn.qkv").chunk(3, 1), strict=True))
        return found | {module: self._stacked(state, name) for module, name in MATRICES.items()}

    def before_first_task(self, state: State) -> State:
        """The state of this row as it was before its first task. A family that draws weights later than that overrides it."""
        return self.fresh(state.key, state.rate)

    def _stacked(self, state: State, name: str) -> Tensor:
        return torch.stack([state.weights[f"blocks.{i}.{name}.weight"] for i in range(self.trunk.shape.depth)])
