"""Hidden units of two-layer feed-forward parts, and how some of them start anew in place."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from metacl.optimisers.around import Around
from metacl.optimisers.blocks import modules_of
from metacl.optimisers.state import moments_of, parameters_of


@dataclass(frozen=True)
class Hidden:
    """A layer of hidden units between two linear ones: out = w_out f(w_in x + b_in) + b_out, as torch's nn.Linear has them."""

    name: str
    w_in: Tensor
    """(units, inputs)"""
    b_in: Tensor
    """(units,)"""
    w_out: Tensor
    """(outputs, units)"""
    b_out: Tensor
    """(outputs,)"""

    @property
    def units(self) -> int:
        return len(self.w_in)


def hidden_of(network: nn.Module, patterns: Iterable[str] = ("blocks.*.mlp",)) -> list[Hidden]:
    """The hidden layers of the modules whose name matches; as it is, of the feed-forward parts of a vision transformer.

    Arguments:
        patterns: as of `modules_of`; each module must have two linear layers, the first of which feeds the second.

    Raises:
        ValueError: a pattern matches nothing, or a module is of another shape.
    """
    return [_hidden(name, part) for name, part in modules_of(network, patterns).items()]


def _hidden(name: str, part: nn.Module) -> Hidden:
    linear = [own for own in part.modules() if isinstance(own, nn.Linear)]
    if len(linear) != 2 or linear[0].out_features != linear[1].in_features:
        shapes = ", ".join(f"{own.in_features} -> {own.out_features}" for own in linear) or "none"
        raise ValueError(f"{name} must have two linear layers, one after the other, not {shapes}")
    first, second = linear
    if first.bias is None or second.bias is None:
        raise ValueError(f"a linear layer of {name} has no bias")
    return Hidden(name, first.weight, first.bias, second.weight, second.bias)


class Units(Around):
    """Base of methods by which hidden units start anew after a step. A method writes `measure` and `chosen`.

    Before each step, each layer's activations of that step must have been handed to `observe`.

    A unit starts anew with incoming weights that are normal, as strong as its layer's were at construction; its bias and its
    outgoing weights become 0, and so does what the base keeps of exactly these numbers (momenta and means of squares; not the
    count of steps, which Adam has for whole parameters). What is drawn is a function of the seed, the count of steps and the
    layer, so that it repeats, also after a resume.

    Arguments:
        base: has the parameters of all hidden layers.
        hidden: the layers; their order is that of `observe`.
        seed: of the weights that are drawn.
    """

    kept: tuple[str, ...] = ()
    """Tensors with a number a unit that it keeps of each layer; all become 0 for a unit that starts anew."""

    def __init__(self, base: torch.optim.Optimizer, hidden: Sequence[Hidden], seed: int):
        """Raises `ValueError` where there is no layer, or one has a parameter that is none of the base's."""
        super().__init__(base)
        self.hidden, self.seed = list(hidden), seed
        if not self.hidden or seed < 0:
            raise ValueError(f"it needs hidden layers and a seed of 0 or more, not {len(self.hidden)} layers and {seed}")
        known = {id(part) for part in parameters_of(self)}
        for layer in self.hidden:
            if any(id(part) not in known for part in (layer.w_in, layer.b_in, layer.w_out, layer.b_out)):
                raise ValueError(f"a parameter of {layer.name} is none of the base optimiser's")
        self.own = {"count": torch.zeros((), dtype=torch.int64)}
        for i, layer in enumerate(self.hidden):
            self.own[f"spread.{i}"] = layer.w_in.detach().std(correction=0)
            self.own |= {f"{name}.{i}": torch.zeros_like(layer.b_in, dtype=torch.float32) for name in self.kept}
        self._seen: dict[int, tuple[Tensor, int]] = {}

    def measure(self, i: int, h_NW: Tensor) -> Tensor:
        """(K, units): K means over what was observed of layer i."""
        raise NotImplementedError

    def chosen(self, i: int, means_KW: Tensor) -> Tensor:
        """(units,) bool, which units of layer i start anew after this step. Updates what is kept."""
        raise NotImplementedError

    @torch.no_grad()
    def observe(self, i: int, h: Tensor) -> None:
        """Activations (..., units) of hidden layer i in this step, once or in several pieces.

        With torch's hooks: `second_linear.register_forward_pre_hook(lambda _, inputs: optimiser.observe(i, inputs[0]))`.
        """
        if h.shape[-1] != self.hidden[i].units:
            raise ValueError(f"{self.hidden[i].name} has {self.hidden[i].units} units, not {h.shape[-1]} as what was observed")
        h_NW = h.detach().flatten(0, -2).float()
        total, number = self._seen.get(i, (0, 0))
        self._seen[i] = total + len(h_NW) * self.measure(i, h_NW), number + len(h_NW)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """As of `Around`; what was observed is forgotten, also where it raises an error."""
        try:
            return super().step(closure)
        finally:
            self._seen = {}

    def before(self) -> None:
        """Raises `ValueError` where a layer was not observed; nothing is done then."""
        if missing := [layer.name for i, layer in enumerate(self.hidden) if i not in self._seen]:
            raise ValueError(f"activations of {', '.join(missing)} were not observed in this step: hand them to `observe`")

    def after(self) -> None:
        self.own["count"] += 1
        means = [total / number for total, number in (self._seen[i] for i in range(len(self.hidden)))]
        choices = [self.chosen(i, means_KW) for i, means_KW in enumerate(means)]
        for i, chosen_W in enumerate(choices):
            if bool(chosen_W.any()):
                self.start_anew(i, chosen_W.nonzero()[:, 0])

    def start_anew(self, i: int, unit: Tensor) -> None:
        """Units (n,) of layer i start anew."""
        layer = self.hidden[i]
        rng = np.random.default_rng([self.seed, int(self.own["count"]), i])
        drawn = torch.from_numpy(rng.standard_normal((len(unit), layer.w_in.shape[1]), np.float32)).to(layer.w_in)
        layer.w_in[unit] = drawn * self.own[f"spread.{i}"].to(drawn)
        layer.b_in[unit] = 0
        layer.w_out[:, unit] = 0
        for part in (layer.w_in, layer.b_in, layer.w_out):
            for moment in moments_of(self.base, part):
                if part is layer.w_out:
                    moment[:, unit] = 0
                else:
                    moment[unit] = 0
        for name in self.kept:
            self.own[f"{name}.{i}"][unit] = 0
