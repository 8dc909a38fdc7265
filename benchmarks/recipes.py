"""Why the default recipe is what it is: each of its parts changed back to the published one, on glyphs, by meta-validation.

    python benchmarks/recipes.py [STEPS]

Writes recipes.json beside this file. Each variant has the same episodes and steps, and three seeds.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from metacl.report.display import bar
from metacl.runs.environment import environment
from metacl.runs.folder import Run, write_json

SEEDS = (0, 1, 2)
NO_CARE = (
    "--optimiser.warmup",
    "0",
    "--optimiser.clip",
    "0",
    "--optimiser.schedule",
    "halving",
    "--optimiser.weight-decay",
    "0",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "default": (),
    "queries and keys start apart": ("--learner.no-start-alike",),
    "no LayerNorm": ("--learner.no-norm",),
    "Adam 2e-3 halving, no warm-up, no clipping": (*NO_CARE, "--optimiser.rate", "2e-3"),
    "interleaved tokens, auxiliary attention loss": ("--learner.layout", "interleaved", "--learner.auxiliary-steps", "10000"),
}


def main(steps: str) -> None:
    results: dict[str, Any] = {}
    with bar("variants") as progress, tempfile.TemporaryDirectory() as folder:
        task = progress.add_task("", total=len(VARIANTS) * len(SEEDS), now="")
        for name, options in VARIANTS.items():
            records = []
            for seed in SEEDS:
                run = Path(folder) / f"{len(results)}-{seed}"
                where = ["--steps", steps, "--validation.every", steps, "--seed", str(seed), "--run", str(run)]
                subprocess.run(
                    [sys.executable, "train.py", "glyphs", "transformer", *options, *where],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                records.append(Run.open(run).metrics())
                progress.update(task, advance=1, now=name)
            results[name] = {"options": options} | summarised(records)
            print(f"{name:50} {results[name]['accuracy']:.1%} ± {results[name]['spread']:.1%}", flush=True)
    write_json(Path(__file__).with_suffix(".json"), {"steps": steps, "environment": environment(), "variants": results})


def summarised(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Meta-validation accuracy at the last step, mean and standard deviation over seeds, and when each run started to learn."""
    final = [run[-1]["validation_accuracy"] for run in runs]
    # Who knows which symbols the stream has is right once in 5: above 30 % a learner has started to learn.
    started = [next((r["step"] for r in run if r.get("accuracy", 0) > 0.3), None) for run in runs]
    return {
        "accuracy": statistics.mean(final),
        "spread": statistics.stdev(final),
        "of_each_seed": final,
        "started_at": started,
    }


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "200")
