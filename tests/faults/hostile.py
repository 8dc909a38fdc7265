"""Hostile folders, names and environments: the command does its work, or says why not; nobody else's files are touched."""

import errno
import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.cases import FOLDER, IMAGES, SINE, STREAM, Case, one_of
from tests.faults.child import Command, Counts, Outcome, Prepare
from tests.faults.compare import differences
from tests.faults.guard import guarded, written_outside
from tests.faults.operations import fail_from, together, vanish_at, watch
from tests.faults.scene import Scene
from tests.faults.verdict import Verdict, judged

MINE = "somebody's own"
Made = dict[str, str]

FOLDERS: dict[str, dict[str, str]] = {
    "nothing": {},
    "a file": {"": MINE},
    "a folder with other things": {"mine": MINE},
    "an empty folder": {"": "/"},
    "a link to nothing": {"": "-> nowhere"},
    "a link to itself": {"": f"-> {FOLDER}"},
    "a link to a file": {"../mine": MINE, "": "-> mine"},
    "a link to an empty folder": {"../there": "/", "": "-> there"},
    "a pipe": {"": "|"},
    "a folder whose config.json is a folder": {"config.json": "/"},
    "a folder whose runs.json is a folder": {"runs.json": "/"},
    "a group of itself": {"runs.json": '["."]'},
    "a group of no names": {"runs.json": "[1, null]"},
    "a group of what is elsewhere": {"runs.json": '["../mine"]'},
}
"""What lies already where a run is to be written, or read: texts of files by their place below it; / is a folder, | a pipe."""

NAMES = {
    "through a file": "file/run",
    "300 letters": "a" * 300,
    "a path of 5000 letters": "a/" * 2500 + "a",
    "a newline": "a\nb",
    "quotes": "a'\"`b",
    "a dollar": "$HOME",
    "letters of the world": "ünïcødé-日本-🏖",
    "no text": os.fsdecode(b"\xff\xfe"),
    "a dash": "-run",
    "spaces": " run ",
    "braces": "{run}%s[*?]",
    "markup": "[red]run[/blue]",
    "control characters": "a\x1b[31m\x07b",
    "nothing": "",
    "a dot": ".",
    "two dots": "x/../run",
    "the null device": "/dev/null",
    "below the null device": "/dev/null/run",
    "the full device": "/dev/full",
    "below /proc": "/proc/run",
    "a tilde": "~nobody-of-this-name/run",
}

MOMENTS = 24
"""How many writing operations are tried for faults that come later in a run."""


def tries(scene: Scene) -> int:
    return len(_all())


def attack(seed: int, scene: Scene) -> Verdict:
    place, (about, work) = scene.place(), one_of(_all(), seed)
    (place / "file").write_text(MINE)
    verdict = work(scene, place, random.Random(seed))
    if outside := written_outside(place):
        verdict = Verdict("silent wrong", about, f"written outside of its folder: {outside}")
    for mine in (place / "file", place / FOLDER / "mine", place / "mine"):
        if mine.is_file() and mine.read_text() != MINE:
            verdict = Verdict("silent wrong", about, f"{mine.name} was overwritten")
    scene.clear(place)
    return Verdict(verdict.column, about, verdict.words)


Work = Callable[[Scene, Path, random.Random], Verdict]


def lay(run: Path, made: Made) -> None:
    """Makes what is to lie there already."""
    for name, content in made.items():
        path = Path(os.path.normpath(run / name))
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == "/":
            path.mkdir()
        elif content == "|":
            os.mkfifo(path)
        elif content.startswith("-> "):
            path.symlink_to(content.removeprefix("-> "))
        else:
            path.write_text(content)


def _all() -> list[tuple[str, Work]]:
    found: list[tuple[str, Work]] = []
    for case in (SINE, STREAM):
        found += [(f"{case.name} into {what}", _into(case, FOLDER, made)) for what, made in FOLDERS.items()]
        found += [(f"{case.name} into {what} ({name[:30]!r})", _into(case, name)) for what, name in NAMES.items()]
        found += [(f"{case.resume()} of {what}", _resumed(case, made)) for what, made in FOLDERS.items()]
        found += [(f"{case.name}, {what}", _in(case, prepare)) for what, prepare in ENVIRONMENTS.items()]
        for number in (errno.EACCES, errno.EROFS, errno.EMFILE, errno.ENAMETOOLONG):
            found += [(f"{case.name}, {os.strerror(number)} at some moment", _failing(case, number))] * 4
        found += [(f"{case.name}, its folder vanishes at some moment", _vanishing(case))] * 4
    found += [(f"the data cache is {what}", _cached(made)) for what, made in FOLDERS.items()]
    found += [(f"images, {what}", _in(IMAGES, prepare)) for what, prepare in ENVIRONMENTS.items()]
    found += [(f"evaluate.py of {what}", _read(made)) for what, made in FOLDERS.items()]
    return found


