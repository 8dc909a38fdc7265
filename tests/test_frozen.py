"""Held-out episodes as files: the same ones for whoever has the same data, and nothing else passes for them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from making import labelled_folder

from episodes import DataConfig, EpisodeShape, UserError
from episodes.freeze import freeze
from episodes.frozen import Frozen, digest_of_first, frozen, read_frozen
from episodes.schedule import ScheduleConfig

SHAPE = EpisodeShape(tasks=2, shots=2, queries=1, schedule=ScheduleConfig(recur=2, blur=0.5))


@pytest.fixture
def pictures(tmp_path, cache) -> str:
    return labelled_folder(tmp_path / "pictures", classes=10, each=8)


def test_a_file_gives_the_same_episodes(pictures, tmp_path):
    made = frozen(DataConfig(pictures), SHAPE, 3, 5)
    made.write(tmp_path / "deep" / "held-out.json")
    again = read_frozen(tmp_path / "deep" / "held-out.json")
    assert again == made and (tmp_path / "deep" / "held-out.json").stat().st_size < 2000
    ours, theirs = (own.generator(own.benchmark()).batch(range(5)) for own in (made, again))
    for part in ("stream", "queries"):
        assert torch.equal(getattr(ours, part).x, getattr(theirs, part).x)


def test_other_data_are_refused(pictures, tmp_path):
    made = frozen(DataConfig("pictures", path=pictures), SHAPE, 0, 5)
    assert made.data.path is None and made.benchmark(pictures).name == "pictures"
    others = labelled_folder(tmp_path / "others", classes=10, each=9)
    with pytest.raises(UserError, match=r"is not what the held-out episodes were made of.*pictures"):
        made.benchmark(others)
    benchmark = made.benchmark(pictures)
    with pytest.raises(UserError, match="draws other episodes"):
        replace(made, digest="0").check(benchmark)
    for change in ({"seed": 1}, {"shape": replace(SHAPE, shots=1)}, {"shape": replace(SHAPE, schedule=ScheduleConfig())}):
        with pytest.raises(UserError, match="draws other episodes"):
            replace(made, **change).check(benchmark)


def test_what_is_no_such_file_is_said(tmp_path):
    for text, words in (
        ("", "is no file of python -m"),
        ("[]", "is no file of"),
        ('{"version": 99}', "has the format 99"),
        ('{"version": 1, "data": {}}', "is no file of"),
    ):
        (tmp_path / "wrong.json").write_text(text)
        with pytest.raises(UserError, match=words):
            read_frozen(tmp_path / "wrong.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_frozen(tmp_path / "nowhere.json")


def test_the_command_and_the_export(pictures, tmp_path, capsys):
    import datasets

    out, folder = tmp_path / "held-out.json", tmp_path / "exported"
    words = [pictures, "--tasks", "2", "--shots", "2", "--queries", "1", "--episodes", "3", "--schedule.blur", "1"]
    freeze([*words, "-o", str(out), "--export", str(folder)])
    assert "3 episodes of" in capsys.readouterr().out
    made = read_frozen(out)
    table = datasets.load_dataset(
        "parquet", data_files=str(folder / "episodes.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert len(table) == 3 * (4 + 2) and set(table["part"]) == {"stream", "queries"}
    episode = made.generator(made.benchmark(pictures)).batch([1])
    own = [row for row in table if row["episode"] == 1 and row["part"] == "stream"]
    assert [row["label"] for row in own] == episode.stream.y[0].tolist()
    assert all(np.array_equal(np.asarray(row["x"]), x[0].numpy()) for row, x in zip(own, episode.stream.x[0], strict=True))
    with pytest.raises(UserError, match="never overwritten"):
        freeze([*words, "-o", str(out)])


def test_vectors_and_targets_are_frozen_too(tmp_path):
    made = frozen(DataConfig("sine"), EpisodeShape(tasks=2), 0, 4)
    made.write(tmp_path / "sine.json")
    assert read_frozen(tmp_path / "sine.json") == made and made.benchmark().name == "sine"
    assert json.loads((tmp_path / "sine.json").read_text())["fingerprint"] == made.fingerprint
    assert isinstance(made, Frozen) and digest_of_first(made.generator(made.benchmark()), 4) == made.digest
