"""Two that go on with one folder at once: one goes on, the other says that it is in use."""

import random
import re
import shutil
import time

from tests.faults.again import compared
from tests.faults.cases import EPISODES, EVALUATIONS, FOLDER, SINE, STREAM, TRAINING
from tests.faults.operations import hold_at, watch
from tests.faults.scene import Scene
from tests.faults.verdict import Verdict, column_of, last_words

TRIES = 10
ATTACKED = (SINE, STREAM, EPISODES, TRAINING[4], EVALUATIONS[2])
IN_USE = re.compile(r"in use|at work|another process|is being", re.IGNORECASE)


def attack(seed: int, scene: Scene) -> Verdict:
    """The first is held at one of its writing operations, after those that take a lock, while the second comes and ends."""
    case, moment, place = ATTACKED[seed % len(ATTACKED)], random.Random(seed).randint(4, 7), scene.place()
    shutil.copytree(scene.half(case), place / FOLDER)
    free = place / "free"
    first = scene.begin(case.resume(), place, case, watch(place / FOLDER, hold_at(moment, free)))
    until = time.monotonic() + 60
    while not free.with_suffix(".held").exists() and first.ended(0.01) is None and time.monotonic() < until:
        pass
    held = first.ended(0.01) is None
    second = scene.run(case.resume(), place, case)
    free.touch()
    one = first.finish()
    about = f"{case.name}: two of {case.resume()}, the first held at writing operation {moment}"
    verdict = compared(case, scene, place, one, about)
    if not verdict.fault and column_of(second) not in ("right", "said"):
        verdict = Verdict(column_of(second), about, last_words(second))
    elif held and second.status == 0:
        verdict = Verdict("silent wrong", about, f"both wrote into the folder. {verdict.words}")
    elif held and not verdict.fault and not IN_USE.search(second.said):
        verdict = Verdict("silent wrong", about, f"the second did not say that it is in use: {last_words(second)}")
    scene.clear(place)
    return verdict
