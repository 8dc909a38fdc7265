"""The outer loop: what a step depends on, resuming, interrupts, losses that are not finite."""

import json
import math
import shutil
import signal
from pathlib import Path

import pytest
import torch
from tiny import accelerator, image_benchmark, sequence, sequence_config, sine, train, train_config
from torch.testing import assert_close

from episodes import EpisodeShape, UserError
from metacl.evaluation.episodes import validate
from metacl.learners import MetaLoss, PrototypesConfig
from metacl.learners.gradient.maml import MAMLConfig
from metacl.learners.gradient.oml import OMLConfig
from metacl.learners.sequence import SequenceLearner
from metacl.nets.encoders import EncoderConfig
from metacl.recipes.config import OptimiserConfig, ValidationConfig
from metacl.report.display import TrainingDisplay
from metacl.runs.folder import Run
from metacl.training.meta_training import (
    MetaTrainingError,
    generators,
    learning_rate,
    make_accelerator,
    make_optimiser,
    meta_train,
)
from metacl.training.meta_training import _step_seed as step_seed

ROOT = Path(__file__).parents[1]
TIMES = ("episodes_per_second",)


def weights(run: Run, step: int | None = None) -> dict[str, torch.Tensor]:
    learner = run.config.learner.build(sine().train.spec)
    run.restore(run.last() if step is None else step, learner)
    return learner.state_dict()


def assert_same_weights(a: Run, b: Run) -> None:
    left, right = weights(a), weights(b)
    for name in left:
        assert torch.equal(left[name], right[name]), name


def metrics(run: Run) -> list[dict]:
    """All but what the clock says."""
    return [{name: value for name, value in record.items() if name not in TIMES} for record in run.metrics()]


DROPOUT = sequence_config(dropout=0.3)
DISTRIBUTED = sequence_config(dropout=0.3, attention="linear", distributed="random")
AUXILIARY = sequence_config(auxiliary_steps=15)


@pytest.fixture
def stop_after(monkeypatch):
    """Ctrl-C as soon as the record of a step is shown."""

    def arm(step: int, times: int = 1) -> None:
        plain = TrainingDisplay.update

        def update(self, record):
            plain(self, record)
            if record["step"] == step and "loss" in record:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(TrainingDisplay, "update", update)

    return arm


def test_training_learns(tmp_path):
    run = train(tmp_path / "run", train_config(steps=60, optimiser=OptimiserConfig(rate=1e-2, warmup=5)))
    losses = [record["loss"] for record in run.metrics() if "loss" in record]
    assert losses[-1] < 0.95 * losses[0]  # it starts as a matching network, and is not far from its best


def test_what_a_run_holds(tmp_path):
    run = train(tmp_path / "run", train_config())
    records = run.metrics()
    trained = [r for r in records if "loss" in r]
    assert [r["step"] for r in trained] == [10, 20, 30]
    assert all({"loss", "mse", "gradient_norm", "rate", "episodes_per_second"} <= r.keys() for r in trained)
    assert [r["step"] for r in records if "validation_loss" in r] == [10, 20, 30]
    assert run.last() == 30 and run.best() in run.steps()
    best = min((r for r in records if "validation_mse" in r), key=lambda r: r["validation_mse"])
    assert run.best_record() == {"step": best["step"], "score": -best["validation_mse"], "loss": best["validation_loss"]}
    assert not list(run.folder.rglob("*.part"))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    runs = [train(tmp_path / str(i), train_config(DROPOUT, seed=seed)) for i, seed in enumerate((0, 0, 1))]
    assert metrics(runs[0]) == metrics(runs[1])
    assert_same_weights(runs[0], runs[1])
    assert metrics(runs[0])[0]["loss"] != metrics(runs[2])[0]["loss"]


def test_global_randomness_does_not_matter(tmp_path):
    torch.manual_seed(17)
    first = train(tmp_path / "a", train_config(DROPOUT, steps=10))
    torch.rand(5)
    assert metrics(first) == metrics(train(tmp_path / "b", train_config(DROPOUT, steps=10)))


def test_workers_change_nothing(tmp_path):
    runs = [train(tmp_path / str(workers), train_config(steps=10, workers=workers)) for workers in (0, 2)]
    assert metrics(runs[0]) == metrics(runs[1])


