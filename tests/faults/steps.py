"""A kill before each writing operation of a run, and in the middle of each write: every one is tried in its turn."""

from tests.faults.again import brought_to_end
from tests.faults.cases import EPISODES, EVALUATIONS, SINE, STREAM, TRAINING, one_of
from tests.faults.operations import kill_at, watch
from tests.faults.scene import Scene
from tests.faults.verdict import Verdict

ATTACKED = (SINE, STREAM, EPISODES, TRAINING[4], TRAINING[6], EVALUATIONS[2], EVALUATIONS[3])


def tries(scene: Scene) -> int:
    """So often that each operation of the longest case has its turn."""
    return len(ATTACKED) * max(scene.end(case)[1].counts.operations for case in ATTACKED)


def attack(seed: int, scene: Scene) -> Verdict:
    case = ATTACKED[seed % len(ATTACKED)]
    number = one_of(range(1, 1 + scene.end(case)[1].counts.operations), seed // len(ATTACKED))
    place = scene.place()
    scene.run(scene.start(case), place, case, watch(place, kill_at(number)))
    verdict = brought_to_end(case, scene, place, f"{case.name}: killed at writing operation {number}")
    scene.clear(place)
    return verdict
