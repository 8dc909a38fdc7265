"""Several processes that share each batch are one run: the same curve as one process, but for rounding."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import without_learn2learn

from metacl.nets.encoders import ImageEncoder
from metacl.nets.shared_batch import BatchNorm1d, dropout, shared_batch
from metacl.recipes.presets import META_TRAINED
from metacl.runs.folder import Run

ROOT = Path(__file__).parents[1]
TINY = ["--steps", "6", "--batch-size", "4", "--validation.every", "3", "--validation.episodes", "2", "--precision", "fp32"]
TINY += ["--episodes.tasks", "3", "--episodes.shots", "2", "--episodes.queries", "2", "--optimiser.warmup", "2"]
SMALL = ["--learner.width", "16", "--learner.layers", "1", "--learner.heads", "2"]
DROPOUT = ["--learner.dropout", "0.3", "--learner.attention-dropout", "0.2"]


DOUBLES = """import dataclasses
import sys
import torch
torch.set_default_dtype(torch.float64)
from episodes import EpisodeGenerator
from metacl.cli import train_main
from metacl.training import meta_training

plain = EpisodeGenerator.batch

def doubled(examples):
    x, y = (t.double() if t.is_floating_point() else t for t in (examples.x, examples.y))
    return dataclasses.replace(examples, x=x, y=y)

def batch(self, indices):
    episode = plain(self, indices)
    return dataclasses.replace(episode, stream=doubled(episode.stream), queries=doubled(episode.queries))

def optimiser(learner, config):
    return make_optimiser(learner.double(), config)

EpisodeGenerator.batch = EpisodeGenerator.__getitems__ = batch
make_optimiser, meta_training.make_optimiser = meta_training.make_optimiser, optimiser
train_main(sys.argv[1:])
assert not torch.distributed.is_initialized(), "the group of processes outlives the command"
"""
"""`train.py` in doubles. A group of processes that is still there as Python ends makes some of them abort."""


def started(folder: Path, processes: int, *words: str) -> None:
    """`train.py WORDS` in so many processes, as torchrun starts them; in doubles, so that rounding stays small."""
    (folder / "doubles.py").write_text(DOUBLES)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--"] if processes > 1 else []
    command = [sys.executable, *launch, str(folder / "doubles.py"), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    got = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert got.returncode == 0, got.stdout + got.stderr


def curve(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k != "episodes_per_second"} for record in Run.open(folder).metrics()]


def assert_same_curve(one: Path, two: Path) -> None:
    assert len(curve(one)) > 2
    for left, right in zip(curve(one), curve(two), strict=True):
        assert left == pytest.approx(right, rel=1e-6, abs=1e-9)


UNEQUAL = ["--episodes.tasks-least", "1", "--episodes.schedule.shots-least", "1"]


@pytest.mark.parametrize("schedule", [[], pytest.param(UNEQUAL, marks=pytest.mark.slow)])
def test_two_processes_go_on_with_what_one_began_as_if_they_were_one(tmp_path, schedule):
    """Episodes, dropout, BatchNorm and the loss are those of the whole batch, also where its rows are unequally long."""
    one, two = tmp_path / "one", tmp_path / "two"
    started(tmp_path, 1, "sine", "transformer", *TINY, *SMALL, *DROPOUT, *schedule, "--run", str(one))
    shutil.copytree(one, two)
    shutil.rmtree(two / "checkpoints" / "step-00000006")
    started(tmp_path, 2, "--resume", str(two))
    assert_same_curve(one, two)
    assert Run.open(two).steps() == [3, 6]


@pytest.mark.slow
@pytest.mark.parametrize("learner", META_TRAINED)
def test_every_learner_in_two_processes(tmp_path, learner):
    without_learn2learn(learner)
    data = "slowly-changing-regression" if learner == "alpaca" else "glyphs"
    for processes in (1, 2):
        started(tmp_path, processes, data, learner, *TINY, "--run", str(tmp_path / str(processes)))
    assert_same_curve(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["linear", "performer", "gated-delta", "ttt-linear", "mesa", "log-linear"])
def test_every_mechanism_in_two_processes(tmp_path, attention):
    words = ["sine", "transformer", *TINY, *SMALL, *DROPOUT, "--learner.attention", attention]
    for processes in (1, 2):
        started(tmp_path, processes, *words, "--run", str(tmp_path / str(processes)))
    assert_same_curve(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 3, 1), (3, 2, 1, 0)])
def test_a_process_drops_its_rows_of_the_whole_batch(order):
    """Whatever the layout in memory, in whose order numbers are drawn."""
    x = torch.ones([(6, 5, 4, 3)[axis] for axis in order]).permute([order.index(axis) for axis in range(4)])
    torch.manual_seed(1)
    whole = dropout(x, 0.5, training=True)
    for rank in range(3):
        torch.manual_seed(1)
        with shared_batch(rank, 3):
            part = dropout(torch.empty_strided((2, 5, 4, 3), torch.empty_like(x).stride()).fill_(1), 0.5, training=True)
        assert torch.equal(part, whole[2 * rank : 2 * rank + 2])


def test_statistics_of_one_process_are_those_of_torch():
    """What is written out for several processes, in one: forward, gradient, running statistics."""
    import metacl.nets.shared_batch as shared

    x = torch.randn(12, 4, dtype=torch.float64)
    plain, ours = torch.nn.BatchNorm1d(4).double(), BatchNorm1d(4).double()
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "_sum", lambda values: values)
        outputs = plain(inputs[0]), shared.over_all_rows(ours, inputs[1])
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        (output * torch.arange(4)).square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(plain.named_buffers()))


def test_encoders_take_their_statistics_over_all_processes():
    norms = [m for m in ImageEncoder((1, 8, 8), 4, (4,), (1,)).modules() if "BatchNorm" in str(type(m))]
    assert norms and all(type(norm).__module__ == "metacl.nets.shared_batch" for norm in norms)
