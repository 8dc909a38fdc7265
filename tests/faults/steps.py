"""A kill before each writing operation of a run, and in the middle of each write: every one is tried in its turn."""

from tests.faults.again import brought_to_end
from tests.faults.cases import EPISODES, EVALUATIONS, SINE, STREAM, TRAINING, Case, one_of
from tests.faults.operations import kill_at, watch
from tests.faults.scene import Scene
from tests.faults.verdict import Verdict

ATTACKED = (SINE, STREAM, EPISODES, TRAINING[4], TRAINING[6], EVALUATIONS[2], EVALUATIONS[3])


def tries(scene: Scene) -> int:
    """As often as there are operations in all."""
    return len(_all(scene))


def attack(seed: int, scene: Scene) -> Verdict:
    case, number = one_of(_all(scene), seed)
    place = scene.place()
    scene.run(scene.start(case), place, case, watch(place, kill_at(number)))
    verdict = brought_to_end(case, scene, place, f"{case.name}: killed at writing operation {number}")
    scene.clear(place)
    return verdict


def _all(scene: Scene) -> list[tuple[Case, int]]:
    return [(case, 1 + i) for case in ATTACKED for i in range(scene.end(case)[1].counts.operations)]
