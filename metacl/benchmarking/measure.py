"""Time in interleaved repetitions, peak memory and slopes.

Peak memory on a CPU is summed up from every allocation and release that PyTorch's profiler reports during one call, so
it is exact, the same each time, and needs no process of its own. The high-water mark of a process (ru_maxrss) counts
the slack of malloc and whatever ran before it as well, and a child process starts from its parent's mark; with that
slack switched off (MALLOC_MMAP_THRESHOLD_=32768, MALLOC_TRIM_THRESHOLD_=0) the two agree to 5 % for attention of 1 500 to
6 000 tokens. What a kernel takes past PyTorch's allocator is not seen: packed copies inside oneDNN and MKL.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from metacl.display import bar


@dataclass(frozen=True)
class Case:
    """Something to be measured."""

    labels: dict[str, str | int]
    """What tells it from the other cases, in the order of the table's columns."""
    call: Callable[[], object]
    units: int = 0
    """What one call works through (tokens, episodes): the rate is this divided by the time."""
    beside: bool = False
    """Timed in turn with the others, but another thing: not compared with row 0, its memory not looked at."""
    extra: dict[str, int] = field(default_factory=dict)
    """Figures that were not measured here, such as the bytes of a state."""


@dataclass(frozen=True)
class Row:
    """A case and what was measured."""

    labels: dict[str, str | int]
    seconds: list[float]
    """Of each repetition."""
    speed: float | None
    """How many times as fast as row 0: the median, over the rounds, of row 0's time divided by this one's."""
    peak_bytes: int | None
    """Memory that one call holds at once, beyond what was there before it."""
    units: int
    extra: dict[str, int]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.median


@dataclass(frozen=True)
class Result:
    """What a subject found."""

    subject: str
    unit: str
    """What a rate counts, e.g. tokens."""
    rows: list[Row]
    figures: dict[str, float] = field(default_factory=dict)
    """What follows from the rows, such as slopes, by a name that a reader understands."""
    about: dict[str, Any] = field(default_factory=dict)
    """Whatever else one needs to make it again."""
    axis: str | None = None
    """The label that rows are plotted against."""


UNTIMED = 3
"""Calls of each case that are not timed."""
Tick = Callable[[Case], None]


def measure(cases: Sequence[Case], repeats: int, device: torch.device, tick: Tick, row_0: bool = False) -> list[Row]:
    """Calls each case once to warm up, once for its memory, then all of them in turn, `repeats` times and one untimed before.

    Arguments:
        tick: told of each case UNTIMED + `repeats` times, as it goes on.
        row_0: the first case is what the others are compared with.
    """
    peaks = [_warm_up(case, device, tick) for case in cases]
    seconds = [times[1:] for times in interleaved(cases, 1 + repeats, device, tick)]
    rows = []
    for case, peak, own in zip(cases, peaks, seconds, strict=True):
        compared = row_0 and not case.beside
        speed = statistics.median(a / b for a, b in zip(seconds[0], own, strict=True)) if compared else None
        rows.append(Row(case.labels, own, speed, peak, case.units, case.extra))
    return rows


def _warm_up(case: Case, device: torch.device, tick: Tick) -> int | None:
    case.call()
    tick(case)
    peak = None if case.beside else peak_bytes(case.call, device)
    tick(case)
    return peak


def interleaved(cases: Sequence[Case], repeats: int, device: torch.device, tick: Tick) -> list[list[float]]:
    """Seconds of each repetition of each case. The order is A B C A B C: what slows a machine down for a while slows all."""
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(repeats):
        for case, own in zip(cases, seconds, strict=True):
            _finish(device)
            started = time.perf_counter()
            case.call()
            _finish(device)
            own.append(time.perf_counter() - started)
            tick(case)
    return seconds


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most memory that `call` holds at once, beyond what was allocated before it."""
    if device.type == "cuda":
        _finish(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        _finish(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its log of starts and stops would cut through the progress bar
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = peak = 0
    for size in _allocations(profiler):
        held += size
        peak = max(peak, held)
    return peak


def _allocations(profiler: profile) -> list[int]:
    """Bytes taken (positive) and given back (negative), in the order of time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    memory = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    return [event["args"]["Bytes"] for event in memory if event["args"]["Device Type"] == 0]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def slope(lengths: Sequence[float], values: Sequence[float]) -> float:
    """The least-squares slope of log value against log length: 1 for linear growth, 2 for quadratic."""
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def slopes(rows: list[Row], axis: str) -> dict[str, float]:
    """The log-log slopes of time and peak memory against the label `axis`, for each kind of row with several lengths."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(", ".join(str(label) for name, label in row.labels.items() if name != axis), []).append(row)
    figures = {}
    for kind, own in kinds.items():
        lengths = [float(row.labels[axis]) for row in own]
        if len(set(lengths)) < 2:
            continue
        figures[f"slope of time: {kind}"] = slope(lengths, [row.median for row in own])
        peaks = [float(row.peak_bytes or 0) for row in own]
        if all(peaks):
            figures[f"slope of peak memory: {kind}"] = slope(lengths, peaks)
    return figures


@contextmanager
def progress(words: str, units: int, repeats: int) -> Iterator[Tick]:
    """A progress bar over all calls that `measure` will make for cases of `units` in sum; gives its `tick`."""
    with bar(words) as shown:
        task = shown.add_task("", total=units * (UNTIMED + repeats), now="")
        yield lambda case: shown.update(task, advance=case.units, now=" ".join(map(str, case.labels.values())))
