"""SIGTERM, SIGHUP and SIGINT: an exit status of its own, and the step that was running is saved."""

import os
import random
import signal
from pathlib import Path

from tests.faults.again import brought_to_end, saved_step
from tests.faults.cases import CASES, FOLDER, Case
from tests.faults.child import Counts, Outcome, Prepare
from tests.faults.operations import watch
from tests.faults.scene import Scene
from tests.faults.verdict import Verdict, column_of, last_words

TRIES = 48
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def attack(seed: int, scene: Scene) -> Verdict:
    """The signal comes in a step of meta-training, or at a writing operation: the command sends it to itself."""
    rng, case = random.Random(seed), CASES[seed // len(SIGNALS) % len(CASES)]
    number, whole = SIGNALS[seed % len(SIGNALS)], scene.end(case)[1].counts
    in_step = bool(case.steps) and rng.random() < 0.6
    moment = rng.randint(1, case.steps - 1) if in_step else rng.randint(1, whole.operations)
    place = scene.place()
    prepare = _in_step(moment, number) if in_step else _at_operation(place, moment, number)
    outcome = scene.run(scene.start(case), place, case, prepare)
    about = f"{case.name}: {number.name} {'in step' if in_step else 'at operation'} {moment}"
    verdict = _of_signal(case, place, outcome, number, about, in_step) or brought_to_end(case, scene, place, about)
    scene.clear(place)
    return verdict


def _of_signal(case: Case, place: Path, outcome: Outcome, number: int, about: str, in_step: bool) -> Verdict | None:
    """What was wrong already; None where it ended as it should."""
    if outcome.status == 0:
        return None  # it was at its end
    if outcome.status == -number:
        return Verdict("lost", about, "it ended at once, with nothing saved or said")
    if column_of(outcome) != "said" or outcome.status != 128 + number:
        return Verdict("hung" if outcome.hung else "traceback", about, last_words(outcome))
    saved = saved_step(place / FOLDER)
    if in_step and saved != outcome.counts.steps:
        return Verdict("lost", about, f"step {outcome.counts.steps} was done, the checkpoint is of step {saved}")
    return None


def _in_step(step: int, number: int) -> Prepare:
    """After the optimiser's part of a step; the step is not over yet."""

    def prepare(counts: Counts) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(lambda *_: os.kill(os.getpid(), number) if counts.steps == step else None)

    return prepare


def _at_operation(place: Path, moment: int, number: int) -> Prepare:
    return watch(place, lambda now, *_: os.kill(os.getpid(), number) if now == moment else None)
