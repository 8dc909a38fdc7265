"""Runs on disk: complete or not at all, never overwritten, and what is said of damaged and foreign ones."""

import json
import math
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SHAPE, VECTORS, prototypes, sequence, sequence_config, train_config
from torch import nn

from episodes import DataConfig, EpisodeSpec, UserError
from episodes.errors import Notice
from metacl.learners import PrototypesConfig
from metacl.recipes.files import to_json
from metacl.recipes.files import train_config as from_json
from metacl.recipes.presets import LEARNERS, META_TRAINED, recipe_for
from metacl.runs.checkpoints import _digests as digests
from metacl.runs.files import read_json, write_json
from metacl.runs.folder import Run
from metacl.runs.optimisers import load_optimiser, optimiser_tensors

SINE = EpisodeSpec("vector", (50,), "mse", y_shape=(50,))
ALL_RECIPES = [(learner, recipe) for learner in META_TRAINED for recipe in LEARNERS[learner].meta]


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "run", train_config(), {"python": "3"})


def learner_and_optimiser(seed: int = 0, steps: int = 2) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A learner and an optimiser that have done some steps."""
    learner = sequence(SINE, seed)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        squares(learner).backward()
        optimiser.step()
    return learner, optimiser


def squares(model: nn.Module) -> torch.Tensor:
    return torch.stack([p.square().sum() for p in model.parameters()]).sum()


def same_tensors(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("learner", "recipe"), ALL_RECIPES)
def test_every_recipe_survives_json(learner, recipe):
    config = recipe_for(learner, recipe, DataConfig("omniglot", path="here", size=32))
    again = from_json(json.loads(json.dumps(to_json(config))), Path("config.json"))
    assert again == config and type(again.learner) is type(config.learner)


def test_recipes_differ():
    configs = [to_json(recipe_for(learner, recipe, DataConfig())) for learner, recipe in ALL_RECIPES]
    assert len({json.dumps(config) for config in configs}) == len(configs)


@pytest.mark.parametrize("change", ["missing", "unknown", "learner", "nested"])
def test_a_configuration_of_another_version_is_refused(change):
    values = json.loads(json.dumps(to_json(train_config())))
    if change == "missing":
        del values["data"]
    elif change == "unknown":
        values["new_option"] = 1
    elif change == "learner":
        values["learner_name"] = "mind"
    else:
        values["learner"]["new_option"] = 1
    with pytest.raises(UserError, match=r"some/config.json"):
        from_json(values, Path("some/config.json"))


def test_a_run_is_opened_as_it_was_created(run):
    opened = Run.open(run.folder)
    assert opened == run and opened.steps() == [] and opened.metrics() == []
    assert read_json(run.folder / "environment.json") == {"python": "3"}


def test_a_run_is_never_overwritten(run, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"{run.folder} exists.*--resume"):
        Run.create(run.folder, train_config(), {})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        Run.create(tmp_path / "file", train_config(), {})
    assert (tmp_path / "file").read_text() == "mine" and sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "file"])


def test_an_empty_folder_may_become_a_run(tmp_path):
    assert Run.create(tmp_path, train_config(), {}).folder == tmp_path


def test_folders_that_are_no_runs(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=f"{folder} is no run"):
            Run.open(folder)
    (tmp_path / "config.json").write_text("{ not json")
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        Run.open(tmp_path)
    write_json(tmp_path / "config.json", {"some": "thing"})
    with pytest.raises(UserError, match=r"config.json is not a configuration"):
        Run.open(tmp_path)


def test_a_checkpoint_brings_everything_back(run):
    learner, optimiser = learner_and_optimiser()
    run.save(7, learner, optimiser, score=0.5)
    other, other_optimiser = learner_and_optimiser(seed=1, steps=0)
    run.restore(7, other, other_optimiser)
    assert same_tensors(other.state_dict(), learner.state_dict())
    for _ in range(2):  # the next steps are the same too
        for model, steps in ((learner, optimiser), (other, other_optimiser)):
            steps.zero_grad()
            squares(model).backward()
            steps.step()
    assert same_tensors(other.state_dict(), learner.state_dict())


def test_a_checkpoint_holds_no_pickle(run):
    run.save(7, *learner_and_optimiser(), score=0.5)
    names = sorted(path.name for path in (run.folder / "checkpoints" / "step-00000007").iterdir())
    assert names == ["checkpoint.json", "learner.safetensors", "optimiser.safetensors"]


@pytest.mark.parametrize(
    ("scores", "kept", "best"),
    [
        ([0.1, 0.2, 0.3], [20, 30], 30),
        ([0.3, 0.2, 0.1], [10, 20, 30], 10),
        ([0.1, 0.3, 0.3, 0.2, 0.1], [20, 40, 50], 20),
        ([-2.0, -1.0, None], [20, 30], 20),
        ([None, None, None], [20, 30], 30),
        ([None, 0.1], [10, 20], 20),
    ],
)
def test_the_best_and_the_last_two_checkpoints_are_kept(run, scores, kept, best):
    learner, optimiser = learner_and_optimiser(steps=0)
    for i, score in enumerate(scores):
        run.save(10 * (i + 1), learner, optimiser, score)
    assert run.steps() == kept and run.last() == 10 * len(scores) and run.best() == best


def test_of_equal_scores_the_one_of_lower_loss_is_the_best(run):
    learner, optimiser = learner_and_optimiser(steps=0)
    for step, loss in ((10, 1.04), (20, 0.22), (30, 0.0009), (40, 0.0009), (50, math.nan)):
        run.save(step, learner, optimiser, 1.0, loss)
    assert run.best_record() == {"step": 30, "score": 1.0, "loss": 0.0009}


def test_the_best_is_what_the_checkpoints_say(run, monkeypatch):
    """A process that is killed just after a checkpoint is there loses nothing of what is known of it."""
    learner, optimiser = learner_and_optimiser(steps=0)
    run.save(10, learner, optimiser, 0.2, 1.0)
    rename = Path.rename

    def killed(self, target):
        rename(self, target)
        if self.name.endswith("20.part"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        run.save(20, learner, optimiser, 0.9, 0.5)
    assert run.best() == run.last() == 20


def test_a_score_that_is_not_a_number_is_never_the_best(run):
    learner, optimiser = learner_and_optimiser(steps=0)
    run.save(10, learner, optimiser, float("nan"))
    run.save(20, learner, optimiser, 0.5)
    assert run.best() == 20


def test_the_best_checkpoint_is_what_is_evaluated(run):
    good, bad = learner_and_optimiser(seed=0), learner_and_optimiser(seed=1)
    run.save(10, *good, score=1.0)
    run.save(20, *bad, score=0.0)
    loaded = run.load_learner(SINE)
    assert not loaded.training and same_tensors(loaded.state_dict(), good[0].state_dict())
    assert same_tensors(run.load_learner(SINE, 20).state_dict(), bad[0].state_dict())


def test_a_run_without_checkpoint(run):
    for ask in (run.last, run.best, lambda: run.load_learner(SINE)):
        with pytest.raises(UserError, match="has no checkpoint"):
            ask()


def two_checkpoints(run: Run) -> Path:
    """The folder of the second one; the first is the best and stays."""
    run.save(10, *learner_and_optimiser(), score=1.0)
    run.save(20, *learner_and_optimiser(), score=0.0)
    return run.folder / "checkpoints" / "step-00000020"


@pytest.mark.parametrize("file", ["learner.safetensors", "optimiser.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed", "emptied"])
def test_damaged_checkpoints(run, file, damage):
    path = two_checkpoints(run) / file
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        changed = {
            "truncated": content[:-20],
            "flipped": content[:-9] + bytes([content[-9] ^ 255]) + content[-8:],
            "emptied": b"",
        }
        path.write_bytes(changed[damage])
    with pytest.raises(UserError, match=r"step-00000020|is damaged"):
        run.restore(20, *learner_and_optimiser(steps=0))
    run.restore(10, *learner_and_optimiser(steps=0))
    with pytest.warns(Notice, match="step-00000020"):
        assert run.last() == run.best() == 10


def test_a_damaged_best_checkpoint_is_left_out_with_a_warning(run):
    damaged = two_checkpoints(run).with_name("step-00000010")
    (damaged / "learner.safetensors").write_bytes(b"broken")
    with pytest.warns(Notice, match=r"step-00000010 is damaged.*left out"):
        assert run.best() == 20


def test_when_all_checkpoints_are_damaged_it_is_said(run):
    for place in two_checkpoints(run).parent.iterdir():
        (place / "learner.safetensors").write_bytes(b"broken")
    with pytest.warns(Notice, match="damaged"), pytest.raises(UserError, match="no checkpoint that can be read"):
        run.last()


def written_again(run: Run, file: str, change: Callable[[dict], dict]) -> None:
    """A checkpoint whose tensors are others, and whose digests are theirs."""
    run.save(7, *learner_and_optimiser(), score=0.5)
    place = run.checkpoints.place(7)
    save_file(change(load_file(place / file)), place / file)
    about = read_json(place / "checkpoint.json")
    write_json(place / "checkpoint.json", about | {"digests": digests(place)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {"0.exp_avg": torch.zeros(3)}, r"0.exp_avg has shape \(3,\)"),
        (lambda t: t | {"0.exp_avg": t["0.exp_avg"].double()}, r"0.exp_avg has .*float64"),
        (lambda t: t | {"999.exp_avg": torch.zeros(3)}, "999.exp_avg' is of no parameter"),
        (lambda t: t | {"exp_avg": torch.zeros(3)}, "'exp_avg' is of no parameter"),
        (lambda t: {name: value for name, value in t.items() if name != "0.exp_avg_sq"}, "Of parameter 0 it has"),
        (lambda t: t | {"0.step": torch.zeros(2)}, "0.step has shape"),
    ],
    ids=["shape", "type", "another parameter", "no index", "missing", "step"],
)
def test_moments_that_are_not_those_of_the_parameters_are_refused(run, change, words):
    written_again(run, "optimiser.safetensors", change)
    with pytest.raises(UserError, match=words):
        run.restore(7, *learner_and_optimiser(steps=0))


def test_weights_of_another_type_are_refused(run):
    written_again(run, "learner.safetensors", lambda t: {name: value.to(torch.int8) for name, value in t.items()})
    with pytest.raises(UserError, match=r"int8 there and .* float32 in this one"):
        run.restore(7, *learner_and_optimiser(steps=0))


def test_moments_take_the_strides_of_their_weights():
    """The fused optimiser goes through the memory of both: with other strides a weight would get another one's moment."""

    def convolution() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = nn.Conv2d(8, 16, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return layer, torch.optim.AdamW(layer.parameters(), lr=1e-2, fused=True)

    def step(layer: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
        image = torch.randn(2, 8, 9, 9, generator=torch.Generator().manual_seed(seed))
        optimiser.zero_grad()
        layer(image.to(memory_format=torch.channels_last)).square().sum().backward()
        optimiser.step()

    whole, other = convolution(), convolution()
    step(*whole, 0)
    other[0].load_state_dict(whole[0].state_dict())
    load_optimiser(other[1], {name: t.contiguous() for name, t in optimiser_tensors(whole[1]).items()})
    for layer, optimiser in (whole, other):
        step(layer, optimiser, 1)
    assert same_tensors(whole[0].state_dict(), other[0].state_dict())


def test_a_damaged_checkpoint_names_another_one(run):
    (two_checkpoints(run) / "learner.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"step-00000020 is damaged.*step 10"):
        run.restore(20, learner_and_optimiser()[0])


@pytest.mark.parametrize("content", ["[]", "null", '{"digests": 3}', '{"step": 20}'])
def test_foreign_checkpoints(run, content):
    (two_checkpoints(run) / "checkpoint.json").write_text(content)
    with pytest.raises(UserError, match="step-00000020"):
        run.restore(20, learner_and_optimiser()[0])


def test_a_missing_checkpoint(run):
    two_checkpoints(run)
    with pytest.raises(UserError, match=r"step-00000030 cannot be read.*step 20"):
        run.restore(30, learner_and_optimiser()[0])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (sequence(SINE, width=8), r"is of another learner: .*16.* there and .*8.* in this one"),
        (sequence(SINE, layers=1), "is of another learner: .* missing in this one"),
        (sequence(SINE, layers=3), "is of another learner: .* missing there"),
        (sequence(VECTORS), "is of another learner"),
        (prototypes(), "is of another learner"),
    ],
    ids=["width", "fewer layers", "more layers", "other data", "other family"],
)
def test_checkpoints_of_another_learner(run, other, words):
    run.save(7, *learner_and_optimiser(), score=0.5)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(UserError, match=words):
        run.restore(7, other)
    assert same_tensors(other.state_dict(), before)


def test_a_learnt_vocabulary_is_bound_to_its_size(tmp_path):
    images = EpisodeSpec("image", (1, 8, 8), "cross_entropy", symbols=8)
    config = train_config(sequence_config(symbols="learned"))
    run = Run.create(tmp_path / "run", config, {})
    learner = config.learner.build(images)
    run.save(1, learner, torch.optim.AdamW(learner.parameters()), 0.0)
    run.load_learner(images)
    with pytest.raises(UserError, match=r"--learner.symbols learned"):
        run.load_learner(replace(images, symbols=40))


def test_an_interrupted_save_is_not_a_checkpoint(run, monkeypatch):
    learner, optimiser = learner_and_optimiser()
    run.save(10, learner, optimiser, 0.1)

    def no_room(*_):
        raise OSError("no space left")

    monkeypatch.setattr("metacl.runs.checkpoints.write_json", no_room)
    with pytest.raises(OSError, match="no space"):
        run.save(20, learner, optimiser, 0.9)
    monkeypatch.undo()
    assert run.steps() == [10] and run.last() == run.best() == 10
    run.save(20, learner, optimiser, 0.9)  # what the interrupted one left is no obstacle
    assert run.steps() == [10, 20] and not list(run.folder.rglob("*.part"))


def test_metrics_of_steps_that_are_done_again_are_dropped(run):
    for step in (10, 20, 30):
        run.log({"step": step, "loss": step / 10})
    run.forget_after(20)
    assert run.metrics() == [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 2.0}]


