"""Which images a run was meta-trained on, kept in its folder, so that they are known again wherever they lie and however they
are called."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from episodes import Benchmark, Stream, UserError
from episodes.data.identity import classes_among
from metacl.runs.files import read_json
from metacl.runs.folder import Run

FILE = "trained-on.npy"
"""uint64: the ids of all meta-training images (`episodes.data.identity`), sorted."""


def keep_trained_on(folder: Path, benchmark: Benchmark) -> None:
    """Writes the ids of the meta-training images into a run folder; of regression there are none."""
    np.save(folder / FILE, benchmark.ids("train"), allow_pickle=False)


def trained_on_digest(benchmark: Benchmark) -> str:
    """What stands in environment.json of that file, so that a damaged one is known."""
    return _digest(benchmark.ids("train"))


def trained_on(folder: Path) -> np.ndarray:
    """The ids of a run's meta-training images; none where it is of an earlier version, which kept the names of classes only.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / "environment.json"
    digest = read_json(path).get("trained_on") if path.exists() else None
    if digest is None:
        return np.empty(0, dtype=np.uint64)
    try:
        ids = np.load(folder / FILE, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder / FILE} cannot be read ({error}), which says what the run was meta-trained on.") from error
    if _digest(ids) != digest:
        raise UserError(f"{folder / FILE} is not as it was written: it should say what the run was meta-trained on.")
    return ids


def _digest(ids: np.ndarray) -> str:
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
