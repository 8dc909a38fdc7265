"""Delta rules: a token writes only what the state does not already answer for its key."""

from torch import Tensor

from metacl.attention.gated import ScalarDecayGate
from metacl.attention.interface import Width
from metacl.attention.recurrent import Gate, Recurrent, unit
from metacl.attention.scan import Tokens


class DeltaNet(Recurrent):
    """S <- S + beta k (v - S^T k)^T, keys of length 1, beta = sigmoid(w x) (DeltaNet: Schlag 2021; in chunks: Yang 2024)."""

    activated = 2

    def __init__(self, width: int, heads: int, dropout: float = 0.0, head_width: Width = None, key_width: Width = None):
        super().__init__(width, heads, dropout, head_width, key_width)
        self.beta = Gate(width, heads)

    def tokens(self, x_BND: Tensor) -> Tokens:
        q, k, v = self.project(x_BND)
        return Tokens(unit(q), unit(k), v, None, self.beta(x_BND).sigmoid())


class GatedDeltaNet(DeltaNet):
    """S <- alpha S, then as DeltaNet; alpha = exp(-dt A) as in Mamba-2 (Gated DeltaNet: Yang 2025, eq. 10)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, head_width: Width = None, key_width: Width = None):
        super().__init__(width, heads, dropout, head_width, key_width)
        self.decay = ScalarDecayGate(width, heads)

    def start_matching(self) -> None:
        super().start_matching()
        self.decay.remember()

    def tokens(self, x_BND: Tensor) -> Tokens:
        return super().tokens(x_BND)._replace(log_decay=self.decay(x_BND)[1])
