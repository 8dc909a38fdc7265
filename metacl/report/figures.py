"""Empty pictures, drawn with Agg whatever the place: no window, no notebook, and no setting that others would see."""

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


def plain(words: str) -> str:
    """Words for a title as they are: a dollar starts no formula, and what is no Unicode, as in a file's name, becomes '?'."""
    return words.encode("utf-8", "replace").decode("utf-8").replace("$", r"\$")
