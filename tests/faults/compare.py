"""Whether two folders hold the same: tensors of checkpoints, records and results, all but what the clock says."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

TIMES = ("second", "digest", "date", "when")
"""What is in the names of values that may differ: times, and digests of files that hold times."""
RECORDS = ("metrics.jsonl", "checkpoint.json", "results.json", "rates.json", "progress.json")
"""The files whose values are compared."""


def differences(ours: Path, theirs: Path, stopped: bool = False) -> list[str]:
    """In words, where `ours` is unlike `theirs`; none where they are the same.

    Arguments:
        stopped: `ours` was stopped in between and has a record of that step: means over steps are put together first.
    """
    tensors, records = (_both(ours, theirs, pattern) for pattern in ("*.safetensors", "*.json*"))
    found = [f"{name} is only in one of them" for name, pair in tensors.items() if None in pair]
    for name, (mine, other) in records.items():
        if Path(name).name in RECORDS:
            if mine is None or other is None:
                found.append(f"{name} is only in one of them")
                continue
            one, two = values(mine), values(other)
            if stopped and name.endswith("metrics.jsonl"):
                one, two = _near(_joined(one, two), two), two
            found += _unlike(name, one, two)
    for name, (mine, other) in tensors.items():
        if mine is not None and other is not None and not _same_tensors(mine, other):
            found.append(f"the tensors of {name} differ")
    return found


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
        return {name: without_times(inner) for name, inner in value.items() if not any(word in name for word in TIMES)}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def _joined(records: list[dict[str, Any]], like: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of meta-training, each the mean over the steps since the one before, at the steps of `like` alone."""
    if not any("loss" in record and "step" in record for record in like):
        return records
    ends = {record["step"] for record in like if "loss" in record}
    joined, sums, last, since = list[dict[str, Any]](), Counter[str](), 0, 0
    for record in records:
        if "loss" not in record:
            joined.append(record)
            continue
        for name in record.keys() - {"step"}:
            sums[name] += record[name] * (record["step"] - last)
        last = record["step"]
        if last in ends:
            joined.append({"step": last} | {name: total / (last - since) for name, total in sums.items()})
            sums, since = Counter[str](), last
    return joined


def _near(records: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with the numbers of the others where these are the same but for rounding."""

    def near(value: Any, other: Any) -> Any:
        both = isinstance(value, int | float) and isinstance(other, int | float)
        return other if both and math.isclose(value, other, rel_tol=1e-4, abs_tol=1e-9) else value

    pairs = zip(records, [*others, *[{}] * len(records)], strict=False)
    return [{name: near(value, other.get(name)) for name, value in record.items()} for record, other in pairs]


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
