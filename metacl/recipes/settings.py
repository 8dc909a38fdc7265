"""Settings of learners that are not meta-trained, for each family of streams, and for episodes.

Networks, rates and supports along streams are those of Bekal et al. (2025) and its code; its one learning rate for all, 1e-4,
is the default that --rates should replace. The remedies, of which it says nothing, have the settings of their own papers as far
as they fit. Along episodes nothing is published: small networks, an update for each example, and a rate that is always chosen.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from episodes import NamedStream
from metacl.learners.similarity.full_attention import FullAttentionConfig
from metacl.learners.similarity.kernels import KernelConfig
from metacl.learners.similarity.online_query_only import OnlineQueryOnlyConfig
from metacl.learners.similarity.pairwise import ScoreConfig
from metacl.learners.trained.backprop import BackpropConfig
from metacl.learners.trained.badam import BadamConfig
from metacl.learners.trained.ewc import EWCConfig
from metacl.learners.trained.finetune import FinetuneConfig
from metacl.learners.trained.online_maml import OnlineMAMLConfig
from metacl.learners.trained.replay import DarkReplayConfig, ReplayConfig, SameBufferConfig
from metacl.learners.trained.units import ContinualConfig, RedoConfig
from metacl.nets.encoders import EncoderConfig
from metacl.nets.side_by_side import NetworkConfig


@dataclass(frozen=True)
class Settings:
    """What differs between families of sources."""

    hidden: tuple[int, ...]
    """Hidden layers of `bp` and its kin."""
    initial: Literal["kaiming", "xavier"]
    """How the weights of these layers are drawn."""
    score: ScoreConfig
    """The score of a pair in `query-only`."""
    queries: Literal["block", "one"]
    """Whether `query-only` learns from a whole block or from one query."""
    support: int
    """Labelled examples that `query-only` compares a query with; `bp` may use as many when asked about an old task."""
    buffer: int
    """Latest examples that `query-only` keeps."""
    l2_init: float
    """Strength of `l2-init`."""
    replacement: float
    """Share of the units that `cbp` replaces at an update."""
    attention: tuple[int, float, int]
    """Layers, learning rate and support of `full-attention`; two layers on regression as in the paper's code."""
    maml: tuple[int, int, int]
    """Support, queries and regions of `online-maml`."""
    maml_hidden: tuple[int, ...]
    """Hidden layers of `online-maml`."""
    maml_buffer: tuple[int, int, float]
    """Buffer of `online-maml`: its places; of so many stream examples one is kept; updates a block."""
    kernel: float
    """Inverse squared width of the kernel of `nadaraya-watson`: for bits, for 7 x 7 or for 32 x 32 pixels."""
    block: int = 1
    """Examples that arrive together."""


IMAGES = Settings(
    hidden=(128, 128),
    initial="xavier",
    score=ScoreConfig(hidden=128, depth=3),
    queries="block",
    support=100,
    buffer=100,
    l2_init=1e-5,
    replacement=3e-4,
    attention=(3, 1e-4, 100),
    maml=(10, 10, 5),
    maml_hidden=(128, 128),
    maml_buffer=(20_000, 1, 1.0),
    kernel=0.1,
)
FAMILIES = {
    "images": IMAGES,
    "class-incremental": IMAGES,
    "tiny-imagenet": replace(IMAGES, queries="one", support=180, buffer=200, attention=(3, 1e-4, 199)),
    "mnist": Settings(
        hidden=(200, 200, 200, 200),
        initial="kaiming",
        score=ScoreConfig(hidden=100, depth=11, label=True),
        queries="one",
        support=200,
        buffer=200,
        l2_init=1e-2,
        replacement=1e-4,
        attention=(10, 5e-4, 99),
        maml=(10, 10, 5),
        maml_hidden=(100, 100, 100, 100),
        maml_buffer=(60_000, 10, 40.0),
        kernel=10.0,
    ),
    "regression": Settings(
        hidden=(40,),
        initial="kaiming",
        score=ScoreConfig(hidden=20, normalise="softmax"),  # softmax as in the paper's code; its equation 6 has none
        queries="block",
        support=100,
        buffer=100,
        l2_init=1e-2,
        replacement=1e-3,
        attention=(2, 1e-4, 100),
        maml=(100, 15, 20),
        maml_hidden=(40,),
        maml_buffer=(20_000, 10, 1e-3),
        kernel=2.0,
    ),
}
EPISODES = replace(IMAGES, maml=(5, 5, 2), maml_buffer=(20, 1, 1.0))
"""Short streams: `online-maml` learns from the twentieth example on."""


