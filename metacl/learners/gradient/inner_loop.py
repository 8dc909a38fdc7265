"""The inner loop of gradient-based learners: one SGD step for each example of the stream, in all episodes at once.

This is the plain form, through torch.func, for any network. `fast_mlp.py` is a faster one for heads that are an MLP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.utils import _pytree as pytree

from episodes import Examples, UserError
from episodes.errors import above_zero, at_least
from metacl.learners.distributed import Distributed

Fast = dict[str, Tensor]
"""The fast weights by name, each (B, *shape)."""
Loss = Callable[..., Tensor]
"""(fast weights of one episode, features and target of one example) -> scalar."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class InnerConfig:
    """Options of an inner loop of SGD."""

    rate: float = 0.03
    """Inner learning rate when meta-training starts. It is meta-learned, as start * exp(parameter), as in CL-Seq. OML and ANML
    have a fixed one in their papers."""
    rates: Literal["one", "tensor"] = "one"
    """Inner learning rates: `one` for all fast weights, or one for each `tensor` of them."""
    order: Literal[1, 2] = 2
    """Order of the meta-gradient. 1: inner gradients count as constants in it (first-order form)."""
    truncate: int = 0
    """Inner steps that the meta-gradient goes back through; updates before them count as constants. 0: all."""
    rematerialise: int = 0
    """Inner steps whose intermediate results are computed again, together, in the backward pass instead of kept. 0: all are
    kept. The fast form of oml keeps so little that it makes no difference there."""
    distributed: Distributed = None
    """When meta-training asks a query. None: at the end of the stream. `random`: once, after a random task from its own on.
    `every`: after each task from its own on."""

    def __post_init__(self) -> None:
        at_least(0, self, "learner.", "truncate", "rematerialise")
        above_zero("learner.rate", self.rate)


class InnerRates(nn.Module):
    """Positive learning rates, start * exp(parameter). Weight decay draws them to where they started.

    Arguments:
        names: the names of the fast weights.
    """

    def __init__(self, config: InnerConfig, names: list[str]):
        super().__init__()
        self.names, self.start = names, config.rate
        self.log = nn.Parameter(torch.zeros(1 if config.rates == "one" else len(names)))

    def forward(self) -> Fast:
        """A learning rate, a scalar, for each fast weight."""
        rates = self.start * self.log.exp()
        return dict(zip(self.names, rates.expand(len(self.names)).unbind(), strict=True))


def initial_fast(module: nn.Module, batch_size: int) -> Fast:
    """The meta-learned initial weights, (B, *shape), the same for every episode."""
    return {name: p.expand(batch_size, *p.shape).contiguous() for name, p in module.named_parameters()}


def sgd(loss: Loss, fast: Fast, rates: Fast, z_BND: Tensor, examples: Examples, config: InnerConfig) -> Fast:
    """fast <- fast - rate * gradient of `loss`, example after example. Differentiable wherever grad mode is on.

    Steps for truncation and rematerialisation are counted from the first example of this call.

    Arguments:
        rates: a scalar for each fast weight.
        z_BND: the features of the stream; `examples.x` is not looked at.

    Raises:
        UserError: the fast weights are not finite any more.
    """
    start, losses = fast, []
    z_BND, y, valid_BN = without_padding(z_BND, examples)

    def segment(fast: Fast, rates: Fast, z_BCD: Tensor, y: Tensor, *valid: Tensor) -> tuple[Fast, Tensor]:
        kept = []
        with torch.autocast(z_BCD.device.type, enabled=False):
            for i in range(z_BCD.shape[1]):
                valid_B = valid[0][:, i] if valid else None
                fast, loss_B = _step(loss, fast, rates, z_BCD[:, i], y[:, i], valid_B, config.order)
                kept.append(loss_B)
        return fast, torch.stack(kept, dim=1)

    run = rematerialised(segment) if config.rematerialise else segment
    for part in segments(len(examples), config.truncate, config.rematerialise):
        if config.truncate and part.start and part.start % config.truncate == 0:
            fast = {name: start[name] + (w - start[name]).detach() for name, w in fast.items()}
        valid = () if examples.valid is None else (valid_BN[:, part],)
        fast, loss_BC = run(fast, rates, z_BND[:, part], y[:, part], *valid)
        losses.append(loss_BC.detach())
    if losses:
        # The loss of step n shows the weights after n - 1 steps.
        check_finite(fast, torch.cat(losses, dim=1).isfinite().all(0), rates, z_BND)
    return fast


