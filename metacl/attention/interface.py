"""What a mechanism is: a state that `learn` extends and `read` looks at."""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from episodes import UserError

Learn = Callable[[Tensor, Any, Tensor | None], tuple[Tensor, Any]]


class Attention(nn.Module):
    """Base of the mechanisms. Each owns its projections; under it lies a pure function of q, k, v, gates and state.

    A mechanism writes `init_state`, `extend`, `extend_naive` and `read`. B episodes, N stream tokens, M queries, D width.

    Arguments:
        width: D, the model width.
        heads: H.
        dropout: in training, on the attention weights where there are any, else on the outputs of the heads.
        head_width: F, of values and outputs; None: D / H.
        key_width: E, of queries and keys; None: as head_width.
        key_heads: heads that keys and values have, each shared by heads / key_heads queries; None: heads.
    """

    constant_state = True
    """The state does not grow with the stream."""
    has_weights = False
    """Outputs are weighted means of values, so that `task_mass` has a meaning."""
    backend = "auto"
    """A name of `metacl.attention.backends.BACKENDS`: the kernels that may take the place of plain PyTorch."""

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        head_width: int | None = None,
        key_width: int | None = None,
        key_heads: int | None = None,
    ):
        super().__init__()
        if head_width is None and width % heads:
            raise UserError(f"A width of {width} cannot be shared among {heads} heads: give a multiple, or head_width.")
        self.heads, self.key_heads, self.dropout = heads, key_heads or heads, dropout
        if heads % self.key_heads:
            raise UserError(f"{heads} heads cannot share {self.key_heads} key heads: give a divisor of {heads}.")
        self.head_width = head_width or width // heads
        self.key_width = key_width or self.head_width
        self.parts = (heads * self.key_width, self.key_heads * self.key_width, self.key_heads * self.head_width)
        """Rows of `qkv` that belong to queries, keys and values."""
        self.qkv = nn.Linear(width, sum(self.parts))
        self.out = nn.Linear(heads * self.head_width, width)
        self._form: Any = None

    def init_state(self, batch_size: int) -> Any:
        """The state before the first token: a NamedTuple of tensors whose first axis is B, float32 at least."""
        raise NotImplementedError

    def extend(self, x_BND: Tensor, state: Any, valid_BN: Tensor | None) -> tuple[Tensor, Any]:
        """`learn`, for at least one token and a state that fits."""
        raise NotImplementedError

    def extend_naive(self, x_BND: Tensor, state: Any, valid_BN: Tensor | None) -> tuple[Tensor, Any]:
        """The same as a loop over tokens (see `naive.py`)."""
        raise NotImplementedError

    def read(self, x_BMD: Tensor, state: Any) -> Tensor:
        """The outputs (B, M, D) of query tokens, each of which sees the state and itself only. Writes nothing."""
        raise NotImplementedError

    def learn(self, x_BND: Tensor, state: Any, valid_BN: Tensor | None = None) -> tuple[Tensor, Any]:
        """The outputs (B, N, D) of new tokens, each of which sees those before it and itself, and the state after them.

        A token that is not valid leaves no trace in the state; its own output means nothing.

        Raises:
            UserError: the state is of another configuration, or (in eval mode) a token is not finite.
        """
        return self._checked(self.extend, x_BND, state, valid_BN)

    def learn_naive(self, x_BND: Tensor, state: Any, valid_BN: Tensor | None = None) -> tuple[Tensor, Any]:
        """`learn`, token by token: obviously right and as slow as it looks. The oracle of the tests."""
        return self._checked(self.extend_naive, x_BND, state, valid_BN)

    def task_mass(self, x_BMD: Tensor, x_BND: Tensor, task_BN: Tensor, heads: int, valid_BN: Tensor | None = None) -> Tensor:
        """(B, heads, M, T) share of each query's attention on each task's tokens, for the first `heads` heads.

        Only where `has_weights`.

        Arguments:
            x_BMD, x_BND: the inputs of `read` for the queries and of `learn` for the whole stream.
            task_BN: each token's task. The shares sum to 1: what a query pays itself does not count.
        """
        raise NotImplementedError

    @torch.no_grad()
    def start_alike(self) -> None:
        """Gives keys the projection of queries, so that a token starts by attending to those that are like it."""
        share = self.heads // self.key_heads
        for parameter in (self.qkv.weight, self.qkv.bias):
            queries, keys, _ = parameter.split(self.parts)
            keys.copy_(queries.unflatten(0, (self.key_heads, share, self.key_width))[:, 0].flatten(0, 1))

    def project(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, N, E), keys (B, key heads, N, E) and values (B, key heads, N, F)."""
        q, k, v = self.qkv(x_BND).split(self.parts, dim=-1)
        return _heads(q, self.heads), _heads(k, self.key_heads), _heads(v, self.key_heads)

    def project_part(self, x_BND: Tensor, part: int, heads: int) -> Tensor:
        """(B, heads, N, E) queries (part 0) or keys (1) of the first `heads` of their heads only."""
        start = sum(self.parts[:part])
        rows = slice(start, start + heads * self.key_width)
        return _heads(F.linear(x_BND, self.qkv.weight[rows], self.qkv.bias[rows]), heads)

    def zeros(self, *shape: int) -> Tensor:
        """For a state: float32 at least."""
        weight = self.out.weight
        return torch.zeros(shape, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32))

    def merge(self, out_BHNF: Tensor, like_BND: Tensor) -> Tensor:
        """The outputs of the heads, side by side and projected: (B, N, D)."""
        return self.out(rearrange(out_BHNF, "b h n f -> b n (h f)").to(like_BND.dtype))

    def _checked(self, extend: Learn, x_BND: Tensor, state: Any, valid_BN: Tensor | None) -> tuple[Tensor, Any]:
        if self._form is None:
            self._form = pytree.tree_map(lambda t: t.shape, self.init_state(1))
        _check_state(type(self).__name__, state, self._form, len(x_BND))
        if x_BND.shape[1] == 0:
            return x_BND, state
        if not self.training and not x_BND.isfinite().all():
            raise UserError(f"{type(self).__name__} was given tokens that are not finite: look for NaN or inf in the inputs.")
        return extend(x_BND, state, valid_BN)


def rows_apart(extend: Learn, x_BND: Tensor, state: Any, valid_BN: Tensor) -> tuple[Tensor, Any]:
    """`extend` for mechanisms in which the place of a token matters: each stream of a padded batch alone, without padding."""
    outputs, states = torch.zeros_like(x_BND), []
    for b, valid_N in enumerate(valid_BN):
        own = pytree.tree_map(lambda t, b=b: t[b : b + 1], state)
        if valid_N.any():
            out, own = extend(x_BND[b : b + 1, valid_N], own, None)
            outputs = outputs.to(out.dtype).index_put((torch.tensor(b, device=x_BND.device), valid_N.nonzero()[:, 0]), out[0])
        states.append(own)
    return outputs, states


def aligned_sizes(seen: int, new: int, chunk: int) -> list[int]:
    """The sizes of parts of `new` tokens, after `seen` others, that do not cross a multiple of `chunk`."""
    ends = [*range(seen - seen % chunk + chunk, seen + new, chunk), seen + new]
    return [end - start for start, end in zip([seen, *ends], ends, strict=False)]


def wide(t: Tensor) -> Tensor:
    """float32 at least."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _heads(t_BNX: Tensor, heads: int) -> Tensor:
    return rearrange(t_BNX, "b n (h e) -> b h n e", h=heads)


def _check_state(name: str, state: Any, expected: Any, batch_size: int) -> None:
    """Raises UserError, with the field, where a state's shapes are not those of `expected` (an empty axis may grow)."""
    if type(state) is not type(expected):
        raise UserError(f"{name} was given a {type(state).__name__} as state; its own is a {type(expected).__name__}.")
    for field, found, own in zip(expected._fields, state, expected, strict=True):
        sizes = (batch_size, *own[1:])
        if found.ndim != len(own) or any(size not in (0, there) for size, there in zip(sizes, found.shape, strict=True)):
            raise UserError(
                f"{name}: the state's field {field} has shape {tuple(found.shape)}, but {sizes} is needed "
                "(batch size first). The state is of another batch or configuration."
            )
