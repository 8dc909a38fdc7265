"""Held-out episodes as a file: where they are found and what they must be, in a few hundred bytes and without an image.

Episodes are functions of their address (benchmark, meta-split, seed, number) and of the pool, so whoever has the same data has
the same episodes: the file says the address, and the fingerprint and a digest by which others are known.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from episodes.benchmarks.benchmark import Benchmark
from episodes.benchmarks.several import named_place
from episodes.catalog import load_benchmark
from episodes.data.config import DataConfig, completed
from episodes.errors import UserError, at_least
from episodes.generator import EpisodeGenerator
from episodes.progress import progress
from episodes.schedule import ScheduleConfig
from episodes.types import EpisodeShape

VERSION = 1
"""Of the format."""
LOOKED_AT = 8
"""Episodes whose examples the digest is of: enough to know whether this program draws them as that one did."""


@dataclass(frozen=True)
class Frozen:
    """Episodes 0 to `episodes` - 1 of a meta-test."""

    data: DataConfig
    """The data set and how it is read; not where it lies."""
    shape: EpisodeShape
    seed: int
    episodes: int
    fingerprint: str
    """Of the benchmark: of all that its episodes are made of."""
    digest: str
    """Of the first episodes: their labels and tasks, and their images where these are whole numbers."""

    def benchmark(self, path: str | None = None, also: tuple[str, ...] = ()) -> Benchmark:
        """The benchmark.

        Arguments:
            path: the folder of a local copy of the data; None: their usual place.
            also: the data sets that join them, with their places, as `--data.also`.

        Raises:
            UserError: it cannot be read, is not the one that was frozen, or gives other episodes in this version.
        """
        data = replace(self.data, path=path, also=also or self.data.also)
        benchmark = load_benchmark(data, self.shape.symbols)
        self.check(benchmark)
        return benchmark

    def check(self, benchmark: Benchmark) -> None:
        """Raises `UserError` where a benchmark is another, or its episodes are drawn in another way."""
        if benchmark.fingerprint != self.fingerprint:
            raise UserError(
                f"{benchmark.name} is not what the held-out episodes were made of: its fingerprint is {benchmark.fingerprint}, "
                f"theirs {self.fingerprint}. Give the same data, read alike: {_in_words(self.data)}."
            )
        if digest_of_first(self.generator(benchmark), self.episodes) != self.digest:
            raise UserError(
                f"This version draws other episodes of {benchmark.name} than the one that wrote the file. Take that version, "
                "or freeze them anew and say so beside the results."
            )

    def generator(self, benchmark: Benchmark) -> EpisodeGenerator:
        """The episodes, of which the first `episodes` are meant."""
        return benchmark.generator("test", self.shape, self.seed)

    def write(self, path: Path) -> None:
        """Raises `UserError` where the file cannot be written."""
        values = {"version": VERSION} | asdict(self)
        values["data"]["path"] = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror or error}).") from error


def frozen(data: DataConfig, shape: EpisodeShape, seed: int, episodes: int) -> Frozen:
    """Freezes the first episodes of a meta-test.

    Raises:
        UserError: the data cannot be read, or such episodes cannot be drawn.
    """
    benchmark = load_benchmark(data, shape.symbols)
    generator = benchmark.generator("test", shape, seed)
    own = completed(data, benchmark.test.spec.x_shape)  # so that it is read alike where images are added to a folder
    also = tuple(named_place(word)[0] for word in own.also)
    return Frozen(
        replace(own, path=None, also=also), shape, seed, episodes, benchmark.fingerprint, digest_of_first(generator, episodes)
    )


def read_frozen(path: str | Path) -> Frozen:
    """What `Frozen.write` wrote.

    Raises:
        UserError: it is not there, or no such file.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        version = values.pop("version")
        if version != VERSION:
            raise UserError(f"{path} has the format {version}, and this version of the program reads {VERSION}.")
        return _built(values)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}). It should be a file of episodes.freeze."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no file of python -m episodes.freeze ({error}).") from error


def digest_of_first(generator: EpisodeGenerator, episodes: int) -> str:
    """The digest of the first `LOOKED_AT` of so many episodes."""
    episode = generator.batch(range(min(LOOKED_AT, episodes)))
    digest = hashlib.blake2b(digest_size=16)
    for part in (episode.stream, episode.queries):
        for tensor in (part.task, part.y, part.x, part.valid):
            if tensor is not None and not tensor.is_floating_point():  # floats may differ in their last bits elsewhere
                digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()


def rows(frozen: Frozen, benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    """The examples, one after another: episode, part (stream or queries), place, task, label or target, and x."""
    generator = frozen.generator(benchmark)
    for number in progress(range(frozen.episodes), frozen.episodes, "writing episodes"):
        episode = generator.batch([number])
        for name in ("stream", "queries"):
            part = getattr(episode, name)
            for place in range(len(part)):
                if part.valid is not None and not part.valid[0, place]:
                    continue
                x, y = part.x[0, place].numpy(), part.y[0, place]
                x = (x.transpose(1, 2, 0) if x.shape[0] == 3 else x[0]) if episode.spec.x_kind == "image" else x
                label = int(y) if episode.spec.classification else y.flatten().numpy()
                about = {"episode": number, "part": name, "place": place, "task": int(part.task[0, place])}
                yield about | {"label" if episode.spec.classification else "target": label, "x": x}


def _built(values: dict[str, Any]) -> Frozen:
    data, shape = values.pop("data"), values.pop("shape")
    schedule = ScheduleConfig(**shape.pop("schedule"))
    data |= {name: tuple(data[name]) for name in ("without", "also", "target") if name in data}  # JSON makes lists
    found = Frozen(DataConfig(**data), EpisodeShape(**shape, schedule=schedule), **values)
    at_least(1, found, "", "episodes")
    return found


def _in_words(data: DataConfig) -> str:
    usual = DataConfig()
    changed = {name: value for name, value in vars(data).items() if name != "name" and value != getattr(usual, name)}
    return " ".join([data.name, *(f"--data.{name.replace('_', '-')} {value}" for name, value in changed.items())])