@pytest.mark.parametrize("learner", [DROPOUT, DISTRIBUTED, AUXILIARY], ids=["dropout", "distributed", "auxiliary"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, learner, stop_after):
    config = train_config(learner)
    whole = train(tmp_path / "whole", config)
    stop_after(10)
    stopped = train(tmp_path / "stopped", config)
    assert stopped.last() in (10, 11)
    resumed = train(tmp_path / "stopped", config, resume=True)
    assert_same_weights(whole, resumed)
    assert metrics(resumed) == metrics(whole)
    assert resumed.best_record() == whole.best_record()


@pytest.mark.parametrize("learner", [DROPOUT, DISTRIBUTED], ids=["dropout", "distributed"])
def test_a_killed_run_is_resumed_from_its_last_checkpoint_bit_for_bit(tmp_path, learner, monkeypatch):
    """All metrics are those of an uninterrupted run: lines after the checkpoint are dropped and written again."""
    config = train_config(learner, validation=ValidationConfig(every=20, episodes=4))
    whole = train(tmp_path / "whole", config)
    plain = SequenceLearner.forward

    def killed(self, episode):
        if self.step == 27:
            raise RuntimeError("power cut")
        return plain(self, episode)

    monkeypatch.setattr(SequenceLearner, "forward", killed)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "killed", config)
    monkeypatch.undo()
    run = Run.open(tmp_path / "killed")
    assert run.last() == 20
    run.log({"step": 25, "loss": 9.0})
    train(tmp_path / "killed", config, resume=True)
    assert_same_weights(whole, run)
    assert metrics(run) == metrics(whole)


IMAGES = {
    "transformer": sequence_config(),
    "pn": PrototypesConfig(width=8, encoder=EncoderConfig((8, 8), (1, 2))),
    "oml": OMLConfig(width=8, hidden=8, encoder=EncoderConfig((8, 8), (2, 2))),
}


@pytest.mark.parametrize("learner", IMAGES)
def test_a_resumed_run_on_images_is_the_same_run(tmp_path, learner):
    """Weights of convolutions lie in another order of memory than the moments that come from a file."""
    config = train_config(IMAGES[learner], learner_name=learner, steps=8, validation=ValidationConfig(every=4, episodes=4))
    whole = train(tmp_path / "whole", config, image_benchmark())
    shutil.copytree(whole.folder, tmp_path / "resumed")
    resumed = Run.open(tmp_path / "resumed")
    resumed.checkpoints.remove(8)
    train(resumed.folder, config, image_benchmark(), resume=True)
    digests = [run.checkpoints.about(8)["digests"] for run in (whole, resumed)]
    assert digests[0] == digests[1] and metrics(resumed) == metrics(whole)


@pytest.mark.parametrize("step", [10, 20])
def test_ctrl_c_finishes_the_step_and_saves(tmp_path, stop_after, step):
    stop_after(step)
    config = train_config(validation=ValidationConfig(every=100, episodes=4))
    run = Run.create(tmp_path / "run", config, {})
    assert meta_train(run, sine(), accelerator()) == signal.SIGINT
    assert run.last() in (step, step + 1) and run.best_record() is None
    assert run.metrics()[-1]["step"] == step
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_the_last_step_is_the_end_of_the_run(tmp_path, stop_after):
    stop_after(30)
    run = Run.create(tmp_path / "run", train_config(), {})
    assert meta_train(run, sine(), accelerator()) == 0 and run.last() == 30


def test_a_second_ctrl_c_stops_at_once(tmp_path, stop_after):
    stop_after(20, times=2)
    run = Run.create(tmp_path / "run", train_config(), {})
    with pytest.raises(KeyboardInterrupt):
        meta_train(run, sine(), accelerator())
    assert run.last() == 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resuming_a_finished_run_does_nothing(tmp_path):
    run = train(tmp_path / "run", train_config())
    before = metrics(run), weights(run)
    train(tmp_path / "run", run.config, resume=True)
    assert metrics(run) == before[0] and all(torch.equal(value, before[1][name]) for name, value in weights(run).items())


def test_a_run_without_checkpoint_cannot_be_resumed(tmp_path):
    Run.create(tmp_path / "run", train_config(), {})
    with pytest.raises(UserError, match="has no checkpoint"):
        train(tmp_path / "run", train_config(), resume=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("step", "kept"), [(3, None), (17, 10), (20, 10), (21, 20)])
def test_a_loss_that_is_not_finite_stops_at_its_step(tmp_path, monkeypatch, bad, step, kept):
    """`step` counts from 1, as everything that a user sees."""
    good = train(tmp_path / "good", train_config()) if kept == 10 else None
    plain = SequenceLearner.forward

    def breaking(self, episode):
        result = plain(self, episode)
        if self.step != step - 1:
            return result
        return MetaLoss(result.loss * bad, result.metrics | {"loss": result.loss.detach() * bad})

    monkeypatch.setattr(SequenceLearner, "forward", breaking)
    with pytest.raises(MetaTrainingError, match=rf"not finite at step {step}\b") as error:
        train(tmp_path / "run", train_config())
    run = Run.open(tmp_path / "run")
    assert ("There was no checkpoint" in str(error.value)) if kept is None else (f"step {kept} is kept" in str(error.value))
    assert run.steps() == ([] if kept is None else list(range(10, kept + 1, 10)))
    assert all(value.isfinite().all() for value in (weights(run, kept).values() if kept else ()))
    assert all(math.isfinite(value) for record in run.metrics() for value in record.values())
    if good is not None:
        assert metrics(run)[0] == metrics(good)[0]


