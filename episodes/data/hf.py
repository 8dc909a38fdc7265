"""What the `datasets` library opens: a hub name, or a folder or file of parquet or Arrow."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from episodes.data.columns import image_column, kind_of, label_column, labelled_rows, vectors_of, with_targets
from episodes.data.places import cache_folder, user_path
from episodes.data.reading import Reading, Stored, StoredImage, cause
from episodes.errors import UserError, unknown

if TYPE_CHECKING:
    from datasets import Dataset, Features

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_name(name: str) -> bool:
    """True for names like "owner/data-set"."""
    return HUB_NAME.fullmatch(name) is not None


def stored_rows(where: str, splits: Sequence[str] | None, reading: Reading) -> Stored:
    """The rows of some splits (None: all) that have a label; others are left out, with a warning.

    Raises:
        UserError: nothing can be opened there, a column is unknown or unfit, a split is empty or missing.
    """
    return stored_parts(open_splits(where, splits, reading.configuration), where, reading)


def stored_parts(parts: "dict[str, Dataset]", where: str, reading: Reading) -> Stored:
    """As `stored_rows`, of splits that are open.

    Arguments:
        where: what to call the data set in messages.
    """
    features = features_of(parts, reading)
    image, label = image_column(features, reading.image), label_column(features, reading.label)
    rows, labels, names = labelled_rows(parts, label, where)
    told = None
    if reading.targets:
        rows, labels, told = with_targets(parts, rows, labels, reading.targets, where)
    out = sum(part.num_rows for part in parts.values()) - len(labels)
    parts = {split: part for split, part in parts.items() if len(rows[split])}
    for split, part in parts.items():
        if image not in part.features:
            raise UserError(f"Split {split!r} of {where} has no column {image!r}. Choose another column with --data.image.")
    if kind_of(features[image]) == "vector":
        return Stored(labels, names, _no_images, vectors_of(parts, rows, image, where), out, told)
    starts = np.cumsum([0, *(len(rows[split]) for split in parts)])
    ready = {split: _undecoded(part, image) for split, part in parts.items()}
    images = [partial(_images, split, ready[split]) for split in parts]

    def at(places: np.ndarray) -> Iterator[StoredImage]:
        for i, (split, own) in enumerate(zip(parts, images, strict=True)):
            inside = places[(places >= starts[i]) & (places < starts[i + 1])] - starts[i]
            yield from own(rows[split][inside])

    return Stored(labels, names, at, left_out=out, targets=told)


def features_of(parts: "dict[str, Dataset]", reading: Reading) -> dict[str, Any]:
    """What each column of some splits holds, but for those that are neither inputs nor labels."""
    every = {name: kind for part in reversed(parts.values()) for name, kind in part.features.items()}
    return {name: kind for name, kind in every.items() if name not in reading.apart}


def open_splits(where: str, splits: Sequence[str] | None = None, configuration: str | None = None) -> "dict[str, Dataset]":
    """The asked splits (None: all) of the data set in a folder, in a parquet file or on the hub."""
    local = user_path(where).exists()
    parts = _open_folder(where, configuration) if local else _open_hub(where, configuration)
    for split in splits or ():
        if split not in parts:
            raise unknown(f"split of {where}", split, parts)
    parts = {split: parts[split] for split in splits or parts}
    for split, part in parts.items():
        if not part.num_rows:
            raise empty_split(split, where)
    return parts


def empty_split(split: str, where: str) -> UserError:
    return UserError(f"Split {split!r} of {where} is empty. Remove it, or put images there.")


def _open_folder(where: str, configuration: str | None) -> "dict[str, Dataset]":
    from datasets import Dataset, load_dataset, load_from_disk

    folder = user_path(where)
    if configuration is not None and (folder.is_file() or is_saved(folder)):
        raise UserError(f"--data.configuration means nothing for {where}, which is one data set; leave it out.")
    try:
        if folder.is_file() and folder.suffix.lower() == ".arrow":
            parts = Dataset.from_file(str(folder))
        elif folder.is_file():
            parts = load_dataset("parquet", data_files={"train": str(folder)}, cache_dir=_kept_in())
        elif is_saved(folder):
            parts = load_from_disk(str(folder))
        else:
            if wrong := _wrong_configuration(str(folder), configuration):
                raise wrong
            parts = _load(folder, configuration)
    except UserError:
        raise
    except Exception as error:  # the library's own kinds, and those of pyarrow and of the file formats
        if empty := re.search(r"Instruction \"(.+)\" corresponds to no data", str(error)):
            raise empty_split(empty[1], where) from error
        raise UserError(
            f"{where} cannot be read as a Hugging Face data set ({cause(error)}). "
            "It should be or hold parquet files, or hold a sub-folder of images for each class."
        ) from error
    return {"train": parts} if isinstance(parts, Dataset) else dict(parts)


def _load(folder: Path, configuration: str | None) -> "dict[str, Dataset]":
    """Each split with its own names of classes: the library gives all splits those of the first, whatever their order."""
    from datasets import load_dataset, load_dataset_builder

    builder = load_dataset_builder(str(folder), configuration, cache_dir=_kept_in())
    files = {str(split): list(some) for split, some in (builder.config.data_files or {}).items()}
    local = builder.info.features is None and all(Path(file).suffix == ".parquet" for some in files.values() for file in some)
    if not local or not _schemas_differ(files):
        return dict(load_dataset(str(folder), configuration, cache_dir=_kept_in()))
    parts: dict[str, Dataset] = {}
    for split, some in files.items():
        parts |= load_dataset("parquet", data_files={split: some}, cache_dir=_kept_in())
    return parts


def _schemas_differ(files: dict[str, list[str]]) -> bool:
    """Whether splits of parquet files have other features.

    Raises:
        UserError: the files of one split have other names of classes.
    """
    import pyarrow.parquet
    from datasets import Features

    kinds = []
    for split, some in files.items():
        own = [Features.from_arrow_schema(pyarrow.parquet.read_schema(file)) for file in some]
        for file, features in zip(some, own, strict=True):
            if (names := _class_names(features)) != (first := _class_names(own[0])):
                raise UserError(
                    f"The files of split {split!r} have other names of classes: {file} has {names}, and {some[0]} has {first}. "
                    "Write them alike."
                )
        kinds += own[:1]
    return any(features != kinds[0] for features in kinds)


def _class_names(features: "Features") -> dict[str, list[str]]:
    """The names of the classes, by the columns that have them."""
    return {column: kind.names for column, kind in features.items() if hasattr(kind, "names")}


def _wrong_configuration(where: str, asked: str | None) -> UserError | None:
    """What is wrong with the configuration that is asked: there is no such one, or there are several and none is asked."""
    from datasets import get_dataset_config_names, get_dataset_default_config_name

    try:
        choices, usual = get_dataset_config_names(where), get_dataset_default_config_name(where)
    except Exception:  # nothing can be read there, which reading says
        return None
    if asked is not None and asked not in choices:
        return unknown(f"configuration of {where}", asked, choices)
    if asked is None and usual is None and len(choices) > 1:
        return UserError(f"{where} has several configurations. Choose one with --data.configuration: {', '.join(choices)}.")
    return None


def is_saved(folder: Path) -> bool:
    """Whether a folder is what `Dataset.save_to_disk` wrote."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _open_hub(where: str, configuration: str | None) -> "dict[str, Dataset]":
    if not is_hub_name(where):
        raise UserError(f"{where} does not exist. Give the path of a folder or file, or a hub name like owner/data-set.")
    from datasets import load_dataset

    _check_hub(where)
    try:
        return dict(load_dataset(where, configuration, cache_dir=_kept_in()))
    except Exception as error:
        if wrong := _wrong_configuration(where, configuration):
            raise wrong from error
        raise UserError(
            f"There is no folder {where}, and the hub's data set of that name cannot be loaded ({cause(error)}). "
            "Check the name and the network, or give a local copy with --data.path (of a stream --stream.data.path)."
        ) from error


