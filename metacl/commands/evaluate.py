"""`evaluate.py`: a learner follows held-out episodes or a stream, or goes on where that stopped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from episodes import UserError
from metacl.commands.along_stream import follow_stream, stream_of
from metacl.commands.learner_of import learner_in_words
from metacl.commands.on_episodes import check_episodes, follow_episodes
from metacl.commands.parsing import parse_evaluate
from metacl.commands.words import evaluate_help
from metacl.evaluation.result import Result
from metacl.recipes.config import EpisodesConfig, FollowConfig, StreamRunConfig
from metacl.recipes.files import to_json
from metacl.report.display import say
from metacl.report.results import read_results, write_results
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
        configs, folder = parse_evaluate(argv)
        _finish(folder, _begin(configs, folder))


def _begin(configs: Sequence[FollowConfig], folder: Path) -> list[Following]:
    """The folders, after all that can fail at once has been tried."""
    again = folder.name == "results" and any(folder.parent == _home(config) for config in configs)
    if not again:
        must_be_new(folder, f"Go on with --resume {folder}, or name another with --out.")
    about = [_checked(config) for config in configs]
    places = make_group(folder, [_name(config, configs) for config in configs])
    made = zip(places, configs, about, strict=True)
    return [Following.create(place, config, environment() | own, again) for place, config, own in made]


def _home(config: FollowConfig) -> Path | None:
    """The folder that train.py wrote: of the run, or of the seeds that the run is one of."""
    if config.run is None:
        return None
    run = Path(config.run)
    return run.parent if (run.parent / "runs.json").is_file() else run


def _name(config: FollowConfig, configs: Sequence[FollowConfig]) -> str:
    """What tells one run of a group from the others: the learner, or the folder of the seed of its meta-training."""
    return config.learner_name if len({own.learner_name for own in configs}) > 1 else Path(config.run or "").name


def _checked(config: FollowConfig) -> dict[str, Any]:
    """What the environment notes of the data; raises `UserError` for what cannot be read, drawn or built."""
    if isinstance(config, EpisodesConfig):
        return {"data_fingerprint": check_episodes(config)}
    return {"stream_fingerprint": stream_of(config).fingerprint}


def _finish(folder: Path, runs: list[Following], resumed: bool = False) -> None:
    """Follows what is not followed yet, and reports all of it."""
    found: list[Result] = []
    for run in runs:
        follow_it = follow_episodes if isinstance(run.config, EpisodesConfig) else follow_stream
        done = len(runs) > 1 and resumed and run.finished()
        results = read_results(run.folder) if done else follow_it(run, folder)
        if not done and len(runs) > 1:
            _write(run, results, run.folder)
        found += results
    if len(runs) == 1:
        _write(runs[0], found, folder)
    else:
        about = {"runs": [run.folder.name for run in runs], "config": to_json(runs[0].config), "environment": environment()}
        write_results(found, about, folder, words_of(runs[0].config, named=False))


def _write(run: Following, results: list[Result], folder: Path) -> None:
    about: dict[str, Any] = {"config": to_json(run.config), "environment": run.environment()}
    about |= {name: value for name, value in run.environment().items() if name.endswith("_fingerprint")}
    if run.config.run is not None:
        trained = Run.open(Path(run.config.run))
        about |= {"run": trained.folder.name, "checkpoint": run.config.checkpoint or trained.best()}
    write_results(results, about, folder, words_of(run.config))


def words_of(config: FollowConfig, named: bool = True) -> str:
    """What was followed, and by whom."""
    source = config.stream.name if isinstance(config, StreamRunConfig) else f"{config.data.name}, meta-{config.split}"
    return f"{learner_in_words(config)} on {source}" if named else source
