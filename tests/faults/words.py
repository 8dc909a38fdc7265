"""Hostile options, drawn by hypothesis: a command runs, or says in one sentence what is wrong, with exit status 2."""

import random
import re
import warnings
from functools import cache

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as drawn_from
from hypothesis import strategies as st

from tests.faults.cases import ENCODER, FOLDER, IMAGES, REGRESSION, SHORT, SMALL, TINY
from tests.faults.child import Command
from tests.faults.guard import guarded, written_outside
from tests.faults.scene import Scene
from tests.faults.verdict import Verdict, judged

TRIES = 200
SECONDS = 12.0
"""After which a command that is still at work is asked to stop, and must."""
LOT = 40
"""Commands that are drawn together."""

FOLLOWED = "--tasks 2 --shots 2 --queries 2 --episodes 4 --batch-size 2"
BASES = (
    ("train", "sine transformer", f"{SMALL} {TINY} --steps 2"),
    ("train", "{images} transformer", f"{SMALL} {TINY} {ENCODER} --steps 2"),
    ("train", "{images} pn", f"{SMALL} {ENCODER} --steps 2"),
    ("train", "{images} oml", f"{SMALL} {ENCODER} --steps 2"),
    ("train", "slowly-changing-regression alpaca", f"{SMALL} --steps 2"),
    ("train", "sine reptile", f"{SMALL} --steps 2"),
    ("train", "tracking transformer", f"{SMALL} {TINY} --steps 2 --episodes.shots 5"),
    ("evaluate", "{trained}", FOLLOWED),
    ("evaluate", "{regression} slowly-changing-regression", f"{SHORT} --tasks 3"),
    ("evaluate", "{images} bp", f"{FOLLOWED} --rate-episodes 2"),
    ("evaluate", "recall knn", FOLLOWED),
    ("evaluate", "sine online", f"{FOLLOWED} --rate-episodes 2"),
    ("evaluate", "slowly-changing-regression bp er", f"{SHORT} --tasks 3"),
    ("evaluate", "slowly-changing-regression query-only", f"{SHORT} --tasks 3"),
    ("benchmark", "attention", "--mechanisms linear --lengths 16 --repeats 1 --threads 1"),
    ("benchmark", "learners sine", "--repeats 1 --threads 1 --batch-size 2 --episodes.tasks 2"),
    ("benchmark", "episodes sine", "--repeats 1 --threads 1 --batch-sizes 2 --episodes.tasks 2"),
)
WHOLE = ("0", "-1", "1", "2", "3", "7", "64", "1000", "5000", "1000000000", "2147483648", "9223372036854775808", "9" * 30)
REAL = ("0", "-1", "0.5", "1", "2", "nan", "inf", "-inf", "1e400", "1e-400", "-0.0", "1e9", "1e-3", "9" * 30)
TEXT = (
    "",
    " ",
    "word",
    "None",
    "True",
    "--",
    "é",
    "\n",
    "a,b",
    "[1]",
    "sine",
    "auto",
    "../x",
    "/dev/null",
    "1_000",
    "0x10",
    "٣",
    "1.5",
)
HOSTILE = (*WHOLE, *REAL, *TEXT)


