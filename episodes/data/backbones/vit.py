"""The vision transformer (Dosovitskiy et al. 2021), with places at which methods add to it without changing its weights.

Letters: B images, P patches, N = 1 + P tokens (and prompts, where there are any), D width, H heads, E width of a head.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from episodes.errors import UserError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of the pixels of ImageNet, in [0, 1]."""
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""Those by which Google's and timm's ViT have their pixels between -1 and 1."""


@dataclass(frozen=True)
class VitConfig:
    """The shape of a vision transformer."""

    image_size: int
    """Side of the images in pixels that its positions are for."""
    patch_size: int
    """Side of a patch."""
    width: int
    """D, of a token."""
    depth: int
    """Blocks."""
    heads: int
    hidden: int
    """Width of the feed-forward layers."""
    layer_scale: bool = False
    """A learnt scale of what each half of a block adds (DINOv2)."""
    norm_eps: float = 1e-6
    mean: tuple[float, ...] = IMAGENET[0]
    """By channel, of pixels in [0, 1]; and the deviation, by which images are normalised as the weights expect it."""
    deviation: tuple[float, ...] = IMAGENET[1]

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise UserError(f"Patches of {self.patch_size} pixels do not divide an image of {self.image_size}.")
        if self.width % self.heads:
            raise UserError(f"{self.heads} heads do not divide a width of {self.width}.")


@dataclass(frozen=True)
class Added:
    """What a method adds to one block. What is None stays as it is."""

    qkv: Callable[[Tensor], Tensor] | None = None
    """From the normalised tokens (B, N, D) to what is added to their queries, keys and values (B, N, 3 D): low-rank weights."""
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """In place of softmax attention: queries, keys and values (B, H, N, E) -> (B, H, N, E). Prefixes."""
    before_gelu: Callable[[Tensor], Tensor] | None = None
    """On what goes into the GELU of the feed-forward layers (B, N, hidden): a LayerNorm there."""
    beside: Callable[[Tensor], Tensor] | None = None
    """From the tokens (B, N, D) that come to the feed-forward half, not normalised, to what is added beside it: adapters."""
    tap: Callable[[str, Tensor], None] | None = None
    """Is handed tensors by name: the tokens that `qkv` takes ("attention in"), queries, keys, values ("q", "k", "v"), outputs
    of the heads before ("heads") and after the projection ("attention out"), and of the feed-forward layers what comes in
    ("mlp in"), the hidden units ("mlp hidden") and what comes out ("mlp out")."""


NOTHING = Added()


class Attention(nn.Module):
    """Heads of softmax attention between all tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, h_BND: Tensor, added: Added) -> Tensor:
        qkv = self.qkv(h_BND)
        if added.qkv is not None:
            qkv = qkv + added.qkv(h_BND)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out_BHNE = (added.attend or attention)(q, k, v)
        out_BND = out_BHNE.transpose(1, 2).flatten(2)
        projected = self.proj(out_BND)
        if added.tap is not None:
            named = {"attention in": h_BND, "q": q, "k": k, "v": v, "heads": out_BND, "attention out": projected}
            for name, part in named.items():
                added.tap(name, part)
        return projected


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, each (B, H, N, E).

    On CPUs it is computed in float32, whatever the precision of what comes in and goes out: torch's fused form is slower there
    in bf16, backwards by a factor of nearly three with 50 tokens.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    own = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.to(own), k.to(own), v.to(own)).to(q.dtype)


class FeedForward(nn.Module):
    """Two layers with a GELU between them, on each token."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, h_BND: Tensor, added: Added) -> Tensor:
        inputs = self.fc1(h_BND)
        hidden = F.gelu(inputs if added.before_gelu is None else added.before_gelu(inputs))
        out = self.fc2(hidden)
        if added.tap is not None:
            for name, part in {"mlp in": h_BND, "mlp hidden": hidden, "mlp out": out}.items():
                added.tap(name, part)
        return out


class Scale(nn.Module):
    """A learnt factor for each of the numbers of a token (Touvron et al. 2021)."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, h_BND: Tensor) -> Tensor:
        return h_BND * self.gamma


