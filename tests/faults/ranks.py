"""Two processes that make one run, as torchrun starts them: one is killed, the other ends within a minute, then it goes on."""

import os
import random
import signal
import socket
from pathlib import Path

from tests.faults.again import saved_step
from tests.faults.cases import FOLDER, IMAGES, SINE, TRAINING, Case
from tests.faults.child import Command, Counts, Outcome, Prepare
from tests.faults.compare import differences
from tests.faults.operations import together
from tests.faults.scene import Scene
from tests.faults.signals import _in_step
from tests.faults.verdict import Verdict, column_of, last_words

TRIES = 8
ATTACKED = (SINE, IMAGES, TRAINING[3])


def skipped(scene: Scene) -> str:
    """Why two processes cannot be tried; empty where they can."""
    place = scene.place()
    outcomes = _both(scene, scene.start(SINE), place)
    if any(outcome.status or outcome.late for outcome in outcomes):
        return f"Two processes do not yet make one run: {' '.join(last_words(outcomes[0], 200).split())}"
    return "" if saved_step(place / FOLDER) == SINE.steps else "Two processes did not leave the checkpoint of one run."


def attack(seed: int, scene: Scene) -> Verdict:
    rng, case, place = random.Random(seed), ATTACKED[seed % len(ATTACKED)], scene.place()
    rank, step = rng.randrange(2), rng.randint(1, case.steps - 1)
    prepare = [None, None]
    prepare[rank] = _in_step(step, signal.SIGKILL)  # type: ignore[call-overload]
    other = _both(scene, scene.start(case), place, *prepare)[1 - rank]
    about = f"{case.name}: two processes, the {('first', 'second')[rank]} killed in step {step}"
    resumed = _both(scene, case.resume(), place)
    worst = max((other, *resumed), key=lambda outcome: ("right", "said", "traceback", "hung").index(column_of(outcome)))
    if other.late:
        verdict = Verdict("hung", about, f"the other was still there after a minute: {last_words(other)}")
    elif column_of(worst) in ("traceback", "hung"):
        verdict = Verdict(column_of(worst), about, last_words(worst))
    elif any(outcome.status for outcome in resumed):
        verdict = Verdict("lost", about, last_words(resumed[0]))
    else:
        found = differences(place / FOLDER, _whole(scene, case))
        verdict = Verdict("silent wrong" if found else "right", about, "; ".join(found[:3]))
    scene.clear(place)
    return verdict


def _both(scene: Scene, command: Command, place: Path, *prepare: Prepare | None) -> list[Outcome]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    prepares = prepare or (None, None)
    running = [scene.begin(command, place, None, together(_rank(rank, port), prepares[rank])) for rank in range(2)]
    return [child.finish() for child in running]


def _rank(rank: int, port: str) -> Prepare:
    def prepare(counts: Counts) -> None:
        about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in about.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true")

    return prepare


def _whole(scene: Scene, case: Case) -> Path:
    """The end of two that nothing disturbed; run once."""
    name = f"two of {case.name}"
    if name not in scene.ends:
        place = scene.place()
        outcome = _both(scene, scene.start(case), place)[0]
        scene.ends[name] = place / FOLDER, outcome
    return scene.ends[name][0]