def along(stream: NamedStream) -> Settings:
    """The settings for a stream."""
    return replace(FAMILIES[stream.family], block=stream.schedule.block)


def _shared(s: Settings) -> dict[str, Any]:
    return {"block": s.block, "network": NetworkConfig(s.hidden, initial=s.initial), "support": s.support}


def backprop(s: Settings, **options: Any) -> BackpropConfig:
    return BackpropConfig(**_shared(s), **options)


def l2_init(s: Settings) -> BackpropConfig:
    return backprop(s, l2_init=s.l2_init)


def crelu(s: Settings) -> BackpropConfig:
    """Another network of the same size."""
    return replace(backprop(s), network=NetworkConfig(s.hidden, activation="crelu", initial=s.initial))


def layernorm(s: Settings) -> BackpropConfig:
    """Another network of the same size."""
    return replace(backprop(s), network=NetworkConfig(s.hidden, normalise=True, initial=s.initial))


def replay(s: Settings) -> ReplayConfig:
    """As many old examples as new ones; ten where examples come one by one."""
    return ReplayConfig(**_shared(s), replayed=max(10, s.block))


def dark_replay(s: Settings, **options: Any) -> DarkReplayConfig:
    """The reservoir and draws of `replay`."""
    return DarkReplayConfig(**_shared(s), replayed=max(10, s.block), **options)


def same_buffer(s: Settings) -> SameBufferConfig:
    """The buffer of query-only attention, and as many examples in an update as it has in its support."""
    return SameBufferConfig(**_shared(s), buffer=s.buffer, replayed=s.support)


def continual(s: Settings) -> ContinualConfig:
    return ContinualConfig(**_shared(s), replacement_rate=s.replacement)


def ewc(s: Settings) -> EWCConfig:
    return EWCConfig(**_shared(s))


def badam(s: Settings) -> BadamConfig:
    return BadamConfig(**_shared(s))


def redo(s: Settings) -> RedoConfig:
    return RedoConfig(**_shared(s))


def query_only(s: Settings) -> OnlineQueryOnlyConfig:
    return OnlineQueryOnlyConfig(block=s.block, support=s.support, buffer=s.buffer, queries=s.queries, score=s.score)


def full_attention(s: Settings) -> FullAttentionConfig:
    layers, rate, newest = s.attention
    return FullAttentionConfig(rate=rate, block=s.block, layers=layers, support=newest)


def online_maml(s: Settings) -> OnlineMAMLConfig:
    """Sizes of the paper's code. It stores one example in ten, and makes one update a stored one (one in a hundred on
    regression); images are all stored, with one update a block."""
    (support, queries, regions), (buffer, keep_every, updates) = s.maml, s.maml_buffer
    return OnlineMAMLConfig(
        block=s.block,
        network=NetworkConfig(s.maml_hidden, initial=s.initial),
        support=support,
        queries=queries,
        regions=regions,
        buffer=buffer,
        keep_every=keep_every,
        updates=updates,
    )


def kernel(s: Settings, nearest: int = 0) -> KernelConfig:
    """With the support of query-only attention."""
    return KernelConfig(rate=s.kernel, block=s.block, support=s.support, nearest=nearest)


def linear_probe(s: Settings) -> FinetuneConfig:
    """`offline` without layers before the last, and with larger batches."""
    return FinetuneConfig("offline", rate=1e-3, optimiser="adam", width=0, batch_size=64)


def finetune(mode: Literal["online", "offline", "replay"], encoder: EncoderConfig, width: int = 128) -> FinetuneConfig:
    """Adam where there are steps enough for it."""
    if mode == "offline":
        return FinetuneConfig(mode, rate=1e-3, optimiser="adam", width=width, encoder=encoder)
    return FinetuneConfig(mode, width=width, encoder=encoder)
