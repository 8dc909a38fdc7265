"""Delta rules: a token writes only what the state does not already answer for its key."""

from torch import Tensor

from metacl.attention.gated import DecayGate
from metacl.attention.interface import Sizes
from metacl.attention.recurrent import Gate, Recurrent, start_at_half, unit
from metacl.attention.scan import Tokens


class DeltaNet(Recurrent):
    """S <- S + beta k (v - S^T k)^T, keys of length 1, beta = sigmoid(w x) (DeltaNet: Schlag 2021; in chunks: Yang 2024).

    Arguments: see `Attention`; negative: 1: beta is twice as large, up to 2, so that I - beta k k^T, which a token does to the
    state, may turn it around along k (an eigenvalue of down to -1) and streams can be counted in (Grazzi 2025).
    """

    activated = 2

    def __init__(self, sizes: Sizes, *, negative: int = 0):
        super().__init__(sizes)
        self.most = 1 + negative
        self.beta = Gate(self.width, self.heads)

    def start_matching(self) -> None:
        """See `Attention`. beta is 1/2, whatever it may be at most: a query, whose value is nothing yet, writes too, and with a
        beta of 1 it would take back what it asks for."""
        super().start_matching()
        start_at_half(self.beta, self.most)

    def tokens(self, x_BND: Tensor) -> Tokens:
        q, k, v = self.project(x_BND)
        return Tokens(unit(q), unit(k), v, None, self.most * self.beta(x_BND).sigmoid())


class GatedDeltaNet(DeltaNet):
    """S <- alpha S, then as DeltaNet; alpha = exp(-dt A) as in Mamba-2 (Gated DeltaNet: Yang 2025, eq. 10)."""

    def __init__(self, sizes: Sizes, *, negative: int = 0):
        super().__init__(sizes, negative=negative)
        self.decay = DecayGate(self.width, self.heads)

    def tokens(self, x_BND: Tensor) -> Tokens:
        return super().tokens(x_BND)._replace(log_decay=self.decay(x_BND)[1])


class KimiDelta(DeltaNet):
    """S <- Diag(alpha) S, then as DeltaNet: a decay for each key feature (Kimi delta attention, Kimi Linear 2025).

    alpha = exp(-A softplus(W2 W1 x + b)), A a number of each head, W1 with as many rows as a value has features; A and b start
    as in Gated DeltaNet. Arguments: see `DeltaNet`.
    """

    def __init__(self, sizes: Sizes, *, negative: int = 0):
        super().__init__(sizes, negative=negative)
        self.decay = DecayGate(self.width, self.heads, self.key_width, self.head_width)

    def tokens(self, x_BND: Tensor) -> Tokens:
        return super().tokens(x_BND)._replace(log_decay=self.decay(x_BND)[1])
