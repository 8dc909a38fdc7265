"""Which examples of a stream a support set of bounded size keeps. R places, N new examples, B episodes side by side.

A choice is a function of what came before (counts, labels and fixed random lots). So the chunks in which a stream comes do not
matter, and the same stream leaves the same support on every machine. Gradients flow through what is kept.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from episodes import Examples
from metacl.learners.lots import lots, reservoir_places

Bound = Literal["all", "fifo", "reservoir", "balanced"]


class Support(NamedTuple):
    """R places for labelled features."""

    z: Tensor
    """(B, R, D)"""
    y: Tensor
    """(B, R) symbols, or (B, R, *y_shape)."""
    kept: Tensor
    """(B, R) bool, whether a place holds an example."""
    seen: Tensor
    """(B,) int64, valid examples so far."""
    counts: Tensor
    """(B, V) int64, valid examples of each class so far, for `balanced`; else (B, 0)."""


def add(support: Support, z_BND: Tensor, examples: Examples, bound: Bound) -> Support:
    """The support after more of the stream. Padding is never kept where there is a bound, and marked where there is none.

    Arguments:
        bound: `all` keeps everything; `fifo` keeps the latest; `reservoir` keeps a uniform sample of all so far (Vitter 1985);
            `balanced` keeps as many of each class, a uniform sample of it (Chrysakis and Moens 2020).
    """
    valid_BN = torch.ones_like(examples.task, dtype=torch.bool) if examples.valid is None else examples.valid
    z = torch.cat([support.z, z_BND.to(support.z.dtype)], dim=1)
    y = torch.cat([support.y, examples.y.to(support.y.dtype)], dim=1)
    kept = torch.cat([support.kept, valid_BN], dim=1)
    seen_B, counts_BV = support.seen + valid_BN.sum(1), support.counts
    if bound == "all":
        return Support(z, y, kept, seen_B, counts_BV)
    places = support.z.shape[1]
    if bound == "fifo":
        slot_BR = torch.argsort(kept.byte(), dim=1, stable=True)[:, -places:]
    elif bound == "reservoir":
        slot_BR = _reservoir(support, valid_BN)
    else:
        slot_BR = _balanced(support, examples.y, valid_BN)
        counts_BV = counts_BV.scatter_add(1, examples.y, valid_BN.long())
    row_B1 = torch.arange(len(z), device=z.device)[:, None]
    return Support(z[row_B1, slot_BR], y[row_B1, slot_BR], kept[row_B1, slot_BR], seen_B, counts_BV)


def _reservoir(support: Support, valid_BN: Tensor) -> Tensor:
    """(B, R): what each place holds afterwards, as a place r of before, or as R + n for the new example n."""
    places = support.z.shape[1]
    slot_BR, seen_B = _old_places(support), support.seen.clone()
    for n in range(valid_BN.shape[1]):
        place_B = reservoir_places(seen_B, lots(seen_B), places)
        taken_B = valid_BN[:, n] & (place_B < places)
        _put(slot_BR, place_B, taken_B, places + n)
        seen_B += valid_BN[:, n]
    return slot_BR


def _balanced(support: Support, y_BN: Tensor, valid_BN: Tensor) -> Tensor:
    """(B, R) as in `_reservoir`. When all places are taken, an example of a largest class may take a place of its own class
    only; an example of any other class takes a place of a largest class."""
    places = support.z.shape[1]
    slot_BR, seen_B, counts_BV = _old_places(support), support.seen.clone(), support.counts.clone()
    label_BR = support.y.masked_fill(~support.kept, -1)
    place_R = torch.arange(places, device=y_BN.device)
    for n in range(valid_BN.shape[1]):
        y_B, valid_B = y_BN[:, n], valid_BN[:, n]
        counts_BV.scatter_add_(1, y_B[:, None], valid_B[:, None].long())
        held_BV = torch.zeros_like(counts_BV).scatter_add_(1, label_BR.clamp_min(0), (label_BR >= 0).long())
        most_B, largest_B = held_BV.max(1)
        own_B, ever_B = (t.gather(1, y_B[:, None])[:, 0] for t in (held_BV, counts_BV))
        full_B, small_B = (label_BR >= 0).all(1), own_B < most_B
        lot_BR = lots((seen_B * (places + 1))[:, None] + place_R)
        leaving_B = torch.where(small_B, largest_B, y_B)
        fit_BR = torch.where(full_B[:, None], label_BR == leaving_B[:, None], label_BR < 0)
        lot_BR = torch.where(full_B[:, None], lot_BR, -place_R.double() - 1)  # a free place: the first
        place_B = lot_BR.masked_fill(~fit_BR, -torch.inf).argmax(1)
        stays_B = lots(seen_B * (places + 1) + places) * ever_B >= own_B
        taken_B = valid_B & (~full_B | small_B | ~stays_B)
        _put(slot_BR, place_B, taken_B, places + n)
        label_BR = torch.where(taken_B[:, None] & (place_R == place_B[:, None]), y_B[:, None], label_BR)
        seen_B += valid_B
    return slot_BR


def _old_places(support: Support) -> Tensor:
    return torch.arange(support.z.shape[1], device=support.z.device).repeat(len(support.z), 1)


def _put(slot_BR: Tensor, place_B: Tensor, taken_B: Tensor, value: int) -> None:
    """Sets slot_BR[b, place_B[b]] to `value` in each row b that is `taken`, in place."""
    row = taken_B.nonzero()[:, 0]
    slot_BR[row, place_B[row]] = value
