"""Test-time training: the state is a small model, and learning is gradient descent on it (Sun et al. 2024, TTT-Linear)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from episodes import UserError
from metacl.attention import naive
from metacl.attention.interface import Attention, Learn, Sizes, aligned_sizes, rows_apart, wide
from metacl.attention.recurrent import Gate
from metacl.nets.shared_batch import dropout


class TestTimeState(NamedTuple):
    """The inner model, in float32 at least, whatever the dtype of the tokens."""

    start: Tensor
    """(B, H, E + 1, E): W when the current mini-batch began; the last row is the bias."""
    now: Tensor
    """(B, H, E + 1, E): W after every token so far."""
    seen: Tensor
    """(B,) int64: tokens so far."""


class TestTimeTraining(Attention[TestTimeState]):
    """out = f(W, q), W <- W - eta * gradient of |f(W, k) - v|^2 / 2, f(W, x) = x + LN(W^T x + b); eta = sigmoid(w x) / E.

    The gradients of a mini-batch of `batch` tokens are all taken at the W that it began with, so that within it W is a sum
    and a mini-batch is a few matrix products (the dual form, section 2.5 of the paper). W at the start of a stream, and
    the scale and shift of LN, are meta-learnt. The paper's loss has no 1/2, and its eta no 1/E, which is of the authors' code.

    Arguments: see `Attention`, keys as wide as values; batch: tokens in a mini-batch.
    """

    def __init__(self, sizes: Sizes, *, batch: int = 16):
        super().__init__(sizes)
        E = self.head_width
        if self.key_width != E:
            raise UserError(f"ttt-linear has keys as wide as values ({E}), not {self.key_width} wide: leave key_width out.")
        self.batch = batch
        self.rate = Gate(self.width, self.heads)
        self.start = nn.Parameter(torch.cat([torch.randn(self.heads, E, E) * 0.02, torch.zeros(self.heads, 1, E)], dim=1))
        self.scale, self.shift = nn.Parameter(torch.ones(self.heads, 1, E)), nn.Parameter(torch.zeros(self.heads, 1, E))

    def init_state(self, batch_size: int) -> TestTimeState:
        start = wide(self.start).expand(batch_size, -1, -1, -1)
        return TestTimeState(start, start, torch.zeros(batch_size, dtype=torch.long, device=start.device))

    def extend(self, x_BND: Tensor, state: TestTimeState, valid_BN: Tensor | None) -> tuple[Tensor, TestTimeState]:
        if valid_BN is not None or (state.seen != state.seen[0]).any():
            return self._apart(self.extend, x_BND, state, valid_BN)
        seen, start, now, outputs = int(state.seen[0]), state.start, state.now, []
        sizes = aligned_sizes(seen, x_BND.shape[1], self.batch)
        with torch.autocast(x_BND.device.type, enabled=False):
            # split, not slices: the gradient of each slice would be as long as the stream.
            for q, k, v, rate in zip(*(t.split(sizes, dim=2) for t in self._tokens(x_BND)), strict=True):
                written = -rate[..., None] * self._gradient(start, k, v)
                q_one, k_one = with_bias(q), with_bias(k)
                hidden = q_one @ now + (q_one @ k_one.mT).tril() @ written
                outputs.append(q + self._normed(hidden))
                now = now + k_one.mT @ written
                seen += q.shape[2]
                if seen % self.batch == 0:
                    start = now
        return self._outputs(torch.cat(outputs, dim=2), x_BND), TestTimeState(start, now, state.seen + x_BND.shape[1])

    def extend_naive(self, x_BND: Tensor, state: TestTimeState, valid_BN: Tensor | None) -> tuple[Tensor, TestTimeState]:
        if valid_BN is not None or (state.seen != state.seen[0]).any():
            return self._apart(self.extend_naive, x_BND, state, valid_BN)

        def model(W: Tensor, x_BHE: Tensor) -> Tensor:
            hidden = torch.einsum("bhe,bhef->bhf", x_BHE, W[:, :, :-1]) + W[:, :, -1]
            normed = F.layer_norm(hidden, hidden.shape[-1:])
            return x_BHE + normed * wide(self.scale[:, 0]) + wide(self.shift[:, 0])

        tokens, begin = self._tokens(x_BND), int(state.seen[0])
        out, start, now, _ = naive.test_time_training(*tokens, model, state.start, state.now, begin, self.batch)
        return self._outputs(out, x_BND), TestTimeState(start, now, state.seen + x_BND.shape[1])

    def read(self, x_BMD: Tensor, state: TestTimeState) -> Tensor:
        q, k, v, rate = self._tokens(x_BMD)
        with torch.autocast(x_BMD.device.type, enabled=False):
            written = -rate[..., None] * self._gradient(state.start, k, v)
            q_one, k_one = with_bias(q), with_bias(k)
            hidden = q_one @ state.now + (q_one * k_one).sum(-1, keepdim=True) * written
            out = q + self._normed(hidden)
        return self._outputs(out, x_BMD)

    def _tokens(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v (B, H, N, E) and the inner learning rate (B, H, N), float32 at least: this is training."""
        q, k, v = (wide(t) for t in self.project(x_BND))
        return q, k, v, self.rate(x_BND).sigmoid() / self.head_width

    def _normed(self, hidden_BHNE: Tensor) -> Tensor:
        return F.layer_norm(hidden_BHNE, hidden_BHNE.shape[-1:]) * wide(self.scale) + wide(self.shift)

    def _gradient(self, W: Tensor, k_BHNE: Tensor, v_BHNE: Tensor) -> Tensor:
        """(B, H, N, E): the gradient of the inner loss for W^T k + b."""
        hidden = with_bias(k_BHNE) @ W
        spread = (hidden.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        normed = (hidden - hidden.mean(-1, keepdim=True)) / spread
        due = wide(self.scale) * (k_BHNE + normed * wide(self.scale) + wide(self.shift) - v_BHNE)
        return (due - due.mean(-1, keepdim=True) - normed * (due * normed).mean(-1, keepdim=True)) / spread

    def _outputs(self, out_BHNE: Tensor, like_BND: Tensor) -> Tensor:
        return self.merge(dropout(out_BHNE, self.dropout, self.training), like_BND)

    def _apart(
        self, extend: Learn, x_BND: Tensor, state: TestTimeState, valid_BN: Tensor | None
    ) -> tuple[Tensor, TestTimeState]:
        valid_BN = torch.ones(x_BND.shape[:2], dtype=torch.bool, device=x_BND.device) if valid_BN is None else valid_BN
        out, states = rows_apart(extend, x_BND, state, valid_BN)
        return out, TestTimeState(*(torch.cat(parts) for parts in zip(*states, strict=True)))


def with_bias(t_BHNE: Tensor) -> Tensor:
    """(B, H, N, E) -> (B, H, N, E + 1): inputs with a 1 behind them, for the bias in the last row of W."""
    return F.pad(t_BHNE, (0, 1), value=1.0)
