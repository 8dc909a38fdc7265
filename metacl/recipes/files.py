"""Configurations as JSON values, and back."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from episodes import STREAMS, UserError
from metacl.recipes.config import EpisodesConfig, FollowConfig, StreamRunConfig, TrainConfig
from metacl.recipes.preset import Preset
from metacl.recipes.presets import LEARNERS
from metacl.recipes.pretraining import PretrainConfig


def to_json(config: Any) -> dict[str, Any]:
    """Plain JSON values, all fields, nested."""
    return dataclasses.asdict(config)


def train_config(values: dict[str, Any], where: Path) -> TrainConfig:
    """The configuration of a meta-training run, as `to_json` wrote it.

    Raises:
        UserError: fields are missing or unknown; `where` says in which file.
    """
    return _read(where, lambda: _built(TrainConfig, values, learner=_preset(values).meta_config))


def follow_config(values: dict[str, Any], where: Path) -> FollowConfig:
    """The configuration of an evaluation, as `to_json` wrote it; arguments and errors as above."""

    def read() -> FollowConfig:
        preset = _preset(values)
        learner = preset.meta_config if values["run"] is not None else preset.trained_config
        if "stream" in values:
            stream = type(STREAMS[values["stream"]["name"]].config)
            return _built(StreamRunConfig, values, learner=learner, stream=stream)
        return _built(EpisodesConfig, values, learner=learner)

    return _read(where, read)


def pretrain_config(values: dict[str, Any], where: Path) -> PretrainConfig:
    """The configuration of a pre-training, as `to_json` wrote it; arguments and errors as above."""
    return _read(where, lambda: _built(PretrainConfig, values))


def _preset(values: dict[str, Any]) -> Preset:
    return LEARNERS[values["learner_name"]]


def _read(where: Path, read: Any) -> Any:
    try:
        return read()
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is not a configuration of this version of metacl: {error!r}.") from error


def _built(kind: Any, values: Any, **kinds: Any) -> Any:
    """`values` of a JSON file as `kind`: dataclasses from dictionaries, tuples from lists.

    Arguments:
        kinds: of fields whose annotation does not say it.
    """
    if dataclasses.is_dataclass(kind) and isinstance(values, dict):
        if missing := {field.name for field in dataclasses.fields(kind)} - values.keys():
            raise KeyError(", ".join(sorted(missing)))
        hints = typing.get_type_hints(kind) | kinds
        make: Any = kind
        return make(**{name: _built(hints[name], inner) for name, inner in values.items()})
    if typing.get_origin(kind) is tuple:
        return tuple(_built(typing.get_args(kind)[0], value) for value in values)
    if isinstance(kind, types.UnionType) and isinstance(values, list):
        return tuple(values)
    return values
