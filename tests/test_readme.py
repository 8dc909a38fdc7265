"""The documentation is true: its commands run, its figures are those of the files behind them."""

import json
import os
import re
import shlex
from pathlib import Path

import pages
import pytest
import tyro

from episodes.freeze import Freeze, freeze
from metacl.benchmarking.command import Subject
from metacl.cli import train_main
from metacl.commands.parse_evaluate import parse_evaluate
from metacl.commands.parse_resume import parse_resume
from metacl.commands.parse_train import parse_train
from metacl.commands.pretrain import parse_pretrain
from metacl.recipes.config import EpisodesConfig
from metacl.recipes.presets import LEARNERS

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").rglob("*.md"))]
PAGES = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in FILES}
SMALL = ["--learner.width", "16", "--learner.hidden", "16", "--steps", "1", "--batch-size", "1", "--validation.episodes", "1"]
FIGURES = re.compile(r"^ *(\d+) x (\d+) +(\d+\.\d) ± (\d+\.\d) ", re.MULTILINE)
"""A row of a result table: tasks, shots, final accuracy and its interval in per cent."""


def commands(script: str) -> list[list[str]]:
    """The words of every command line of the pages that calls `script`."""
    lines = [line.split("#")[0] for text in PAGES.values() for line in text.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line)[2:] for line in lines if re.match(rf"    python {script}( |$)", line)]
    assert found, f"no page calls {script}"
    return found


@pytest.mark.parametrize("words", commands("train.py"), ids=" ".join)
def test_commands_of_train(words):
    if len(words) < 2 or words[0] == "--resume":
        assert not words or parse_resume(words, "train.py").folder.name
    elif words[0] == "pretrain":
        assert parse_pretrain(words[1:])[0].data.name == words[1]
    elif "--help" in words:
        with pytest.raises(SystemExit) as end:
            parse_train(words)
        assert end.value.code == 0
    else:
        assert all(config.data.name == words[0] for config in parse_train(words).configs.values())


@pytest.mark.parametrize("words", commands("evaluate.py"), ids=" ".join)
def test_commands_of_evaluate(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not words or words[0] == "--resume":
        assert not words or parse_resume(words, "evaluate.py").folder.name
        return
    data = "sine"
    if "--held-out" in words:
        data = "glyphs"
        freeze([data, "--tasks", "2", "--episodes", "1", "-o", words[words.index("--held-out") + 1]])
    if words[0].startswith("runs/"):
        train_main([data, "transformer", *SMALL, "--run", words[0]])
    configs = parse_evaluate(words).configs
    for config in configs:
        source = config.data.name if isinstance(config, EpisodesConfig) else config.stream.name
        assert config.run == os.path.abspath(words[0]) if config.run else source == words[0] and config.learner_name in words


@pytest.mark.parametrize("words", commands("-m episodes.freeze"), ids=" ".join)
def test_commands_of_freeze(words):
    assert tyro.cli(Freeze, args=words[1:]).name == words[1]


@pytest.mark.parametrize("words", commands("benchmark.py"), ids=" ".join)
def test_commands_of_benchmark(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no --out folder exists yet
    assert tyro.cli(Subject, args=words)


def test_make_has_the_commands():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", PAGES["README.md"])) <= set(targets)


def test_the_python_of_the_readme(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", PAGES["README.md"], re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    train_main(["glyphs", "transformer", *SMALL, "--run", "runs/demo"])
    capsys.readouterr()
    exec(compile(code.replace("episodes=64", "episodes=2"), "README.md", "exec"), {})
    assert re.match(r"tensor\(.*\) -?\d\.\d{4} ± ", capsys.readouterr().out)


def test_figures_are_those_of_the_runs():
    """Every row of the result of the demo stands in the README, as it was measured."""
    rows = {tuple(row) for row in FIGURES.findall(PAGES["README.md"])}
    for result in json.loads((ROOT / "benchmarks" / "demo" / "results.json").read_text())["results"]:
        final, episodes = result["measures"]["final"], result["episodes"]
        numbers = (f"{100 * final['mean']:.1f}", f"{100 * final['half_width']:.1f}")
        assert (str(episodes["tasks"]), str(episodes["shots"]), *numbers) in rows


def test_pictures_are_there():
    for page, text in PAGES.items():
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
            assert (ROOT / page).parent.joinpath(picture).is_file(), f"{page} shows {picture}"


def test_the_lists_of_learners_are_those_of_the_table():
    assert pages.filled(PAGES["README.md"]) == PAGES["README.md"], "run: python benchmarks/pages.py --tables"
    assert all(f"- `{name}`: {preset.about}" in PAGES["README.md"] for name, preset in LEARNERS.items())