class Block(nn.Module):
    """Attention, then feed-forward layers, each on normalised tokens and added to them."""

    def __init__(self, config: VitConfig):
        super().__init__()
        width, scale = config.width, Scale if config.layer_scale else lambda width: nn.Identity()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=config.norm_eps) for _ in range(2))
        self.attn, self.ls1 = Attention(width, config.heads), scale(width)
        self.mlp, self.ls2 = FeedForward(width, config.hidden), scale(width)

    def forward(self, h_BND: Tensor, added: Added = NOTHING) -> Tensor:
        h_BND = h_BND + self.ls1(self.attn(self.norm1(h_BND), added))
        more = 0 if added.beside is None else added.beside(h_BND)
        return h_BND + self.ls2(self.mlp(self.norm2(h_BND), added)) + more


class VisionTransformer(nn.Module):
    """(B, 3, side, side) images, pixels in [0, 1] -> (B, D), the class token after the last norm.

    Images may have another side than the positions are for, which then are interpolated between.
    Parameters have nearly timm's names.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: VitConfig):
        super().__init__()
        self.config, patches = config, (config.image_size // config.patch_size) ** 2
        self.patch_embed = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        for name, numbers in (("mean", config.mean), ("deviation", config.deviation)):
            self.register_buffer(name, torch.tensor(numbers).view(-1, 1, 1), persistent=False)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)

    def forward(self, x_BCHW: Tensor, added: Sequence[Added] = (), prompts_BLD: Tensor | None = None) -> Tensor:
        """Features of the class token. Arguments as of `tokens`."""
        return self.tokens(x_BCHW, added, prompts_BLD)[:, 0]

    def tokens(self, x_BCHW: Tensor, added: Sequence[Added] = (), prompts_BLD: Tensor | None = None) -> Tensor:
        """All tokens after the last norm (B, N, D); the class token is the first.

        Arguments:
            added: what is added to the first blocks, one for each.
            prompts_BLD: tokens that stand between the class token and the patches, without a position.

        Raises:
            UserError: the patches do not divide the images, or more is added than there are blocks.
        """
        if len(added) > len(self.blocks):
            raise UserError(f"Something is added to {len(added)} blocks, but the transformer has {len(self.blocks)}.")
        h_BND = self.embedded(x_BCHW)
        if prompts_BLD is not None:
            h_BND = torch.cat([h_BND[:, :1], prompts_BLD, h_BND[:, 1:]], 1)
        for i, block in enumerate(self.blocks):
            h_BND = block(h_BND, added[i] if i < len(added) else NOTHING)
        return self.norm(h_BND)

    def embedded(self, x_BCHW: Tensor) -> Tensor:
        """Patches and class token, with their positions (B, N, D). Raises `UserError` as `tokens`."""
        side = x_BCHW.shape[-1]
        if x_BCHW.shape[-2] != side or side % self.config.patch_size:
            size = self.config.patch_size
            raise UserError(
                f"Images of {x_BCHW.shape[-2]} x {side} pixels are not divided by square patches of {size} x {size}. Give "
                f"the images another side, {max(1, round(side / size)) * size} for instance."
            )
        x = ((x_BCHW - self.mean) / self.deviation).to(self.patch_embed.weight.dtype)
        patches_BPD = self.patch_embed(x).flatten(2).mT
        h_BND = torch.cat([self.cls_token.expand(len(x), -1, -1), patches_BPD], 1)
        return h_BND + self.positions(side)

    def positions(self, side: int) -> Tensor:
        """(1, N, D) for images of another side: those of the patches are interpolated bicubically, as in DINOv2."""
        own, asked = self.config.image_size // self.config.patch_size, side // self.config.patch_size
        if own == asked:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].mT.unflatten(-1, (own, own))
        grid = F.interpolate(grid.float(), (asked, asked), mode="bicubic").to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).mT], 1)


def _initialise(part: nn.Module) -> None:
    """The weights of a network that is trained from nothing: as timm's, patches as a linear layer of as many inputs."""
    if isinstance(part, nn.Linear):
        nn.init.trunc_normal_(part.weight, std=0.02)
        nn.init.zeros_(part.bias)
    elif isinstance(part, nn.Conv2d):
        inputs = part.weight[0].numel()
        nn.init.trunc_normal_(part.weight, std=math.sqrt(1 / inputs))
        assert part.bias is not None
        nn.init.zeros_(part.bias)
