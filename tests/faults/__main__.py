"""`python -m tests.faults [--tries N] [--seconds S] [--seed N] [KIND ...]`: the table of all that was tried, and how each fault
is seen again. The exit status is 1 where there was one."""

import argparse
import os
import sys
import time
from collections import Counter
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: children are forked

from tests.faults import damage, disk, hostile, kills, ranks, signals, steps, words, writers
from tests.faults.scene import Scene
from tests.faults.verdict import COLUMNS, Verdict

KINDS: dict[str, tuple[Any, str]] = {
    "kills": (kills, "SIGKILL at random moments, then resumed"),
    "signals": (signals, "SIGTERM, SIGHUP, SIGINT, then resumed"),
    "steps": (steps, "killed at each writing operation, then resumed"),
    "damage": (damage, "damaged files of runs, evaluations and the cache"),
    "hostile": (hostile, "hostile folders and environments"),
    "disk": (disk, "a full disk, then resumed"),
    "ranks": (ranks, "one of two processes killed, then resumed"),
    "writers": (writers, "two that go on with one folder"),
    "words": (words, "hostile options"),
}


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    kinds, until = arguments.kinds or list(KINDS), time.monotonic() + arguments.seconds
    found: dict[str, list[Verdict]] = {}
    with Scene() as scene:
        for i, kind in enumerate(kinds):
            share = (until - time.monotonic()) / (len(kinds) - i)
            found[kind] = _tried(kind, arguments, scene, time.monotonic() + share)
        print(f"\n{table(found)}\n\nThe cases:")
        for name, (_, outcome) in sorted(scene.ends.items()):
            print(f"  {name}: {outcome.command}")
    return int(any(verdict.fault for verdicts in found.values() for verdict in verdicts))


def table(found: dict[str, list[Verdict]]) -> str:
    """A line for each kind, a column for each thing that may come."""
    lines: list[tuple[str, ...]] = [("kind", "tries", *COLUMNS)]
    for kind, verdicts in found.items():
        count = Counter(verdict.column for verdict in verdicts)
        lines.append((kind, str(len(verdicts)), *(str(count[column]) for column in COLUMNS)))
    return "\n".join(" | ".join(f"{cell:>12}" for cell in line) for line in lines)


def _tried(kind: str, arguments: argparse.Namespace, scene: Scene, until: float) -> list[Verdict]:
    module, _ = KINDS[kind]
    if hasattr(module, "skipped") and (why := module.skipped(scene)):
        print(f"{kind}: skipped. {why}", flush=True)
        return []
    tries = arguments.tries or (module.tries(scene) if hasattr(module, "tries") else module.TRIES)
    verdicts = list[Verdict]()
    for seed in range(arguments.seed, arguments.seed + tries):
        if time.monotonic() > until:
            print(f"{kind}: time was up after {len(verdicts)} of {tries} tries.", flush=True)
            break
        verdicts.append(verdict := module.attack(seed, scene))
        if verdict.fault or arguments.all:
            print(f"{kind}: {verdict.column}: {verdict.about}\n    {' '.join(verdict.words.split())}", flush=True)
            print(f"    again: python -m tests.faults --tries 1 --seed {seed} {kind}", flush=True)
    return verdicts


def _arguments(argv: list[str]) -> argparse.Namespace:
    listed = "\n".join(f"  {kind:8} {about}" for kind, (_, about) in KINDS.items())
    parser = argparse.ArgumentParser(
        "python -m tests.faults", description=__doc__, epilog=listed, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", choices=[*KINDS, []], help="of these below; none given: all")
    parser.add_argument("--tries", type=int, help="tries of each kind; none given: as many as the kind has")
    parser.add_argument("--seconds", type=float, default=900, help="for all kinds together, shared equally")
    parser.add_argument("--seed", type=int, default=0, help="of the first try; each has the next")
    parser.add_argument("--all", action="store_true", help="tell of every try, not of faults alone")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
