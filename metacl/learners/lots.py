"""Random numbers that are functions of integers: the same on every device, and nothing of them need be kept in a state."""

from torch import Tensor


def shuffled(kept_BN: Tensor, epoch: int) -> Tensor:
    """(B, N) the places of the examples that are kept, in an order of their own for each epoch; then the others."""
    rank_BN = kept_BN.cumsum(1) - 1
    lot_BN = lots(rank_BN + (epoch + 1) * 2**32)
    return lot_BN.masked_fill(~kept_BN, 2.0).argsort(dim=1, stable=True)


def lots(place: Tensor) -> Tensor:
    """Numbers in [0, 1), a fixed random one for each integer: the same on every device (splitmix64, Steele 2014)."""

    def shifted(z: Tensor, bits: int) -> Tensor:
        return (z >> bits) & (2 ** (64 - bits) - 1)  # as if without a sign

    z = (place + 1) * -0x61C8864680B583EB
    z = (z ^ shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ shifted(z, 27)) * -0x6B2FB644ECCEEE15
    return shifted(z ^ shifted(z, 31), 11).double() * 2.0**-53
