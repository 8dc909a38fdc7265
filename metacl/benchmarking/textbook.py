"""Row 0: attention and the training step as one finds them in published code, with the whole matrix of scores.

They take the modules of metacl, so that with equal weights they must give equal results, and differ only in how.

Shapes: B episodes, N stream tokens, M queries, S = N + M tokens of one sequence, T tasks, D width, H heads, E head width.
"""

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from episodes import Episode, UserError
from metacl.attention import Attention
from metacl.attention.linear import Performer
from metacl.attention.recurrent import Recurrent
from metacl.attention.scan import Tokens
from metacl.attention.softmax import SoftmaxAttention
from metacl.learners import Learner, MetaLoss, query_loss
from metacl.learners.blocks import Block, sinusoids
from metacl.learners.sequence import SequenceLearner
from metacl.nets.encoders import ImageEncoder

L = TypeVar("L", bound=Learner)


def softmax_weights(tokens: Tokens, mask_SS: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)), (B, H, S, S), with every score written out."""
    score_BHSS = _scores(tokens) / tokens.q.shape[-1] ** 0.5
    return score_BHSS.masked_fill(~mask_SS, -torch.inf).softmax(-1)


def decayed_weights(tokens: Tokens, mask_SS: Tensor) -> Tensor:
    """(q k^T) * D, D_ij = exp(sum of the log decays after j, up to i), 1 where nothing decays: RetNet's parallel form."""
    if tokens.log_decay is None:
        return _scores(tokens) * mask_SS
    b_BHS = tokens.log_decay.cumsum(-1)
    between_BHSS = (b_BHS[..., None] - b_BHS[..., None, :]).masked_fill(~mask_SS, -torch.inf).exp()
    return _scores(tokens) * between_BHSS


def normalised_weights(tokens: Tokens, mask_SS: Tensor) -> Tensor:
    """The same for positive features, each row divided by its sum: a linear mechanism at quadratic cost."""
    weight_BHSS = decayed_weights(tokens, mask_SS)
    return weight_BHSS / weight_BHSS.sum(-1, keepdim=True)


WEIGHTS = {
    "softmax": softmax_weights,
    "linear": normalised_weights,
    "performer": normalised_weights,
    "retention": decayed_weights,
    "mamba2": decayed_weights,
}
"""The textbook forms of `metacl.attention.ATTENTION`, where there is one with a matrix of weights."""
EPISODE_FORMS = ("softmax", "linear")
"""Those whose matrix does not ask how far apart two tokens are, so that queries can stand behind the stream."""


HAVE_CORE = (SoftmaxAttention, Recurrent, Performer)
"""Mechanisms that are one function of queries, keys, values and gates."""


def tokens_of(attention: Attention, x_BND: Tensor) -> Tokens:
    """What a mechanism makes of a stream's tokens before they meet: queries, keys, values and gates.

    Raises:
        UserError: the mechanism has no such form.
    """
    if isinstance(attention, Recurrent):
        return attention.tokens(x_BND)
    if isinstance(attention, Performer):
        return attention._tokens(x_BND, attention.init_state(len(x_BND)).top, None)[0]
    if isinstance(attention, SoftmaxAttention):
        return Tokens(*attention.project(x_BND))
    raise UserError(f"{type(attention).__name__} is more than one function of queries, keys, values and gates.")


