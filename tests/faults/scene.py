"""What the tries share: a scratch folder, images to train on, and the undisturbed end of every case."""

import importlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

from tests.faults import child
from tests.faults.cases import EVALUATIONS, FOLDER, IMAGES, REGRESSION, Case
from tests.faults.child import Child, Command, Counts, Outcome, Prepare
from tests.faults.operations import kill_at, together, watch

PLACES = {
    "METACL_CACHE": "cache",
    "HF_HOME": "hf",
    "HF_DATASETS_CACHE": "hf/datasets",
    "MPLCONFIGDIR": "mpl",
    "HOME": "home",
    "TMPDIR": "tmp",
}
"""Folders of the scratch folder that the environment names."""
PLAIN = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "MPLBACKEND": "Agg"}


class Scene:
    """Use with `with`: the scratch folder is gone afterwards."""

    def __enter__(self) -> "Scene":
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="metacl-faults-"))).resolve()
        os.environ.update({name: str(self.folder / place) for name, place in PLACES.items()} | PLAIN)
        tempfile.tempdir = None  # TMPDIR is looked up anew
        for place in set(PLACES.values()):
            (self.folder / place).mkdir(parents=True, exist_ok=True)
        self.shared = [self.folder / place for place in PLACES.values()]
        self.numbers = count()
        self.ends: dict[str, tuple[Path, Outcome]] = {}
        self.halves: dict[str, Path] = {}
        self.images = _images(self.folder / "images")
        self._warm()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def place(self) -> Path:
        """A new working directory for one try."""
        place = self.folder / f"try-{next(self.numbers)}"
        place.mkdir()
        return place

    def start(self, case: Case) -> Command:
        """The command that begins a case."""
        needed = {"trained": IMAGES, "regression": REGRESSION}
        runs = {name: str(self.end(own)[0]) for name, own in needed.items() if f"{{{name}}}" in case.words}
        return case.start(images=str(self.images), **runs)

    def end(self, case: Case) -> tuple[Path, Outcome]:
        """The folder of a case that nothing disturbed, and what came of its command; run once.

        Raises:
            RuntimeError: it does not end well, so there is nothing to compare with.
        """
        if case.name not in self.ends:
            place = self.place()
            outcome = self.run(self.start(case), place, case, prepare=watch(place))
            if outcome.status or outcome.late:
                raise RuntimeError(f"{outcome.command} does not end well when nothing disturbs it:\n{outcome.said}")
            self.ends[case.name] = place / FOLDER, outcome
        return self.ends[case.name]

    def begin(self, command: Command, place: Path, case: Case | None = None, prepare: Prepare | None = None) -> Child:
        return child.start(command, place, together(self._cache_of(case), prepare))

    def run(
        self, command: Command, place: Path, case: Case | None = None, prepare: Prepare | None = None, seconds: float = 60.0
    ) -> Outcome:
        return self.begin(command, place, case, prepare).finish(seconds)

    def half(self, case: Case) -> Path:
        """The folder of a case that was killed after seven tenths of its writing operations; made once."""
        if case.name not in self.halves:
            place = self.place()
            moment = self.end(case)[1].counts.operations * 7 // 10
            outcome = self.run(self.start(case), place, case, watch(place, kill_at(moment)))
            if outcome.status != -signal.SIGKILL:
                raise RuntimeError(f"{outcome.command} was not killed at operation {moment}:\n{outcome.said}")
            self.halves[case.name] = place / FOLDER
        return self.halves[case.name]

    def clear(self, place: Path) -> None:
        """Removes what a try has left."""
        shutil.rmtree(place, ignore_errors=True)
        for log in self.folder.glob(f"{place.name}-*.log"):
            log.unlink()

    def _cache_of(self, case: Case | None) -> Prepare | None:
        def own(counts: Counts) -> None:
            os.environ["METACL_CACHE"] = "cache"

        return own if case is not None and case.fresh else None

    def _warm(self) -> None:
        """Imports here what the commands import, so that no child has to."""
        import metacl.cli  # after the environment is set

        names = self.folder / "modules"

        def at_end(counts: Counts) -> None:
            def noted(work: Callable[[], None]) -> Callable[[], None]:
                def main() -> None:
                    try:
                        work()
                    finally:
                        with names.open("a") as file:
                            file.write("".join(f"{name}\n" for name in list(sys.modules)))

                return main

            for script in ("train", "evaluate", "benchmark"):
                setattr(metacl.cli, f"{script}_main", noted(getattr(metacl.cli, f"{script}_main")))

        for case in (IMAGES, EVALUATIONS[2]):
            place = self.place()
            self.run(self.start(case), place, case, at_end)
            self.clear(place)
        self.ends.clear()  # they were slower than those to come
        for name in sorted(set(names.read_text().split()) - sys.modules.keys()):
            with suppress(ImportError):
                importlib.import_module(name)


def _images(folder: Path) -> Path:
    """Fifteen classes of noise in a folder for each: nine are meta-trained on, three validate, three test."""
    import numpy as np
    from PIL import Image

    for label in range(15):
        (folder / f"class-{label:02}").mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng((label, number)).integers(0, 256, (10, 10), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class-{label:02}" / f"{number}.png")
    return folder