def _step(
    loss: Loss, fast: Fast, rates: Fast, z_BD: Tensor, y: Tensor, valid_B: Tensor | None, order: int
) -> tuple[Fast, Tensor]:
    at, z_at = (fast, z_BD) if order == 2 else ({name: w.detach() for name, w in fast.items()}, z_BD.detach())
    gradient, loss_B = vmap(grad_and_value(loss))(at, z_at, y)
    if order == 1:
        gradient = {name: g.detach() for name, g in gradient.items()}
    new = {name: torch.addcmul(w, rates[name], gradient[name], value=-1) for name, w in fast.items()}
    if valid_B is not None:
        new = {name: torch.where(valid_B.view(-1, *(1,) * (w.ndim - 1)), new[name], w) for name, w in fast.items()}
    return new, loss_B


def without_padding(z_BND: Tensor, examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Features, targets and which of them are valid. Padding becomes zeros, so that it does no harm whatever it held."""
    y = examples.y if not examples.y.is_floating_point() else examples.y.to(z_BND.dtype)
    if examples.valid is None:
        return z_BND, y, torch.ones_like(z_BND[..., 0], dtype=torch.bool)
    valid_BN = examples.valid
    padding = ~valid_BN.view(*valid_BN.shape, *(1,) * (y.ndim - 2))
    return z_BND.masked_fill(~valid_BN[..., None], 0), y.masked_fill(padding, 0), valid_BN


def check_finite(weights: Fast, finite_N: Tensor, rates: Fast, z_BND: Tensor, first: int = 0, steps: int = 0) -> None:
    """Raises `UserError` where a tensor of `weights` is not finite, unless the features were not finite either.

    Arguments:
        finite_N: whether the results of step n were finite. The error names the first step where they were not.
        first: steps before these.
        steps: steps in all; 0: these are all.
    """
    good = torch.stack([finite_N.all(), *(w.detach().isfinite().all() for w in weights.values())]).all()
    if bool(good) or not bool(z_BND.isfinite().all()):
        return
    steps = steps or len(finite_N)
    step = first + (int(finite_N.logical_not().int().argmax()) + 1 if not bool(finite_N.all()) else len(finite_N))
    rate = max(float(r.detach()) for r in rates.values())
    raise UserError(
        f"The inner loop diverged: the fast weights are not finite at inner step {step} of {steps}, with an inner learning "
        f"rate of {rate:.3g}. Start from a lower one, such as --learner.rate {rate / 10:.1g}, or lower --optimiser.rate where "
        "meta-training raised it."
    )


def segments(length: int, *every: int) -> list[slice]:
    """The places 0 .. length in parts that end at each multiple of each number in `every`; a zero in it cuts nowhere."""
    cuts = sorted({0, length, *(place for k in every if k for place in range(0, length, k))})
    return [slice(a, b) for a, b in pairwise(cuts)]


def rematerialised(function: Callable[..., Result]) -> Callable[..., Result]:
    """`function`, from trees of tensors to one, whose intermediate results are computed again in the backward pass, not kept.

    torch.utils.checkpoint does not do: one form cannot hold torch.func (saved-tensor hooks), the other has no autograd.grad.
    """

    def call(*inputs: object) -> Result:
        leaves, form = pytree.tree_flatten(inputs)
        out_form: list[pytree.TreeSpec] = []

        def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
            out, found = pytree.tree_flatten(function(*pytree.tree_unflatten(leaves, form)))
            out_form[:] = [found]
            return tuple(out)

        out = _Rematerialised.apply(flat, *leaves)
        return pytree.tree_unflatten(out, out_form[0])

    return call


class _Rematerialised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*leaves)
        return function(*leaves)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[1:]
        leaves = [leaf.detach().requires_grad_(need) for leaf, need in zip(ctx.saved_tensors, needs, strict=True)]
        with torch.enable_grad():
            out = ctx.function(*leaves)
        pairs = [(o, g) for o, g in zip(out, gradients, strict=True) if o.requires_grad]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad([o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True))
        return None, *(next(found) if need else None for need in needs)
