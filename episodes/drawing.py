"""matplotlib, imported when something is drawn."""

import os
import sys
from contextlib import suppress
from types import ModuleType


def import_matplotlib() -> ModuleType:
    """The package, also where MPLBACKEND names a back end that is not installed, at which `import matplotlib` would fail.

    It is not needed here: nothing is shown in a window or a notebook. A back end that matplotlib knows stays the default one.
    """
    if "matplotlib" not in sys.modules and (named := os.environ.pop("MPLBACKEND", None)):
        try:
            import matplotlib
        finally:
            os.environ["MPLBACKEND"] = named
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = named
    import matplotlib

    return matplotlib
