"""The words of a command line: what comes before the options, and help that is made from the tables of names."""

import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from episodes import BENCHMARKS, STREAMS, DataConfig, ScheduleConfig, StreamConfig, StreamSchedule, UserError
from metacl.recipes.presets import LEARNERS, META_TRAINED, TRAINED

TRAIN_HELP = """\
Meta-train a continual learner on episodes made from a data set.

    python train.py DATA LEARNER [options]      start a run
    python train.py DATA LEARNER --help         every option, with its default
    python train.py --resume RUN                go on where a run stopped (or with its data in --data.path)
    python train.py pretrain DATA [options]     train a vision transformer on labels: a backbone of your own for learners

DATA     {benchmarks};
         a folder (a sub-folder of images for each class, images with a table of their labels, or parquet files), a zip or tar
         archive of it; a parquet, arrow, csv, tsv, jsonl or npz file; or a Hugging Face hub name like owner/data-set.
         --data.path names a local copy of a named one.
LEARNER  each with a size: --recipe small (the default) or another that is named here
{meta_trained}

Examples
    python train.py glyphs transformer
    python train.py sine linear-transformer --steps 1000
    python train.py recall linear-transformer --learner.attention delta --episodes.tasks 64
    python train.py omniglot transformer --episodes.tasks 20 --steps 5000 --seeds 0 1 2 --run runs/omniglot-20
    python train.py path/to/images pn --data.size 32
"""

EVALUATE_HELP = """\
Follow tasks with a learner, and ask it questions in between.

    python evaluate.py RUN [options]                    a meta-trained learner on held-out episodes
    python evaluate.py RUN DATA [options]               the same on another data set than it was meta-trained on
    python evaluate.py RUN STREAM [options]             the same learner along a stream, endless or to its end
    python evaluate.py DATA LEARNER ... [options]       learners that start from nothing, on held-out episodes
    python evaluate.py STREAM LEARNER ... [options]     the same along a stream
    python evaluate.py ... --help                       every option, with its default
    python evaluate.py --resume FOLDER                  go on where an evaluation stopped (or with its data in --data.path)
    --recipe paper                                      the size of online, replay and offline

RUN      the folder that train.py wrote
DATA     {benchmarks};
         a folder of images; or a Hugging Face hub name
STREAM   {streams}
         (slowly-changing-regression is followed as a stream; it is DATA for train.py)
LEARNER  one, or several to be compared; those that are meta-trained first are listed by python train.py
{trained}

Examples
    python evaluate.py runs/demo --tasks 5 20
    python evaluate.py runs/demo omniglot --tasks 5 20
    python evaluate.py omniglot bp er knn
    python evaluate.py slowly-changing-regression query-only bp --tasks 100 --seeds 0 1 2
    python evaluate.py permuted-mnist bp --rates 1e-4 1e-3 1e-2
    python evaluate.py split-cifar100 ncm ranpac --stream.data.features efficientnet-lite0 --seeds 0 1 2
"""


def train_help() -> str:
    meta = _listed((name, f"{LEARNERS[name].about} ({', '.join(LEARNERS[name].meta)})") for name in META_TRAINED)
    return TRAIN_HELP.format(benchmarks=", ".join(BENCHMARKS), meta_trained=meta)


def evaluate_help() -> str:
    trained = _listed((name, LEARNERS[name].about) for name in TRAINED)
    return EVALUATE_HELP.format(benchmarks=", ".join(BENCHMARKS), streams=", ".join(STREAMS), trained=trained)


def asks_for_the_first_page(argv: list[str], needed: int) -> bool:
    """Whether there are no words, or help is asked before the `needed` names stand there on which the options depend."""
    names, options = split_words(argv)
    return not argv or (len(names) < needed and bool({"-h", "--help"} & set(options)))


def split_words(argv: list[str]) -> tuple[list[str], list[str]]:
    """The names that come first, and the options after them."""
    number = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    return argv[:number], argv[number:]


def take(words: list[str], option: str) -> str | None:
    """Removes `option VALUE` (or option=VALUE) from `words`; returns the value."""
    for i, word in enumerate(words):
        if word.startswith(option + "="):
            return words.pop(i).split("=", 1)[1]
        if word == option:
            if i + 1 == len(words) or words[i + 1].startswith("-"):
                raise UserError(f"{option} needs a value.")
            words.pop(i)
            return words.pop(i)
    return None


def data_in_words(data: DataConfig, schedule: ScheduleConfig | None = None) -> str:
    """The name of a data set, of a folder its last part; those that join it, and its features; and the schedule of its episodes
    where it is not one class after another."""
    name = Path(data.name).name if Path(data.name).is_absolute() else data.name
    also = [f"with {' and '.join(Path(word.partition('=')[0]).name for word in data.also)}"] if data.also else []
    also += [f"target {', '.join(data.target)}"] if data.target else []
    also += [f"{Path(data.features).name} features"] if data.features else []
    also += [words] if schedule is not None and (words := schedule.words()) else []
    return f"{name} ({', '.join(also)})" if also else name


def stream_in_words(stream: StreamConfig, schedule: StreamSchedule) -> str:
    """The name of a stream; that of its data where they are not its own, or are features; and its schedule where it is not one
    task after another."""
    name = _stream_and_data(stream)
    return f"{name} ({words})" if (words := schedule.words()) else name


def _stream_and_data(stream: StreamConfig) -> str:
    data, own = (getattr(config, "data", None) for config in (stream, STREAMS[stream.name].config))
    if data is not None and (sets := getattr(stream, "sets", ())):
        data = replace(data, name=" + ".join(Path(name).name if Path(name).is_absolute() else name for name in sets))
    if data is None or own is None or (data.name == own.name and data.features is None):
        return stream.name
    return f"{stream.name} of {data_in_words(data)}"


def shorter_in_words(split: str, most: int, asked: int) -> str:
    """That the streams of a meta-split have fewer tasks than are usual."""
    return f"Meta-{split} has classes for {most} task{'s' * (most != 1)}, not for {asked}: its streams have {most}."


def new_folder(*names: str) -> Path:
    """Where a run goes that is given no folder."""
    return Path("runs") / f"{'-'.join(Path(name).name for name in names)}-{time.strftime('%Y%m%d-%H%M%S')}"


def recipe_words(recipe: str | None, recipes: Collection[str]) -> str:
    taken = recipe or next(iter(recipes))
    others = [name for name in recipes if name != taken]
    return f"Recipe: {taken}." + (f" Others, with --recipe: {', '.join(others)}." if others else "")


def _listed(lines: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"         {name:19} {about}" for name, about in lines)