@pytest.mark.parametrize("rest", [b"", b"\0" * 40])
def test_lines_of_metrics_that_are_lost_are_told(run, rest):
    """A disk that was cut off keeps the length of a file, and not always its end."""
    for step in (10, 20, 30):
        run.log({"step": step, "loss": 1.0})
    run.save(30, *learner_and_optimiser(), score=0.5)
    path = run.folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0] + rest)
    with pytest.warns(Notice, match=r"2 of the 3 lines of .*metrics.jsonl up to step 30 are lost"):
        run.forget_after(30)
    assert run.metrics() == [{"step": 10, "loss": 1.0}]


def test_half_a_line_of_metrics_is_no_obstacle(run):
    run.log({"step": 10, "loss": 1.0})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    run.forget_after(20)
    assert run.metrics() == [{"step": 10, "loss": 1.0}]


def test_a_bad_byte_in_the_metrics_is_no_obstacle(run):
    for step in (10, 20, 30):
        run.log({"step": step, "loss": 1.0})
    path = run.folder / "metrics.jsonl"
    for damage in (lambda line: line.replace(b"1.0", b"1.7"), lambda line: b"\xff" + line, lambda line: b"[]\n"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([lines[0], damage(lines[1]), lines[2]]))
        with pytest.warns(Notice, match=r"metrics.jsonl is damaged: line 2 cannot be read"):
            assert [record["step"] for record in run.metrics()] == [10, 30]


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_a_changed_number_in_a_json_file_is_seen(run, name):
    path = run.folder / name
    path.write_text(path.read_text().replace("3", "4", 1))
    with pytest.raises(UserError, match=f"{name} is not as it was written"):
        read_json(path)


def test_a_full_disk_leaves_no_half_line(run):
    run.log({"step": 10, "loss": 1.0})
    before = (run.folder / "metrics.jsonl").read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, resource.RLIM_INFINITY))
    try:
        with pytest.raises(OSError, match=r"No space|too large"):
            run.log({"step": 20, "loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (run.folder / "metrics.jsonl").read_bytes() == before


def test_a_copied_run_is_the_same_run(run, tmp_path):
    run.save(10, *learner_and_optimiser(), score=1.0)
    shutil.copytree(run.folder, tmp_path / "copy")
    assert same_tensors(Run.open(tmp_path / "copy").load_learner(SINE).state_dict(), run.load_learner(SINE).state_dict())


def test_a_run_of_prototypes(tmp_path):
    config = train_config(PrototypesConfig(width=12), learner_name="pn", episodes=SHAPE)
    Run.create(tmp_path / "run", config, {})
    assert Run.open(tmp_path / "run").config == config
