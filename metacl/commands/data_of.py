"""The data of a run at its start: the size that its images turned out to have, and what has to be said of them."""

from dataclasses import replace
from pathlib import Path

from episodes import Benchmark, DataConfig, completed, completed_stream, load_benchmark, shared_images
from metacl.recipes.config import EpisodesConfig, FollowConfig
from metacl.report.display import say
from metacl.runs.folder import Run
from metacl.runs.trained_on import met_before


def found_data(data: DataConfig, benchmark: Benchmark) -> DataConfig:
    """The configuration with the size and channels of the images, where these were found from the data."""
    spec = benchmark.train.spec
    return completed(data, spec.x_shape) if spec.x_kind == "image" else data


def found(configs: list[FollowConfig]) -> list[FollowConfig]:
    """The configurations of an evaluation with the size and channels of the images. Says once what has to be said of the data.

    Raises:
        UserError: the data cannot be read.
    """
    done, notes = list[FollowConfig](), dict[str, None]()
    for config in configs:
        if isinstance(config, EpisodesConfig):
            benchmark = load_benchmark(config.data, config.vocabulary)
            done.append(replace(config, data=found_data(config.data, benchmark)))
            notes |= dict.fromkeys(benchmark.shared_images())
        else:
            stream = config.stream.load()
            done.append(replace(config, stream=completed_stream(config.stream, stream)))
            met = met_before(Run.open(Path(config.run)), stream) if config.run is not None else []
            notes |= dict.fromkeys([*shared_images(stream), *met])
    for words in notes:
        say(f"Note: {words}")
    return done
