"""One runner for all studies: each is a list of cells, and a cell is a few command lines of `train.py` and `evaluate.py`.

    python benchmarks/run.py learners --data ../shared/data                   # all of a study; hours
    python benchmarks/run.py learners --data ../shared/data --part 1/2        # and 2/2 beside it: they share the work
    python benchmarks/run.py streams --data ../shared/data --only mnist/bp    # the cells whose names begin so
    python benchmarks/run.py streams --list                                   # the names of the cells, and what is there

The command lines are printed, and run in FOLDER of --runs; one that was stopped goes on there. What is kept of them goes beside
the page of the study. A cell whose raw figures are there is not made again. `pages.py` makes tables and pictures of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from studies import (
    features,
    learner_runs,
    lora,
    mechanisms,
    omniglot,
    plasticity,
    plateau,
    probes,
    recipes,
    streams,
    transfer,
    vision,
)
from studies.cells import Cell, make

from episodes import UserError
from metacl.report.display import with_plain_errors

STUDIES: dict[str, Callable[[Path], list[Cell]]] = {
    "features": features.cells,
    "learners": learner_runs.cells,
    "length": mechanisms.long_cells,
    "lora": lora.cells,
    "mechanisms": mechanisms.cells,
    "omniglot": omniglot.cells,
    "plasticity": plasticity.cells,
    "plateau": plateau.cells,
    "probes": probes.cells,
    "recipes": recipes.cells,
    "streams": streams.cells,
    "transfer": transfer.cells,
    "vision": vision.cells,
}
"""From the folder of the data sets to the cells of a study."""


@dataclass(frozen=True)
class Arguments:
    """Run a study, and keep its raw figures."""

    study: Annotated[
        Literal[
            "features",
            "learners",
            "length",
            "lora",
            "mechanisms",
            "omniglot",
            "plasticity",
            "plateau",
            "probes",
            "recipes",
            "streams",
            "transfer",
            "vision",
        ],
        tyro.conf.Positional,
    ]
    data: Path = Path("data")
    """Folder with the data sets: omniglot, mnist, tiny-imagenet, cifar100, casia-hwdb-95."""
    part: str = "1/1"
    """I/N: every N-th cell from the I-th on. N processes share the work, each with one thread."""
    only: tuple[str, ...] = ()
    """Names of cells, or of groups of them; none: all cells."""
    runs: Path = Path("runs/benchmarks")
    """Folder of the runs behind the raw figures."""
    list: bool = False
    """Only say which cells there are."""


def main(arguments: Arguments) -> None:
    number, count = share(arguments.part)
    failed = []
    for cell in wanted(arguments)[number - 1 :: count]:
        if arguments.list:
            print(cell.name, "(there)" if cell.kept() else "")
        elif not cell.kept():
            try:
                make(cell, arguments.runs / arguments.study / cell.name, threads=None if count == 1 else 1)
            except UserError as error:
                print(error, flush=True)
                failed.append(cell.name)
    if failed:
        raise UserError(f"Not made: {', '.join(failed)}. The lines above say why.")


def wanted(arguments: Arguments) -> list[Cell]:
    """The cells that --only names, in the order of the study. Raises `UserError` where one of the names is no cell's."""
    cells = STUDIES[arguments.study](arguments.data)
    for name in arguments.only:
        if not any(_named(cell, name) for cell in cells):
            raise UserError(
                f"{arguments.study} has no cell {name}. Its cells: python benchmarks/run.py {arguments.study} --list"
            )
    return [cell for cell in cells if not arguments.only or any(_named(cell, name) for name in arguments.only)]


def share(part: str) -> tuple[int, int]:
    """I/N in numbers. Raises `UserError` where it is none."""
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--part is I/N with I from 1 to N, not {part}.")
    return int(number), int(count)


def _named(cell: Cell, name: str) -> bool:
    return cell.name == name or cell.name.startswith(f"{name}/")


if __name__ == "__main__":
    with_plain_errors(lambda: main(tyro.cli(Arguments)))
