"""Every test runs offline, on one thread (or METACL_TEST_THREADS), with caches and random numbers of its own."""

import atexit
import os
import re
import signal
import tempfile
from pathlib import Path

_caches = tempfile.TemporaryDirectory(prefix="metacl-tests-")
atexit.register(_caches.cleanup)
if "PYTEST_XDIST_WORKER" not in os.environ:  # the processes of one round share what is drawn: one of them draws the glyphs
    os.environ["METACL_CACHE"] = f"{_caches.name}/metacl"
os.environ.update(
    HF_HOME=f"{_caches.name}/huggingface",
    HF_DATASETS_CACHE=f"{_caches.name}/huggingface/datasets",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    MPLBACKEND="Agg",
)

import pytest  # noqa: E402  (the environment comes first)
import torch  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what it starts in the background
torch.set_num_threads(int(os.environ.get("METACL_TEST_THREADS", "1")))

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def float64():
    """Doubles by default: for comparisons that the rounding of a processor would decide in float32, as after steps of Adam."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty pool cache."""
    monkeypatch.setenv("METACL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def unrendered(monkeypatch):
    """Pictures are composed, and their files are there but empty: for commands that are run for each of many learners."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **options: Path(path).touch())


@pytest.fixture
def real_data():
    """The folder of a real data set by its name; the test is skipped where it is absent."""

    def folder(name: str) -> str:
        if not (REAL_DATA / name).is_dir():
            pytest.skip(f"the real data set {name} is not here")
        return str(REAL_DATA / name)

    return folder


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Calls a command line in an empty folder; gives its exit status and what it said, in one line."""
    monkeypatch.chdir(tmp_path)

    def call(main, *words: str) -> tuple[int, str]:
        AcceleratorState._reset_state(True)
        status = 0
        try:
            main(list(words))
        except SystemExit as end:
            status = int(end.code or 0)
        if status == 128 + signal.SIGTERM:  # no command asks itself to end: these tests were asked, and a command took it
            signal.raise_signal(signal.SIGTERM)
        said = capsys.readouterr()
        text = said.out + said.err
        assert "Traceback" not in text
        return status, re.sub(r"[\s│╭╮╰╯─]+", " ", text)

    yield call
    AcceleratorState._reset_state(True)
