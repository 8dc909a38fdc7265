"""`evaluate.py`: a learner follows held-out episodes or a stream, or goes on where that stopped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from episodes import UserError
from metacl.commands.along_stream import follow_stream, stream_of
from metacl.commands.data_of import found
from metacl.commands.learner_of import learner_in_words
from metacl.commands.on_episodes import check_episodes, follow_episodes
from metacl.commands.parsing import parse_evaluate
from metacl.commands.words import evaluate_help
from metacl.evaluation.result import Result
from metacl.recipes.config import EpisodesConfig, FollowConfig, StreamRunConfig
from metacl.recipes.files import to_json
from metacl.report.display import say
from metacl.report.results import write_results
from metacl.runs.environment import environment
from metacl.runs.files import must_be_new
from metacl.runs.folder import Run
from metacl.runs.following import Following
from metacl.runs.group import make_group, members


def evaluate(argv: list[str]) -> None:
    """The command, from its words on."""
    if not argv or argv[0] in ("-h", "--help"):
        say(evaluate_help())
    elif argv[0] == "--resume":
        if len(argv) != 2:
            raise UserError("--resume takes a folder and nothing else: python evaluate.py --resume FOLDER")
        _finish(Path(argv[1]), [Following.open(place) for place in members(Path(argv[1]))], resumed=True)
    else:
        configs, folder, replaced = parse_evaluate(argv)
        _finish(folder, _begin(configs, folder, replaced))


def _begin(configs: Sequence[FollowConfig], folder: Path, replaced: bool) -> list[Following]:
    """The folders, after all that can fail at once has been tried."""
    if not replaced:
        must_be_new(folder, f"Go on with --resume {folder}, or name another with --out.")
    configs = found(list(configs))
    about = [_checked(config) for config in configs]
    several = len({config.learner_name for config in configs}) > 1
    names = [config.learner_name if several else Path(config.run or "").name for config in configs]
    made = zip(make_group(folder, names), configs, about, strict=True)
    return [Following.create(place, config, environment() | own, replaced) for place, config, own in made]


def _checked(config: FollowConfig) -> dict[str, str]:
    """What the environment notes of the data; raises `UserError` for what cannot be read, drawn or built."""
    if isinstance(config, EpisodesConfig):
        return {"data_fingerprint": check_episodes(config)}
    return {"stream_fingerprint": stream_of(config).fingerprint}


def _finish(folder: Path, runs: list[Following], resumed: bool = False) -> None:
    """Follows what is not followed yet, and reports all of it. One of several that fails does not keep the others."""
    found, failed = list[Result](), list[str]()
    for run in runs:
        try:
            if resumed:
                _check_data(run)
            follow = follow_episodes if isinstance(run.config, EpisodesConfig) else follow_stream
            results = follow(run, folder)
        except UserError as error:
            if len(runs) == 1:
                raise
            say(f"{run.folder.name}: {error}")
            failed.append(run.folder.name)
            continue
        _write(run, results)
        found += results
    if len(runs) > 1 and found:
        about = {"runs": [run.folder.name for run in runs], "config": to_json(runs[0].config), "environment": environment()}
        write_results(found, about, folder, words_of(runs[0].config, named=len({own.learner for own in found}) == 1))
    if failed:
        raise UserError(f"{', '.join(failed)} in {folder} did not come to the end: the lines above say why.")


def _check_data(run: Following) -> None:
    """Raises `UserError` where the data are not those that the evaluation was begun on."""
    before = {name: value for name, value in run.environment().items() if name.endswith("_fingerprint")}
    if before != _checked(run.config):
        raise UserError(f"The data have changed since {run.folder} was begun. Put them back, or start anew.")


def _write(run: Following, results: list[Result]) -> None:
    about: dict[str, Any] = {"config": to_json(run.config), "environment": run.environment()}
    about |= {name: value for name, value in run.environment().items() if name.endswith("_fingerprint")}
    if run.config.run is not None:
        trained = Run.open(Path(run.config.run))
        about |= {"run": trained.folder.name, "checkpoint": run.config.checkpoint or trained.best()}
    write_results(results, about, run.folder, words_of(run.config))


def words_of(config: FollowConfig, named: bool = True) -> str:
    """What was followed, and by whom."""
    source = config.stream.name if isinstance(config, StreamRunConfig) else f"{config.data.name}, meta-{config.split}"
    return f"{learner_in_words(config)} on {source}" if named else source
