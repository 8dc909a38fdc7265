"""The script that follows query-only attention and its baselines along streams: its command lines, what it keeps, its table."""

import pytest
import streams
from stream_groups import Group

from episodes import UserError
from metacl.commands.parsing import parse_follow


@pytest.mark.parametrize("group", streams.GROUPS)
def test_its_runs_are_command_lines(group):
    about = streams.GROUPS[group]
    for run, learner in about.runs.items():
        config, _ = parse_follow(streams.words(group, run))
        assert config.stream.name == about.stream and config.learner_name == learner.split()[0]


def test_it_keeps_the_curves_and_goes_on(tmp_path, monkeypatch, capsys):
    short = "--tasks 3 --seeds 0 1 --lags 1 --stream.train 120 --stream.held-out 20"
    runs = {"bp": "bp", "nadaraya-watson": "nadaraya-watson --rates 1 2 --sweep-tasks 1"}
    group = Group("a short stream", "slowly-changing-regression", None, short, runs, block=1)
    monkeypatch.setattr(streams, "LAG", 1)
    monkeypatch.setattr(streams, "GROUPS", {"short": group})
    monkeypatch.setattr(streams, "PUBLISHED", {"short": {"bp": ("1 → 2", "3 → 4")}})
    monkeypatch.setattr(streams, "HERE", tmp_path / "kept")
    arguments = streams.Arguments(groups=("short",), learners=("bp",), runs=tmp_path / "runs")
    streams.main(arguments)
    kept = streams.finished("short")
    assert list(kept) == ["bp"] and kept["bp"]["config"]["seeds"] == [0, 1]
    tasks, values = kept["bp"]["curves"]["forward loss"]
    assert tasks.tolist() == [0, 1, 2] and values.shape == (3, 2)
    assert (tmp_path / "kept" / "short.png").is_file()
    written = (tmp_path / "kept" / "short" / "bp.json").read_bytes()
    streams.main(streams.Arguments(groups=("short",), runs=tmp_path / "runs"))
    assert (tmp_path / "kept" / "short" / "bp.json").read_bytes() == written
    with monkeypatch.context() as patched:
        longer = Group("a short stream", "slowly-changing-regression", None, short.replace("3", "4", 1), {"bp ": "bp"})
        patched.setattr(streams, "GROUPS", {"short": longer})
        patched.setattr(streams, "made", lambda group, run: tmp_path / "elsewhere" / "bp.json")
        with pytest.raises(UserError, match="is a run of other options"):
            streams.main(streams.Arguments(groups=("short",), runs=tmp_path / "runs"))
    rows = streams.table("short").splitlines()
    rate = min(rates := streams.finished("short")["nadaraya-watson"]["rates"], key=rates.get)
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["bp", f"nadaraya-watson, {float(rate):g}"]
    first, last = values[1:].mean(1)
    assert (
        f"| {first:.3f} ± " in rows[2] and f"| {last:.3f} ± " in rows[2] and "| 1 → 2 |" in rows[2] and "| 3 → 4 |" in rows[2]
    )