def test_a_gradient_that_is_not_finite_stops_too(tmp_path, monkeypatch):
    plain = SequenceLearner.forward

    def breaking(self, episode):
        result = plain(self, episode)
        if self.step == 4:
            result.loss.register_hook(lambda gradient: gradient * torch.nan)
        return result

    monkeypatch.setattr(SequenceLearner, "forward", breaking)
    with pytest.raises(MetaTrainingError, match=r"at step 5\b"):
        train(tmp_path / "run", train_config())


def test_an_absurd_rate_ends_in_words(tmp_path):
    config = train_config(sequence_config(norm=False), optimiser=OptimiserConfig(rate=1e18, warmup=0, clip=0))
    with pytest.raises(MetaTrainingError, match=r"not finite at step \d+\b.*--optimiser.rate"):
        train(tmp_path / "run", config)


def test_streams_of_meta_validation_are_as_long_as_its_classes_allow():
    """The benchmark has four classes to validate; six tasks fit meta-train only."""
    train, validation = generators(train_config(episodes=EpisodeShape(6, 2, 2, 8)), image_benchmark())
    assert (train.shape.tasks, validation.shape.tasks) == (6, 4)


def test_images_and_prototypes(tmp_path):
    config = train_config(PrototypesConfig(width=8, encoder=sequence_config().encoder), learner_name="pn", steps=12)
    run = train(tmp_path / "run", config, image_benchmark())
    records = run.metrics()
    assert [r["step"] for r in records if "loss" in r] == [10, 12]
    assert all(0 <= r["accuracy"] <= 1 for r in records if "loss" in r)
    assert run.best_record()["score"] == max(r["validation_accuracy"] for r in records if "validation_accuracy" in r)


def test_mixed_precision(tmp_path):
    run = Run.create(tmp_path / "run", train_config(steps=10), {})
    assert meta_train(run, sine(), accelerator("bf16")) == 0
    plain = train(tmp_path / "plain", train_config(steps=10))
    loss, expected = run.metrics()[0]["loss"], plain.metrics()[0]["loss"]
    assert loss != expected and loss == pytest.approx(expected, rel=0.05)
    assert all(t.dtype in (torch.float32, torch.int64) for t in weights(run).values())


def test_validation_is_the_mean_over_its_episodes():
    learner, generator = sequence(sine().train.spec).train(), sine().generator("validation", train_config().episodes, 0)
    whole = validate(learner, generator, 8, 8, accelerator())
    assert learner.training
    parts = validate(learner, generator, 8, 2, accelerator())
    expected = learner.eval().meta_loss(generator.batch(range(8))).loss.item()
    assert whole["loss"] == pytest.approx(expected, rel=1e-5) and parts["loss"] == pytest.approx(expected, rel=1e-5)
    assert whole["mse"] == pytest.approx(whole["loss"], rel=1e-5)


def test_validation_takes_as_many_episodes_as_are_asked():
    learner, generator = sequence(sine().train.spec), sine().generator("validation", train_config().episodes, 0)
    expected = learner.meta_loss(generator.batch(range(6))).loss.item()
    assert validate(learner, generator, 6, 4, accelerator())["loss"] == pytest.approx(expected, rel=1e-5)


def test_validation_of_a_distributed_learner_is_the_same_each_time():
    learner = sequence(sine().train.spec, distributed="random")
    generator = sine().generator("validation", train_config().episodes, 0)
    values = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        values.append(validate(learner, generator, 4, 4, accelerator()))
    assert values[0] == values[1]


def test_streams_grow_over_the_curriculum(tmp_path, monkeypatch):
    """Two tasks at first, all of them at its end; the episodes are the first tasks of those drawn without it."""
    seen = []
    plain = SequenceLearner.meta_loss

    def meta_loss(self, episode):
        if self.training:
            seen.append((int(episode.stream.task.max()) + 1, int(episode.queries.task.max()) + 1, episode.stream.x))
        return plain(self, episode)

    monkeypatch.setattr(SequenceLearner, "meta_loss", meta_loss)
    shape = EpisodeShape(tasks=5, shots=2, queries=2)
    for folder, curriculum in (("grow", 8), ("full", 0)):
        train(tmp_path / folder, train_config(steps=12, curriculum=curriculum, episodes=shape))
    grown, full = seen[:12], seen[12:]
    assert [tasks for tasks, _, _ in grown] == [tasks for _, tasks, _ in grown] == [2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5]
    assert {tasks for tasks, _, _ in full} == {5}
    for (_, _, part), (_, _, whole) in zip(grown, full, strict=True):
        assert torch.equal(part, whole[:, : part.shape[1]])


