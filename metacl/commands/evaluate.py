"""`evaluate.py`: a learner follows held-out episodes or a stream, or goes on where that stopped."""

import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from episodes import UserError
from metacl.commands.along_stream import follow_stream, stream_of
from metacl.commands.data_of import found
from metacl.commands.jobs import as_jobs, check_launch
from metacl.commands.learner_of import learner_in_words
from metacl.commands.on_episodes import check_episodes, follow_episodes
from metacl.commands.parse_evaluate import Followed, parse_evaluate
from metacl.commands.parse_resume import parse_resume
from metacl.commands.places import with_data_at
from metacl.commands.words import asks_for_the_first_page, data_in_words, evaluate_help, stream_in_words
from metacl.evaluation.result import Result
from metacl.recipes.config import EpisodesConfig, FollowConfig, StreamRunConfig
from metacl.recipes.files import to_json
from metacl.report.display import say
from metacl.report.results import write_results
from metacl.runs.environment import environment
from metacl.runs.files import is_run, must_be_new
from metacl.runs.folder import Run
from metacl.runs.following import Following, clear
from metacl.runs.group import begin_all, begin_in, members
from metacl.runs.lock import locked


def evaluate(argv: list[str]) -> None:
    """The command, from its words on."""
    if asks_for_the_first_page(argv, 2) and not (argv and is_run(Path(argv[0]))):
        say(evaluate_help())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("An evaluation is one process: leave out torchrun. Several go side by side with --launch local:2.")
    if argv[0] == "--resume":
        asked = parse_resume(argv, "evaluate.py")
        runs = [Following.open(place) for place in members(asked.folder)]
        runs = [Following(run.folder, with_data_at(run.config, asked.data)) for run in runs]
        with locked(asked.folder):
            _finish(asked.folder, runs, asked.launch, asked.data, resumed=True)
    else:
        _start(parse_evaluate(argv))


def _start(asked: Followed) -> None:
    """New evaluations, whose folders are made after all that can fail at once has been tried."""
    configs, folder, replaced = asked.configs, asked.folder, asked.replaced
    check_launch(asked.launch, len(configs))
    if not replaced:
        must_be_new(folder, f"Go on with --resume {folder}, or name another with --out.")
    configs = [_pinned(config) for config in found(configs, shortened=not asked.tasks)]
    about = [environment() | _checked(config) for config in configs]
    several = len({config.learner_name for config in configs}) > 1
    names = [config.learner_name if several else Path(config.run or "").name for config in configs]
    new = list(zip(names, configs, about, strict=True))
    there = folder.is_dir()
    if not there:
        begin_all(folder, new)
    with locked(folder):
        if there and not replaced:
            must_be_new(folder, f"Go on with --resume {folder}, or name another with --out.")
            begin_all(folder, new)
        elif there:
            clear(folder, names)
            begin_in(folder, new)
        runs = [Following.open(place) for place in members(folder)]
        try:
            _finish(folder, runs, asked.launch)
        finally:
            if not replaced and asked.launch is None and all(run.is_empty() for run in runs):
                shutil.rmtree(folder, ignore_errors=True)
                say(f"{folder} is removed: nothing was done in it yet.")


def _pinned(config: FollowConfig) -> FollowConfig:
    """With the checkpoint that is the best one now: a meta-training that still goes on does not change what is followed."""
    if config.run is None or config.checkpoint is not None:
        return config
    return replace(config, checkpoint=Run.open(Path(config.run)).best())


def _checked(config: FollowConfig) -> dict[str, str]:
    """What the environment notes of the data; raises `UserError` for what cannot be read, drawn or built."""
    if isinstance(config, EpisodesConfig):
        return {"data_fingerprint": check_episodes(config)}
    return {"stream_fingerprint": stream_of(config).fingerprint}


def _finish(
    folder: Path, runs: list[Following], where: str | None = None, data: str | None = None, resumed: bool = False
) -> None:
    """Follows what is not followed yet, here or as jobs, and reports all of it. One of several that fails does not keep the
    others."""
    failed = as_jobs(where, "evaluate.py", [run.folder for run in runs], data) if where else []
    found = list[Result]()
    for run in (run for run in runs if run.folder.name not in failed):
        try:
            if resumed:
                _check_data(run)
            follow = follow_episodes if isinstance(run.config, EpisodesConfig) else follow_stream
            with nullcontext() if run.folder == folder else locked(run.folder):
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
        about |= {"run": Path(run.config.run).name, "checkpoint": run.config.checkpoint}
    write_results(results, about, run.folder, words_of(run.config))


def words_of(config: FollowConfig, named: bool = True) -> str:
    """What was followed, and by whom."""
    if isinstance(config, StreamRunConfig):
        source = stream_in_words(config.stream, config.schedule)
    else:
        source = f"{data_in_words(config.data, config.schedule)}, meta-{config.split}"
    return f"{learner_in_words(config)} on {source}" if named else source
