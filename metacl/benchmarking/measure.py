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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from metacl.benchmarking.products import Product, Products, largest, repeated, repetitions
from metacl.report.display import bar

Label = str | int
Json = dict[str, Any]
"""Values that a JSON file holds, by name."""


@dataclass(frozen=True)
class Case:
    """Something to be measured."""

    labels: dict[str, Label]
    """What tells it from the other cases, in the order of the table's columns."""
    call: Callable[[], object]
    units: int = 0
    """What one call works through (tokens, episodes): the rate is this divided by the time."""
    beside: bool = False
    """Timed in turn with the others, but another thing: not compared with row 0, its memory not looked at."""
    extra: dict[str, int] = field(default_factory=dict)
    """Figures that were not measured here, such as the bytes of a state."""
    counted: Callable[[], object] | None = None
    """Does what `call` does, for its matrix products to be counted."""


@dataclass(frozen=True)
class Row:
    """A case and what was measured."""

    labels: dict[str, Label]
    """What tells the case from the others."""
    seconds: list[float]
    """What each repetition took."""
    speed: float | None
    """How many times as fast as row 0: the median, over the rounds, of row 0's time divided by this one's."""
    peak_bytes: int | None
    """Memory that one call holds at once, beyond what was there before it."""
    units: int
    extra: dict[str, int]
    products: float | None = None
    """Seconds that the matrix products of the call would take alone, each as fast as in its fastest round."""

    @property
    def times_products(self) -> float | None:
        """The time divided by theirs."""
        return None if self.products is None else self.median / self.products

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """From the fastest to the slowest repetition, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

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
    about: Json = field(default_factory=dict)
    """Whatever else one needs to make it again."""
    axis: str | None = None
    """The label that rows are plotted against."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What was asked for and could not be measured, and why."""


UNTIMED = 3
"""Calls of each case that are not timed."""
ROUNDS, FEWEST, LONG = 5, 3, 12.0
"""Timed rounds where no number is asked for; once they have taken LONG seconds, FEWEST are enough."""
Tick = Callable[[Case], None]


def measure(cases: Sequence[Case], repeats: int | None, device: torch.device, tick: Tick, row_0: bool = False) -> list[Row]:
    """Calls each case once to warm up, once for its memory, then all of them in turn, one round untimed and `repeats` timed.

    The matrix products that cases count are timed alone in the same rounds.

    Arguments:
        repeats: None: as `ROUNDS` says.
        tick: told of each case once for each call, as it goes on.
        row_0: the first case is what the others are compared with.
    """
    looks = [_warm_up(case, device, tick) for case in cases]
    shares = [largest(counts) for _, counts in looks]
    alone = list(dict.fromkeys(product for found, _ in shares for product in found))
    probes = [Case({"product": "x".join(map(str, p[:4]))}, repeated(p, device), beside=True) for p in alone]
    seconds = [times[1:] for times in interleaved([*cases, *probes], repeats, device, tick, untimed=1)]
    each = {p: min(times) / repetitions(p) for p, times in zip(alone, seconds[len(cases) :], strict=True)}
    rows = []
    for case, (peak, _), own, (found, share) in zip(cases, looks, seconds, shares, strict=False):
        compared = row_0 and not case.beside
        speed = statistics.median(a / b for a, b in zip(seconds[0], own, strict=True)) if compared else None
        due = sum(times * each[p] for p, times in found.items()) / share if found else None
        rows.append(Row(case.labels, own, speed, peak, case.units, case.extra, due))
    return rows


def _warm_up(case: Case, device: torch.device, tick: Tick) -> tuple[int | None, Counter[Product]]:
    """The peak memory of the case, and its matrix products."""
    with Products() if case.counted else nullcontext() as seen:
        (case.counted or case.call)()
    if case.counted and device.type == "cuda":
        case.call()  # kernels are tuned in their first call
    tick(case)
    peak = None if case.beside else peak_bytes(case.call, device)
    tick(case)
    return peak, Counter() if seen is None else seen.counts


def interleaved(
    cases: Sequence[Case], repeats: int | None, device: torch.device, tick: Tick, untimed: int = 0
) -> list[list[float]]:
    """Seconds of each repetition of each case. The order is A B C A B C: what slows a machine down for a while slows all."""
    seconds: list[list[float]] = [[] for _ in cases]
    started = time.perf_counter()
    most = untimed + (repeats or ROUNDS)
    for done in range(most):
        if repeats is None and done >= untimed + FEWEST and time.perf_counter() - started > LONG:
            for case in list(cases) * (most - done):
                tick(case)
            break
        for case, own in zip(cases, seconds, strict=True):
            own.append(_seconds(case, device))
            tick(case)
    return seconds


def _seconds(case: Case, device: torch.device) -> float:
    _finish(device)
    started = time.perf_counter()
    case.call()
    _finish(device)
    return time.perf_counter() - started


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
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
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
    shown = [name for name in varied(row.labels for row in rows) if name != axis]
    for row in rows:
        kinds.setdefault(", ".join(str(row.labels[name]) for name in shown if name in row.labels), []).append(row)
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


def varied(labels: Iterable[Mapping[str, Label]]) -> list[str]:
    """The labels that tell rows apart: all that have more than one value, and `form`, which stands last."""
    values: dict[str, set[Label]] = {}
    for own in labels:
        for name, label in own.items():
            values.setdefault(name, set()).add(label)
    return sorted((name for name in values if name == "form" or len(values[name]) > 1), key=lambda name: name == "form")


def calls(repeats: int | None) -> int:
    """How often `measure` calls each case, at most."""
    return UNTIMED + (repeats or ROUNDS)


@contextmanager
def progress(words: str, units: int) -> Iterator[Tick]:
    """A progress bar over the units of all calls; gives its `tick`."""
    with bar(words) as shown:
        task = shown.add_task("", total=units, now="")
        yield lambda case: shown.update(task, advance=case.units, now=" ".join(map(str, case.labels.values())))
