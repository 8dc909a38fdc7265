"""What ends a run from outside, and who may write: signals, and the lock of a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import accelerator, sequence_config, sine, train, train_config

from episodes import UserError
from metacl.learners.sequence import SequenceLearner
from metacl.report.display import with_plain_errors
from metacl.runs.folder import Run
from metacl.runs.lock import LOCK, locked
from metacl.runs.signals import Stopped, stops_noted
from metacl.training.meta_training import meta_train

HOLD = "import sys, time; from pathlib import Path; from metacl.runs.lock import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_the_run_goes_on_exactly(tmp_path, monkeypatch, number):
    """Step 13 is neither one that is logged nor one that is validated: what is pending goes on with the run."""
    config = train_config(sequence_config(dropout=0.3))
    whole, plain = train(tmp_path / "whole", config), SequenceLearner.forward

    def signalled(self, episode):
        if self.step == 12:
            signal.raise_signal(number)
        return plain(self, episode)

    monkeypatch.setattr(SequenceLearner, "forward", signalled)
    run = Run.create(tmp_path / "run", config, {})
    assert meta_train(run, sine(), accelerator()) == number and run.last() == 13
    monkeypatch.undo()
    train(run.folder, config, resume=True)
    for record, other in zip(run.metrics(), whole.metrics(), strict=True):
        assert {**record, "episodes_per_second": 0} == {**other, "episodes_per_second": 0}
    assert run.best_record() == whole.best_record()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_outside_of_steps_has_a_code_of_its_own(capsys, number, status):
    with pytest.raises(SystemExit) as ended:
        with_plain_errors(lambda: signal.raise_signal(number))
    assert ended.value.code == status and "Stopped: " in capsys.readouterr().err


def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_does_not():
    with stops_noted() as seen:
        signal.raise_signal(signal.SIGINT)
        for _ in range(2):  # as torchrun sends after a Ctrl-C, and a scheduler to all of its processes
            signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGINT, signal.SIGTERM, signal.SIGTERM]
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stops_noted() as seen:
            signal.raise_signal(signal.SIGHUP)
        assert seen == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_writer_at_a_time(tmp_path):
    folder, here = tmp_path / "run", Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=here, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        words = rf"run is in use by another process \(process {other.pid} on .*Wait"
        with pytest.raises(UserError, match=words), locked(folder):
            pass
        other.kill()
        other.wait()
        with locked(folder):
            assert str(os.getpid()) in (folder / LOCK).read_text()


def test_a_lock_alone_is_an_empty_folder(tmp_path):
    (tmp_path / LOCK).touch()
    assert Run.create(tmp_path, train_config(), {}).folder.is_dir()
