"""Learners that are meta-trained over frozen features, along class-incremental streams of other classes."""

import json
from pathlib import Path

import pytest
from making import labelled_folder
from test_features import FEW, net  # noqa: F401

from metacl.cli import evaluate_main, train_main

SHAPE = ["--episodes.tasks", "2", "--episodes.shots", "2", "--episodes.queries", "1", "--recipe", "features"]
SMALL = {"pn": ["--learner.width", "8"], "gemcl": ["--learner.width", "8"]}
SMALL["transformer"] = ["--learner.width", "16", "--learner.hidden", "16"]


@pytest.mark.parametrize("name", SMALL)
def test_along_more_classes_than_it_was_trained_with(cli, net, tmp_path, cache, name):  # noqa: F811
    """Its symbols are more than those of meta-training; the features must be the same."""
    trained, met = labelled_folder(tmp_path / "others", 12, 4), labelled_folder(tmp_path / "data", 8, 6)
    own = [*FEW, *SHAPE, *SMALL[name], "--episodes.vocabulary", "4", "--data.features", net, "--run", "mine"]
    status, text = cli(train_main, trained, name, *own)
    assert status == 0, text
    along = ["mine", "split-cifar100", "--stream.data.name", met, "--stream.data.features", net, "--stream.classes", "2"]
    status, text = cli(evaluate_main, *along, "--stream.images", "3", "--out", "followed")
    assert status == 0, text
    (result,) = json.loads(Path("followed/results.json").read_text())["results"]
    assert result["tasks"] == 4 and 0 <= result["incremental"]["FA"]["mean"] <= 1