def mixed(name: str, tokens: Tokens, mask_SS: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """The outputs of the heads (B, H, S, F), before any norm, and the weights (B, H, S, S)."""
    weight_BHSS = WEIGHTS[name](tokens, mask_SS)
    return torch.einsum("bhqk,bhke->bhqe", F.dropout(weight_BHSS, dropout).to(tokens.v), tokens.v), weight_BHSS


def matrix_form(name: str, attention: Attention, x_BSD: Tensor, mask_SS: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of `attention` and its weights (B, H, S, S), by its whole matrix."""
    tokens, dropout = tokens_of(attention, x_BSD), attention.dropout if attention.training else 0.0
    tokens = tokens._replace(v=tokens.v[..., : attention.head_width])  # without the column that adds up to the normaliser
    out, weights = mixed(name, tokens, mask_SS, dropout if name == "softmax" else 0.0)
    if name != "softmax":
        out = F.dropout(out if attention.has_weights else cast(Recurrent, attention).norm(out), dropout)
    return attention.merge(out, x_BSD), weights


def _scores(tokens: Tokens) -> Tensor:
    return torch.einsum("bhqe,bhke->bhqk", tokens.q, tokens.k)


def episode_mask(stream: int, queries: int, device: torch.device) -> Tensor:
    """(S, S) bool: a stream token sees those before it and itself, a query all stream tokens and itself."""
    place = torch.arange(stream + queries, device=device)
    row, column = place[:, None], place
    return ((column < stream) & (column <= row)) | (column == row)


def textbook_copy(learner: L) -> L:
    """The same weights in their own storage, convolutions in NCHW."""
    plain = copy.deepcopy(learner)
    for parameter in plain.parameters():
        parameter.data = parameter.data.contiguous()
    return plain


def textbook_loss(learner: SequenceLearner, episode: Episode) -> MetaLoss:
    """`learner.meta_loss` for queries at the end of streams without padding: one sequence of stream and queries, one mask."""
    stream, queries = episode.stream, episode.queries
    z_stream, z_query = encode_channels_first(learner.encoder, torch.cat([stream.x, queries.x], dim=1)).split(
        [len(stream), len(queries)], dim=1
    )
    tokens_BND = learner.tokens(z_stream, stream.y)
    N, device = tokens_BND.shape[1], tokens_BND.device
    asked = learner.query_tokens(z_query)
    mask_SS = episode_mask(N, asked.shape[1], device)
    h = torch.cat([tokens_BND, asked], dim=1)
    if learner.config.positions == "sinusoidal":
        code_SE = sinusoids(torch.arange(h.shape[1], device=device).clamp_max(N)[None], learner.part)
        h = h + F.pad(code_SE, (0, learner.config.width - learner.part)).to(h.dtype)
    h, weights = _blocks(learner, h, mask_SS)
    result = query_loss(learner.answers(h[:, N:], z_query), queries.y, learner.spec)
    if not (learner.training and learner.step < learner.config.auxiliary_steps):
        return result
    auxiliary = _auxiliary_loss(weights, episode, N)
    return MetaLoss(result.loss + auxiliary, result.metrics | {"auxiliary": auxiliary.detach()})


def _blocks(learner: SequenceLearner, h: Tensor, mask_SS: Tensor) -> tuple[Tensor, list[Tensor]]:
    weights = []
    for module in learner.blocks:
        block = cast(Block, module)
        attended, weight_BHSS = matrix_form(learner.config.attention, block.attention, block.norm_attention(h), mask_SS)
        weights.append(weight_BHSS)
        h = block.add(h, attended)
    return h, weights


def _auxiliary_loss(weights: list[Tensor], episode: Episode, stream: int) -> Tensor:
    """-log of the weight that each query puts on its own task, over half of the heads, summed over layers."""
    repeat = stream // len(episode.stream)
    of_task_BNT = F.one_hot(episode.stream.task.repeat_interleave(repeat, dim=1))
    losses = []
    for weight_BHSS in weights:
        half = weight_BHSS[:, : (weight_BHSS.shape[1] + 1) // 2, stream:, :stream]
        mass_BHMT = torch.einsum("bhmn,bnt->bhmt", half, of_task_BNT.to(half))
        mass_BHMT = mass_BHMT / mass_BHMT.sum(-1, keepdim=True)
        own_BHM1 = mass_BHMT.gather(-1, episode.queries.task[:, None, :, None].expand(-1, half.shape[1], -1, 1))
        losses.append(-own_BHM1.float().clamp_min(1e-9).log().mean())
    return torch.stack(losses).sum()


def encode_channels_first(encoder: nn.Module, x: Tensor) -> Tensor:
    """Images as they come, channels first."""
    if not isinstance(encoder, ImageEncoder):
        return encoder(x)
    images = x.flatten(0, 1).to(encoder.linear.weight.dtype) / 127.5 - 1
    return encoder.linear(encoder.convolutions(images).flatten(1)).unflatten(0, x.shape[:2])
