"""What a mechanism is: a state that `learn` extends and `read` looks at."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Base of the mechanisms. Each owns its projections; under it lies a pure function of q, k, v and state.

    Arguments:
        width: D, the model width.
        heads: H.
        dropout: in training, on the attention weights where there are any.
        head_width: E; None: D / H.
    """

    constant_state = True
    """The state does not grow with the stream."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, head_width: int | None = None):
        super().__init__()
        self.heads, self.dropout, self.head_width = heads, dropout, head_width or width // heads
        self.qkv = nn.Linear(width, 3 * heads * self.head_width)
        self.out = nn.Linear(heads * self.head_width, width)

    @torch.no_grad()
    def start_alike(self) -> None:
        """Gives keys the projection of queries, so that a token starts by attending to those that are like it."""
        width = self.heads * self.head_width
        for parameter in (self.qkv.weight, self.qkv.bias):
            parameter[width : 2 * width] = parameter[:width]

    def project_part(self, x_BND: Tensor, part: int, heads: int) -> Tensor:
        """(B, heads, N, E) queries (part 0), keys (1) or values (2) of the first `heads` heads only."""
        rows = slice(part * self.heads * self.head_width, (part * self.heads + heads) * self.head_width)
        projected = F.linear(x_BND, self.qkv.weight[rows], self.qkv.bias[rows])
        return rearrange(projected, "b n (h e) -> b h n e", h=heads)

    def init_state(self, batch_size: int) -> Any:
        """The state before the first token: a tree of tensors whose first axis is B."""
        raise NotImplementedError

    def learn(self, x_BND: Tensor, state: Any, valid_BN: Tensor | None = None) -> tuple[Tensor, Any]:
        """The outputs (B, N, D) of new tokens, each of which sees those before it and itself, and the state after them.

        A token that is not valid leaves no trace in the state; its own output means nothing.
        """
        raise NotImplementedError

    def read(self, x_BMD: Tensor, state: Any) -> Tensor:
        """The outputs (B, M, D) of query tokens, each of which sees the state and itself only. Writes nothing."""
        raise NotImplementedError

    def task_mass(self, x_BMD: Tensor, x_BND: Tensor, task_BN: Tensor, heads: int, valid_BN: Tensor | None = None) -> Tensor:
        """(B, heads, M, T) share of each query's attention on each task's tokens, for the first `heads` heads.

        Arguments:
            x_BMD, x_BND: the inputs of `read` for the queries and of `learn` for the whole stream.
            task_BN: each token's task. The shares sum to 1: what a query pays itself does not count.
        """
        raise NotImplementedError