def attack(seed: int, scene: Scene) -> Verdict:
    lot = commands(scene, seed // LOT)
    verdict = _tried(scene, command := lot[seed % LOT % len(lot)])
    if verdict.fault:
        verdict = _tried(scene, _smallest(scene, command, verdict.column))
    return verdict


def commands(scene: Scene, number: int) -> list[Command]:
    """A lot of commands; the same for the same number."""
    known, found = _options(scene), list[Command]()
    options = st.one_of(*(st.tuples(st.just(i), _some(known[i])) for i in range(len(BASES))))

    @drawn_from(number)
    @settings(max_examples=LOT, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(options)
    def draw(drawn: tuple[int, list[tuple[str, list[str]]]]) -> None:
        found.append(_command(scene, *drawn))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draw()
    random.Random(number).shuffle(found)
    return found


def _some(options: dict[str, str]) -> st.SearchStrategy[list[tuple[str, list[str]]]]:
    """Some options with values, mostly of their kind: most hostile is what can be read."""

    def valued(option: str) -> st.SearchStrategy[tuple[str, list[str]]]:
        return st.tuples(st.just(option), _values(options[option]))

    return st.lists(st.sampled_from(sorted(options)).flatmap(valued), min_size=1, max_size=2, unique_by=lambda pair: pair[0])


def _values(kind: str) -> st.SearchStrategy[list[str]]:
    """Values for what the help says of them: {a,b}, INT, [INT [INT ...]], nothing for a switch."""
    if not kind:
        return st.just([])
    words = tuple(re.findall(r"[^{},]+", kind)) if kind.startswith("{") and "|" not in kind else ()
    own = words or (REAL if "FLOAT" in kind else WHOLE if "INT" in kind else TEXT)
    fit = st.lists(st.sampled_from(own), min_size=1, max_size=3 if "..." in kind else 1)
    unfit = st.lists(st.sampled_from(HOSTILE), max_size=3)
    return st.sampled_from(range(10)).flatmap(lambda number: unfit if number == 7 else fit)


def _command(scene: Scene, base: int, drawn: list[tuple[str, list[str]]]) -> Command:
    """The base with what is drawn in the place of its own options."""
    script, names, words = BASES[base]
    own = {group[0]: group[1:] for group in _groups(words.split())}
    for option, values in drawn:
        own[option] = values
    if script != "benchmark":
        own.setdefault("--run" if script == "train" else "--out", [FOLDER])
    return Command(script, (*_placed(scene, names), *(word for pair in own.items() for word in (pair[0], *pair[1]))))


def _placed(scene: Scene, names: str) -> list[str]:
    places = {"images": scene.images}
    places |= {name: scene.end(case)[0] for name, case in (("trained", IMAGES), ("regression", REGRESSION)) if name in names}
    return names.format(**places).split()


def _groups(words: list[str]) -> list[list[str]]:
    """Each option with its values."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            groups.append([word])
        elif groups:
            groups[-1].append(word)
    return groups


@cache
def _options(scene: Scene) -> list[dict[str, str]]:
    """The options of each base and what the help says of their values; folders are what `hostile` is for."""
    found = []
    for script, names, _ in BASES:
        outcome = scene.run(Command(script, (*_placed(scene, names), "--help")), scene.place())
        lines = re.findall(r"^│ (--[a-z][\w.-]*)(?:, --[\w.-]+)? ?(\S.*?)?(?:  .*| *│)$", outcome.said, re.MULTILINE)
        options = {name: kind for name, kind in lines if name not in ("--help", "--compare") and "PATH" not in kind}
        if not options:
            raise RuntimeError(f"{outcome.command} lists no options:\n{outcome.said}")
        found.append(options)
    return found


def _tried(scene: Scene, command: Command) -> Verdict:
    place = scene.place()
    outcome = scene.run(command, place, None, guarded(place, *scene.shared), seconds=SECONDS)
    verdict = judged(outcome, f"{outcome.seconds:.1f} s")
    if outside := written_outside(place):
        verdict = Verdict("silent wrong", str(command), f"written outside of its folder: {outside}")
    elif verdict.column == "said" and outcome.status != 2 and not outcome.late:
        verdict = Verdict("traceback", verdict.about, f"neither 0 nor 2: {verdict.words}")
    scene.clear(place)
    return verdict


def _smallest(scene: Scene, command: Command, column: str) -> Command:
    """Without the options that the fault does not need, of those that were drawn."""
    words = list(command.words)
    start = next(i for i, word in enumerate(words) if word.startswith("--") and len(word) > 2)
    names, groups = words[:start], _groups(words[start:])
    for group in list(groups)[::-1]:
        fewer = [other for other in groups if other is not group]
        smaller = Command(command.script, (*names, *(word for own in fewer for word in own)))
        if group[0] in _drawn_only(command) and _tried(scene, smaller).column == column:
            groups = fewer
    return Command(command.script, (*names, *(word for own in groups for word in own)))


def _drawn_only(command: Command) -> set[str]:
    """Options that no base gives: those that it does give keep the command small."""
    given_by = {group[0] for _, _, words in BASES for group in _groups(words.split())}
    return {word for word in command.words if word.startswith("--")} - given_by - {"--run", "--out"}
