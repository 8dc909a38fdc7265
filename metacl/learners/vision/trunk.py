"""The frozen vision transformer of a learner: which one, at what size its images are, and what it makes of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from tyro.conf import Suppress

from episodes import EpisodeSpec, UserError
from episodes.data.backbones.vit_files import HUB, vit_files
from episodes.data.features import shown
from episodes.errors import at_least, note, unknown
from metacl.learners.precision import fast_bf16
from metacl.nets.views import random_view
from metacl.nets.vit import Added, VisionTransformer, VitConfig

UNTRAINED = {"vit-tiny-32": VitConfig(32, 4, 192, 6, 3, 768), "vit-micro-32": VitConfig(32, 8, 96, 4, 3, 384)}
"""Shapes of transformers without weights: what `train.py pretrain` trains, and what learners train from nothing."""
TOGETHER = 64
"""Images that pass the transformer at a time where no gradient is asked."""


@dataclass(frozen=True)
class TrunkConfig:
    """A vision transformer to start from: how much of it is trained is the learner's."""

    backbone: str = "dinov2-small"
    """`vit-b16`, `dinov2-small` or `dinov2-base` (from the Hugging Face hub); a folder with config.json and safetensors, or
    such a file; or `vit-tiny-32` or `vit-micro-32`, which are not trained at all."""
    side: int | None = None
    """Side in pixels to which images are scaled; the patches must divide it. None: what the weights were trained with."""
    area: float = 0.3
    """In training a random part of an image is shown, of at least this part of its area. 1: always all of it."""
    flip: bool = True
    """In training half of the images are shown mirrored."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16`: mixed precision. `auto`: bf16 where the device multiplies it fast, else fp32."""
    weights: Suppress[str | None] = field(default=None, compare=False)
    """SHA-256 of the weights, which an evaluation remembers. None: any."""

    def __post_init__(self) -> None:
        at_least(1, self, "learner.trunk.", "side")
        if not 0 < self.area <= 1:
            raise UserError(f"learner.trunk.area is a part of an image, above 0 and at most 1, not {self.area:g}.")

    def load(self) -> VisionTransformer:
        """The transformer, frozen.

        Raises:
            UserError: there is none of that name, its files cannot be read, or they have not the weights that are remembered.
        """
        if self.backbone in UNTRAINED:
            return drawn(UNTRAINED[self.backbone], 0)
        if files := vit_files(self.backbone):
            if self.weights is not None and self.weights != files.digest():
                raise UserError(
                    f"The weights of {self.backbone} are not those that the evaluation was begun with (their SHA-256 is "
                    f"{files.digest()}, then {self.weights}). Put the old ones back where they were, or start anew."
                )
            return files.load()
        raise UserError(
            f"{unknown('backbone', self.backbone, [*HUB, *UNTRAINED])} Or give the folder or the safetensors file of one."
        )

    def remembering(self) -> "TrunkConfig":
        """With the hash of the weights, so that no others pass for them; as it is where there are none. Raises as `load`."""
        files = None if self.backbone in UNTRAINED else vit_files(self.backbone)
        return self if files is None else replace(self, weights=files.digest())


class Trunk:
    """What a learner asks of its transformer.

    Raises:
        UserError: the inputs are no images, there is no such transformer, or its patches do not divide the images.
    """

    def __init__(self, config: TrunkConfig, spec: EpisodeSpec):
        if spec.x_kind != "image":
            raise UserError(
                f"A vision transformer takes images, and these are {spec.x_kind}s. Leave out --data.features "
                "(--stream.data.features), or take ncm, ranpac or linear-probe."
            )
        if spec.x_shape[0] == 1:
            note("The images are grey: the vision transformer is shown them in three equal channels.")
        self.config, self.network = config, config.load()
        self.shape = self.network.config
        self.side = config.side or self.shape.image_size
        if self.side % self.shape.patch_size:
            size, made_for = self.shape.patch_size, self.shape.image_size
            raise UserError(
                f"Patches of {size} pixels do not divide images of {self.side}. Give --learner.trunk.side "
                f"{max(1, round(self.side / size)) * size}, or {made_for}, for which it was made."
            )
        self.tokens = 1 + (self.side // self.shape.patch_size) ** 2

    def initial(self, seed: int) -> dict[str, Tensor]:
        """Weights to train from: those of this transformer, or of one that is not trained other ones for each seed."""
        shape = UNTRAINED.get(self.config.backbone)
        network = self.network if shape is None else drawn(shape, seed).to(self.device)
        return {name: part.detach() for name, part in network.named_parameters()}

    def __call__(
        self,
        x_NCHW: Tensor,
        added: Sequence[Added] = (),
        prompts_NLD: Tensor | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Pixels as of `view` -> the class token (N, D) in float32; with other weights than its own where some are given."""
        with self.autocast():
            if weights is None:
                return self.network(x_NCHW, added, prompts_NLD).float()
            return functional_call(self.network, dict(weights), (x_NCHW, added, prompts_NLD)).float()

    def autocast(self) -> torch.autocast:
        """Mixed precision where it is asked. Casts are not kept: trained weights would be seen as they were at first."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    @property
    def bf16(self) -> bool:
        """Whether mixed precision is asked, on the device where the transformer is now."""
        asked = self.config.precision
        return asked == "bf16" or (asked == "auto" and fast_bf16(self.device.type))

    @property
    def device(self) -> torch.device:
        return self.network.pos_embed.device

    def view(self, x_NCHW: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        """uint8 images (N, C, H, W) -> pixels in [0, 1] (N, 3, side, side): all of each, or with `rng` a random view of it."""
        if rng is None:
            return shown(x_NCHW, self.side)
        return random_view(x_NCHW, self.side, rng, self.config.area, self.config.flip)

    @torch.no_grad()
    def features(
        self,
        x_NCHW: Tensor,
        added: Callable[[slice], Sequence[Added]] = lambda part: (),
        weights: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """(N, D) of uint8 images, some at a time; `added` is given for each part of them."""
        parts = [slice(first, first + TOGETHER) for first in range(0, len(x_NCHW), TOGETHER)]
        found = [self(self.view(x_NCHW[part]), added(part), weights=weights) for part in parts]
        return torch.cat(found) if found else torch.zeros(0, self.shape.width, device=x_NCHW.device)


def drawn(shape: VitConfig, seed: int) -> VisionTransformer:
    """A transformer that is not trained, a function of its shape and the seed; its weights are frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return VisionTransformer(shape).eval().requires_grad_(False)
