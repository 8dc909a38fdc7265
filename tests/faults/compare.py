"""Whether two folders hold the same: tensors of checkpoints, records and results, all but what the clock says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

TIMES = ("second", "digest", "date", "when")
"""What is in the names of values that may differ: times, and digests of files that hold times."""
CHECK = "check"
"""The name of a line's own check, which depends on its times."""
RECORDS = ("metrics.jsonl", "results.json", "rates.json")
"""The files whose values are compared, beside those of checkpoints."""
CHECKPOINT = re.compile(r"(?:(.*)/)?checkpoints/step-(\d{8})/.*")


def differences(ours: Path, theirs: Path) -> list[str]:
    """In words, where `ours` is unlike `theirs`; none where they are the same. The last and the best checkpoint must be there
    and the same; what is kept beside these is not looked at."""
    found = list[str]()
    for name, (mine, other) in _both(ours, theirs, "*.json*").items():
        if Path(name).name not in RECORDS:
            continue
        if mine is None or other is None:
            found.append(f"{name} is only in one of them")
            continue
        found += _unlike(name, values(mine), values(other))
    needed = {name: (_needed(ours, name), _needed(theirs, name)) for name in {*_runs(ours), *_runs(theirs)}}
    found += [f"{name}: last and best checkpoint are {one}, not {two}" for name, (one, two) in needed.items() if one != two]
    for name, (mine, other) in _both(ours, theirs, "*.safetensors").items():
        place = CHECKPOINT.fullmatch(name)
        last, (best, _) = needed[place[1] or "."][0] if place else (None, (None, None))
        if place and int(place[2]) not in (last, best):
            continue
        if mine is None or other is None:
            found.append(f"{name} is only in one of them")
        elif not _same_tensors(mine, other):
            found.append(f"the tensors of {name} differ")
    return found


def _runs(folder: Path) -> set[str]:
    """The places of the runs below a folder that have checkpoints."""
    return {str(path.parent.relative_to(folder)) for path in folder.rglob("checkpoints") if path.is_dir()}


def _needed(folder: Path, name: str) -> tuple[Any, Any]:
    """The steps of the last checkpoint of a run, and of the best with its score: the highest, then the lowest loss, then the
    earliest."""
    scores = dict[int, tuple[float, float]]()
    steps = [path for path in (folder / name / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", path.name)]
    for path in steps:
        about = values(path / "checkpoint.json") if (path / "checkpoint.json").is_file() else None
        if isinstance(about, dict) and about.get("score") is not None:
            scores[int(path.name[-8:])] = about["score"], -(about.get("loss") or 0.0)
    best = max(scores, key=lambda step: (scores[step], -step), default=None)
    return max((int(path.name[-8:]) for path in steps), default=None), (best, scores.get(best or 0))


def values(path: Path) -> Any:
    """The values of a JSON file, or of each line of one, without what the clock says."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        read = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    except ValueError:
        return "no JSON"
    if path.name == "results.json" and isinstance(read, dict):
        read = read.get("results")
    return without_times(read)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = (name for name in value if name != CHECK and not any(word in name for word in TIMES))
        return {name: without_times(value[name]) for name in kept}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def _both(ours: Path, theirs: Path, pattern: str) -> dict[str, tuple[Path | None, Path | None]]:
    """By name below the two folders, the files of a pattern in the one and the other; half-written ones are left out."""
    found = [dict(_files(folder, pattern)) for folder in (ours, theirs)]
    return {name: (found[0].get(name), found[1].get(name)) for name in sorted(found[0].keys() | found[1].keys())}


def _files(folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob(pattern):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.endswith((".part", ".old")) for part in name.parts):
            yield str(name), path


def _unlike(name: str, mine: Any, other: Any) -> list[str]:
    if mine == other:
        return []
    if isinstance(mine, list) and isinstance(other, list):
        if len(mine) != len(other):
            return [f"{name} has {len(mine)} records, not {len(other)}"]
        pairs = zip(mine, other, strict=True)
        first = next(i for i, (one, two) in enumerate(pairs) if one != two)
        return [f"{name}: record {first + 1} has {_parted(mine[first], other[first])}"]
    return [f"{name} is {str(mine)[:150]}, not {str(other)[:150]}"]


def _parted(one: Any, two: Any) -> str:
    """What two records have that is not the same, in words."""
    if isinstance(one, dict) and isinstance(two, dict):
        names = [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]
        return ", ".join(f"{name} {str(one.get(name))[:60]}, not {str(two.get(name))[:60]}" for name in names)[:400]
    return f"{str(one)[:150]}, not {str(two)[:150]}"


def _same_tensors(mine: Path, other: Path) -> bool:
    try:
        one, two = load(mine.read_bytes()), load(other.read_bytes())  # by bytes: a name may be no text
    except Exception:  # damaged: not the same
        return False
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
