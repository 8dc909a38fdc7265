"""Where data and weights are: named from the root, so that a run can be gone on with from any folder, or put elsewhere."""

import os
from dataclasses import fields, replace
from typing import Any

from episodes import BENCHMARKS, DataConfig, UserError
from episodes.benchmarks.several import named_place
from episodes.data.backbones.known import NAMES
from episodes.data.places import user_path
from metacl.learners.vision.trunk import UNTRAINED


def located(data: DataConfig) -> DataConfig:
    """With the whole path where the name, the path or the features are those of a folder or a file."""
    values = {part.name: getattr(data, part.name) for part in fields(DataConfig)}
    named = data.path is not None or data.name in BENCHMARKS
    for name in ("path", *(("source",) if data.source not in BENCHMARKS else ())) if named else ("name",):
        if values[name] and user_path(values[name]).exists():
            values[name] = os.path.abspath(user_path(values[name]))
    if values["features"]:
        values["features"] = _located_backbone(values["features"])
    if values["split"] and user_path(values["split"]).is_file():
        values["split"] = os.path.abspath(user_path(values["split"]))
    values["also"] = tuple(map(_located_word, values["also"]))
    return DataConfig(**values)


def located_sets(stream: Any) -> dict[str, Any]:
    """The same of a stream over several data sets: its field `sets`. Nothing for others."""
    if not hasattr(stream, "sets"):
        return {}
    return {"sets": tuple(os.path.abspath(user_path(name)) if user_path(name).exists() else name for name in stream.sets)}


def located_trunk(learner: Any) -> Any:
    """The same of a learner on a vision transformer, whose weights may be in a folder or a file. Others as they are."""
    if not hasattr(learner, "trunk"):
        return learner
    return replace(learner, trunk=replace(learner.trunk, backbone=_located_backbone(learner.trunk.backbone, *UNTRAINED)))


def _located_backbone(name: str, *names: str) -> str:
    """The whole path, where it is none of the known names nor of `names`, and there is such a folder or file."""
    return os.path.abspath(user_path(name)) if name not in (*NAMES, *names) and user_path(name).exists() else name


def _located_word(word: str) -> str:
    """A word of `--data.also`, with the whole path where it names a folder or a file."""
    name, path = named_place(word)
    if path is not None:
        return f"{name}={os.path.abspath(user_path(path))}"
    return os.path.abspath(user_path(word)) if word not in BENCHMARKS and user_path(word).exists() else word


def with_data_at(config: Any, path: str | None) -> Any:
    """The same configuration with its data in the folder `path`; None: where they were.

    Raises:
        UserError: it has no data that lie anywhere.
    """
    if path is None:
        return config
    if hasattr(config, "data"):
        return replace(config, data=replace(config.data, path=os.path.abspath(user_path(path))))
    if hasattr(config.stream, "data"):
        return replace(config, stream=with_data_at(config.stream, path))
    raise UserError(f"--data.path means nothing for {config.stream.name}; leave it out.")
