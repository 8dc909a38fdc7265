"""Sequence learners: the forward pass over the stream is the learning (CL-Seq: Lee, Son, Kim, NeurIPS 2023)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from episodes import Episode, EpisodeSpec, Examples, UserError
from episodes.errors import at_least
from metacl.attention import ATTENTION
from metacl.attention.backends import BACKENDS
from metacl.learners.auxiliary import auxiliary_loss
from metacl.learners.blocks import Block, sinusoids
from metacl.learners.distributed import Distributed
from metacl.learners.likeness import Likeness
from metacl.learners.losses import MetaLoss
from metacl.learners.matching import start_matching
from metacl.learners.paired import Target
from metacl.learners.protocol import Learner
from metacl.learners.symbols import SYMBOLS
from metacl.nets.encoders import EncoderConfig, VectorEncoder, build_encoder

if TYPE_CHECKING:
    Mechanism: TypeAlias = str
    Backend: TypeAlias = str
else:
    Mechanism, Backend = Literal[tuple(ATTENTION)], Literal[tuple(BACKENDS)]


@dataclass(frozen=True)
class SequenceConfig:
    """A transformer over the stream. Queries read its state and never write it."""

    attention: Mechanism = "softmax"
    """Attention mechanism. `softmax` keeps every key and value, the others keep a state of constant size (`log-linear`: of
    logarithmic size)."""
    layout: Literal["paired", "interleaved"] = "paired"
    """Tokens of an example. `paired`: one token, x in its first half, y in its second. `interleaved`: one for x, then one for
    y, as published."""
    query: Literal["input", "label"] | None = None
    """What a query token holds. `input`: the input that is asked about; its label is read off, as published. `label`: a label
    symbol, one token for each; what its inputs are like is read off, and the nearest is the answer. None: `label` in
    classification with paired tokens that have the matching start, and a mechanism that tells labels apart (all but `linear`,
    `performer`, `hgrn2` and `gsa`); else `input`."""
    start: Literal["matching", "alike", "random"] | None = None
    """Weights at the start. `matching`: those of a matching network, which has no plateau to leave; for paired tokens. `alike`:
    random, queries and keys with one projection. `random`: as published. None: `matching` where tokens are paired, else
    `alike`."""
    width: int = 128
    """Width of a token (D)."""
    layers: int = 2
    """Blocks of attention and MLP."""
    heads: int = 1
    """Heads of attention in each block (H)."""
    head_width: int | None = None
    """Width of a value in a head. None: width / heads."""
    key_width: int | None = None
    """Width of a query and of a key in a head. None: the width of a value."""
    options: dict[str, int] = field(default_factory=dict)
    """Options that only one mechanism has, as in `window 64`. softmax: window, key_heads; performer: features; ttt-linear:
    batch; mesa: iterations (0: exact); log-linear: levels; gsa: slots; gated-delta-product: steps. delta, gated-delta,
    gated-delta-product, kda, gdn2: negative (1: what a token does to the state may turn it around, 0: not). Recurrences and
    mesa: short_conv (tokens that a short convolution sees; 0: none) and gate (1: an output gate), which published blocks have
    and which are off here."""
    backend: Backend = "auto"
    """Kernels that compute attention: plain PyTorch (`torch`), flash-attn (`flash`, for softmax), `fla` (for recurrences), or
    `auto`, the fastest that are installed and fit."""
    hidden: int = 256
    """Width of the hidden layer in the MLP of a block."""
    dropout: float = 0.0
    """Dropout of what attention and MLP add to a token."""
    attention_dropout: float = 0.0
    """Dropout of the attention weights in `softmax`, of the outputs of the heads in all other mechanisms."""
    norm: bool = True
    """Put LayerNorm before attention, before the MLP and, where tokens are interleaved, at the end. In paired tokens it is over
    the first half: how much is said of a token is not normalised away. The published model has none."""
    positions: Literal["none", "sinusoidal"] = "none"
    """Code for its place that is added to a token; where tokens are paired, to what was seen. With `none` a stream may be
    longer than those of meta-training."""
    symbols: Literal["random", "learned", "words"] = "random"
    """Vectors for label symbols. `random`: fixed, for any number of symbols. `learned`: a table of those in meta-training.
    `words`: a symbol is a word of one letter or more, and the letters are learnt: for many symbols."""
    auxiliary_steps: int = 0
    """First steps of meta-training with the auxiliary attention loss, which draws half of the heads to the task of a query."""
    distributed: Distributed = None
    """When meta-training asks a query. None: at the end of the stream. `random`: once, after a random task from its own on.
    `every`: after each task from its own on."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "width", "layers", "heads", "hidden", "head_width", "key_width")
        at_least(0, self, "learner.", "auxiliary_steps")
        at_least(0, self, "learner.", "dropout", "attention_dropout", most=1)
        if self.layout == "paired" and (self.width % 2 or self.width < 4):
            raise UserError(f"learner.width {self.width} must be even, and 4 or more: a paired token has two halves.")
        if self.layout == "interleaved" and self.start == "matching":
            raise UserError("learner.start matching needs learner.layout paired. Take learner.start alike, or paired tokens.")
        if self.query == "label" and (self.layout == "interleaved" or self.auxiliary_steps):
            what = "--learner.layout paired" if self.layout == "interleaved" else "no --learner.auxiliary-steps"
            raise UserError(f"learner.query label needs {what}. Or take learner.query input.")
        if self.head_width is None and self.width % self.heads:
            raise UserError(f"learner.width {self.width} must be a multiple of learner.heads {self.heads}.")
        if self.distributed and self.auxiliary_steps:
            raise UserError("learner.distributed and learner.auxiliary-steps cannot be combined: leave one of them out.")
        if self.auxiliary_steps and not ATTENTION[self.attention].has_weights:
            names = ", ".join(name for name, mechanism in ATTENTION.items() if mechanism.has_weights)
            raise UserError(
                f"learner.auxiliary-steps needs attention weights; {self.attention} has none. Leave it out, or take {names}."
            )

    def build(self, spec: EpisodeSpec) -> "SequenceLearner":
        return SequenceLearner(self, spec)

    @property
    def begins(self) -> Literal["matching", "alike", "random"]:
        """`start`, or what stands for None."""
        return self.start or ("matching" if self.layout == "paired" else "alike")

    def asks(self, spec: EpisodeSpec) -> Literal["input", "label"]:
        """`query`, or what stands for None. Raises `UserError` where there are no labels to ask for."""
        if self.query == "label" and not spec.classification:
            raise UserError("learner.query label is for classification; this is a regression. Take learner.query input.")
        told_apart = self.begins == "matching" and ATTENTION[self.attention].recalls and not self.auxiliary_steps
        return self.query or ("label" if spec.classification and told_apart else "input")


