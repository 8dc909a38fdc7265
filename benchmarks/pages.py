"""The tables and pictures of the pages in benchmarks/, from the raw figures beside them; and the README's lists of learners.

    python benchmarks/pages.py               # writes the tables between their marks, and draws the pictures
    python benchmarks/pages.py --tables      # the tables alone

A table stands between <!-- table: NAME --> and <!-- end -->. A test holds that each page has what the raw figures say.
"""

import re
import sys

from studies import (
    claims,
    episodes,
    features,
    learners,
    lora,
    mechanisms,
    omniglot,
    plasticity,
    plateau,
    probes,
    recipes,
    speed,
    streams,
    transfer,
    vision,
)
from studies.words import BENCHMARKS

from metacl.recipes.presets import LEARNERS

TABLES = episodes.TABLES | learners.TABLES | recipes.TABLES | mechanisms.TABLES | plateau.TABLES | probes.TABLES
TABLES |= claims.TABLES | features.TABLES | omniglot.TABLES | speed.TABLES | streams.TABLES | transfer.TABLES | vision.TABLES
TABLES |= lora.TABLES | plasticity.TABLES
PICTURES = learners.PICTURES | lora.PICTURES | mechanisms.PICTURES | plasticity.PICTURES | plateau.PICTURES | probes.PICTURES
PICTURES |= streams.PICTURES
LISTS = {"meta-trained": lambda: names("meta"), "trained": lambda: names("trained")}
"""What stands in the README."""
PAGES = sorted(BENCHMARKS.rglob("*.md"))
README = BENCHMARKS.parent / "README.md"
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with every table as the raw figures have it."""
    return MARKED.sub(lambda found: f"{found[1]}\n{(TABLES | LISTS)[found[2]]()}\n{found[3]}", page)


def names(form: str) -> str:
    """A line for each learner of a form, `meta` or `trained`, with its recipes where there are several."""
    lines = []
    for name, preset in LEARNERS.items():
        if sizes := list(getattr(preset, form)):
            recipes = f" ({', '.join(sizes)})" if len(sizes) > 1 else ""
            lines.append(f"- `{name}`: {preset.about}{f', for {preset.only}' if preset.only else ''}{recipes}")
    return "\n".join(lines) + "\n"


def main(pictures: bool) -> None:
    for page in [README, *PAGES]:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    for name, draw in PICTURES.items() if pictures else ():
        draw(BENCHMARKS / name)


if __name__ == "__main__":
    main(pictures="--tables" not in sys.argv[1:])
