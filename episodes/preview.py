"""`python -m episodes.preview DATA`: an episode as a picture."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from episodes.catalog import load_benchmark
from episodes.command_line import NamedLater, spoken
from episodes.data.config import DataConfig
from episodes.errors import UserError, at_least
from episodes.picture import draw_episode
from episodes.schedule import ScheduleConfig
from episodes.synthetic import usual_shape
from episodes.types import EpisodeShape

DESCRIPTION = """Draw an episode as a picture: time goes from left to right, phase by phase; above is the stream that is learnt
from, below what is asked of each task. A frame has the colour of the task that an example is of, the number under it is its
label: a red one is of another task (label noise), a dotted frame is padding. Of a vector the numbers are drawn as a line, and
of its target as a dotted line.

The options are those of evaluate.py; of train.py they are called --episodes.tasks, --episodes.schedule.blur and so on.
Try: python -m episodes.preview glyphs --tasks 4 --schedule.blur 0.4 -o blur.png"""


@dataclass(frozen=True)
class Preview:
    """What is drawn."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A named benchmark, as glyphs, omniglot or sine; a folder of class folders, a file, or a hub name."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("episode.png")
    """The picture, a PNG file; one that exists is written over."""
    tasks: int | None = None
    """Tasks of the episode. None: as many as such episodes have where nothing is said."""
    shots: int | None = None
    """Stream examples of each task, or of each of its classes. None: as above."""
    queries: int | None = None
    """Queries of each task, or of each of its classes. None: as above."""
    tasks_least: int | None = None
    """Between so many tasks and all, as episodes of meta-training can have. None: all."""
    split: Literal["train", "validation", "test"] = "test"
    """The meta-split whose classes make the episode."""
    seed: int = 0
    """The seed of the episodes: that of a run, or of an evaluation."""
    episode: int = 0
    """Which of the episodes, from 0."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    data: NamedLater = field(default_factory=NamedLater)

    def __post_init__(self) -> None:
        at_least(0, self, "", "seed", "episode")

    def shape(self) -> EpisodeShape:
        """The shape of the episode."""
        named = {name: getattr(self, name) for name in ("tasks", "shots", "queries") if getattr(self, name) is not None}
        return replace(usual_shape(self.name), **named, tasks_least=self.tasks_least, schedule=self.schedule)


def preview(argv: Sequence[str]) -> None:
    """The command, from its words on.

    Raises:
        UserError: no such data set, or no such episodes of it.
    """
    asked = tyro.cli(Preview, args=list(argv), prog="python -m episodes.preview", description=DESCRIPTION)
    shape = asked.shape()
    options = {part.name: getattr(asked.data, part.name) for part in fields(DataConfig)} | {"name": asked.name}
    benchmark = load_benchmark(DataConfig(**options), shape.symbols)
    generator = benchmark.generator(asked.split, shape, asked.seed)
    fewer = "" if asked.tasks_least is None else f"tasks-least {asked.tasks_least}"
    words = ", ".join(filter(None, [benchmark.name, fewer, asked.schedule.words()]))
    try:
        draw_episode(generator.batch([asked.episode]), asked.out, words, generator.visits(asked.episode))
    except OSError as error:
        raise UserError(f"The picture cannot be written to {asked.out}: {error.strerror or error}.") from error
    print(f"Episode {asked.episode} of {generator.address} ({words}): {asked.out}")


def main(argv: Sequence[str]) -> None:
    """`preview`, as a user calls it."""
    spoken(preview, argv)


if __name__ == "__main__":
    main(sys.argv[1:] or ["--help"])
