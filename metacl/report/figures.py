"""Empty pictures, drawn with Agg whatever the place: no window, no notebook, and no setting that others would see."""

import textwrap
from typing import TYPE_CHECKING

from episodes.drawing import import_matplotlib

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.figure import Figure


def figure(width: float, height: float) -> "Figure":
    """An empty picture of so many inches, whose parts keep clear of each other."""
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    empty = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(empty)
    return empty


LETTERS, LINES = 11, 3
"""Letters of a title on an inch, and its most lines."""


def head(picture: "Figure", title: str, note: str = "") -> None:
    """Writes a title over a picture, in lines that fit, and below it a note in small letters: what means and bands are over."""
    picture.suptitle(plain("\n".join(lines_of(title, int(LETTERS * picture.get_figwidth())))), fontsize="medium")
    if note:
        picture.supxlabel(plain(note), fontsize="x-small")


def lines_of(words: str, letters: int) -> list[str]:
    """Words in lines of so many letters; of what needs more than `LINES` the middle is left out."""
    most = LINES * letters - 2 * LINES
    if len(words) > most:
        words = f"{words[: most // 2]} … {words[-most // 2 :]}"
    lines = textwrap.wrap(words, letters, break_on_hyphens=False)
    return lines if len(lines) <= LINES else [words[i : i + letters] for i in range(0, len(words), letters)]


def plain(words: str) -> str:
    """Words for a title as they are: a dollar starts no formula, and what is no Unicode, as in a file's name, becomes '?'."""
    return words.encode("utf-8", "replace").decode("utf-8").replace("$", r"\$")
