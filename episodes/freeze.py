"""`python -m episodes.freeze DATA`: held-out episodes as a file, by which others can evaluate on the same ones."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from episodes.command_line import NamedLater, spoken
from episodes.data.config import DataConfig
from episodes.errors import UserError, at_least
from episodes.frozen import Frozen, frozen, rows
from episodes.schedule import ScheduleConfig
from episodes.synthetic import usual_shape
from episodes.types import EpisodeShape

DESCRIPTION = """Write down which episodes a learner is tested on: the address of the first episodes of a meta-test, the
fingerprint of their data and a digest. The file is a few hundred bytes, and has no image. Whoever has the same data gets the
same episodes of it; other data are refused:

    python -m episodes.freeze omniglot --tasks 20 -o omniglot-20x5.json
    python evaluate.py runs/omniglot --held-out omniglot-20x5.json

--export FOLDER writes the episodes themselves too, as a Hugging Face data set in parquet, for other programs."""


@dataclass(frozen=True)
class Freeze:
    """What is frozen."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A named benchmark, as glyphs, omniglot or sine; a folder of class folders, a file, or a hub name."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("held-out.json")
    """The file; one that exists is never overwritten."""
    tasks: int = 5
    """Tasks of an episode."""
    shots: int | None = None
    """Stream examples of each task, or of each of its classes. None: as many as such episodes have where nothing is said."""
    queries: int | None = None
    """Queries of each task, or of each of its classes. None: as above."""
    vocabulary: int = 64
    """Label symbols from which an episode draws its labels: those that a learner must have been built for."""
    episodes: int = 1024
    """Episodes."""
    seed: int = 0
    """The seed of the episodes, as --seeds of evaluate.py."""
    export: Path | None = None
    """A new folder for the episodes themselves, as a Hugging Face data set: a row for each example."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    data: NamedLater = field(default_factory=NamedLater)

    def __post_init__(self) -> None:
        at_least(1, self, "", "tasks", "vocabulary", "episodes")
        at_least(0, self, "", "seed")

    def shape(self) -> EpisodeShape:
        """The shape of the episodes."""
        named = {name: getattr(self, name) for name in ("shots", "queries") if getattr(self, name) is not None}
        usual = replace(usual_shape(self.name), tasks=self.tasks, vocabulary=self.vocabulary)
        return replace(usual, **named, schedule=self.schedule)


def freeze(argv: Sequence[str]) -> None:
    """The command, from its words on.

    Raises:
        UserError: no such data set, no such episodes of it, or a file that is there already.
    """
    asked = tyro.cli(Freeze, args=list(argv), prog="python -m episodes.freeze", description=DESCRIPTION)
    for place in filter(None, (asked.out, asked.export)):
        if place.exists():
            raise UserError(f"{place} exists, and is never overwritten. Name another, or move it away.")
    options = {part.name: getattr(asked.data, part.name) for part in fields(DataConfig)} | {"name": asked.name}
    data = DataConfig(**options)
    found = frozen(data, asked.shape(), asked.seed, asked.episodes)
    if asked.export is not None:
        export(found, asked.export, data)
    found.write(asked.out)
    print(f"{found.episodes} episodes of {asked.name}, meta-test, seed {found.seed}: {asked.out}")


def export(found: Frozen, folder: Path, data: DataConfig) -> None:
    """Writes the examples of frozen episodes as a Hugging Face data set, `episodes.parquet` in a new folder.

    Arguments:
        data: where they lie.
    """
    from datasets import Dataset, Features, Image, Value
    from datasets import Sequence as Numbers

    benchmark = found.benchmark(data.path, data.also)
    spec = benchmark.test.spec
    kinds: dict[str, Any] = {name: Value("int64") for name in ("episode", "place", "task")} | {"part": Value("string")}
    kinds |= {"label": Value("int64")} if spec.classification else {"target": Numbers(Value("float32"))}
    kinds["x"] = Image() if spec.x_kind == "image" else Numbers(Value("float32"))
    made = Dataset.from_generator(rows, gen_kwargs={"frozen": found, "benchmark": benchmark}, features=Features(kinds))
    folder.mkdir(parents=True)
    made.to_parquet(folder / "episodes.parquet")


if __name__ == "__main__":
    spoken(freeze, sys.argv[1:] or ["--help"])
