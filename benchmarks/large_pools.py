"""What a large pool costs: `.gnt` files as CASIA-HWDB has them, of noise; how fast they are built, opened and drawn from.

    python benchmarks/large_pools.py --writers 4                  # 29 424 images: a minute
    python benchmarks/large_pools.py --writers 530 --folder F     # 3.9 million, as in CASIA-HWDB: some 18 GB of files in F

Each step runs in a process of its own, whose peak memory (ru_maxrss, with that of the processes that it starts) is printed.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tyro

from episodes.data.gnt import character_of

STEP = """
import json, resource, sys, time, warnings
from episodes import DataConfig, EpisodeShape, load_benchmark
{before}
start = time.perf_counter()
benchmark = load_benchmark(DataConfig("casia", path=sys.argv[1]), 64)
seconds = time.perf_counter() - start
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
(pool,) = benchmark.pools("train")
found = {{"seconds": seconds, "images": len(pool.x), "peak": peaks[0] * 1024, "peak of a child": peaks[1] * 1024}}
shape = EpisodeShape(20, int(sys.argv[2]), int(sys.argv[3]))
if pool.counts.min() >= shape.shots + shape.queries:
    generator, tries = benchmark.generator("train", shape, 0), []
    for number in range(100):
        start = time.process_time()
        generator.batch(range(16 * number, 16 * number + 16))
        tries.append((time.process_time() - start) / 16)
    found["episodes a second"] = 1 / sorted(tries)[50]
print(json.dumps(found))
"""


def main(
    writers: int = 4,
    classes: int = 7356,
    shots: int = 10,
    queries: int = 5,
    processes: int | None = None,
    folder: str | None = None,
) -> None:
    """Prints a line for each step.

    Arguments:
        writers: files, each with every class once.
        classes: characters.
        shots, queries: of each of the 20 tasks of an episode; drawn where there are as many writers.
        processes: that decode. Default: as many as there are processors.
        folder: where the files and the cache go, and stay. Default: a temporary folder.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary)
        synthesise(place / "gnt", writers, classes)
        shown = sum(file.stat().st_size for file in (place / "gnt").iterdir())
        print(f"{writers} files of {shown / 1e9:.2f} GB, {writers * classes} images in {classes} classes")
        for name in ("built or opened", "opened", "opened again"):
            before = f"from episodes.data import filling; filling._processors = lambda: {processes}" if processes else ""
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                STEP.format(before=before),
                str(place / "gnt"),
                str(shots),
                str(queries),
            ]
            path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
            own = os.environ | {"METACL_CACHE": str(place / "cache"), "PYTHONPATH": path}
            got = subprocess.run(command, env=own, check=True, stdout=subprocess.PIPE, text=True).stdout
            print(f"{name}: {_words(json.loads(got))}", flush=True)


def synthesise(folder: Path, writers: int, classes: int) -> None:
    """Writes `.gnt` files whose images have sides of 40 to 90 pixels, where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    bank = [rng.integers(0, 256, tuple(rng.integers(40, 91, 2)), dtype=np.uint8) for _ in range(256)]
    codes = [bytes([high, low]) for high in range(0x81, 0xFF) for low in range(0x40, 0xFF) if low != 0x7F]
    codes = [code for code in codes if character_of(code)]
    for writer in range(writers):
        file = folder / f"{writer:04}.gnt"
        if file.exists():
            continue
        drawn = [bank[i] for i in rng.integers(len(bank), size=classes)]
        heads = (struct.pack("<I2sHH", 10 + x.size, code, *x.shape[::-1]) for code, x in zip(codes, drawn, strict=False))
        data = b"".join(part for head, x in zip(heads, drawn, strict=True) for part in (head, x.tobytes()))
        fresh = file.with_suffix(".new")
        fresh.write_bytes(data)
        fresh.rename(file)


def _words(found: dict[str, float]) -> str:
    memory = max(found["peak"], found["peak of a child"]) / 1e9
    words = f"{found['seconds']:.2f} s, {found['images'] / found['seconds']:.0f} images a second, peak {memory:.2f} GB"
    drawn = found.get("episodes a second")
    return words if drawn is None else f"{words}; {drawn:.0f} episodes a second of one processor"


if __name__ == "__main__":
    tyro.cli(main)
