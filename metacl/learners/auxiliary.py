"""The auxiliary attention loss of CL-Seq (Lee, Son, Kim, NeurIPS 2023), against the plateau before in-context learning."""

from collections.abc import Sequence

import torch
from torch import Tensor

from episodes import Episode
from metacl.attention import Attention


def auxiliary_loss(
    layers: Sequence[Attention], stream_inputs: Sequence[Tensor], query_inputs: Sequence[Tensor], episode: Episode
) -> Tensor:
    """-log of the share of attention that a query pays to its own task: mean over half of the heads, sum over layers.

    Arguments:
        layers: mechanisms that have attention weights.
        stream_inputs: what enters each of them of the stream (B, tokens, D); an example may be several tokens.
        query_inputs: of the queries (B, M, D), each a token.
    """
    repeat = stream_inputs[0].shape[1] // len(episode.stream)
    task_BN = episode.stream.task.repeat_interleave(repeat, dim=1)
    valid_BN = None if episode.stream.valid is None else episode.stream.valid.repeat_interleave(repeat, dim=1)
    asked_BM, losses = episode.queries.valid, []
    for attention, x_BND, x_BMD in zip(layers, stream_inputs, query_inputs, strict=True):
        mass_BHMT = attention.task_mass(x_BMD, x_BND, task_BN, (attention.heads + 1) // 2, valid_BN)
        own_BHM1 = mass_BHMT.gather(-1, episode.queries.task[:, None, :, None].expand(-1, mass_BHMT.shape[1], -1, 1))
        loss_BHM = -own_BHM1[..., 0].float().clamp_min(1e-9).log()
        losses.append(loss_BHM.mean() if asked_BM is None else loss_BHM.movedim(1, 2)[asked_BM].mean())
    return torch.stack(losses).sum()