def _kept_in() -> str | None:
    """Where the library keeps what it has read; None: in its usual place. Without a home folder that is none."""
    from datasets import config

    return str(cache_folder() / "datasets") if str(config.HF_DATASETS_CACHE).startswith("~") else None


def _check_hub(where: str) -> None:
    """Asks the hub for the data set, once and briefly: the loading itself would try for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        HfApi().dataset_info(where, timeout=10)
    except OfflineModeIsEnabled:
        return  # an earlier download will do, where there is one
    except RepositoryNotFoundError as error:
        raise UserError(
            f"There is no folder {where}, and no public data set of that name on the hub. Check the name."
        ) from error
    except HfHubHTTPError as error:
        raise UserError(f"The hub refuses {where}: {cause(error)}.") from error
    except Exception as error:  # whatever the HTTP client raises
        raise UserError(
            f"There is no folder {where}, and the hub cannot be reached ({cause(error)}). "
            "Check the network, give a local copy with --data.path (of a stream --stream.data.path), or set HF_HUB_OFFLINE=1 "
            "to use what was downloaded before."
        ) from error


def _undecoded(part: "Dataset", column: str) -> "Dataset":
    """The image column alone, holding {"bytes": ..., "path": ...}: we decode them, so that a damaged one can be named."""
    from datasets import Image

    part = part.select_columns([column])
    if kind_of(part.features[column]) == "pixels":
        return part.with_format("numpy")
    try:
        return part.cast_column(column, Image(decode=False))
    except Exception as error:
        raise UserError(
            f"Image column {column!r} holds {part.features[column]}, no images. Choose another with --data.image."
        ) from error


def _images(split: str, part: "Dataset", rows: np.ndarray) -> Iterator[StoredImage]:
    """The stored images of some rows."""
    part = part if len(rows) == len(part) else part.select(rows)
    images = (image for some in part.iter(256) for image in next(iter(some.values())))
    for row, image in zip(rows, images, strict=True):
        named = image.get("path") if isinstance(image, dict) else None
        yield f"{f'{named} in ' if named else ''}row {row} of split {split!r}", image


def _no_images(places: np.ndarray) -> Iterator[StoredImage]:
    return iter(())
