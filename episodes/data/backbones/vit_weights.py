"""Weights of vision transformers under the names of others: timm's, Hugging Face's ViT and DINOv2, and this project's own."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from episodes.data.backbones.vit import HALVES, IMAGENET, VisionTransformer, VitConfig

HUGGING_FACE = (
    (r"^(vit|dinov2)\.", ""),
    (r"^embeddings\.(cls_token|mask_token)", r"\1"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed"),
    (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.attention\.(query|key|value)", r".attn.\1"),
    (r"\.attention\.(q|k|v|o)_proj", r".attn.\1"),
    (r"\.attention\.output\.dense", ".attn.proj"),
    (r"\.attn\.o\.", ".attn.proj."),
    (r"\.intermediate\.dense", ".mlp.fc1"),
    (r"\.output\.dense", ".mlp.fc2"),
    (r"\.layernorm_before", ".norm1"),
    (r"\.layernorm_after", ".norm2"),
    (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
TIMM = ((r"^patch_embed\.proj\.", "patch_embed."),)
"""Patterns of names and what is put in their place, one after another."""
UNUSED = re.compile(r"^(head|fc_norm|pre_logits|pooler|classifier|mask_token)\b")
"""What is not needed for features: classifiers, and what only pre-training needs."""
HEAD = 64
"""Width of a head where no configuration says it: that of all published ViT."""


def network_of(weights: Mapping[str, Tensor], about: Mapping[str, object] | None = None) -> VisionTransformer:
    """The transformer that has these weights, in float32 and frozen.

    Arguments:
        weights: by any of the names above.
        about: what a config.json says of it, in the words of Hugging Face; what it does not say comes from the shapes.

    Raises:
        ValueError: some weights are missing, have another shape, or are of another network; says which.
    """
    own = own_names(weights)
    network = VisionTransformer(config_of(own, about or {}))
    expected = network.state_dict()
    faults = [
        *_listed("missing", expected.keys() - own.keys()),
        *_listed("none of a vision transformer's", own.keys() - expected.keys()),
        *_listed(
            "of another shape",
            {
                f"{name} {tuple(own[name].shape)} for {tuple(expected[name].shape)}"
                for name in expected.keys() & own.keys()
                if own[name].shape != expected[name].shape
            },
        ),
    ]
    if faults:
        raise ValueError("; ".join(faults))
    network.load_state_dict(own)
    if broken := [name for name, part in own.items() if not part.isfinite().all()]:
        raise ValueError(f"numbers that are not finite (NaN or infinite) are in {', '.join(broken[:3])}")
    return network.float().eval().requires_grad_(False)


def own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that are needed, by the names of `VisionTransformer`. Raises `ValueError` as `network_of`."""
    return {name: part for name, part in joined(renamed(weights)).items() if not UNUSED.match(name)}


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the names of `VisionTransformer`; queries, keys and values may still be apart."""
    found = {}
    for name, part in weights.items():
        for pattern, new in (*HUGGING_FACE, *TIMM):
            name = re.sub(pattern, new, name)
        found[name] = part
    return found


def joined(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with one layer for queries, keys and values where there are three."""
    found = dict(weights)
    for name in weights:
        if match := re.fullmatch(r"(blocks\.\d+\.attn)\.(query|q)\.(weight|bias)", name):
            block, first, kind = match.groups()
            three = ("query", "key", "value") if first == "query" else ("q", "k", "v")
            parts = [found.pop(f"{block}.{part}.{kind}", None) for part in three]
            if absent := [f"{block}.{part}.{kind}" for part, own in zip(three, parts, strict=True) if own is None]:
                raise ValueError(f"there is no {', no '.join(absent)}")
            found[f"{block}.qkv.{kind}"] = torch.cat([part for part in parts if part is not None])
    return found


def config_of(weights: Mapping[str, Tensor], about: Mapping[str, object]) -> VitConfig:
    """The shape of the transformer that weights are of, by our names; heads, epsilon and normalisation from `about`.

    Raises:
        ValueError: what every transformer has is missing.
    """
    if missing := [name for name in ("cls_token", "pos_embed", "patch_embed.weight") if name not in weights]:
        raise ValueError(f"there is no {', no '.join(missing)}")
    width, _, patch, _ = weights["patch_embed.weight"].shape
    side = round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch
    depth = len({match[1] for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))})
    scaled = "blocks.0.ls1.gamma" in weights
    hidden = weights["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in weights else 4 * width
    mean, deviation = IMAGENET if scaled else HALVES
    return VitConfig(
        side,
        patch,
        width,
        depth,
        int(about.get("num_attention_heads", max(1, width // HEAD))),  # type: ignore[call-overload]
        hidden,
        scaled,
        float(about.get("layer_norm_eps", 1e-6)),  # type: ignore[arg-type]
        tuple(about.get("image_mean", mean)),  # type: ignore[arg-type]
        tuple(about.get("image_std", deviation)),  # type: ignore[arg-type]
    )


def _listed(kind: str, names: set[str]) -> list[str]:
    """At most three of them, in words."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{', '.join(sorted(names)[:3])}{more} {'is' if len(names) == 1 else 'are'} {kind}"] if names else []
