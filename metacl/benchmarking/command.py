"""What `benchmark.py` does, from the words of its command line on."""

from collections.abc import Sequence
from typing import Annotated

import torch
import tyro
from rich.text import Text
from tyro.conf import subcommand

from metacl.benchmarking.attention import AttentionOptions, attention
from metacl.benchmarking.compare import CompareOptions, compare, comparison_table
from metacl.benchmarking.episodes import EpisodesOptions, episodes
from metacl.benchmarking.learners import LearnersOptions, learners
from metacl.benchmarking.measure import Result
from metacl.benchmarking.report import result_lines, result_table, write_result
from metacl.benchmarking.vision import VisionOptions, vision
from metacl.report.display import console, show_table

DESCRIPTION = """Measure what things cost on this machine: time as median and spread of interleaved repetitions, peak memory,
and the ratio to row 0, the form that one finds in published code. `benchmark.py SUBJECT --help` lists a subject's options;
`benchmark.py --compare FILE FILE` sets two results side by side."""

Measured = AttentionOptions | LearnersOptions | EpisodesOptions | VisionOptions
Subject = (
    Annotated[AttentionOptions, subcommand("attention", prefix_name=False)]
    | Annotated[LearnersOptions, subcommand("learners", prefix_name=False)]
    | Annotated[EpisodesOptions, subcommand("episodes", prefix_name=False)]
    | Annotated[VisionOptions, subcommand("vision", prefix_name=False)]
    | Annotated[CompareOptions, subcommand("--compare", prefix_name=False)]
)


def benchmark(argv: Sequence[str]) -> None:
    """Measures one subject, or sets two results side by side: the words of the command line after its name."""
    options: Measured | CompareOptions
    options = tyro.cli(Subject, args=list(argv) or ["--help"], prog="benchmark.py", description=DESCRIPTION)
    if isinstance(options, CompareOptions):
        _compare(options)
    else:
        _measure(options)


def _measure(options: Measured) -> None:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    result = _measured(options)
    show_table(result_table(result))
    for line in result_lines(result):
        console.print(line, soft_wrap=True)
    if options.out is not None:
        console.print(Text("Written: " + ", ".join(map(str, write_result(result, options.out)))), soft_wrap=True)


def _compare(options: CompareOptions) -> None:
    comparison = compare(options.files)
    show_table(comparison_table(comparison))
    for line in comparison.lines:
        console.print(line, soft_wrap=True)


def _measured(options: Measured) -> Result:
    if isinstance(options, AttentionOptions):
        return attention(options)
    if isinstance(options, LearnersOptions):
        return learners(options)
    return vision(options) if isinstance(options, VisionOptions) else episodes(options)
