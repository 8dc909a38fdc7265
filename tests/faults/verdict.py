"""What a try came to: one of the columns of the table."""

import re
from dataclasses import dataclass

from tests.faults.child import Outcome

COLUMNS = ("right", "said", "silent wrong", "traceback", "lost", "hung")
FAULTS = COLUMNS[2:]
NO_SENTENCE = re.compile(r"Traceback \(most recent call last\)|Exception ignored in|Fatal Python error|^Aborted", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """A try: what was done, what came of it."""

    column: str
    about: str
    """The command, and what was done to it."""
    words: str = ""
    """What came of it: the differences, or what it said."""

    @property
    def fault(self) -> bool:
        return self.column in FAULTS


def column_of(outcome: Outcome) -> str:
    """The column of one command by itself: whether its figures are right is for others to say."""
    if outcome.hung:
        return "hung"
    if NO_SENTENCE.search(outcome.said) or outcome.status < 0 or outcome.status == 1:
        return "traceback"
    if outcome.status == 0:
        return "said" if outcome.late else "right"
    return "said" if outcome.said.strip() else "traceback"


def judged(outcome: Outcome, about: str) -> Verdict:
    """The verdict of one command by itself."""
    return Verdict(column_of(outcome), f"{outcome.command}; {about}", last_words(outcome))


def last_words(outcome: Outcome, most: int = 400) -> str:
    """The status and the end of what was said; of a traceback, the error and the last line of ours that it came through."""
    said = outcome.said.strip()
    if NO_SENTENCE.search(said):
        errors = re.findall(r"^\w[\w.]*(?:Error|Exception|Exit|Interrupt)\b.*", said, re.MULTILINE)
        ours = re.findall(r'File "[^"]*/((?:metacl|episodes)/[^"]+)", line (\d+)', said)
        where = f" in {ours[-1][0]}, line {ours[-1][1]}" if ours else ""
        return f"exit status {outcome.status}{where}: {(errors or [said])[-1][:most]}"
    return f"exit status {outcome.status}: {said[-most:]}"
