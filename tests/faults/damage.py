"""Damaged files: each file of a run, of an evaluation and of the cache of images, damaged in each way. What comes is right, or
it is said what is damaged."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.cases import EPISODES, FOLDER, SINE, STREAM, TRAINING, Case, one_of
from tests.faults.child import Command, Outcome
from tests.faults.compare import differences
from tests.faults.scene import Scene
from tests.faults.verdict import Verdict, column_of, last_words

CACHED = TRAINING[6]
EVALUATE = ("--tasks", "2", "--episodes", "8", "--shots", "2", "--queries", "2", "--out", "out")


def flipped(content: bytes, rng: random.Random) -> bytes:
    place, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def another_digit(content: bytes, rng: random.Random) -> bytes:
    """A digit for another: what stays readable is the easiest to overlook."""
    places = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
    if not places:
        return flipped(content, rng)
    place = rng.choice(places)
    return content[:place] + bytes([48 + (content[place] - 48 + rng.randint(1, 9)) % 10]) + content[place + 1 :]


def zeroed(content: bytes, rng: random.Random) -> bytes:
    """As after a loss of power: the length is right, the end was never written."""
    kept = rng.randrange(len(content))
    return content[:kept] + bytes(len(content) - kept)


WAYS: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "has a flipped bit": flipped,
    "has another digit": another_digit,
    "is cut off": lambda content, rng: content[: rng.randrange(len(content))],
    "has zeros at its end": zeroed,
    "is empty": lambda content, rng: b"",
    "is not there": lambda content, rng: None,
}


@dataclass(frozen=True)
class Target:
    """A folder that is damaged, and the command that then reads it."""

    name: str
    folder: Path
    place: str
    """Where the folder lies in the working directory."""
    command: Command
    made: str
    """What the command makes there."""
    right: Path
    case: Case | None = None


def tries(scene: Scene) -> int:
    """So often that each file has been damaged twice in each way."""
    return 2 * len(TARGETS) * max(len(_damages(make(scene))) for make in TARGETS)


def attack(seed: int, scene: Scene) -> Verdict:
    target = TARGETS[seed % len(TARGETS)](scene)
    name, way = one_of(_damages(target), seed // len(TARGETS))
    place = scene.place()
    shutil.copytree(target.folder, place / target.place, symlinks=True)
    file = place / target.place / name
    damaged = WAYS[way](file.read_bytes(), random.Random(seed))
    file.unlink() if damaged is None else file.write_bytes(damaged)
    outcome = scene.run(target.command, place, target.case)
    verdict = _verdict(target, name, place, outcome, f"{target.name}: {name} {way}")
    scene.clear(place)
    return verdict


def _verdict(target: Target, name: str, place: Path, outcome: Outcome, about: str) -> Verdict:
    column, found = column_of(outcome), list[str]()
    if column == "right":
        found = differences(place / target.made, target.right)
    if found and _named(name, outcome.said):
        column, found = "said", []
    return Verdict("silent wrong" if found else column, about, "; ".join(found[:3]) or last_words(outcome))


def _named(name: str, said: str) -> bool:
    """Whether a note says that this file, or its folder, is damaged or missing."""
    return any(line.startswith(("Note", "Error")) and part in line for line in said.splitlines() for part in Path(name).parts)


def _damages(target: Target) -> list[tuple[str, str]]:
    return [(name, way) for name in _names(target.folder) for way in WAYS]


def _names(folder: Path) -> list[str]:
    """The files that are read again: no pictures, no locks, no events of tensorboard."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    names = [str(path.relative_to(folder)) for path in files if path.suffix != ".png" and not path.name.startswith(".")]
    return sorted(name for name in names if not name.startswith("tensorboard"))


def _half(name: str, case: Case) -> Callable[[Scene], Target]:
    return lambda scene: Target(f"resuming {name}", scene.half(case), FOLDER, case.resume(), FOLDER, scene.end(case)[0])


def _run(scene: Scene) -> Target:
    whole, command = scene.end(SINE)[0], Command("evaluate", (FOLDER, *EVALUATE))
    right = whole.with_name("out")
    if not right.exists():
        scene.run(command, whole.parent)
    return Target("evaluating a run", whole, FOLDER, command, "out", right)


def _evaluation(scene: Scene) -> Target:
    whole = scene.end(EPISODES)[0]
    return Target("resuming an evaluation at its end", whole, FOLDER, EPISODES.resume(), FOLDER, whole)


def _cache(scene: Scene) -> Target:
    whole = scene.end(CACHED)[0]
    return Target("training from the cache", whole.with_name("cache"), "cache", scene.start(CACHED), FOLDER, whole, CACHED)


TARGETS = (
    _half("a run", SINE),
    _run,
    _half("a stream", STREAM),
    _half("episodes", EPISODES),
    _evaluation,
    _cache,
)
