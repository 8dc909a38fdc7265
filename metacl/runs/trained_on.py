"""Which images a run was meta-trained on, kept in its folder, so that they are known again wherever they lie and however they
are called; and those that a backbone was trained on, in its folder."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from episodes import Benchmark, Stream, UserError
from episodes.data.backbones.vit_files import OF_A_RUN
from episodes.data.identity import classes_among
from episodes.data.places import user_path
from episodes.data.pool import ClassPool
from metacl.runs.files import read_json
from metacl.runs.folder import Run

FILE = "trained-on.npy"
"""uint64: the ids of all meta-training images (`episodes.data.identity`), sorted."""


def keep_trained_on(folder: Path, benchmark: Benchmark) -> None:
    """Writes the ids of the meta-training images into a run folder; of regression there are none."""
    np.save(folder / FILE, benchmark.ids("train"), allow_pickle=False)


def trained_on_digest(benchmark: Benchmark) -> str:
    """What stands in environment.json of that file, so that a damaged one is known."""
    return digest_of_ids(benchmark.ids("train"))


def trained_on(folder: Path, about: str = "environment.json") -> np.ndarray:
    """The ids of a run's meta-training images; none where it is of an earlier version, which kept the names of classes only.

    Arguments:
        about: the file that has their digest; of a backbone config.json.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / about
    values = read_json(path) if path.exists() else {}
    if not isinstance(values, dict) or (digest := values.get("trained_on")) is None:
        return np.empty(0, dtype=np.uint64)
    try:
        ids = np.load(folder / FILE, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder / FILE} cannot be read ({error}), which says what the run was meta-trained on.") from error
    if digest_of_ids(ids) != digest:
        raise UserError(f"{folder / FILE} is not as it was written: it should say what the run was meta-trained on.")
    return ids


def digest_of_ids(ids: np.ndarray) -> str:
    """By which a damaged file of ids is known."""
    return hashlib.blake2b(ids.tobytes(), digest_size=16).hexdigest()


def warn_of_other_data(run: Run, benchmark: Benchmark, speak: Callable[[str], None]) -> None:
    """A run goes with the data that it was started on.

    Raises:
        UserError: classes that it was meta-trained on, by their names or by most of their images, are now held out.
    """
    path = run.folder / "environment.json"
    about = read_json(path) if path.exists() else {}
    before = about.get("data_fingerprint")
    if before == benchmark.fingerprint:
        return
    names, ids = set(about.get("meta_train_classes", ())), trained_on(run.folder)
    for split in ("validation", "test"):
        if shared := sorted(names.intersection(benchmark.classes(split)).union(benchmark.classes_among(split, ids))):
            raise UserError(
                f"The data have changed: meta-{split} has {len(shared)} classes that this run was meta-trained on: "
                f"{', '.join(shared)}. Put the data back as they were, or train anew."
                + ("" if "trained_on" in about else " The run is of a version that dealt classes by the data set's name.")
            )
    speak(f"Note: {benchmark.name} is not the data that the run was started on (now {benchmark.fingerprint}, then {before}).")


def met_before(run: Run, stream: Stream) -> list[str]:
    """A sentence on classes of a stream that a run was meta-trained on, by most of their images; none where there are none."""
    ids = trained_on(run.folder)
    found = sorted({name for pool in getattr(stream, "pools", ()) for name in classes_among(pool, ids)})
    if not found:
        return []
    return [f"{len(found)} classes of {stream.name} are ones that {run.folder.name} was meta-trained on, such as {found[0]}."]


def met_by_backbone(backbone: str, pools: Iterable[ClassPool]) -> list[str]:
    """A sentence for each pool with classes that a backbone of one's own was trained on, by most of their images.

    Arguments:
        backbone: its name, its folder or its file; of others than those of `train.py pretrain` nothing is known.
    """
    place = user_path(backbone)
    folder = next((folder for folder in (place / OF_A_RUN, place, place.parent) if folder.is_dir()), place)
    if not place.exists() or not (ids := trained_on(folder, "config.json")).size:
        return []
    told = []
    for pool in pools:
        if found := classes_among(pool, ids):
            are = f"1 class of {pool.source} is one" if len(found) == 1 else f"{len(found)} classes of {pool.source} are ones"
            told.append(f"{are} that the backbone {backbone} was trained on, such as {found[0]}.")
    return told
