"""What a mechanism is: a state that `learn` extends and `read` looks at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from episodes import UserError

State = TypeVar("State", bound=NamedTuple)
"""What a mechanism keeps of the stream: a NamedTuple of tensors whose first axis is B, float32 at least."""
Learn = Callable[[Tensor, State, Tensor | None], tuple[Tensor, State]]
"""`Attention.extend`, or a form of it."""


@dataclass(frozen=True)
class Sizes:
    """What every mechanism is told of its size. Options that only one has come after it, by name."""

    width: int
    """Features of a token (D)."""
    heads: int
    """Heads (H)."""
    dropout: float = 0.0
    """In training, dropout of softmax's attention weights; in all other mechanisms, of the outputs of the heads."""
    head_width: int | None = None
    """Features of a value and of an output in each head (F); None: D / H."""
    key_width: int | None = None
    """Features of a query and of a key in each head (E); None: as head_width."""


class Attention(nn.Module, Generic[State]):
    """Base of the mechanisms. Each owns its projections, and computes by a pure function of q, k, v, gates and state.

    A mechanism writes `init_state`, `extend`, `extend_naive` and `read`. B episodes, N stream tokens, M queries, D width.

    Arguments:
        sizes: see `Sizes`.
        key_heads: heads of keys and values, each for heads / key_heads heads of queries; None: as many as heads.
    """

    constant_state = True
    """Whether the state stays as large as it is, however long the stream."""
    has_weights = False
    """Whether outputs are weighted means of values, so that `task_mass` has a meaning."""
    recalls = True
    """Whether a key reads back what was told under it, and little of what was told under keys that are orthogonal to it. Not
    where keys are made positive: then all of them are alike."""
    sharpness = 12.0
    """At the matching start, the product of a query and the key of the same input, over sqrt(E), in each head."""
    normed = False
    """Whether a norm brings what each head reads to one length, so that how long a vote is says nothing."""
    backend = "auto"
    """Which kernels may take the place of plain PyTorch: a name of `metacl.attention.backends.BACKENDS`."""
    kernels: tuple[str, ...] = ()
    """The back ends that have kernels for the mechanism, beside PyTorch."""

    def __init__(self, sizes: Sizes, key_heads: int | None = None):
        super().__init__()
        width, heads = self.width, self.heads = sizes.width, sizes.heads
        if sizes.head_width is None and width % heads:
            raise UserError(f"A width of {width} cannot be shared among {heads} heads: give a multiple, or head_width.")
        self.key_heads, self.dropout = key_heads or heads, sizes.dropout
        if heads % self.key_heads:
            raise UserError(f"{heads} heads cannot share {self.key_heads} key heads: give a divisor of {heads}.")
        self.head_width = sizes.head_width or width // heads
        self.key_width = sizes.key_width or self.head_width
        self.parts = (heads * self.key_width, self.key_heads * self.key_width, self.key_heads * self.head_width)
        """How many rows of `qkv` make queries, keys and values."""
        self.qkv = nn.Linear(width, sum(self.parts))
        self.out = nn.Linear(heads * self.head_width, width)
        self._fresh: NamedTuple | None = None

    def init_state(self, batch_size: int) -> State:
        """The state before the first token."""
        raise NotImplementedError

    def extend(self, x_BND: Tensor, state: State, valid_BN: Tensor | None) -> tuple[Tensor, State]:
        """`learn`, for at least one token and a state that fits."""
        raise NotImplementedError

    def extend_naive(self, x_BND: Tensor, state: State, valid_BN: Tensor | None) -> tuple[Tensor, State]:
        """`extend` as a loop over tokens (see `naive.py`)."""
        raise NotImplementedError

    def read(self, x_BMD: Tensor, state: State) -> Tensor:
        """The outputs (B, M, D) of query tokens, each of which sees the state and itself only. Writes nothing."""
        raise NotImplementedError

    def learn(self, x_BND: Tensor, state: State, valid_BN: Tensor | None = None) -> tuple[Tensor, State]:
        """The outputs (B, N, D) of new tokens, each of which sees those before it and itself, and the state after them.

        A token that is not valid leaves no trace in the state; its own output means nothing.

        Raises:
            UserError: the state is of another configuration, or (in eval mode) a token is not finite.
        """
        return self._checked(self.extend, x_BND, state, valid_BN)

    def learn_naive(self, x_BND: Tensor, state: State, valid_BN: Tensor | None = None) -> tuple[Tensor, State]:
        """`learn`, token by token: obviously right and as slow as it looks. The oracle of the tests."""
        return self._checked(self.extend_naive, x_BND, state, valid_BN)

    def task_mass(self, x_BMD: Tensor, x_BND: Tensor, task_BN: Tensor, heads: int, valid_BN: Tensor | None = None) -> Tensor:
        """(B, heads, M, T): how much of its attention a query pays to the tokens of each task, in the first `heads` heads.

        The shares of a query add to 1: what it pays itself does not count. Only where `has_weights`.

        Arguments:
            x_BMD: the queries, as `read` takes them.
            x_BND: the whole stream, as `learn` takes it.
            task_BN: the task of each token.
            valid_BN: False for padding.
        """
        raise NotImplementedError

    @torch.no_grad()
    def start_alike(self) -> None:
        """Gives queries the projection that their keys have, so that a token first attends to those that are like it."""
        share = self.heads // self.key_heads
        for parameter in self.qkv.parameters():
            queries, keys, _ = parameter.split(self.parts)
            own = keys.unflatten(0, (self.key_heads, self.key_width))
            queries.copy_(own.repeat_interleave(share, dim=0).flatten(0, 1))

    @torch.no_grad()
    def start_matching(self) -> None:
        """Votes of the labels seen, weighted by similarity, for tokens (B, N, D) with an input and a label half.

        Queries and keys read the input half, through one rotation, so that the similarity of a normalised input with itself is
        `sharpness`. Values read the label half, and the output puts back there what was read. Biases are zero, and decays that
        depend on the token are slow. Where heads have room for both, keys and values lie apart; where they have less room than
        half a token has features, each sees a part of it.
        """
        half, share = self.qkv.in_features // 2, self.heads // self.key_heads
        queries, keys, values = self.parts
        if keys == values >= 2 * half:
            read_KI, read_VL = nn.init.orthogonal_(torch.empty(keys, 2 * half)).split(half, dim=1)
        else:
            read_KI, read_VL = (nn.init.orthogonal_(torch.empty(rows, half)) for rows in (keys, values))
        gain = (self.sharpness * self.key_width**0.5 * self.key_heads / min(keys, half)) ** 0.5
        for parameter in (*self.qkv.parameters(), *self.out.parameters()):
            parameter.zero_()
        self.qkv.weight[queries : queries + keys, :half] = gain * read_KI
        self.qkv.weight[-values:, half:] = read_VL
        self.start_alike()
        put_LHF = read_VL.mT.unflatten(1, (self.key_heads, self.head_width)).repeat_interleave(share, dim=1) / share
        self.out.weight[half:] = put_LHF.flatten(1)
        for gate in self.modules():
            if hasattr(gate, "remember"):  # the decays of `gated.py`
                gate.remember()  # type: ignore[operator]

    def project(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, N, E), keys (B, key heads, N, E) and values (B, key heads, N, F)."""
        q, k, v = self.qkv(x_BND).split(self.parts, dim=-1)
        return _heads(q, self.heads), _heads(k, self.key_heads), _heads(v, self.key_heads)

    def project_part(self, x_BND: Tensor, part: int, heads: int) -> Tensor:
        """(B, heads, N, E): queries (part 0) or keys (part 1), in the first `heads` of their heads only."""
        start = sum(self.parts[:part])
        rows = slice(start, start + heads * self.key_width)
        return _heads(F.linear(x_BND, self.qkv.weight[rows], self.qkv.bias[rows]), heads)

    def zeros(self, *shape: int) -> Tensor:
        """Zeros for a state: on the device of the weights, float32 at least."""
        weight = self.out.weight
        return torch.zeros(shape, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32))

    def merge(self, out_BHNF: Tensor, like_BND: Tensor) -> Tensor:
        """(B, N, D): the outputs of the heads, laid side by side and projected."""
        return self.out(rearrange(out_BHNF, "b h n f -> b n (h f)").to(like_BND.dtype))

    def _checked(self, extend: Learn[State], x_BND: Tensor, state: State, valid_BN: Tensor | None) -> tuple[Tensor, State]:
        if self._fresh is None:
            self._fresh = pytree.tree_map(lambda t: torch.empty_like(t, device="meta"), self.init_state(1))
        _check_state(type(self).__name__, state, self._fresh, len(x_BND))
        if x_BND.shape[1] == 0:
            return x_BND, state
        if not self.training and not x_BND.isfinite().all():
            raise UserError(f"{type(self).__name__} was given tokens that are not finite: look for NaN or inf in the inputs.")
        return extend(x_BND, state, valid_BN)


def rows_apart(extend: Learn[State], x_BND: Tensor, state: State, valid_BN: Tensor) -> tuple[Tensor, list[State]]:
    """`extend` of each stream of a padded batch alone, without its padding: for mechanisms where the place of a token matters.

    Returns:
        The outputs (B, N, D), zeros for padding, and a state with B = 1 for each stream.
    """
    outputs, states = torch.zeros_like(x_BND), []
    for b, valid_N in enumerate(valid_BN):
        own: State = pytree.tree_map(lambda t, b=b: t[b : b + 1], state)
        if valid_N.any():
            out, own = extend(x_BND[b : b + 1, valid_N], own, None)
            outputs = outputs.to(out.dtype).index_put((torch.tensor(b, device=x_BND.device), valid_N.nonzero()[:, 0]), out[0])
        states.append(own)
    return outputs, states


def aligned_sizes(seen: int, new: int, chunk: int) -> list[int]:
    """How long the parts are into which `new` tokens, after `seen` others, are cut at each multiple of `chunk`."""
    ends = [*range(seen - seen % chunk + chunk, seen + new, chunk), seen + new]
    return [end - start for start, end in zip([seen, *ends], ends, strict=False)]


def wide(t: Tensor) -> Tensor:
    """A tensor in float32 at least."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _heads(t_BNX: Tensor, heads: int) -> Tensor:
    return rearrange(t_BNX, "b n (h e) -> b h n e", h=heads)


def _check_state(name: str, state: NamedTuple, fresh: NamedTuple, batch_size: int) -> None:
    """Raises UserError, with the field, where a state is of another type or shape than a fresh one (an empty axis may grow)."""
    if type(state) is not type(fresh):
        raise UserError(f"{name} was given a {type(state).__name__} as state; its own is a {type(fresh).__name__}.")
    for field, found, own in zip(state._fields, state, fresh, strict=True):
        if isinstance(own, tuple):
            _check_state(name, found, own, batch_size)  # type: ignore[arg-type]
            continue
        sizes = (batch_size, *own.shape[1:])
        if found.ndim != own.ndim or any(size not in (0, there) for size, there in zip(sizes, found.shape, strict=True)):
            raise UserError(
                f"{name}: the state's field {field} has shape {tuple(found.shape)}, but {sizes} is needed "
                "(batch size first). The state is of another batch or configuration."
            )
