"""The runner of the studies: its command lines, what it keeps of them, and that it goes on where it was stopped."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import run as runner
import tyro
from accelerate.state import AcceleratorState
from datasets import Image, Value
from making import hf_folder, labelled_folder, noise, png
from studies import (
    cells,
    features,
    learner_runs,
    learners,
    lora,
    mechanisms,
    omniglot,
    plasticity,
    plateau,
    probes,
    recipes,
    stream_groups,
    streams,
    transfer,
    vision,
)
from studies.cells import Cell, Command
from studies.words import BENCHMARKS, raw
from test_backbones import script
from test_features import Small

from episodes import UserError
from metacl import cli
from metacl.commands.parse_evaluate import parse_evaluate
from metacl.commands.parse_train import parse_train
from metacl.runs.following import Following
from metacl.runs.group import begin_all

SMALL = "--learner.width 16 --learner.hidden 16 --learner.heads 2 --learner.encoder.channels 4 --learner.encoder.strides 4"
SMALL += " --validation.episodes 2"
TINY = f"{SMALL} --steps 2 --validation.every 1 --episodes.tasks 2 --batch-size 2"
SEVERAL = ("features", "omniglot", "transfer")
"""Studies whose cells are a run for each seed, in one folder."""
UNFINISHED = {"probes", "vision", "lora", "plasticity"}
"""Studies whose pages show what was run so far."""
MAINS = {"train.py": cli.train_main, "evaluate.py": cli.evaluate_main}


@pytest.fixture
def here(monkeypatch):
    """The commands in this process: faster than one process each. Gives the list of what was run."""
    done = []

    def call(line: list[str], threads: int | None) -> int:
        done.append(line)
        monkeypatch.setattr(sys, "argv", line)
        AcceleratorState._reset_state(True)
        try:
            MAINS[line[0]](line[1:])
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    monkeypatch.setattr(cells, "call", call)
    return done


def read(command: Command) -> list:
    """The configurations of a command line by the real parsers; a run that it names is begun first."""
    script, *words = command.line
    if script == "evaluate.py":
        return parse_evaluate(words).configs
    asked = parse_train(words)
    begin_all(asked.folder, [(name, config, {}) for name, config in asked.configs.items()])
    return list(asked.configs.values())


def one_of_each(study: str) -> list[Cell]:
    """The cells, of repeated seeds, data and lengths the first."""
    every = runner.STUDIES[study](Path("data"))
    if study in ("mechanisms", "length"):
        return [cell for cell in every if cell.name.endswith("-0")]
    if study == "lora":
        return [cell for cell in every if cell.name.startswith("cifar100-10/") and cell.name.endswith("/0")]
    if study == "plasticity":
        return [cell for cell in every if cell.name.startswith("reused") or cell.name.endswith("vit-bp")]
    if study == "probes":
        wanted = ("recall-softmax-0", "tracking-delta-0", "tracking-delta-negative-0")
        return [cell for cell in every if cell.name in wanted]
    if study == "vision":
        return [
            cell for cell in every if cell.name.startswith(("cifar100/", "tuning/")) and not cell.name.endswith(("/1", "/2"))
        ]
    first = (*(f"sine-20/{learner}/0" for learner in learner_runs.LEARNERS["sine"]), "omniglot-20/pn/0", "omniglot-20/gemcl/0")
    return [cell for cell in every if study != "learners" or cell.name in first]


@pytest.mark.parametrize("study", runner.STUDIES)
def test_cells_have_names_of_their_own(study):
    every = runner.STUDIES[study](Path("data"))
    assert len({cell.name for cell in every}) == len(every) > 1


@pytest.mark.parametrize("study", runner.STUDIES)
def test_cells_are_command_lines(study, tmp_path, monkeypatch):
    monkeypatch.setattr(plasticity, "best_of", str)  # a setting is chosen only after all have been tried
    for cell in one_of_each(study):
        lines = cell.commands(tmp_path / study / cell.name)
        for command in lines[:1] if study in SEVERAL else lines:  # several runs are evaluated when they are trained
            assert all(config.learner_name in command.words or config.run for config in read(command))


@pytest.mark.parametrize("study", sorted(runner.STUDIES.keys() - UNFINISHED))
def test_what_is_there_is_known(study):
    """But for what the page of the streams says was not run, and for the studies whose pages show what was."""
    missing = [cell.name.rsplit("/", 1)[-1] for cell in runner.STUDIES[study](Path("data")) if not cell.kept()]
    assert set(missing) <= {"online-maml", "bp-same-buffer", "bp-one", "knn"}


def test_a_share_of_the_cells(tmp_path):
    arguments = runner.Arguments("learners", only=("sine-20", "omniglot-20/pn"))
    names = [cell.name for cell in runner.wanted(arguments)]
    assert len(names) == 15 * 3 + 3 and {name.split("/")[1] for name in names if name.startswith("omniglot")} == {"pn"}
    assert runner.share("2/3") == (2, 3)
    for wrong in ("3/2", "0/1", "1", "a/b"):
        with pytest.raises(UserError, match="--part is I/N"):
            runner.share(wrong)
    with pytest.raises(UserError, match="has no cell sine-6"):
        runner.wanted(runner.Arguments("learners", only=("sine-6",)))


def test_commands_of_the_pages():
    lines = [line for page in BENCHMARKS.rglob("*.md") for line in page.read_text(encoding="utf-8").splitlines()]
    found = [shlex.split(line.split("#")[0])[2:] for line in lines if line.startswith("    python benchmarks/run.py")]
    assert {words[0] for words in found} == set(runner.STUDIES)
    for words in found:
        assert runner.wanted(tyro.cli(runner.Arguments, args=words))


def test_a_learner_is_measured_once(tmp_path, here):
    file, budget = tmp_path / "raw.jsonl", learner_runs.Budget(steps=2, batch_size=2, episodes=2, validation=2)
    made = [learner_runs.cell("sine", 2, learner, 0, budget, [], file) for learner in ("alpaca", "online")]
    assert not any(cell.kept() for cell in made)
    for cell in made:
        cells.make(cell, tmp_path / cell.name)
        assert cell.kept()
    assert [words[0] for words in here] == ["train.py", *["evaluate.py"] * 3]
    with file.open("a") as stopped:
        stopped.write('{"learner": "onl')  # a process was killed
    for cell in made:
        cells.make(cell, tmp_path / cell.name)
    assert len(here) == 4
    found = learners.lines(file)
    assert len(found) == 4 and found[0] == found[2] and found[1] == found[3]
    wanted = {"meta_test_error", "training_seconds", "measure", "state_bytes", "parameters", "environment"}
    assert all(wanted <= line.keys() for line in found) and "rate" in found[1]
    assert "meta_train_error" in found[0] and "meta_train_error" not in found[1]
    assert found[0]["state_bytes"] == (128 * 128 + 128 * 50) * 4 and found[0]["best_step"] in (1, 2)
    table = learners.errors("sine", 2, file).splitlines()
    assert table[0].startswith("| learner | meta-test, squared error |") and len(table) == 4 and " ± " in table[2]
    assert [line.split(" | ")[2] == "-" for line in table[2:]] == ["online" in line for line in table[2:]]


def test_a_mechanism_is_tested_at_each_length(tmp_path, here, monkeypatch):
    short = {"trained": "--tasks 3 --episodes 2", "others": "--tasks 2 --episodes 2 --at-end"}
    monkeypatch.setattr(mechanisms, "TESTS", short)
    cell = mechanisms.cell("delta", 1, TINY.split(), tmp_path / "raw", "glyphs")
    cells.make(cell, tmp_path / "runs")
    found = json.loads((tmp_path / "raw" / "delta-1.json").read_text())
    assert found["configuration"]["learner"]["attention"] == "delta" and found["configuration"]["seed"] == 1
    assert found["test"].keys() == {"2", "3"} and found["test"]["3"]["episodes"]["queries"] == 5
    assert {"final", "forgetting"} <= found["test"]["3"]["measures"].keys() and found["validation_accuracy"].keys() == {
        "1",
        "2",
    }
    assert found["parameters"] > 0 and found["seconds"] > 0 and found["data_fingerprint"] and len(here) == 3


def test_an_aid_against_the_plateau(tmp_path, here):
    cell = plateau.cell("linear", "curriculum, longer", TINY.split(), tmp_path, "glyphs")
    cells.make(cell, tmp_path / "runs")
    found = json.loads((tmp_path / "linear-curriculum-longer.json").read_text())
    assert found["steps"] == 2 and found["validation_accuracy"].keys() == {"1", "2"} and "left_plateau_at" in found


@pytest.mark.parametrize("probe", probes.PROBES)
def test_a_probe_is_tested_at_each_length(probe, tmp_path, here, monkeypatch):
    about = replace(probes.PROBES[probe], lengths=(2, 4))
    monkeypatch.setitem(probes.PROBES, probe, about)
    cell = probes.cell(probe, "delta", 1, [*SMALL.split(), "--steps", "2", "--batch-size", "2"], tmp_path)
    cells.make(cell, tmp_path / "runs")
    found = json.loads((tmp_path / f"{probe}-delta-1.json").read_text())
    assert found["accuracy"].keys() == found["state_bytes"].keys() == {"2", "4"} and found["configuration"]["seed"] == 1
    sizes = [Following.open(words.folder).config.shape(1) for words in cell.commands(tmp_path / "runs")[1:]]
    assert [size.shots for size in sizes] == ([1] if probe == "recall" else [3 + 2, 3 + 4])
    error = 100 * (1 - found["accuracy"]["4"]["mean"])
    rows = probes.results(probe, tmp_path).splitlines()
    assert len(rows) == 3 and rows[0].endswith(f"4 {about.length} |") and rows[2].endswith(f" {error:.1f} |")
    probes.draw(tmp_path / "errors.png")
    assert (tmp_path / "errors.png").is_file()


def test_variants_of_a_recipe_share_a_file(tmp_path, here):
    file, small = (
        tmp_path / "recipes.json",
        ["--learner.width", "16", "--learner.hidden", "16", "--learner.heads", "2"],
    )
    for name in ("default", "no LayerNorm"):
        cell = recipes.cell(name, [*recipes.VARIANTS[name].split(), *small], 1, 1, file)
        assert not cell.kept()
        cells.make(cell, tmp_path / cell.name)
        assert cell.kept()
    variants = json.loads(file.read_text())["variants"]
    assert list(variants) == ["default", "no LayerNorm"] and len(variants["default"]["of_each_seed"]) == 2
    assert len(here) == 2


def test_learners_on_features(tmp_path, here, monkeypatch):
    script(Small(), tmp_path / "net.pt")
    monkeypatch.setattr(features, "BUDGET", "--steps 2 --validation.every 1 --seeds 0 1")
    monkeypatch.setattr(features, "TEST", "--tasks 2 3 --episodes 2 --no-matrix --at-end")
    monkeypatch.setattr(features, "TRAINED", 2)
    asked = f"--recipe features --data.features {tmp_path / 'net.pt'}"
    for learner in (features.UNTRAINED, "pn"):
        cell = features.cell("glyphs", learner, ["--batch-size", "2", "--validation.episodes", "2"], tmp_path, asked)
        cells.make(cell, tmp_path / "runs" / learner)
        assert cell.kept()
    found = {name: json.loads((tmp_path / f"glyphs-{name}.json").read_text()) for name in ("mean", "pn")}
    assert [len(found[name]["seconds"]) for name in found] == [1, 2] and len(found["pn"]["tests"]) == 4
    assert all("final" in test["measures"] and test["state_bytes"] > 0 for name in found for test in found[name]["tests"])


def test_learners_on_other_data(tmp_path, here, monkeypatch):
    monkeypatch.setattr(transfer, "TARGETS", ("omniglot", "glyphs"))
    monkeypatch.setattr(transfer, "TEST", "--tasks 2 --episodes 2 --no-matrix --at-end")
    for learner in ("pn", transfer.CONTROL):
        small = "--learner.width 16 --steps 1 --batch-size 1 --validation.episodes 1 --seeds 0 1"
        cell = transfer.cell(learner, {}, small, tmp_path, "glyphs")
        cells.make(cell, tmp_path / "runs" / learner)
        found = json.loads((tmp_path / f"{learner}.json").read_text())
        assert cell.kept() and len(found["tests"]["glyphs"]) == (2 if learner == "pn" else 1)
    assert [words[0] for words in here] == ["train.py", "evaluate.py", "evaluate.py"] and "--data.size" in here[2]


def test_what_is_meta_trained_over_the_features_of_a_stream(tmp_path, here, monkeypatch):
    """On another data set, and its paths are not kept."""
    script(Small(), tmp_path / "net.pt")
    labelled_folder(tmp_path / "mnist", 10, 4)
    images = {"img": [png(noise(i)) for i in range(100, 140)], "fine_label": [i % 20 for i in range(40)]}
    hf_folder(tmp_path / "met", {"img": Image(), "fine_label": Value("int64")}, train=images, test=images)
    monkeypatch.setattr(vision, "BACKBONE", "net.pt")
    monkeypatch.setattr(vision, "SIDE", "32")
    monkeypatch.setattr(vision, "FOLDER", tmp_path / "vision")
    monkeypatch.setattr("studies.words.BENCHMARKS", tmp_path)
    monkeypatch.setattr(vision, "STREAMS", {"short": vision.Stream("split-cifar100", "met", 2, 10, 2, 4, "mnist")})
    shape = "--episodes.tasks 2 --episodes.shots 2 --episodes.queries 1 --batch-size 2 --learner.width 8"
    steps = "--steps 2 --validation.every 1 --validation.episodes 2 --recipe features"
    monkeypatch.setattr(vision, "META_TRAINING", f"{shape} {steps}")
    cell = vision.cell("short", "pn", 1, tmp_path)
    cells.make(cell, tmp_path / "runs")
    assert cell.kept() and [words[0] for words in here] == ["train.py", "evaluate.py"]
    (found,) = vision.runs("short", "pn")
    assert found["meta_training"]["configuration"]["data"]["name"] == "mnist" and found["configuration"]["run"] is None
    assert str(tmp_path) not in json.dumps({name: found[name] for name in ("configuration", "meta_training")})
    assert vision.results("short").splitlines()[2].startswith("| pn | ")


def test_of_omniglot_all_is_asked_at_all_lengths():
    """As its words say: the commands leave the matrix in place, and the raw figures come from it."""
    for name in omniglot.LEARNERS:
        found = raw(f"omniglot/{omniglot.file_of(name)}")["tests"]
        assert {test["tasks"] for test in found} == {omniglot.TRAINED, *omniglot.OTHERS}
        assert all({"final", "forgetting"} <= test["measures"].keys() for test in found)
    assert not any("matrix" in words or "end" in words for words in omniglot.TESTS.values())


def test_the_grid_of_lora_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "FOLDER", tmp_path)
    none = lora.arm("none", "", False)
    for method, moved in ((lora.DRS, 0.1), (none, 0.4), ("ease", None)):
        for seed in (0, 1):
            incremental = {name: {"mean": 0.5 + seed / 10} for name in ("FA", "CA")}
            matrix = [[None] * 3, [moved, None, None], [moved, 3 * (moved or 0), None]]
            about = {"incremental": incremental, "drift": {} if moved is None else {"relative": matrix}}
            (tmp_path / f"cifar100-10-{method}-{seed}.json").write_text(json.dumps(about))
    rows = lora.grid("cifar100-10").splitlines()[2:]
    assert rows[0] == "| all directions | - | without | 55.0 ± 7.1 | 55.0 ± 7.1 | 80.0 ± 0.0 |"
    assert rows[1].startswith("| old pairs subtracted | normalised | with |") and rows[1].endswith("| 20.0 ± 0.0 |")
    assert rows[2] == "| ease |  |  | 55.0 ± 7.1 | 55.0 ± 7.1 | - |"
    lengths = [line.split(" | ") for line in lora.lengths().splitlines()[2:]]
    assert [line[0] for line in lengths] == ["| LoRA-DRS", "| LoRA", "| ease"] and lengths[0][1:] == ["55.0 ± 7.1", "-", "- |"]
    lora.draw(tmp_path / "drift.png")
    assert (tmp_path / "drift.png").is_file()


def test_a_setting_is_chosen_along_the_first_stream_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(plasticity, "FOLDER", tmp_path / "plasticity")
    monkeypatch.setattr("studies.words.BENCHMARKS", tmp_path)
    (tmp_path / "plasticity").mkdir()
    with pytest.raises(UserError, match="--only reused-vit-l2-0"):
        plasticity.best_of("vit-l2")
    scores = {"reused-vit-l2-0": [0.5, None], "reused-vit-l2-1": [0.4, 0.6], "gradual-vit-l2": [0.3, 0.2]}
    for name, values in scores.items():
        about = {"rates": dict(zip(("0.1", "0.2"), values, strict=True)), "name": name}
        (tmp_path / "plasticity" / f"{name}.json").write_text(json.dumps(about))
    assert plasticity.best_of("vit-l2") == "vit-l2 --learner.strength 1e-4"
    (tmp_path / "plasticity" / "reused-vit-l2-init-0.json").write_text(json.dumps({"rates": {"0.1": 0.5}}))
    with pytest.raises(UserError, match="--only reused-vit-l2-init-1"):
        plasticity.best_of("vit-l2-init")
    assert plasticity.chosen("reused", "vit-l2")["name"] == "reused-vit-l2-1"
    assert plasticity.chosen("gradual", "vit-l2")["name"] == "gradual-vit-l2"
    assert plasticity.chosen("permuted", "vit-l2") is None


def test_the_grid_of_lora_is_whole():
    assert len(lora.GRID) == 2 + 2 * 3 + 2 * 2 * 2 and len(set(lora.GRID.values())) == 16
    assert "ease" in lora.methods("cifar100-10") and "ease" not in lora.methods("cifar100-50")


@pytest.fixture
def short_stream(tmp_path, monkeypatch):
    options = "--tasks 3 --seeds 0 1 --lags 1 --stream.train 120 --stream.held-out 20"
    runs = {"bp": "bp", "nadaraya-watson": "nadaraya-watson --rates 1 2 --sweep-tasks 1"}
    group = stream_groups.Group("a short stream", "slowly-changing-regression", None, options, runs, block=1)
    monkeypatch.setattr(streams, "LAG", 1)
    monkeypatch.setattr(streams, "GROUPS", {"short": group})
    monkeypatch.setattr(streams, "PUBLISHED", {"short": {"bp": ("1 → 2", "3 → 4")}})
    monkeypatch.setattr(streams, "FOLDER", tmp_path / "kept")
    return group


def test_a_stream_is_kept_and_shown(short_stream, tmp_path, here, capsys):
    arguments = runner.Arguments("streams", only=("short/bp",), runs=tmp_path / "runs")
    runner.main(arguments)
    assert list(streams.finished("short")) == ["bp"] and len(here) == 1
    runner.main(runner.Arguments("streams", runs=tmp_path / "runs"))
    assert [words[2] for words in here] == ["bp", "nadaraya-watson"]
    kept = streams.finished("short")
    assert kept["bp"]["config"]["seeds"] == [0, 1] and kept["bp"]["compute"]["gradient_examples"] == 1
    tasks, values = kept["bp"]["curves"]["forward loss"]
    assert tasks.tolist() == [0, 1, 2] and values.shape == (3, 2)
    first, last = values[1:].mean(1)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in streams.forward("short").splitlines()[2:]]
    rate = min(kept["nadaraya-watson"]["rates"], key=kept["nadaraya-watson"]["rates"].get)
    assert [row[0] for row in rows] == ["bp", f"nadaraya-watson, {float(rate):g}"]
    assert rows[0][1].startswith(f"{first:.3f} ± ") and rows[0][2].startswith(f"{last:.3f} ± ") and rows[0][3] == "1 → 2"
    assert "| 3 → 4 |" in streams.backward("short") and streams.cost("short").count("\n") == 4
    streams.draw("short", tmp_path / "short.png")
    assert (tmp_path / "short.png").is_file()
    runner.main(runner.Arguments("streams", list=True))
    assert "short/bp (there)" in capsys.readouterr().out


def test_a_stopped_stream_goes_on(short_stream, tmp_path, here):
    command = streams.cell("short", "bp", Path("data")).commands(tmp_path)[0]
    cells.run(command)
    whole = json.loads((command.folder / "results.json").read_text())["results"][0]["curves"]["forward loss"]
    (command.folder / "results.json").unlink()
    assert not cells.finished(command)
    cells.run(command)
    assert here[1] == ["evaluate.py", "--resume", str(command.folder)] and cells.finished(command)
    assert json.loads((command.folder / "results.json").read_text())["results"][0]["curves"]["forward loss"] == whole
    with pytest.raises(UserError, match="is a run of other options"):
        cells.run(Command("evaluate.py", [*command.words, "--diagnose-every", "1"], command.folder))


def test_a_training_that_left_no_checkpoint_begins_again(tmp_path, here):
    command = plateau.cell("linear", "none", TINY.split(), tmp_path, "glyphs").commands(tmp_path)[0]
    cells.run(command)
    assert cells.finished(command)
    for checkpoint in (command.folder / "checkpoints").iterdir():
        checkpoint.rename(tmp_path / checkpoint.name)
    assert not cells.finished(command)
    cells.run(command)
    assert cells.finished(command) and here[0] == here[1] == command.line


def test_a_cell_that_fails_does_not_stop_the_others(short_stream, tmp_path, here, monkeypatch, capsys):
    short_stream.runs["bp"] = "bp --learner.rate 1e30"
    with pytest.raises(UserError, match=r"Not made: short/bp\. "):
        runner.main(runner.Arguments("streams", runs=tmp_path / "runs"))
    assert list(streams.finished("short")) == ["nadaraya-watson"] and "ended with status 2" in capsys.readouterr().out


def test_the_best_stands_first(tmp_path):
    def line(learner: str, error: float, seed: int) -> str:
        case = {"benchmark": "glyphs", "tasks": 5, "learner": learner, "seed": seed, "steps": 3, "batch_size": 4}
        sizes = {"measure": "error in %", "training_seconds": 1.5, "state_bytes": 2048, "parameters": 1234}
        return json.dumps(case | {"meta_test_error": error, "meta_train_error": error / 2} | sizes)

    file = tmp_path / "raw.jsonl"
    file.write_text("\n".join([line("far", 0.5, 0), line("near", 0.1, 0), line("near", 0.3, 1)]))
    sizes = "| 2 s | 2.0 KiB | 1,234 |"
    rows = learners.errors("glyphs", 5, file).splitlines()[2:]
    assert rows == [f"| near | 20.0 ± 14.1 | 10.0 ± 7.1 {sizes}", f"| far | 50.0 | 25.0 {sizes}"]