class SequenceState(NamedTuple):
    """The attention states after the stream so far."""

    layers: tuple[NamedTuple, ...]
    """The attention state of each layer."""
    length: Tensor
    """(B,) int64, tokens seen."""


class SequenceLearner(Learner):
    """A causal transformer whose keys and values, or whose running sums, are the learner's state."""

    def __init__(self, config: SequenceConfig, spec: EpisodeSpec):
        super().__init__(spec, config.distributed)
        self.config, self.paired = config, config.layout == "paired"
        self.part = part = config.width // 2 if self.paired else config.width
        self.encoder = build_encoder(config.encoder, spec, part)
        self.likeness = Likeness(part, config.norm) if config.asks(spec) == "label" else None
        if spec.classification:
            self.symbols = SYMBOLS[config.symbols](spec.symbols, part, None if self.likeness else config.width)
        else:
            self.target_encoder = Target(spec.y_shape, part) if self.paired else VectorEncoder(spec.y_shape, part)
            self.answer = nn.Linear(config.width, spec.outputs)
        if self.paired and self.likeness is None:
            self.question = nn.Parameter(torch.zeros(part))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width) if config.norm and not self.paired else nn.Identity()
        self.constant_state = all(block.attention.constant_state for block in self._blocks())
        if config.begins == "matching":
            start_matching(self)
        elif config.begins == "alike":
            for block in self._blocks():
                block.attention.start_alike()

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).to(next(self.parameters()).dtype)  # out of autocast: what is added to a token is small beside it

    def init_state(self, batch_size: int) -> SequenceState:
        layers = tuple(block.attention.init_state(batch_size) for block in self._blocks())
        return SequenceState(layers, torch.zeros(batch_size, dtype=torch.long, device=next(self.parameters()).device))

    def learn_features(self, state: SequenceState, z_BND: Tensor, examples: Examples) -> SequenceState:
        return self._learn(state, z_BND, examples)[0]

    def predict_features(self, state: SequenceState, z_BMD: Tensor) -> Tensor:
        return self._predict(state, z_BMD)[0]

    def meta_loss(self, episode: Episode) -> MetaLoss:
        if not (self.training and self.step < self.config.auxiliary_steps):
            return super().meta_loss(episode)
        z_stream, z_query = self.encode_episode(episode)
        state, stream_inputs = self._learn(self.init_state(len(z_stream)), z_stream, episode.stream)
        prediction, query_inputs = self._predict(state, z_query)
        result = self.query_loss(prediction, episode.queries.y, episode.queries.valid)
        layers = [block.attention for block in self._blocks()]
        auxiliary = auxiliary_loss(layers, stream_inputs, query_inputs, episode)
        return MetaLoss(result.loss + auxiliary, result.metrics | {"auxiliary": auxiliary.detach()})

    def tokens(self, z_BNE: Tensor, y: Tensor) -> Tensor:
        """Features of inputs and their targets -> the tokens of a stream (B, N or 2 N, D)."""
        label_BNE = self.symbols.embed(y) if self.spec.classification else self.target_encoder(y)
        if self.paired:
            return torch.cat([z_BNE, label_BNE], dim=-1)
        return rearrange([z_BNE, label_BNE], "two b n d -> b (n two) d")

    def query_tokens(self, z_BME: Tensor) -> Tensor:
        """(B, M, D), or (B, V, D) where labels are asked for: what the state is read with.

        In place of what is asked a paired token has the learnt code of a question, at first zeros; or, of an input, zeros.
        """
        if self.likeness is not None:
            label_VE = self.symbols.embed(torch.arange(self.spec.symbols, device=z_BME.device))
            return nn.functional.pad(label_VE, (self.part, 0)).expand(len(z_BME), -1, -1)
        return torch.cat([z_BME, self.question.expand_as(z_BME)], dim=-1) if self.paired else z_BME

    def answers(self, h: Tensor, z_BME: Tensor) -> Tensor:
        """The predictions (B, M, V or *y_shape) from what was read with the query tokens."""
        if self.likeness is not None:
            return self.likeness(z_BME, h[..., : self.part])
        h = self.norm(h)
        return self.symbols.logits(h) if self.spec.classification else self.shaped(self.answer(h))

    def _learn(self, state: SequenceState, z_BND: Tensor, examples: Examples) -> tuple[SequenceState, list[Tensor]]:
        """The new state, and what enters the attention of each layer (B, tokens, D)."""
        tokens, valid = self.tokens(z_BND, examples.y), examples.valid
        if valid is not None and not self.paired:
            valid = valid.repeat_interleave(2, dim=1)
        counted = torch.ones_like(tokens[..., 0], dtype=torch.long) if valid is None else valid.long()
        h = self._place(tokens, state.length[:, None] + counted.cumsum(1) - 1)
        layers, inputs = [], []
        for block, layer in zip(self._blocks(), state.layers, strict=True):
            inputs.append(block.norm_attention(h))
            attended, layer = block.attention.learn(inputs[-1], layer, valid)
            layers.append(layer)
            h = block.add(h, attended)
        return SequenceState(tuple(layers), state.length + counted.sum(1)), inputs

    def _predict(self, state: SequenceState, z_BMD: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The predictions, and what enters the attention of each layer (B, M, D)."""
        h = self.query_tokens(z_BMD)
        h = self._place(h, state.length[:, None].expand(h.shape[:2]))
        inputs = []
        for block, layer in zip(self._blocks(), state.layers, strict=True):
            inputs.append(block.norm_attention(h))
            h = block.add(h, block.attention.read(inputs[-1], layer))
        return self.answers(h, z_BMD), inputs

    def _blocks(self) -> Iterator[Block]:
        return cast(Iterator[Block], iter(self.blocks))

    def _place(self, tokens_BND: Tensor, place_BN: Tensor) -> Tensor:
        if self.config.positions == "none":
            return tokens_BND
        code_BNE = sinusoids(place_BN, self.part).to(tokens_BND.dtype)
        return tokens_BND + nn.functional.pad(code_BNE, (0, self.config.width - self.part))
