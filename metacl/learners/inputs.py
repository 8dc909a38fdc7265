"""What learners are given, checked at their doors: once a call, by shapes and types, and by the values of labels on a CPU.

Without it images of another size, floats where bytes are meant and labels that are no symbols would be learnt without a word.
"""

import torch
from torch import Tensor

from episodes import EpisodeSpec, Examples, UserError


def check_inputs(x: Tensor, spec: EpisodeSpec) -> None:
    """Raises `UserError` where x is not (B, N, *x_shape), uint8 for images, floats for vectors."""
    image = spec.x_kind == "image"
    typed = x.dtype == torch.uint8 if image else x.is_floating_point()
    if typed and x.ndim >= 2 and x.shape[2:] == spec.x_shape:
        return
    values = "uint8, values 0 to 255" if image else "floats"
    hint = " Floats from 0 to 1 become such bytes by (255 * x).round().byte()." if image and x.is_floating_point() else ""
    raise UserError(
        f"The inputs are {_named(x)}; this learner was built for {spec.x_kind}s of shape {spec.x_shape} and takes "
        f"(B, N, {_listed(spec.x_shape)}), {values}.{hint}"
    )


def check_examples(examples: Examples, spec: EpisodeSpec) -> None:
    """Raises `UserError` where inputs or targets are not what a learner for `spec` takes, or not equally many.

    The values of labels are looked at on a CPU only: elsewhere the program would have to wait for them.
    """
    check_inputs(examples.x, spec)
    y, places = examples.y, tuple(examples.x.shape[:2])
    typed = y.dtype == torch.int64 if spec.classification else y.is_floating_point()
    if not typed or tuple(y.shape) != (*places, *spec.y_shape):
        values = f"int64, symbols 0 to {spec.symbols - 1}" if spec.classification else "floats"
        raise UserError(
            f"The targets are {_named(y)}; with inputs {tuple(examples.x.shape)} this learner takes "
            f"({_listed((*places, *spec.y_shape))}), {values}."
        )
    for name in ("task", "valid"):
        beside = getattr(examples, name)
        if beside is not None and tuple(beside.shape) != places:
            raise UserError(
                f"`{name}` of the examples has shape {tuple(beside.shape)}; their inputs and targets have {places}."
            )
    if y.device.type == "cpu":
        check_symbols(examples, spec)


def check_symbols(examples: Examples, spec: EpisodeSpec) -> None:
    """Raises `UserError` where a label of the stream is no symbol of the learner. Labels of padding do not count."""
    if not spec.classification or not examples.y.numel():
        return
    y = examples.y if examples.valid is None else examples.y[examples.valid]
    if not y.numel():
        return
    low, high = (int(end) for end in y.aminmax())
    if low < 0:
        raise UserError(
            f"The stream has the label symbol {low}, and this learner has {spec.symbols} symbols (0 to {spec.symbols - 1}). "
            "Leave out examples without a label, or mark them as not `valid`."
        )
    if high >= spec.symbols:
        raise UserError(
            f"The stream has the label symbol {high}, and this learner has {spec.symbols} symbols (0 to {spec.symbols - 1}), "
            f"one output for each. Build it for {high + 1} symbols (in meta-training: --episodes.vocabulary {high + 1})."
        )


def check_support(support: Examples, spec: EpisodeSpec) -> None:
    """Raises `UserError` where a support set is empty, or is not what a learner for `spec` takes."""
    if not len(support):
        raise UserError("The support set is empty: give one labelled example of the task or more.")
    check_examples(support, spec)


def _named(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape)}"


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
