"""Following a stream: all seeds side by side, with checkpoints from which it goes on."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from episodes import SeededStream, Stream, UserError, scheduled
from metacl.commands.learner_of import learner_in_words, learner_of
from metacl.commands.words import stream_in_words
from metacl.evaluation.cost import compute
from metacl.evaluation.curves import curves
from metacl.evaluation.follow import check_length, follow
from metacl.evaluation.layers import layers, layers_json
from metacl.evaluation.rates import RateChoice, along_stream, in_words
from metacl.evaluation.result import (
    Result,
    chances,
    curve_fields,
    drift_fields,
    incremental_fields,
    known_matrix,
    matrix_measures,
    whole_matrix,
)
from metacl.learners import Learner, State, state_bytes
from metacl.recipes.config import StreamRunConfig
from metacl.report.display import bar, say
from metacl.runs.folder import Run
from metacl.runs.following import Following
from metacl.runs.signals import exit_status, stops_noted


def stream_of(config: StreamRunConfig) -> Stream:
    """The stream.

    Raises:
        UserError: it cannot be read, has fewer tasks than are asked, or the learner cannot learn from its examples.
    """
    stream = scheduled(config.stream.load(), config.schedule)
    check_length(SeededStream(stream, config.seeds), config.tasks)
    learner_of(config, stream.spec)
    return stream


def follow_stream(run: Following, whole: Path) -> list[Result]:
    """The one result. Goes on after the last checkpoint."""
    config = run.config
    assert isinstance(config, StreamRunConfig)
    stream = stream_of(config)
    choice = _rate(run, config, stream) if config.rates else None
    rate = None if choice is None else choice.rate
    learner = learner_of(config, stream.spec, config.seeds[0], rate).to(PartialState().device)
    state, source = _follow(run, config, learner, stream, whole), SeededStream(stream, config.seeds)
    cost = compute(learner, state, source, config.arrival.block)
    if len(records := run.records()) != (tasks := config.length(stream.most_tasks)):
        raise UserError(
            f"{run.folder} has the records of {len(records)} tasks, not of {tasks}: somebody else has changed it. "
            f"Go on with: python evaluate.py --resume {whole}"
        )
    return [_result(config, records, cost, state_bytes(state), choice)]


def _follow(run: Following, config: StreamRunConfig, learner: Learner, stream: Stream, whole: Path) -> State:
    """The state at the end."""
    first, state = run.load(learner)
    state = learner.start(config.seeds) if state is None else state
    words = f"{learner_in_words(config)} on {stream_in_words(config.stream, config.schedule)}"
    tasks = config.length(stream.most_tasks)
    if first:
        say(f"{first} tasks are done." + f" Task {first + 1} is learnt from its beginning." * (first < tasks))
    say(f"{words}, {tasks} tasks, seeds {', '.join(map(str, config.seeds))}, in {run.folder}")
    source = SeededStream(stream, config.seeds)
    with bar(words) as progress, stops_noted() as signals:
        shown, index = progress.add_task("", total=tasks, completed=first, now="tasks"), first
        try:
            steps = follow(learner, source, config.questions, state, first, tasks, config.arrival, kept=run.features)
            for state, record in steps:
                index = record["task"] + 1
                run.log(dict(record))
                progress.update(shown, completed=index, now=_now(dict(record)))
                if index % config.save_every == 0 or index == tasks or signals:
                    run.save(index, state)
                if signals and index < tasks:
                    say(f"Stopped and saved after task {index}. Go on with: python evaluate.py --resume {whole}")
                    raise SystemExit(exit_status(signals[0]))
        except KeyboardInterrupt:
            say(
                f"Stopped in task {index + 1}, of which nothing is kept: it will be learnt from its beginning. "
                f"Go on from the last checkpoint with: python evaluate.py --resume {whole}"
            )
            raise
    return state


def _result(
    config: StreamRunConfig, records: list[dict[str, Any]], cost: dict[str, float], size: int, choice: RateChoice | None
) -> Result:
    tasks = len(records)
    block = max(1, min(100, tasks // 10))
    scored = "accuracy" if any("accuracy" in record.get(part, {}) for record in records for part in _PARTS) else "loss"
    measured: dict[str, Any] = {}
    if any("matrix" in record for record in records):
        rows = len(config.seeds)
        known, scores_RTT = known_matrix(records, rows), whole_matrix(records, scored, rows)
        measured = matrix_measures(scores_RTT, scored == "accuracy", known)
        if scored == "accuracy":
            measured |= {"among": config.questions.among, "incremental": incremental_fields(records, scores_RTT)}
    return Result(
        learner_in_words(config),
        stream_in_words(config.stream, config.schedule),
        tasks,
        "seeds",
        len(config.seeds),
        "accuracy" if scored == "accuracy" else "mse",
        run_seed=None if config.run is None else Run.open(Path(config.run)).config.seed,
        state_bytes=size,
        chance=chances(records),
        rates=None if choice is None else asdict(choice),
        compute=cost,
        seconds_a_task=float(np.median([record["seconds"] for record in records])),
        **measured,
        **drift_fields(records),
        **curve_fields(curves(records, together=scored == "accuracy"), block),
        modules=layers_json(layers(records)),
    )


_PARTS = ("prequential", "forward", "matrix")


def _rate(run: Following, config: StreamRunConfig, stream: Stream) -> RateChoice:
    """The best of the rates on another stream, found once and noted in rates.json."""
    if "stream" in (noted := run.rates()):
        choice = RateChoice(**noted["stream"])
    elif len(rates := sorted(set(config.rates))) == 1:
        return RateChoice(rates[0], "", {})
    else:
        first = replace(config.learner, rate=rates[0])
        learner = first.build(stream.spec).to(PartialState().device)
        with bar("learning rates") as progress:
            task = progress.add_task("", total=config.sweep_tasks, now="tasks")
            choice = along_stream(
                learner,
                rates,
                stream,
                config.seeds[0],
                config.sweep_tasks,
                config.questions,
                config.arrival,
                lambda: progress.update(task, advance=1),
            )
        run.note_rate("stream", asdict(choice))
    say(f"Learning rate: {in_words(choice)}, on another stream.")
    return choice


def _now(record: dict[str, Any]) -> str:
    """The latest scores, in words."""
    found = record.get("forward") or record.get("together") or {}
    return "  ".join(["tasks", *(f"{name} {float(values.mean()):.4f}" for name, values in found.items())])
