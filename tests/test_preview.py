"""An episode as a picture, and the page of schedules, whose pictures are made by the commands beside them."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image
from test_schedules import SCHEDULES, scheduled

from episodes.picture import draw_episode
from episodes.preview import Preview, main

PAGE = Path(__file__).parents[1] / "docs" / "schedules.md"
COMMANDS = re.findall(r"^    python -m episodes.preview (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_pictures_of_the_page_have_their_command(command):
    asked = tyro.cli(Preview, args=shlex.split(command))
    assert asked.shape().tasks >= 3 and (PAGE.parents[1] / asked.out).is_file()
    assert f"({asked.out.relative_to('docs')})" in PAGE.read_text(encoding="utf-8")


def test_every_option_has_a_picture():
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= 80
    for option in ("classes", "recur", "domains", "gradual", "blur", "shots-least", "noise"):
        assert any(f"--schedule.{option}" in command for command in COMMANDS), option
    assert any("--tasks-least" in command for command in COMMANDS)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_drawn(name, tmp_path):
    episode = scheduled(name, tasks_least=2).batch([3])
    draw_episode(episode, tmp_path / "one.png", name)
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.width > 300 and len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_a_wrong_label_is_red(tmp_path):
    def reds(episode) -> int:
        draw_episode(episode, tmp_path / "one.png", "noise", alike=[2] * 4)  # the colour of no frame is red
        with Image.open(tmp_path / "one.png") as picture:
            return int((np.asarray(picture.convert("RGB")) == (255, 0, 0)).all(-1).sum())

    plain = scheduled("in order").batch([0])
    stream = replace(plain.stream, y=plain.stream.y.clone())
    stream.y[0, 0] = 1 + plain.queries.y.max()
    assert reds(plain) == 0
    assert reds(replace(plain, stream=stream)) > 0


def test_the_command(tmp_path, capsys):
    main(["sine", "--tasks", "3", "--schedule.recur", "2", "-o", str(tmp_path / "waves.png")])
    assert (tmp_path / "waves.png").stat().st_size > 1000 and "sine, recur 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sinus"], "Did you mean 'sine'"),
        (["tracking", "--schedule.blur", "1"], "no schedule blur 1"),
        (["sine", "--tasks", "0"], "at least 1"),
        (["sine", "--out", "not/there.png"], "cannot be written"),
    ],
)
def test_mistakes_are_said_in_words(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    said = capsys.readouterr().out
    assert (
        end.value.code == 0 and "Try: python -m episodes.preview glyphs" in " ".join(said.split()) and "--schedule.blur" in said
    )
