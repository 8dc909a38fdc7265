"""The subject `learners`: training steps, learning and predicting."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from episodes import DataConfig, Episode, EpisodeGenerator, UserError, load_benchmark
from metacl.benchmarking.episodes import DataPath, DataSet, DataSize, drawing_case
from metacl.benchmarking.measure import Case, Json, Result, Row, calls, measure, progress
from metacl.benchmarking.options import Options, provenance
from metacl.benchmarking.textbook import EPISODE_FORMS, textbook_copy, textbook_loss
from metacl.benchmarking.textbook_oml import textbook_oml_loss
from metacl.learners import Learner, MetaLoss, SequenceConfig, state_bytes
from metacl.learners.gradient.anml import ANMLConfig
from metacl.learners.gradient.oml import OMLConfig
from metacl.learners.precision import fast_bf16
from metacl.learners.protocol import State
from metacl.recipes.config import TrainConfig
from metacl.recipes.files import to_json
from metacl.recipes.presets import recipe_for
from metacl.training.meta_training import make_optimiser

STEP = "training step"
DRAWING = "drawing the episodes"
TEXTBOOK = "textbook, fp32"
REMATERIALISED = 10
"""Steps of a segment."""


@dataclass(frozen=True, kw_only=True)
class LearnersOptions(Options):
    """Whole learners on episodes of a data set: a meta-training step (forward, backward, clipping, optimiser), learning the
    stream from nothing, and predicting all queries from the state.

    Row 0 of a step is the textbook form where there is one, in fp32, images channels first: of a transformer, stream and
    queries in one sequence under one masked matrix; of oml, a loop over the stream with torch.autograd and a weight for every
    episode and step. It has the same weights, and is checked against the learner first. anml has a row with
    rematerialisation; oml keeps too little for that to matter. Drawing the episodes of a step is timed beside it.

    Example: python benchmark.py learners omniglot --learner transformer --recipe published --batch-size 4
    """

    dataset: DataSet = "glyphs"
    """The data set: a named benchmark, a folder or a hub name, as in train.py."""
    data_path: DataPath = None
    """A local copy of a named benchmark. None: where its own files usually are."""
    data_size: DataSize = None
    """Side of the images in pixels. None: that of the data set."""
    learner: tuple[str, ...] = ("transformer",)
    """The learners that are measured: names as in train.py."""
    recipe: str | None = None
    """Size of the learners. None: the first recipe of each."""
    tasks: Annotated[int | None, tyro.conf.arg(name="episodes.tasks")] = None
    """Tasks in a stream. None: as many as in the recipe."""
    shots: Annotated[int | None, tyro.conf.arg(name="episodes.shots")] = None
    """Stream examples of each task. None: as many as in the recipe."""
    queries: Annotated[int | None, tyro.conf.arg(name="episodes.queries")] = None
    """Queries of each task. None: as many as in the recipe."""
    batch_size: int | None = None
    """Episodes in a step (B). None: as many as in the recipe."""
    precision: tuple[Literal["auto", "fp32", "bf16"], ...] = ("auto",)
    """Precisions, one row for each. `auto`: bf16 where the device multiplies it fast, else fp32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learner or not self.precision:
            raise UserError("--learner and --precision each need at least one value.")


def learners(options: LearnersOptions) -> Result:
    """Measures each learner."""
    rows: list[Row] = []
    figures: dict[str, float] = {}
    about: Json = {"options": provenance(options), "configurations": {}}
    for name in options.learner:
        config = configured(name, options)
        benchmark = load_benchmark(config.data, config.episodes.symbols)
        generator = benchmark.generator("train", config.episodes, config.seed)
        own = measure_learner(config, generator, options)
        rows += own
        figures |= _drawing_shares(name, own)
        about["configurations"][name] = to_json(config)
        about["data_fingerprint"] = benchmark.fingerprint
    return Result("learners", "episodes", rows, figures, about)


def configured(name: str, options: LearnersOptions) -> TrainConfig:
    """The recipe with what the options change."""
    config = recipe_for(name, options.recipe, DataConfig(options.dataset, options.data_path, options.data_size))
    asked = {"tasks": options.tasks, "shots": options.shots, "queries": options.queries}
    given: dict[str, Any] = {part: value for part, value in asked.items() if value is not None}
    shape = replace(config.episodes, **given)
    return replace(config, episodes=shape, batch_size=config.batch_size if options.batch_size is None else options.batch_size)


def measure_learner(config: TrainConfig, generator: EpisodeGenerator, options: LearnersOptions) -> list[Row]:
    """The training step, beside it the drawing of its episodes; then learning and predicting."""
    device, precisions = options.torch_device(), _precisions(options)
    episode = generator.batch(range(config.batch_size)).to(device)
    textbook = _textbook_cases(config, generator, episode)
    steps = [case for precision in precisions for case in _step_cases(config, generator, episode, precision)]
    drawing = drawing_case(_labels(config, STEP, DRAWING), generator, config.batch_size)
    used = [_use_cases(config, generator, episode, precision) for precision in precisions]
    units = config.batch_size * (len(textbook) + len(steps) + 1 + 2 * len(used))
    with progress(config.learner_name, units * calls(options.repeats)) as tick:
        rows = measure([*textbook, *steps, drawing], options.repeats, device, tick, row_0=bool(textbook))
        for cases in zip(*used, strict=True):
            rows += measure(cases, options.repeats, device, tick)
    return rows


