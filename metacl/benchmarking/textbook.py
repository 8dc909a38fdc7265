"""Row 0: attention and the training step as one finds them in published code, with the whole matrix of scores.

They take the modules of metacl, so that with equal weights they must give equal results, and differ only in how.

Shapes: B episodes, N stream tokens, M queries, S = N + M tokens of one sequence, T tasks, D width, H heads, E head width.
"""

import copy
from typing import TypeVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from episodes import Episode
from metacl.attention import Attention
from metacl.encoders import ImageEncoder
from metacl.learners import Learner, MetaLoss, query_loss
from metacl.learners.sequence import Block, SequenceLearner, sinusoids

L = TypeVar("L", bound=Learner)


def softmax_matrix(attention: Attention, x_BSD: Tensor, mask_SS: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(E)) v with every score written out. Returns the outputs and the weights (B, H, S, S)."""
    q, k, v = _project(attention, x_BSD)
    score_BHSS = torch.einsum("bhqe,bhke->bhqk", q, k) / q.shape[-1] ** 0.5
    weight_BHSS = score_BHSS.masked_fill(~mask_SS, -torch.inf).softmax(-1)
    dropped = F.dropout(weight_BHSS, attention.dropout, attention.training)
    mixed = torch.einsum("bhqk,bhke->bhqe", dropped.to(v), v)
    return attention.out(rearrange(mixed, "b h s e -> b s (h e)")), weight_BHSS


def linear_matrix(attention: Attention, x_BSD: Tensor, mask_SS: Tensor) -> tuple[Tensor, Tensor]:
    """The same for phi(q) phi(k)^T / sum, phi(x) = elu(x) + 1: a linear mechanism at quadratic cost."""
    q, k, v = _project(attention, x_BSD)
    score_BHSS = torch.einsum("bhqe,bhke->bhqk", F.elu(q) + 1, F.elu(k) + 1) * mask_SS
    weight_BHSS = score_BHSS / score_BHSS.sum(-1, keepdim=True)
    mixed = torch.einsum("bhqk,bhke->bhqe", weight_BHSS.to(v), v)
    merged = rearrange(mixed, "b h s e -> b s (h e)")
    return attention.out(F.dropout(merged, attention.dropout, attention.training)), weight_BHSS


MATRIX = {"softmax": softmax_matrix, "linear": linear_matrix}
"""The textbook forms of `metacl.attention.ATTENTION`, where there is one."""


def _project(attention: Attention, x_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = rearrange(attention.qkv(x_BSD), "b s (part h e) -> part b h s e", part=3, h=attention.heads)
    return q, k, v


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
    label = learner.symbols.embed(stream.y) if learner.spec.classification else learner.target_encoder(stream.y)
    paired = learner.config.layout == "paired"
    tokens_BND = z_stream + label if paired else rearrange([z_stream, label], "two b n d -> b (n two) d")
    N, device = tokens_BND.shape[1], tokens_BND.device
    mask_SS = episode_mask(N, len(queries), device)
    h = torch.cat([tokens_BND, z_query + learner.question], dim=1)
    if learner.config.positions == "sinusoidal":
        h = h + sinusoids(torch.arange(h.shape[1], device=device).clamp_max(N)[None], learner.config.width).to(h.dtype)
    h, weights = _blocks(learner, h, mask_SS)
    h = learner.norm(h[:, N:])
    prediction = (
        learner.symbols.logits(h) if learner.spec.classification else learner.answer(h).unflatten(-1, learner.spec.y_shape)
    )
    result = query_loss(prediction, queries.y, learner.spec)
    if not (learner.training and learner.step < learner.config.auxiliary_steps):
        return result
    auxiliary = _auxiliary_loss(weights, episode, N)
    return MetaLoss(result.loss + auxiliary, result.metrics | {"auxiliary": auxiliary.detach()})


def _blocks(learner: SequenceLearner, h: Tensor, mask_SS: Tensor) -> tuple[Tensor, list[Tensor]]:
    matrix, weights = MATRIX[learner.config.attention], []
    for module in learner.blocks:
        block = cast(Block, module)
        attended, weight_BHSS = matrix(block.attention, block.norm_attention(h), mask_SS)
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
