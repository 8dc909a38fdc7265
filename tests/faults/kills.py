"""Random kills: SIGKILL at any moment, perhaps again while it goes on, and then to the end. A moment is a time: on a machine of
another speed it is another place in the run."""

import random
import signal

from tests.faults.again import brought_to_end
from tests.faults.cases import CASES
from tests.faults.scene import Scene
from tests.faults.verdict import Verdict

TRIES = 84


def attack(seed: int, scene: Scene) -> Verdict:
    rng, case = random.Random(seed), CASES[seed % len(CASES)]
    seconds, place = scene.end(case)[1].seconds, scene.place()
    moments = [rng.uniform(0, 1.1 * seconds) for _ in range(rng.choice((1, 1, 2, 3)))]
    for i, moment in enumerate(moments):
        child = scene.begin(case.resume() if i else scene.start(case), place, case)
        child.ended(moment)
        child.send(signal.SIGKILL)
        child.finish()
    about = f"{case.name}: SIGKILL after {', '.join(f'{moment:.2f}' for moment in moments)} s"
    verdict = brought_to_end(case, scene, place, about)
    scene.clear(place)
    return verdict
