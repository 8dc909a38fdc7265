"""Random numbers that are functions of integers: the same on every device, and a state need not hold a generator."""

import torch
from torch import Tensor


def shuffled(kept_BN: Tensor, epoch: int) -> Tensor:
    """(B, N): the places of the examples that are kept, in an order drawn for this epoch, and behind them all other places."""
    rank_BN = kept_BN.cumsum(1) - 1
    lot_BN = lots(rank_BN + (epoch + 1) * 2**32)
    return lot_BN.masked_fill(~kept_BN, 2.0).argsort(dim=1, stable=True)


def lots(place: Tensor) -> Tensor:
    """A fixed random number in [0, 1) for each integer, the same on every device (splitmix64, Steele 2014)."""

    def shifted(z: Tensor, bits: int) -> Tensor:
        return (z >> bits) & (2 ** (64 - bits) - 1)  # as if without a sign

    z = (place + 1) * -0x61C8864680B583EB
    z = (z ^ shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ shifted(z, 27)) * -0x6B2FB644ECCEEE15
    return shifted(z ^ shifted(z, 31), 11).double() * 2.0**-53


def reservoir_places(seen_B: Tensor, lot_B: Tensor, places: int) -> Tensor:
    """(B,) the place in a reservoir that the next example takes; a place that is not below `places`: it is not kept.

    The n-th example takes one of R places with probability R / n, so what is kept is a uniform sample (Vitter 1985).

    Arguments:
        seen_B: the examples before it.
        lot_B: a random number in [0, 1) for it.
        places: R.
    """
    return torch.where(seen_B < places, seen_B, (lot_B * (seen_B + 1)).long())
