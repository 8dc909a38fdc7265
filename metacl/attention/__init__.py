"""Attention mechanisms behind one interface, and in `naive.py` each of them as a loop over tokens, their oracle."""

import inspect

from episodes import UserError
from episodes.errors import unknown
from metacl.attention.delta import DeltaNet, GatedDeltaNet, KimiDelta
from metacl.attention.delta_product import GatedDeltaProduct
from metacl.attention.gated import HGRN2, GatedLinearAttention, Longhorn, Mamba2, Retention
from metacl.attention.gdn2 import GatedDeltaNet2
from metacl.attention.interface import Attention, Sizes
from metacl.attention.linear import LinearAttention, Performer
from metacl.attention.log_linear import LogLinear
from metacl.attention.mesa import Mesa
from metacl.attention.palimpsa import Palimpsa
from metacl.attention.preconditioned import PreconditionedDelta
from metacl.attention.recurrent import Shell
from metacl.attention.rwkv7 import RWKV7
from metacl.attention.short_conv import convolved
from metacl.attention.slots import GatedSlots
from metacl.attention.softmax import SoftmaxAttention
from metacl.attention.ttt import TestTimeTraining

ATTENTION: dict[str, type[Attention]] = {
    "softmax": SoftmaxAttention,
    "linear": LinearAttention,
    "performer": Performer,
    "retention": Retention,
    "gla": GatedLinearAttention,
    "mamba2": Mamba2,
    "hgrn2": HGRN2,
    "gsa": GatedSlots,
    "delta": DeltaNet,
    "gated-delta": GatedDeltaNet,
    "gated-delta-product": GatedDeltaProduct,
    "kda": KimiDelta,
    "gdn2": GatedDeltaNet2,
    "rwkv7": RWKV7,
    "longhorn": Longhorn,
    "preconditioned-delta": PreconditionedDelta,
    "palimpsa": Palimpsa,
    "ttt-linear": TestTimeTraining,
    "mesa": Mesa,
    "log-linear": LogLinear,
}
"""The mechanisms. To add one, write a class like these and name it here: then tests, learners and benchmark.py know it."""

SWITCHES = ("negative", "gate")
"""Options that are on (1) or off (0)."""


def make_attention(
    name: str, width: int, heads: int, dropout: float = 0.0, *, backend: str = "auto", **options: int | None
) -> Attention:
    """A mechanism by name, on D = `width` and H = `heads`.

    Arguments:
        options: head_width, key_width, and options that only this mechanism has; None: its default. Recurrences without
            attention weights, and mesa, have short_conv, the tokens of a short convolution (see `short_conv.py`; 0: none), and
            gate (1: an output gate; see `Shell`).

    Raises:
        UserError: there is no such mechanism, or it has no such option or kernels.
    """
    if name not in ATTENTION:
        raise unknown("mechanism", name, ATTENTION)
    kind = ATTENTION[name]
    given = {option: value for option, value in options.items() if value is not None}
    _check_options(name, kind, given)
    short_conv, gate = given.pop("short_conv", 0), given.pop("gate", 0)
    sizes = Sizes(width, heads, dropout, given.pop("head_width", None), given.pop("key_width", None))
    mechanism = (convolved(kind, short_conv) if short_conv else kind)(sizes, **given)  # type: ignore[arg-type]
    if gate:
        mechanism.add_gate()  # type: ignore[operator]
    if backend not in ("auto", "torch", *mechanism.kernels):
        there = ", ".join([*mechanism.kernels, "auto"])
        raise UserError(f"{name}{' in a window' * ('window' in given)} has no kernels of {backend}. Take {there} or torch.")
    mechanism.backend = backend
    return mechanism


def _check_options(name: str, kind: type[Attention], given: dict[str, int]) -> None:
    around = ["short_conv", "gate"] if issubclass(kind, Shell) and not kind.has_weights else []
    has = ["head_width", "key_width", *list(inspect.signature(kind).parameters)[1:], *around]
    for option, value in given.items():
        if option not in has:
            own = [word for word in has if word not in ("head_width", "key_width")]
            raise UserError(f"{name} has no option {option}. Of its own it has: {', '.join(own) or 'none'}.")
        least = int(option not in ("iterations", "short_conv", *SWITCHES))
        if value < least:
            raise UserError(f"The option {option} of {name} must be at least {least}, not {value}.")
        if option == "short_conv" and value and issubclass(kind, GatedDeltaProduct):
            raise UserError(f"{name} has no short_conv here: its convolution would see the last of its steps alone.")
        if option in SWITCHES and value > 1:
            raise UserError(f"The option {option} of {name} must be 0 or 1, not {value}.")


__all__ = ["ATTENTION", "Attention", "make_attention"]
