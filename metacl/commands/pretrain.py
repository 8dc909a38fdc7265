"""`train.py pretrain`: trains a vision transformer from nothing, or goes on where that stopped."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from episodes import BENCHMARKS, DataConfig, UserError, completed, load_benchmark
from episodes.data.halves import CIFAR100, MNIST, TINY_IMAGENET, cut_pool, halves
from episodes.data.hf import is_hub_name
from episodes.data.identity import images_in_both
from episodes.data.places import user_path
from episodes.data.pool import ClassPool
from episodes.errors import unknown
from metacl.commands.options import NamedData, offered, parse, plain
from metacl.commands.parse_resume import Resumed
from metacl.commands.places import with_data_at
from metacl.commands.words import data_in_words, new_folder, split_words, take
from metacl.recipes.pretraining import SHAPE, PretrainConfig, ShapeConfig, shape_named
from metacl.report.display import say
from metacl.runs.environment import environment, unlike
from metacl.runs.files import must_be_new
from metacl.runs.group import begin_all
from metacl.runs.lock import locked
from metacl.runs.pretraining import PretrainingRun
from metacl.runs.signals import exit_status
from metacl.training.meta_training import make_accelerator
from metacl.training.pretraining import pretrain
from metacl.training.processes import machine

WORDS = """Train a vision transformer on the labels of a data set, from nothing: a backbone of your own. DATA is a folder, a
file or a hub name, of which all classes are taken (its test split is held out, or else a sixth of the images of each class), or
a named benchmark, of which the classes of meta-train are: its meta-test stays new. Shape: {}; --shape NAME takes another."""
HUB_IMAGES = {own.hub: own for own in (CIFAR100, MNIST, TINY_IMAGENET)}
"""The usual columns of data sets of the hub."""


@dataclass(frozen=True)
class PretrainingData(NamedData):
    """The data set, without the options that mean nothing here."""

    size: int | None = None
    """Side of the images in pixels, to which they are resized, at most 1024. None: the usual one of a named benchmark, and for
    any other data set what the transformer takes."""
    source: tyro.conf.Suppress[str | None] = None
    split: tyro.conf.Suppress[str | None] = None
    also: tyro.conf.Suppress[tuple[str, ...]] = ()
    target: tyro.conf.Suppress[tuple[str, ...]] = ()
    features: tyro.conf.Suppress[str | None] = None
    features_size: tyro.conf.Suppress[int | None] = None


def pretrain_backbone(argv: list[str]) -> None:
    """The command, from its words after `pretrain` on."""
    _one_process()
    config, folder = parse_pretrain(argv)
    advice = f"Go on with --resume {folder}, or name another folder with --run."
    must_be_new(folder, advice)
    train, held_out = pools_of(config.data, config.shape)
    config = replace(config, data=completed(config.data, train.x_shape))
    about = environment() | machine(make_accelerator(config.precision)) | {"data_fingerprint": _fingerprint(train, held_out)}
    new = [("", config, about)]
    if not (there := folder.is_dir()):
        begin_all(folder, new)
    with locked(folder):
        if there:
            must_be_new(folder, advice)
            begin_all(folder, new)
        run = PretrainingRun.open(folder)
        try:
            _pretrain(run, train, held_out)
        finally:
            if run.is_empty():
                shutil.rmtree(folder, ignore_errors=True)
                say(f"{folder} is removed: nothing was done in it yet.")


def resume_pretraining(asked: Resumed) -> None:
    """From its newest checkpoint, or anew where it has none."""
    _one_process()
    if asked.launch:
        raise UserError("--launch is for several runs, and a pre-training is one. Leave it out.")
    run = PretrainingRun.open(asked.folder)
    run = PretrainingRun(run.folder, with_data_at(run.config, asked.data))
    with locked(run.folder):
        pools = pools_of(run.config.data, run.config.shape)
        run.check_data(_fingerprint(*pools))
        _pretrain(run, *pools)


def parse_pretrain(argv: list[str]) -> tuple[PretrainConfig, Path]:
    """DATA [--shape NAME] [options] -> the configuration, and the folder of the run.

    Raises:
        UserError: no data set, or several, are named, or an option is wrong.
    """
    names, options = split_words(argv)
    if len(names) != 1 and not {"-h", "--help"} & set(options):
        raise UserError("Name the data set, then options: python train.py pretrain glyphs --no-flip. See --help.")
    name = names[0] if names else "glyphs"
    shape = take(options, "--shape") or SHAPE
    kind: Any = offered(PretrainConfig, data=PretrainingData)

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[kind, tyro.conf.arg(name="")]
        run: Path
        """Folder of the run; an existing one is never overwritten."""

    default = Arguments(kind(PretrainingData(name), shape_named(shape)), new_folder("pretrain", name))
    parsed = parse(default, options, f"train.py pretrain {' '.join(names) or 'DATA'}", WORDS.format(shape))
    return plain(PretrainConfig, parsed.config), parsed.run


def pools_of(data: DataConfig, shape: ShapeConfig) -> tuple[ClassPool, ClassPool]:
    """The images to learn from, and those of the same classes that are held out.

    Raises:
        UserError: there is no such data set, it has no images or one class only, or the two have other classes.
    """
    if data.name in BENCHMARKS:
        pools = load_benchmark(data, 1).pools("train")
        train, held_out = cut_pool(pools[0]) if pools else (None, None)
    else:
        if data.path is None and not is_hub_name(data.name) and not user_path(data.name).exists():
            raise UserError(
                f"{unknown('data set', data.name, BENCHMARKS)} Or give a folder, a file, or a hub name like owner/data-set."
            )
        read = replace(data, size=data.size or shape.side)
        train, held_out = halves(read, HUB_IMAGES.get(data.name, MNIST))
    if train is None or held_out is None or train.x_kind != "image":
        raise UserError(f"A vision transformer learns from images of classes, and {data.name} has none.")
    if train.names != held_out.names:
        other = sorted(set(train.names) ^ set(held_out.names))
        raise UserError(
            f"{train.source} and {held_out.source} have other classes: {other[0]} is in one of them only. Leave it out: "
            "--data.without NAME."
        )
    if len(train.names) < 2:
        raise UserError(f"{train.source} has one class: there is nothing to tell apart. Take another data set.")
    return train, held_out


def _pretrain(run: PretrainingRun, train: ClassPool, held_out: ClassPool) -> None:
    config, accelerator = run.config, make_accelerator(run.config.precision)
    begun = bool(run.steps())
    if begun and (words := unlike(run.folder, environment() | machine(accelerator))):
        say(words)
    if words := images_in_both(train, held_out):
        say(f"Note: {words}")
    shape, images = config.shape, f"{train.counts.sum()} images and {held_out.counts.sum()} held out"
    say(
        f"A transformer {shape.width} wide and {shape.depth} deep, {shape.patch}-pixel patches of {shape.side}-pixel images, "
        f"on {data_in_words(config.data)} ({len(train.names)} classes, {images}), {config.epochs} epochs, in {run.folder}"
    )
    if signal := pretrain(run, train, held_out, accelerator, begun):
        say(f"Stopped and saved at step {run.last()}. Go on with: python train.py --resume {run.folder}")
        raise SystemExit(exit_status(signal))
    say(
        f"Done. The backbone is in {run.backbone}. Now: --data.features {run.folder} for features that stay as they are, or "
        f"--learner.trunk.backbone {run.folder} --learner.trunk.side {shape.side} for learners on a transformer."
    )


def _fingerprint(train: ClassPool, held_out: ClassPool) -> str:
    return f"{train.fingerprint}/{held_out.fingerprint}"


def _one_process() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("A pre-training is one process: leave out torchrun.")
