"""Gated DeltaNet-2: what is taken back and what is written have gates of their own."""

from torch import Tensor

from metacl.attention.gated import DecayGate
from metacl.attention.interface import Sizes
from metacl.attention.recurrent import Gate, Recurrent, start_at_half, unit
from metacl.attention.scan import Tokens


class GatedDeltaNet2(Recurrent):
    """S <- Diag(alpha) S, u = w * v - S^T (b * k), S <- S + k u^T (Gated DeltaNet-2: Hatamizadeh, Choi, Kautz 2026).

    b = sigmoid(Wb x) says for each key feature how much of what the state answers is taken back, w = sigmoid(Ww x) for each
    value feature how much of the new is written. Keys have length 1; alpha is that of `kda`. Where b and w are
    one number, the same for all features, this is `kda`.

    Arguments: see `Attention`; negative: 1: b is twice as large, so that what a token does to the state may turn it around.
    """

    def __init__(self, sizes: Sizes, *, negative: int = 0):
        super().__init__(sizes)
        self.most = 1 + negative
        self.decay = DecayGate(self.width, self.heads, self.key_width, self.head_width)
        self.erase, self.write = Gate(self.width, self.heads, self.key_width), Gate(self.width, self.heads, self.head_width)

    def start_matching(self) -> None:
        """See `DeltaNet`."""
        super().start_matching()
        start_at_half(self.erase, self.most)

    def tokens(self, x_BND: Tensor) -> Tokens:
        q, k, v = self.project(x_BND)
        k, b, w = unit(k), self.most * self.erase(x_BND).sigmoid(), self.write(x_BND).sigmoid()
        return Tokens(unit(q), k, (w * v).to(v), self.decay(x_BND)[1], erase=(b * k).to(k))
