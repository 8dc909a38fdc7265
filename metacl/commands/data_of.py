"""The data of a run at its start: the size that its images turned out to have, the weights that make features of them, and
what has to be said of them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from episodes import (
    Benchmark,
    DataConfig,
    SeededStream,
    StreamConfig,
    UserError,
    completed,
    completed_stream,
    load_benchmark,
    scheduled,
    shared_images,
)
from episodes.data.features import remembering
from episodes.data.pool import ClassPool
from episodes.errors import note
from metacl.commands.words import shorter_in_words
from metacl.learners import LearnerConfig
from metacl.recipes.config import EpisodesConfig, FollowConfig, StreamRunConfig, TrainConfig
from metacl.report.display import say
from metacl.runs.folder import Run
from metacl.runs.trained_on import met_before, met_by_backbone


def found_data(data: DataConfig, benchmark: Benchmark) -> DataConfig:
    """The configuration with the size and channels of the images, where these were found from the data, and the weights of
    features."""
    spec = benchmark.train.spec
    return completed(data, spec.x_shape) if spec.x_kind == "image" else remembering(data)


def found_learner(learner: LearnerConfig) -> LearnerConfig:
    """The configuration with the weights of the learner's vision transformer, where it has one."""
    return replace(learner, trunk=learner.trunk.remembering()) if hasattr(learner, "trunk") else learner


def found(configs: list[FollowConfig], shortened: bool = False) -> list[FollowConfig]:
    """The configurations of an evaluation with the size and channels of the images, and the weights of vision transformers.
    Says once what has to be said of the data.

    Arguments:
        shortened: nobody has asked for a number of tasks, so that episodes have as many as there are classes for.

    Raises:
        UserError: the data, or weights, cannot be read.
    """
    done, notes = list[FollowConfig](), dict[str, None]()
    for config in (replace(config, learner=found_learner(config.learner)) for config in configs):
        if isinstance(config, EpisodesConfig):
            benchmark = load_benchmark(config.data, config.vocabulary)
            whole_data = replace(config, data=found_data(config.data, benchmark))
            done.append(_fitting(whole_data, benchmark) if shortened else whole_data)
            met = met_by_backbones(config, benchmark.pools(config.split))
            notes |= dict.fromkeys([*benchmark.shared_images(), *met])
        else:
            stream = config.stream.load()
            whole = completed_stream(config.stream, stream)
            if config.run is not None:
                check_features(Run.open(Path(config.run)), whole)
            order = scheduled(stream, config.schedule)
            tasks = config.length(order.most_tasks)
            done.append(replace(config, stream=whole, tasks=tasks))
            met = met_before(Run.open(Path(config.run)), stream) if config.run is not None else []
            met += met_by_backbones(config, getattr(stream, "pools", ())[:1])
            left = SeededStream(order, config.seeds).left_out(tasks) if stream.most_tasks is not None else ""
            notes |= dict.fromkeys([*shared_images(stream), *met, *[left] * bool(left)])
    for words in notes:
        say(f"Note: {words}")
    return done


def _fitting(config: EpisodesConfig, benchmark: Benchmark) -> EpisodesConfig:
    """The configuration with no more tasks than the meta-split has classes for, which is said where these are fewer."""
    most = config.schedule.most_tasks(getattr(benchmark, config.split).most_tasks)
    if not most or most >= max(config.tasks):
        return config
    note(shorter_in_words(config.split, most, max(config.tasks)))
    return replace(config, tasks=tuple(dict.fromkeys(min(length, most) for length in config.tasks)))


def met_by_backbones(config: TrainConfig | FollowConfig, pools: Iterable[ClassPool]) -> list[str]:
    """Sentences on classes of these pools that the backbone of the features, or of the learner, was trained on."""
    data = getattr(config.stream, "data", DataConfig()) if isinstance(config, StreamRunConfig) else config.data
    names = [data.features, getattr(getattr(config.learner, "trunk", None), "backbone", None)]
    return [words for name in names if name for words in met_by_backbone(name, pools)]


def check_features(run: Run, stream: StreamConfig) -> None:
    """Raises `UserError` where a run and a stream have features that other weights have made, or of other sides."""
    own, asked = run.config.data, getattr(stream, "data", DataConfig())
    for name, what in (("features_weights", "weights"), ("features_size", "images")):
        before, now = getattr(own, name), getattr(asked, name)
        if own.features is not None and asked.features is not None and before != now:
            raise UserError(
                f"The features of {stream.name} are of other {what} ({now}) than those that {run.folder} was meta-trained on "
                f"({before}). Give the same ones: --stream.data.features and --stream.data.features-size."
            )
