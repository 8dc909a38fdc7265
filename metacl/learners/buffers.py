"""Examples that online learners keep, in tensors (B, R, ...) that are written in place: the newest, or a uniform sample."""

import numpy as np
import torch
from torch import Tensor

from episodes import EpisodeSpec

Buffer = dict[str, Tensor]
"""x (B, R, *x_shape), y (B, R, *y_shape), whatever else is kept of an example, and count (B,) int64: examples ever put in."""


def empty_buffer(spec: EpisodeSpec, like: Tensor, batch_size: int, places: int) -> Buffer:
    """Room for R = `places` examples of each learner."""
    x_type = torch.uint8 if spec.x_kind == "image" else like.dtype
    y_type = torch.int64 if spec.classification else like.dtype
    x = like.new_zeros(batch_size, places, *spec.x_shape, dtype=x_type)
    y = like.new_zeros(batch_size, places, *spec.y_shape, dtype=y_type)
    return {"x": x, "y": y, "count": like.new_zeros(batch_size, dtype=torch.int64)}


def append_(buffer: Buffer, **examples: Tensor) -> None:
    """Examples (B, N, ...), by name, take the places of the oldest, in place."""
    R = buffer["x"].shape[1]
    N = examples["x"].shape[1]
    kept = min(N, R)
    row, place_BN = _rows(buffer), (buffer["count"][:, None] + torch.arange(N - kept, N, device=buffer["x"].device)) % R
    for name, new in examples.items():
        buffer[name][row, place_BN] = new[:, N - kept :].to(buffer[name])
    buffer["count"] += N


def newest(buffer: Buffer, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """The newest examples x, y (B, number, ...) in the order in which they came, and whether there is one, (B, number).

    Where there are fewer, places at the start are empty. `number` must not be above R.
    """
    back_N = torch.arange(-number, 0, device=buffer["x"].device)
    place_BN = buffer["count"][:, None] + back_N
    row, index_BN = _rows(buffer), place_BN % buffer["x"].shape[1]
    return buffer["x"][row, index_BN], buffer["y"][row, index_BN], place_BN >= 0


def sampled(buffer: Buffer, generators: list[np.random.Generator], number: int) -> dict[str, Tensor]:
    """Examples (B, number, ...), by name, drawn with replacement by a generator for each learner. No buffer may be empty."""
    full_B = buffer["count"].clamp_max(buffer["x"].shape[1]).tolist()
    drawn = [rng.integers(full, size=number) for rng, full in zip(generators, full_B, strict=True)]
    index_BN = torch.from_numpy(np.stack(drawn)).to(buffer["x"].device)
    return {name: kept[_rows(buffer), index_BN] for name, kept in buffer.items() if name != "count"}


def reservoir_(buffer: Buffer, generators: list[np.random.Generator], **examples: Tensor) -> None:
    """The n-th example takes one of R places with probability R / n (reservoir sampling, Vitter 1985), in place.

    What is kept is a uniform sample. `lots.reservoir_places` is the same rule without generators.

    Arguments:
        generators: one for each learner.
        examples: (B, N, ...) by name.
    """
    R, N = buffer["x"].shape[1], examples["x"].shape[1]
    for b, rng in enumerate(generators):
        n_N = int(buffer["count"][b]) + np.arange(N)
        place_N = np.where(n_N < R, n_N, rng.integers(n_N + 1))
        source = {int(place): n for n, place in enumerate(place_N) if place < R}  # the last that takes a place has it
        into, of = torch.tensor([*source], dtype=torch.int64), torch.tensor([*source.values()], dtype=torch.int64)
        for name, new in examples.items():
            buffer[name][b, into.to(new.device)] = new[b, of.to(new.device)].to(buffer[name])
    buffer["count"] += N


def _rows(buffer: Buffer) -> Tensor:
    """(B, 1) row numbers, to index places (B, N) with."""
    return torch.arange(len(buffer["x"]), device=buffer["x"].device)[:, None]
