"""Why the default recipe is what it is: each of its parts changed back to the published one, on glyphs, by meta-validation."""

from collections.abc import Callable

from studies.words import raw, spread, table


def results() -> str:
    """Meta-validation accuracy in % at the last step, and the step at which each seed began to learn."""
    lines = []
    for name, found in raw("recipes/recipes.json")["variants"].items():
        begun = ", ".join("never" if step is None else str(step) for step in found["started_at"])
        lines.append([name, spread(found["of_each_seed"], scale=100), begun])
    return table(["variant", "meta-validation accuracy in %", "over 30 % at step"], lines)


TABLES: dict[str, Callable[[], str]] = {"recipes": results}
