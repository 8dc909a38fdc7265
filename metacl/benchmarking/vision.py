"""The subject `vision`: a vision transformer, and what methods train beside it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from episodes import EpisodeSpec
from episodes.errors import at_least
from metacl.benchmarking.measure import Case, Result, calls, measure, progress
from metacl.benchmarking.options import Options, provenance
from metacl.learners.precision import fast_bf16
from metacl.learners.vision.lora import LoraConfig
from metacl.learners.vision.pairs import new_pair
from metacl.learners.vision.trunk import Trunk, TrunkConfig
from metacl.nets.vit import VisionTransformer, prefixed

Backbone = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BACKBONE")]


@dataclass(frozen=True, kw_only=True)
class VisionOptions(Options):
    """How fast a vision transformer passes images forward and backward, where its weights stay and where they are trained.

    Rows: forward; forward and backward of prefixes, of the frozen transformer's; and of all its weights; and a whole step of
    low-rank weights in a second task, by `lora-sequential` and by `lora-drs`, which is to take at most 1.25 times as long.
    Example: python benchmark.py vision vit-tiny-32 --batch-size 8
    """

    backbone: Backbone = "vit-tiny-32"
    """As `--learner.trunk.backbone` of a learner: a name, a folder or a file."""
    side: int | None = None
    """Side of the images in pixels. None: what the weights were trained with."""
    batch_size: int = 32
    """Images that pass at a time."""
    length: int = 5
    """Tokens of a prefix."""
    blocks: int = 5
    """Blocks with prefixes, the first ones."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 where the device multiplies it fast, else fp32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "--", "batch_size", "length", "blocks", "side")


def vision(options: VisionOptions) -> Result:
    """Measures each row, with the time of its matrix products alone beside it."""
    device, precision = options.torch_device(), options.precision
    if precision == "auto":
        precision = "bf16" if fast_bf16(device.type) else "fp32"
    spec = EpisodeSpec("image", (3, 32, 32), "cross_entropy", symbols=2)
    trunk = Trunk(TrunkConfig(options.backbone, options.side), spec)
    network, shape = trunk.network.to(device), trunk.shape
    x_NCHW = torch.rand(options.batch_size, 3, trunk.side, trunk.side, device=device)
    blocks = min(options.blocks, shape.depth)
    prefix = torch.randn(1, blocks, 2, options.length, shape.heads, shape.width // shape.heads, device=device) / 10
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")
    work: dict[str, Callable[[], object]] = {
        "forward": partial(_forward, network, x_NCHW, autocast),
        "prefixes, forward and backward": partial(_prefixes, network, x_NCHW, prefix, autocast),
        "all weights, forward and backward": partial(_all_weights, network, x_NCHW, autocast),
    }
    for name, about in {"lora-sequential": LoraConfig(), "lora-drs": LoraConfig(space="subtracted", triplet=0.05)}.items():
        work[f"a step of {name}"] = _lora_step(replace(about, trunk=trunk.config), trunk, options.batch_size, precision)
    cases = [Case({"form": form}, call, options.batch_size, counted=call) for form, call in work.items()]
    with progress("vision", sum(case.units for case in cases) * calls(options.repeats)) as tick:
        rows = measure(cases, options.repeats, device, tick)
    return Result("vision", "images", rows, about={"options": provenance(options), "precision": precision})


Autocast = Callable[[], AbstractContextManager[object]]


@torch.no_grad()
def _forward(network: VisionTransformer, x_NCHW: Tensor, autocast: Autocast) -> Tensor:
    with autocast():
        return network(x_NCHW)


def _prefixes(network: VisionTransformer, x_NCHW: Tensor, prefix: Tensor, autocast: Autocast) -> Tensor:
    leaf = prefix.detach().requires_grad_()
    with autocast():
        loss = network(x_NCHW, prefixed(leaf)).float().square().mean()
    return torch.autograd.grad(loss, leaf)[0]


def _lora_step(config: LoraConfig, trunk: Trunk, number: int, precision: str) -> Callable[[], object]:
    """A step on `number` images of a second task. What is found out once for each task is not in it."""
    config = replace(config, trunk=replace(config.trunk, precision="bf16" if precision == "bf16" else "fp32"))
    learner = config.build(EpisodeSpec("image", (3, 32, 32), "cross_entropy", symbols=20))
    learner.trunk.network.to(trunk.device)
    rng, device = np.random.default_rng(0), trunk.device
    x_NCHW = torch.from_numpy(rng.integers(0, 256, (number, 3, 32, 32), dtype=np.uint8)).to(device)
    y_N, state = torch.arange(number, device=device) % 10, learner.fresh(*torch.zeros(2, device=device))
    pairs = new_pair(learner.pair_shape, rng).to(device)[None]
    seen = torch.arange(20, device=device) >= 10
    state = state._replace(tasks=state.tasks + 1, pairs=pairs, seen=seen, prototypes=torch.randn_like(state.prototypes))
    training = learner.prepared(state._replace(rate=torch.tensor(config.rate)), x_NCHW, y_N, rng)

    def step() -> None:
        training.optimiser.zero_grad()
        training.loss(np.arange(number)).backward()
        training.optimiser.step()

    return step


def _all_weights(network: VisionTransformer, x_NCHW: Tensor, autocast: Autocast) -> object:
    weights = {name: part.detach().requires_grad_() for name, part in network.named_parameters()}
    with autocast():
        loss = torch.func.functional_call(network, weights, (x_NCHW,)).float().square().mean()
    return torch.autograd.grad(loss, list(weights.values()))
