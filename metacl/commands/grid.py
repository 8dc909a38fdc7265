"""A grid of options: `--grid.learner.width 64 128 --grid.optimiser.rate 1e-3 3e-3` is four runs."""

from itertools import product

from episodes import UserError

GRID = "--grid."
MOST_RUNS = 1_000


def take_grid(words: list[str]) -> list[dict[str, str]]:
    """Removes the options of a grid from `words`; returns every combination of their values: one, empty, where there is none.

    Raises:
        UserError: an option has no value, or there are very many combinations.
    """
    values: dict[str, list[str]] = {}
    while (start := next((i for i, word in enumerate(words) if word.startswith(GRID)), None)) is not None:
        end = next((i for i in range(start + 1, len(words)) if words[i].startswith("--")), len(words))
        option, *own = words[start:end]
        if (name := option.removeprefix(GRID)).startswith("data.") or name in ("run", "seeds", "launch"):
            raise UserError(f"A grid is of runs on one data set, which differ in options of the run itself, not in --{name}.")
        if not own or len(set(own)) < len(own):
            raise UserError(f"{option} needs values, each once: {option} 0.1 0.3.")
        values[name] = own
        del words[start:end]
    found = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    if len(found) > MOST_RUNS:
        raise UserError(f"The grid has {len(found)} combinations; {MOST_RUNS} are the most.")
    return found


def grid_words(chosen: dict[str, str]) -> list[str]:
    """One combination as options."""
    return [word for option, value in chosen.items() for word in (f"--{option}", value)]


def run_name(chosen: dict[str, str], seed: int) -> str:
    """The name of the folder of a run: "seed-0", or "learner.width-64,seed-0"."""
    return ",".join([*(f"{option}-{value.replace('/', '_')}" for option, value in chosen.items()), f"seed-{seed}"])


def grid_part(name: str) -> str:
    """What of such a name is not the seed."""
    return name.rpartition(",seed-")[0]