def _into(case: Case, name: str, made: Made | None = None) -> Work:
    def work(scene: Scene, place: Path, rng: random.Random) -> Verdict:
        option = "--run" if case.script == "train" else "--out"
        words = list(scene.start(case).words)
        at = words.index(option)
        words[at : at + 2] = [f"{option}={name}"]
        if made is not None:
            lay(place / name, made)
        for command in (Command(case.script, tuple(words)), Command(case.script, ("--resume", name))):
            outcome = scene.run(command, place, case, guarded(place, *scene.shared, place / name))
            verdict = _checked(scene, case, outcome, place / name)
            if verdict.column != "right":
                break
        return verdict

    return work


def _resumed(case: Case, made: Made) -> Work:
    def work(scene: Scene, place: Path, rng: random.Random) -> Verdict:
        lay(place / FOLDER, made)
        return judged(scene.run(case.resume(), place, case, _guard(scene, place), seconds=15), "")

    return work


def _read(made: Made) -> Work:
    def work(scene: Scene, place: Path, rng: random.Random) -> Verdict:
        lay(place / FOLDER, made)
        return judged(scene.run(Command("evaluate", (FOLDER,)), place, None, _guard(scene, place), seconds=15), "")

    return work


def _in(case: Case, prepare: Prepare) -> Work:
    def work(scene: Scene, place: Path, rng: random.Random) -> Verdict:
        command = scene.start(case)
        outcome = scene.run(command, place, case, together(_guard(scene, place), prepare))
        return _checked(scene, case, outcome, place / FOLDER)

    return work


def _failing(case: Case, number: int) -> Work:
    def work(scene: Scene, place: Path, rng: random.Random) -> Verdict:
        moment = rng.randint(1, min(MOMENTS, scene.end(case)[1].counts.operations))
        outcome = scene.run(scene.start(case), place, case, watch(place, fail_from(moment, number)))
        return _checked(scene, case, outcome, place / FOLDER)

    return work


def _vanishing(case: Case) -> Work:
    def work(scene: Scene, place: Path, rng: random.Random) -> Verdict:
        moment = rng.randint(2, scene.end(case)[1].counts.operations)
        act = vanish_at(moment, place / FOLDER)
        return judged(scene.run(scene.start(case), place, case, watch(place / FOLDER, act)), "")

    return work


def _cached(made: Made) -> Work:
    def work(scene: Scene, place: Path, rng: random.Random) -> Verdict:
        def own(counts: Counts) -> None:
            os.environ["METACL_CACHE"] = "own-cache"

        lay(place / "own-cache", made)
        outcome = scene.run(scene.start(IMAGES), place, IMAGES, together(_guard(scene, place), own))
        return _checked(scene, IMAGES, outcome, place / FOLDER)

    return work


def _guard(scene: Scene, place: Path) -> Prepare:
    return guarded(place, *scene.shared)


def _checked(scene: Scene, case: Case, outcome: Outcome, folder: Path) -> Verdict:
    """Where the command went well, it has made what it should."""
    verdict = judged(outcome, "")
    found = differences(folder, scene.end(case)[0]) if verdict.column == "right" else []
    return Verdict("silent wrong", "", "; ".join(found[:3])) if found else verdict


def _no_home(counts: Counts) -> None:
    """As in a container whose user has no name and no home."""
    import pwd

    def unknown(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found")

    pwd.getpwuid = unknown  # type: ignore[assignment]
    for name in ("HOME", "METACL_CACHE", "USER", "LOGNAME"):
        os.environ.pop(name, None)


def _home_is_a_file(counts: Counts) -> None:
    os.environ.update(HOME=os.path.abspath("file"), METACL_CACHE="", MPLCONFIGDIR=os.path.abspath("file"))


def _no_folder(counts: Counts) -> None:
    shutil.rmtree(os.getcwd())


def _few_files(counts: Counts) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


def _full_output(counts: Counts) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _no_output(counts: Counts) -> None:
    os.close(1)


def _odd_words(counts: Counts) -> None:
    os.environ.update(COLUMNS="0", LINES="-1", TERM="nonsense", LANG="tlh_XX.UTF-9", TZ="Nowhere")
    os.environ.update(METACL_CACHE="~nobody-of-this-name/x")


ENVIRONMENTS: dict[str, Prepare] = {
    "no home": _no_home,
    "a home that is a file": _home_is_a_file,
    "a working directory that is gone": _no_folder,
    "sixteen open files at most": _few_files,
    "an output that is full": _full_output,
    "no output": _no_output,
    "odd words in the environment": _odd_words,
}
