"""Going on after a fault: the end must be that of the run that nothing disturbed."""

from pathlib import Path

from tests.faults.cases import FOLDER, Case
from tests.faults.child import Outcome
from tests.faults.compare import differences
from tests.faults.scene import Scene
from tests.faults.verdict import Verdict, column_of, last_words


def brought_to_end(case: Case, scene: Scene, place: Path, about: str) -> Verdict:
    """Resumes what a fault has left. Where there is nothing to go on from yet, beginning anew must work."""
    worked = bool(has_worked(place / FOLDER))
    outcome = scene.run(case.resume(), place, case)
    if column_of(outcome) == "said" and not worked:
        said = last_words(outcome, 200)
        outcome = scene.run(scene.start(case), place, case)
        if column_of(outcome) == "said":
            return Verdict("lost", about, f"neither resumed ({said}) nor begun anew ({last_words(outcome, 200)})")
    return compared(case, scene, place, outcome, about)


def compared(case: Case, scene: Scene, place: Path, outcome: Outcome, about: str) -> Verdict:
    """The verdict after the last command of a try: its figures against those of the run that nothing disturbed."""
    column = column_of(outcome)
    if column == "right":
        found = differences(place / FOLDER, scene.end(case)[0])
        return Verdict("silent wrong" if found else "right", about, "; ".join(found[:3]))
    return Verdict("lost" if column == "said" else column, about, last_words(outcome))


def has_worked(folder: Path) -> list[Path]:
    """Checkpoints and records that are there."""
    files = (*folder.rglob("*.safetensors"), *folder.rglob("metrics.jsonl"))
    return [path for path in files if path.stat().st_size and ".part" not in str(path)]


def saved_step(folder: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    names = [path.name for path in folder.glob("checkpoints/step-*") if path.name[-1].isdigit()]
    return max((int(name.rpartition("-")[2]) for name in names), default=0)