def test_schedules():
    cosine = OptimiserConfig(rate=2.0, warmup=4)
    assert [learning_rate(cosine, step, 10**9) for step in range(5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert learning_rate(cosine, 50, 100) == pytest.approx(2.0 * 0.505)
    assert learning_rate(cosine, 100, 100) == pytest.approx(0.02)
    halving = OptimiserConfig(rate=1.0, schedule="halving", halve_every=10, warmup=0)
    assert [learning_rate(halving, step, 100) for step in (0, 9, 10, 29)] == [1.0, 1.0, 0.5, 0.25]


def test_every_step_of_every_seed_has_randomness_of_its_own():
    seeds = {step_seed(seed, step) for seed in range(3) for step in range(500)}
    assert len(seeds) == 1500 and min(seeds) >= 0


def test_the_rate_that_is_logged_is_the_schedule(tmp_path):
    config = train_config(steps=10)
    run = train(tmp_path / "run", config)
    expected = sum(learning_rate(config.optimiser, step, 10) for step in range(10)) / 10
    assert run.metrics()[0]["rate"] == pytest.approx(expected)


@pytest.mark.parametrize("clip", [0.0, 1e-6])
def test_clipping(tmp_path, clip):
    """With plain steps of SGD size the weights hardly move under a tiny clip; 0 switches it off."""
    runs = [
        train(tmp_path / str(i), train_config(steps=1, optimiser=OptimiserConfig(warmup=0, clip=value)))
        for i, value in enumerate((clip, 1e9))
    ]
    moments = [clipped_moment(run) for run in runs]
    assert (moments[0] == pytest.approx(moments[1])) == (clip == 0.0)


def clipped_moment(run: Run) -> float:
    from safetensors.torch import load_file

    tensors = load_file(run.folder / "checkpoints" / "step-00000001" / "optimiser.safetensors")
    return sum(float(t.norm()) for name, t in tensors.items() if name.endswith("exp_avg"))


def test_precision_is_chosen_by_name(monkeypatch):
    from accelerate.state import AcceleratorState

    def chosen(precision: str) -> str:
        AcceleratorState._reset_state(True)
        return make_accelerator(precision).mixed_precision

    assert (chosen("fp32"), chosen("bf16")) == ("no", "bf16")
    own = make_accelerator("fp32").device.type
    for fast, expected in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr("metacl.training.meta_training.fast_bf16", lambda device, fast=fast: fast and device == own)
        assert chosen("auto") == expected
    AcceleratorState._reset_state(True)


def test_the_configuration_of_a_run_is_complete(tmp_path):
    """Nothing but the folder is needed to do it again."""
    run = train(tmp_path / "run", train_config(DROPOUT, steps=10))
    values = json.loads((run.folder / "config.json").read_text())
    assert values["data"]["name"] == "sine" and values["learner"]["dropout"] == 0.3 and values["steps"] == 10
    again = train(tmp_path / "again", Run.open(run.folder).config)
    assert metrics(again) == metrics(run)


def test_a_copied_run_goes_on_elsewhere(tmp_path, stop_after, monkeypatch):
    stop_after(10)
    run = train(tmp_path / "run", train_config())
    monkeypatch.undo()
    shutil.copytree(run.folder, tmp_path / "copy")
    shutil.rmtree(run.folder)
    assert train(tmp_path / "copy", run.config, resume=True).last() == 30


def test_a_learner_without_an_encoder_has_no_rate_behind_it():
    learner = MAMLConfig(width=8, encoder=EncoderConfig(channels=(4,), strides=(2,))).build(image_benchmark().train.spec)
    with pytest.raises(UserError, match="has no encoder of its own"):
        make_optimiser(learner, OptimiserConfig(behind_encoder=0.5))


def test_weights_behind_the_encoder_have_a_rate_of_their_own():
    learner = sequence()
    config = OptimiserConfig(rate=0.1, behind_encoder=0.25, warmup=0, weight_decay=0.0)
    optimiser, before = make_optimiser(learner, config), [weight.detach().clone() for weight in learner.parameters()]
    for group in optimiser.param_groups:
        group["lr"] = config.rate * group["part"]
    for weight in learner.parameters():
        weight.grad = torch.ones_like(weight)
    optimiser.step()
    for (name, weight), old in zip(learner.named_parameters(), before, strict=True):
        step = 0.1 if name.startswith("encoder.") else 0.025
        assert_close(old - weight, torch.full_like(weight, step), rtol=1e-4, atol=1e-6)