def _textbook_cases(config: TrainConfig, generator: EpisodeGenerator, episode: Episode) -> list[Case]:
    """Row 0, where there is a textbook form: checked, in fp32."""
    textbook = textbook_of(config)
    if textbook is None:
        return []
    device = episode.stream.x.device
    check_textbook(config, generator, device)
    plain = textbook_copy(_build(config, generator).to(device))
    optimiser = torch.optim.AdamW(plain.parameters(), config.optimiser.rate, weight_decay=config.optimiser.weight_decay)
    step = training_step(plain, lambda e: textbook(plain, e), optimiser, config, episode, "fp32")
    return [_case(config, STEP, TEXTBOOK, step)]


def textbook_of(config: TrainConfig) -> Callable[[Any, Episode], MetaLoss] | None:
    """The meta-loss of a learner as one finds it in published code."""
    own = config.learner
    if isinstance(own, OMLConfig):
        return textbook_oml_loss
    if not isinstance(own, SequenceConfig) or own.attention not in EPISODE_FORMS or own.options or own.distributed:
        return None
    return textbook_loss


def _step_cases(config: TrainConfig, generator: EpisodeGenerator, episode: Episode, precision: str) -> list[Case]:
    forms = {f"metacl, {precision}": config}
    if isinstance(config.learner, ANMLConfig):
        leaner = replace(config.learner, rematerialise=REMATERIALISED)
        forms[f"metacl, {precision}, rematerialised"] = replace(config, learner=leaner)
    cases = []
    for form, own in forms.items():
        learner = _build(own, generator).to(episode.stream.x.device)
        optimiser = make_optimiser(learner, own.optimiser)
        step = training_step(learner, learner.meta_loss, optimiser, own, episode, precision)
        cases.append(_case(own, STEP, form, step))
    return cases


def _use_cases(config: TrainConfig, generator: EpisodeGenerator, episode: Episode, precision: str) -> tuple[Case, Case]:
    """Learning the stream, and predicting the queries."""
    learner = _build(config, generator).to(episode.stream.x.device).eval()
    autocast = partial(torch.autocast, episode.stream.x.device.type, torch.bfloat16, enabled=precision == "bf16")

    def learn() -> State:
        with torch.no_grad(), autocast():
            return learner.learn(learner.init_state(config.batch_size), episode.stream)

    state = learn()

    def predict() -> Tensor:
        with torch.no_grad(), autocast():
            return learner.predict(state, episode.queries.x)

    extra, form = {"state_bytes": state_bytes(state)}, f"metacl, {precision}"
    learning, predicting = (_case(config, name, form, call, extra) for name, call in (("learn", learn), ("predict", predict)))
    return learning, predicting


def training_step(
    learner: Learner,
    loss: Callable[[Episode], MetaLoss],
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    episode: Episode,
    precision: str,
) -> Callable[[], None]:
    """A step as in meta-training. Gradients are dropped at its end, not before, so that each call starts alike."""
    learner.train()

    def step() -> None:
        with torch.autocast(episode.stream.x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            result = loss(episode)
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), config.optimiser.clip or math.inf)
        optimiser.step()
        optimiser.zero_grad()

    return step


def check_textbook(config: TrainConfig, generator: EpisodeGenerator, device: torch.device) -> None:
    """The textbook form and the learner have the same loss, with the same weights, in fp32, without dropout.

    Raises:
        RuntimeError: they differ.
    """
    if isinstance(config.learner, SequenceConfig):
        config = replace(config, learner=replace(config.learner, dropout=0.0, attention_dropout=0.0))
    learner = _build(config, generator).to(device).train()
    textbook = textbook_of(config)
    assert textbook is not None
    episode = generator.batch([0]).to(device)
    ours, theirs = learner.meta_loss(episode).loss.item(), textbook(textbook_copy(learner), episode).loss.item()
    if not math.isclose(ours, theirs, rel_tol=1e-3):
        raise RuntimeError(f"{config.learner_name}: loss {ours:.6f}, but {theirs:.6f} in its textbook form. Nothing was timed.")


def _build(config: TrainConfig, generator: EpisodeGenerator) -> Learner:
    torch.manual_seed(config.seed)
    return config.learner.build(generator.family.spec)


def _case(config: TrainConfig, name: str, form: str, call: Callable[[], object], extra: dict[str, int] | None = None) -> Case:
    return Case(_labels(config, name, form), call, config.batch_size, extra=extra or {})


def _labels(config: TrainConfig, name: str, form: str) -> dict[str, str | int]:
    return {"learner": config.learner_name, "pass": name, "form": form}


def _precisions(options: LearnersOptions) -> list[str]:
    """Those that are asked, each once."""
    auto = "bf16" if fast_bf16(options.torch_device().type) else "fp32"
    return list(dict.fromkeys(auto if asked == "auto" else asked for asked in options.precision))


def _drawing_shares(name: str, rows: list[Row]) -> dict[str, float]:
    """The time for drawing a step's episodes as a share of the step."""
    drawing = next(row for row in rows if row.labels["form"] == DRAWING)
    steps = [row for row in rows if row.labels["pass"] == STEP and str(row.labels["form"]).startswith("metacl")]
    return {f"drawing / training step: {name}, {row.labels['form']}": drawing.median / row.median for row in steps}
