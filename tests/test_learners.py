"""Learners: the promises of the protocol, the checker that holds them to it, and each family against its plain form."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import pytest
import torch
from einops import rearrange, reduce
from tiny import ENCODER, IMAGES, VECTORS, prototypes, sequence, sequence_config, without_learn2learn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from episodes import Episode, EpisodeSpec, Examples, UserError
from metacl.attention import ATTENTION
from metacl.evaluation.check import check_learner, random_episode
from metacl.learners import Learner, MetaLoss, PrototypesConfig, query_loss, query_score, state_bytes, task_parts
from metacl.learners.blocks import sinusoids
from metacl.learners.sequence import SequenceLearner
from metacl.learners.state import load_state, save_state
from metacl.learners.symbols import SYMBOLS
from metacl.learners.trained.finetune import FinetuneConfig
from metacl.recipes.presets import LEARNERS, META_TRAINED

COLOUR = EpisodeSpec("image", (3, 9, 7), "cross_entropy", symbols=5)
LABELLED_VECTORS = EpisodeSpec("vector", (6,), "cross_entropy", symbols=4)
MATRICES = EpisodeSpec("vector", (4,), "mse", y_shape=(2, 3))
CHOICES = [("softmax", "linear"), ("paired", "interleaved"), (True, False), ("none", "sinusoidal"), ("random", "learned")]
HALF = [own for own in itertools.product(*CHOICES) if sum(c.index(o) for c, o in zip(CHOICES, own, strict=True)) % 2 == 0]
"""The half of all combinations in which any four of the five options still meet in every way."""
OPTIONS = [
    {"attention": attention, "layout": layout, "norm": norm, "positions": positions, "symbols": symbols}
    for attention, layout, norm, positions, symbols in HALF
]
OTHER = {"classification": "regression", "regression": "classification"}
NOT_FOR = {kind: [name for name in META_TRAINED if LEARNERS[name].only == other] for kind, other in OTHER.items()}
MECHANISMS = {name: {"attention": name} for name in ATTENTION} | {
    "grouped": {"options": {"key_heads": 1}},
    "window": {"options": {"window": 3}},
    "mesa, exact": {"attention": "mesa", "options": {"iterations": 0}},
    "narrow keys": {"attention": "gated-delta", "key_width": 3},
    "with its block": {"attention": "gated-delta", "options": {"short_conv": 3, "gate": 1}},
}
BY_PLACE = ("softmax", "linear", "grouped", "window", "log-linear", "ttt-linear", "gated-delta", "mesa", "with its block")
"""Those whose states differ most in how they count tokens: to a mechanism the other layout is a stream of twice as many."""
ALL = {
    "softmax": lambda spec=IMAGES: sequence(spec),
    "linear": lambda spec=IMAGES: sequence(spec, attention="linear"),
    "interleaved": lambda spec=IMAGES: sequence(spec, layout="interleaved", positions="sinusoidal"),
    "prototypes": prototypes,
}


def name(options: dict) -> str:
    return "-".join(str(value) for value in options.values())


# The promises of every learner.


CONFIGS = {name: LEARNERS[name].meta_config for name in META_TRAINED} | {"online": FinetuneConfig}


@pytest.mark.parametrize("learner", META_TRAINED)
def test_every_named_learner_keeps_its_promises(learner):
    """As it is by default, but for its sizes."""
    without_learn2learn(learner)
    torch.manual_seed(0)
    spec, config = VECTORS if learner in NOT_FOR["classification"] else IMAGES, CONFIGS[learner]()
    sizes = {"encoder": ENCODER, "width": 16, "hidden": 16}
    own = {field.name for field in dataclasses.fields(config)} & sizes.keys()
    check_learner(dataclasses.replace(config, **{size: sizes[size] for size in own}).build(spec), spec)


@pytest.mark.parametrize("learner", CONFIGS)
@pytest.mark.parametrize("kind", NOT_FOR)
def test_learners_say_what_they_are_not_for(learner, kind):
    without_learn2learn(learner)
    config, spec = CONFIGS[learner](), IMAGES if kind == "classification" else VECTORS
    if learner not in NOT_FOR[kind]:
        assert config.build(spec).spec == spec
    else:
        with pytest.raises(UserError, match=f"benchmark is a {kind}"):
            config.build(spec)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_every_sequence_learner_keeps_its_promises(options):
    check_learner(sequence(**options), IMAGES)


@pytest.mark.parametrize("options", OPTIONS, ids=name)  # symbols mean nothing in regression: the other four meet in every way
def test_sequence_learners_keep_their_promises_in_regression(options):
    check_learner(sequence(VECTORS, **options), VECTORS)


@pytest.mark.parametrize(
    ("mechanism", "layout"),
    [*((name, "paired") for name in MECHANISMS), *((name, "interleaved") for name in MECHANISMS if name in BY_PLACE)],
)
def test_every_mechanism_makes_a_learner(mechanism, layout):
    check_learner(sequence(layout=layout, **MECHANISMS[mechanism]), IMAGES)


@pytest.mark.parametrize("spec", [COLOUR, LABELLED_VECTORS, MATRICES], ids=str)
@pytest.mark.parametrize("attention", ["softmax", "linear"])
def test_sequence_learners_take_any_kind_of_example(spec, attention):
    check_learner(sequence(spec, attention=attention), spec)


@pytest.mark.parametrize("spec", [IMAGES, COLOUR, LABELLED_VECTORS], ids=str)
def test_prototypes_keep_their_promises(spec):
    check_learner(prototypes(spec), spec)


def test_the_check_leaves_a_learner_as_it_was():
    learner = sequence(distributed="random").train()
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    check_learner(learner, IMAGES)
    assert learner.training and learner.distributed and all(p.grad is None for p in learner.parameters())
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())


# The checker can fail: one broken learner for each promise.


class MeansState(NamedTuple):
    sums: Tensor
    counts: Tensor


class Means(Learner):
    """An honest learner in a few lines: the mean feature of each symbol. The broken ones below change one thing."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(LABELLED_VECTORS)
        self.linear = nn.Linear(6, 5)

    def encode(self, x):
        return self.linear(x)

    def init_state(self, batch_size):
        return MeansState(torch.zeros(batch_size, 4, 5), torch.zeros(batch_size, 4))

    def weight(self, examples):
        return F.one_hot(examples.y, 4).float() * (1.0 if examples.valid is None else examples.valid[..., None])

    def learn_features(self, state, z_BND, examples):
        weight = self.weight(examples)
        return MeansState(state.sums + weight.mT @ z_BND, state.counts + weight.sum(1))

    def predict_features(self, state, z_BMD):
        return z_BMD @ (state.sums / state.counts.clamp_min(1)[..., None]).mT


class ForgetsAtEachCall(Means):
    def learn_features(self, state, z_BND, examples):
        return super().learn_features(self.init_state(len(z_BND)), z_BND, examples)


class WritesIntoItsState(Means):
    def learn_features(self, state, z_BND, examples):
        new = super().learn_features(state, z_BND, examples)
        state.sums.copy_(new.sums)
        return new


class WritesWhenAsked(Means):
    def predict_features(self, state, z_BMD):
        prediction = super().predict_features(state, z_BMD)
        state.sums[:, 0] += 0.1 * z_BMD.sum(1)
        return prediction


class QueriesSeeEachOther(Means):
    def predict_features(self, state, z_BMD):
        return super().predict_features(state, z_BMD - z_BMD.mean(1, keepdim=True))


class QueriesHavePlaces(Means):
    def predict_features(self, state, z_BMD):
        return super().predict_features(state, z_BMD) + torch.arange(z_BMD.shape[1])[:, None] * torch.arange(4.0)


class SeesPadding(Means):
    def weight(self, examples):
        return F.one_hot(examples.y, 4).float()


class OtherMetaLoss(Means):
    def meta_loss(self, episode):
        result = super().meta_loss(episode)
        return MetaLoss(1.1 * result.loss, result.metrics)


class OtherMetaGradient(Means):
    def meta_loss(self, episode):
        result = super().meta_loss(episode)
        return MetaLoss(result.loss + result.loss * 0.1 - 0.1 * result.loss.detach(), result.metrics)


class Grows(Means):
    def init_state(self, batch_size):
        return torch.zeros(batch_size, 0, 5)

    def learn_features(self, state, z_BND, examples):
        keep = torch.ones_like(examples.y) if examples.valid is None else examples.valid
        return torch.cat([state, z_BND * keep[..., None]], dim=1)

    def predict_features(self, state, z_BMD):
        return (z_BMD @ state.sum(1)[..., None]).expand(-1, -1, 4)


class StartsAnyhow(Means):
    def start(self, seeds, rates=None, alike=False):
        return super().start(seeds, None, alike)


class LooksBeforeItIsAsked(Means):
    def learn_predict(self, state, examples, block=1, asked=None):
        return super().learn_predict(self.learn(state, examples), examples, block, asked)


class LearnsTheSupport(Means):
    def predict_with(self, state, support, x):
        answers = super().predict_with(state, support, x)
        state.counts.add_(1)
        return answers


class SupportMixesQueries(Means):
    def predict_with(self, state, support, x):
        return super().predict_with(state, support, x - x.mean(1, keepdim=True))


class LearnsMoreWhereNothingIsAsked(Means):
    def learn_predict(self, state, examples, block=1, asked=None):
        return super().learn_predict(self.learn(state, examples) if asked == 0 else state, examples, block, asked)


class LosesATask(Means):
    def learn_task(self, state, train, block=1, asked=0, told=None):
        return state if int(train[0:1].task[0, 0]) == 1 else super().learn_task(state, train, block, asked, told)


class KeepsItsStateElsewhere(Means):
    """What it knows is not in the state, so a state from the disk does not bring it back."""

    def init_state(self, batch_size):
        return MeansState(*super().init_state(batch_size))

    def learn_features(self, state, z_BND, examples):
        new = super().learn_features(state, z_BND, examples)
        new.counts.known = getattr(state.counts, "known", 0) + 1
        return MeansState(new.sums * (1 + 0.01 * (new.counts.known == 1)), new.counts)


BROKEN = {
    ForgetsAtEachCall: "Chunking matters",
    WritesIntoItsState: "changed the state|Chunking matters",
    WritesWhenAsked: "changed the state",
    QueriesSeeEachOther: "depends on the other queries",
    QueriesHavePlaces: "depends on the order of the queries",
    SeesPadding: "Padding shows",
    OtherMetaLoss: "meta_loss differs",
    OtherMetaGradient: "gradients of meta_loss differ",
    Grows: "declared constant and grew",
    StartsAnyhow: "not refused",
    LooksBeforeItIsAsked: "learn_predict differs",
    LearnsTheSupport: "predict_with changed the state",
    SupportMixesQueries: "with a support depends on the other queries",
    LearnsMoreWhereNothingIsAsked: "What is asked changes",
    LosesATask: "not answered|another state than learning task by task",
}


def test_an_honest_learner_in_a_few_lines_passes():
    check_learner(Means(), LABELLED_VECTORS)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda kind: kind.__name__)
def test_the_check_sees(broken):
    with pytest.raises(AssertionError, match=BROKEN[broken]):
        check_learner(broken(), LABELLED_VECTORS)


def test_the_check_sees_what_is_not_in_the_state():
    learner = KeepsItsStateElsewhere()
    learner.chunkable = False
    with pytest.raises(AssertionError, match="saved and loaded continues differently"):
        check_learner(learner, LABELLED_VECTORS)


def test_a_learner_may_declare_that_chunks_matter_and_that_it_grows():
    learner = Grows()
    learner.constant_state = False
    check_learner(learner, LABELLED_VECTORS)
    learner = ForgetsAtEachCall()
    learner.chunkable = False
    check_learner(learner, LABELLED_VECTORS)


# What no learner may do.


@pytest.mark.parametrize("kind", ALL)
def test_labels_of_queries_do_not_reach_predictions(kind):
    """Neither in the plain path nor through the meta-loss, whose accuracy must be that of the plain path."""
    learner, episode = ALL[kind](), random_episode(IMAGES, 0, batch_size=4)
    right = learner.predict(learner.learn(learner.init_state(4), episode.stream), episode.queries.x).argmax(-1)
    flattering = dataclasses.replace(episode, queries=dataclasses.replace(episode.queries, y=right))
    spiteful = dataclasses.replace(episode, queries=dataclasses.replace(episode.queries, y=(right + 1) % 8))
    assert learner.meta_loss(flattering).metrics["accuracy"] == 1
    assert learner.meta_loss(spiteful).metrics["accuracy"] == 0


@pytest.mark.parametrize("kind", ALL)
def test_the_future_does_not_leak(kind):
    """What follows an attachment point in the stream changes nothing of what is asked there."""
    learner, asked = ALL[kind](), []
    episode = random_episode(IMAGES, 0)
    for seed in (1, 2):
        later = random_episode(IMAGES, seed).stream[4:]
        stream = Examples.concatenate([episode.stream[:4], later])
        states = list(states_after_tasks(learner, dataclasses.replace(episode, stream=stream)))
        asked.append([learner.predict(state, episode.queries.x) for state in states])
    assert_close(asked[0][0], asked[1][0])
    assert not torch.allclose(asked[0][1], asked[1][1])


def states_after_tasks(learner: Learner, episode: Episode):
    state = learner.init_state(len(episode.stream.y))
    for part in task_parts(episode):
        state = learner.learn(state, episode.stream[part])
        yield state


@pytest.mark.parametrize("kind", ALL)
def test_episodes_of_a_batch_do_not_see_each_other(kind):
    learner, episode = ALL[kind](), random_episode(IMAGES, 0, batch_size=3)
    whole = learner.predict(learner.learn(learner.init_state(3), episode.stream), episode.queries.x)
    stream = Examples(episode.stream.x[1:2], episode.stream.y[1:2], episode.stream.task[1:2])
    alone = learner.predict(learner.learn(learner.init_state(1), stream), episode.queries.x[1:2])
    assert_close(alone, whole[1:2])


@pytest.mark.parametrize("kind", ALL)
def test_a_learner_learns_from_its_stream(kind):
    """After a few steps of meta-training on fixed prototypes it answers new streams far above chance."""
    learner, spec = ALL[kind](LABELLED_VECTORS).train(), LABELLED_VECTORS
    optimiser = torch.optim.Adam(learner.parameters(), 1e-2)
    rng = torch.Generator().manual_seed(0)
    for _ in range(120):
        optimiser.zero_grad()
        learner.meta_loss(easy_episode(spec, rng)).loss.backward()
        optimiser.step()
    assert learner.eval().meta_loss(easy_episode(spec, rng, 64)).metrics["accuracy"] > 0.9


def easy_episode(spec: EpisodeSpec, rng: torch.Generator, batch_size: int = 16) -> Episode:
    """Two tasks around +c and -c with random symbols of two."""
    centre = 2 * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    task = torch.tensor([0, 0, 0, 1, 1, 1]).expand(batch_size, -1)
    symbols = torch.rand(batch_size, 2, generator=rng).argsort(1)

    def examples() -> Examples:
        x = centre * (1 - 2 * task[..., None]) + torch.randn(batch_size, 6, 6, generator=rng)
        return Examples(x, symbols.gather(1, task), task)

    return Episode(examples(), examples(), spec)


# The distributed meta-loss.


@pytest.mark.parametrize("kind", ALL)
def test_the_distributed_loss_is_that_of_each_query_asked_on_its_own(kind, monkeypatch):
    learner, episode = distributed(ALL[kind]()), random_episode(IMAGES, 3)
    lots = torch.rand(len(episode.queries), generator=torch.Generator().manual_seed(1))
    own = episode.queries.task[0]
    asked = own + (lots * (3 - own)).long()
    assert (asked > own).any() and (asked == 2).any(), "the case is worth testing"
    monkeypatch.setattr("metacl.learners.protocol.torch.rand", lambda size: lots[:size])
    result = learner.meta_loss(episode)
    monkeypatch.undo()
    losses, scores = one_by_one(learner, episode, asked)
    slow = losses.mean()
    assert_close(result.loss, slow)
    assert_close(result.metrics["accuracy"], scores.mean())
    assert_close(result.metrics["forgetting"], scores[asked == own].mean() - scores[asked > own].mean())
    got = torch.autograd.grad(result.loss, list(learner.parameters()), allow_unused=True)
    assert_close(got, torch.autograd.grad(slow, list(learner.parameters()), allow_unused=True), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_the_loss_of_queries_asked_after_every_task(kind):
    """12 queries of tasks 0, 1, 2: after task 0 the first 4, after task 1 8 of them, after task 2 all."""
    learner, episode = distributed(ALL[kind]()), random_episode(IMAGES, 3)
    learner.distributed = "every"
    result = learner.meta_loss(episode)
    pieces = [one_by_one(learner, episode, torch.full((4 * (t + 1),), t)) for t in range(3)]
    losses, scores = (torch.cat(part) for part in zip(*pieces, strict=True))
    assert_close(result.loss, losses.mean())
    assert_close(result.metrics["accuracy"], scores.mean())
    late = torch.tensor([t > own for t in range(3) for own in range(t + 1) for _ in range(4)])
    assert_close(result.metrics["forgetting"], scores[~late].mean() - scores[late].mean())


def distributed(learner: Learner) -> Learner:
    """Asks as in meta-training; its BatchNorms and dropouts stay in eval mode."""
    learner.distributed, learner.training = "random", True
    return learner


def one_by_one(learner: Learner, episode: Episode, asked: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the accuracy of each query, over the batch."""
    losses, scores = [], []
    for i, last in enumerate(asked.tolist()):
        stream = episode.stream[: 4 * (last + 1)]
        state = learner.learn(learner.init_state(2), stream)
        logits = learner.predict(state, episode.queries.x[:, [i]])
        losses.append(F.cross_entropy(logits[:, 0], episode.queries.y[:, i]))
        scores.append((logits[:, 0].argmax(-1) == episode.queries.y[:, i]).float().mean())
    return torch.stack(losses), torch.stack(scores)


@pytest.mark.parametrize("kind", ALL)
def test_in_eval_mode_every_query_is_asked_at_the_end(kind):
    learner, episode = ALL[kind](), random_episode(IMAGES, 3)
    plain = learner.meta_loss(episode).loss
    learner.distributed = "random"
    assert learner.meta_loss(episode).loss == plain
    assert distributed(learner).meta_loss(episode).loss != plain


def test_queries_are_asked_uniformly_from_their_own_task_on(monkeypatch):
    """How often the queries of task 0, 1, 2 are asked after each task, counted at the state that answers."""
    learner, episode = distributed(prototypes()), random_episode(IMAGES, 0, batch_size=1)
    counts = torch.zeros(3)
    plain = learner.predict_features

    def counting(state, z):
        counts[int((state.counts > 0).sum()) - 1] += z.shape[1]
        return plain(state, z)

    monkeypatch.setattr(learner, "predict_features", counting)
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(300):
            learner.meta_loss(episode)
    # 4 queries a task: after task 0 a third of task 0; after task 1 a third and a half; after task 2 the rest.
    assert_close(counts / 1200, torch.tensor([1 / 3, 5 / 6, 11 / 6]), rtol=0, atol=0.06)


# The sequence learner.


@pytest.mark.parametrize("attention", ["softmax", "linear"])
@pytest.mark.parametrize("layout", ["paired", "interleaved"])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_auxiliary_loss(attention, layout, heads):
    """Against attention weights written out, on the first half of the heads of every layer."""
    learner = sequence(attention=attention, layout=layout, heads=heads, auxiliary_steps=5).train()
    for module in learner.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    episode = random_episode(IMAGES, 0)
    learner.step = 4
    result = learner.meta_loss(episode)
    learner.step = 5
    plain = learner.meta_loss(episode)
    assert "auxiliary" not in plain.metrics
    expected = naive_auxiliary_loss(learner, episode)
    assert_close(result.metrics["auxiliary"], expected.detach(), rtol=1e-4, atol=1e-5)
    assert_close(result.loss, plain.loss + expected, rtol=1e-4, atol=1e-5)
    assert_close(result.metrics["loss"], plain.loss.detach())
    parameters = list(learner.parameters())
    got = torch.autograd.grad(result.loss, parameters, allow_unused=True)
    assert_close(got, torch.autograd.grad(plain.loss + expected, parameters, allow_unused=True), rtol=1e-3, atol=1e-4)


def naive_auxiliary_loss(learner: SequenceLearner, episode: Episode) -> Tensor:
    """Records what enters each layer's attention, then sums attention weights over each query's own task."""
    learnt: list[Tensor] = []
    read: list[Tensor] = []
    hooked: list[Any] = [block.attention for block in learner.blocks]
    for attention in hooked:
        attention.learn = recording(attention.learn, learnt)
        attention.read = recording(attention.read, read)
    learner.predict(learner.learn(learner.init_state(2), episode.stream), episode.queries.x)
    for attention in hooked:
        del attention.learn, attention.read
    repeat = 2 if learner.config.layout == "interleaved" else 1
    same_task = episode.stream.task.repeat_interleave(repeat, 1)[:, None] == episode.queries.task[..., None]  # (B, M, N)
    losses = []
    for attention, stream, queries in zip(hooked, learnt, read, strict=True):
        weight = weights(attention, stream, queries, learner.config.attention)[:, : max(1, attention.heads // 2)]
        weight = weight[..., : stream.shape[1]]
        losses.append(-((weight * same_task[:, None]).sum(-1) / weight.sum(-1)).log().mean())
    return torch.stack(losses).sum()


def recording(method, inputs: list[Tensor]):
    def call(x, *rest):
        inputs.append(x)
        return method(x, *rest)

    return call


def weights(attention: Any, stream: Tensor, queries: Tensor, kind: str) -> Tensor:
    """(B, H, M, N) attention of queries on the stream; each query sees itself besides."""

    def heads(x: Tensor) -> Tensor:
        return rearrange(attention.qkv(x), "b n (part h e) -> part b h n e", part=3, h=attention.heads)

    (q, own, _), (_, k, _) = heads(queries), heads(stream)
    if kind == "linear":
        q, own, k = F.elu(q) + 1, F.elu(own) + 1, F.elu(k) + 1
    score = torch.cat([q @ k.mT, (q * own).sum(-1, keepdim=True)], dim=-1)
    weight = score / score.sum(-1, keepdim=True) if kind == "linear" else (score / q.shape[-1] ** 0.5).softmax(-1)
    return weight[..., :-1]


def test_the_auxiliary_loss_is_for_training_only():
    learner, episode = sequence(auxiliary_steps=5), random_episode(IMAGES, 0)
    assert "auxiliary" not in learner.meta_loss(episode).metrics
    assert "auxiliary" in learner.train().meta_loss(episode).metrics


@pytest.mark.parametrize("learner", [*("softmax", "linear"), "interleaved", "prototypes", "regression", "distributed"])
def test_meta_gradients_against_finite_differences(learner):
    """Float64, central differences along random directions in the space of all meta-parameters."""
    spec = VECTORS if learner == "regression" else IMAGES
    model = distributed(sequence(spec)) if learner == "distributed" else ALL.get(learner, ALL["linear"])(spec)
    model, episode = model.double(), random_episode(spec, 0)
    if not spec.classification:
        episode = in_float64(episode)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def loss() -> Tensor:
        torch.manual_seed(3)  # for the attachments
        return model.meta_loss(episode).loss

    gradients = torch.autograd.grad(loss(), parameters)
    rng = torch.Generator().manual_seed(0)
    for _ in range(4):
        direction = [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in parameters]
        slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
        assert_close(slope, central_difference(loss, parameters, direction), rtol=1e-5, atol=1e-6)


def central_difference(loss, parameters: list[Tensor], direction: list[Tensor], step: float = 1e-8) -> Tensor:
    """A tiny step: a larger one crosses kinks of the ReLUs."""
    values = []
    with torch.no_grad():
        for amount in (step, -2 * step):
            for p, d in zip(parameters, direction, strict=True):
                p += amount * d
            values.append(loss())
        for p, d in zip(parameters, direction, strict=True):
            p += step * d
    return (values[0] - values[1]) / (2 * step)


def in_float64(episode: Episode) -> Episode:
    def wide(part: Examples) -> Examples:
        return dataclasses.replace(part, x=part.x.double(), y=part.y.double())

    return dataclasses.replace(episode, stream=wide(episode.stream), queries=wide(episode.queries))


@pytest.mark.parametrize("kind", ALL)
def test_in_float64_a_learner_may_be_asked_before_it_has_learnt(kind):
    learner = ALL[kind]().double()
    assert learner.predict(learner.init_state(2), random_episode(IMAGES, 0).queries.x).dtype == torch.float64


@pytest.mark.parametrize("attention", ["softmax", "linear"])
@pytest.mark.parametrize("positions", ["none", "sinusoidal"])
@pytest.mark.parametrize("spec", [dataclasses.replace(IMAGES, symbols=40), VECTORS], ids=["images", "vectors"])
def test_longer_streams_than_were_trained_on(attention, positions, spec):
    """Weights of a learner for 8 symbols serve 40 tasks."""
    trained = sequence(
        dataclasses.replace(spec, symbols=8) if spec.classification else spec, attention=attention, positions=positions
    )
    learner = sequence(spec, seed=1, attention=attention, positions=positions)
    learner.load_state_dict(trained.state_dict())
    episode = random_episode(spec, 0, tasks=40)
    prediction = learner.predict(learner.learn(learner.init_state(2), episode.stream), episode.queries.x)
    assert prediction.isfinite().all() and prediction.shape == ((2, 160, 40) if spec.classification else (2, 160, 3))


@pytest.mark.parametrize("positions", ["none", "sinusoidal"])
def test_positions(positions):
    """Without positions a bag of paired examples would be the same in one layer's read; with them the order shows."""
    learner, episode = sequence(positions=positions, layers=1, attention="linear"), random_episode(IMAGES, 0)
    backwards = episode.stream[torch.arange(11, -1, -1)]
    predictions = [
        learner.predict(learner.learn(learner.init_state(2), s), episode.queries.x) for s in (episode.stream, backwards)
    ]
    assert torch.allclose(*predictions, atol=1e-5) == (positions == "none")


def test_sinusoids():
    codes = sinusoids(torch.tensor([[0, 3]]), 6)
    assert codes.shape == (1, 2, 6)
    assert codes[0, 0].tolist() == [0, 1, 0, 1, 0, 1]
    rates = [1, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)]
    expected = torch.tensor([f(torch.tensor(3 * rate)) for rate in rates for f in (torch.sin, torch.cos)])
    assert_close(codes[0, 1], expected)
    assert sinusoids(torch.tensor([[10**6]]), 5).isfinite().all()


def test_a_query_has_the_position_after_the_stream():
    """Every query the same one; padding takes up none. Without norms the first attention reads the bare tokens."""
    learner, episode = sequence(positions="sinusoidal", layout="interleaved", norm=False), random_episode(IMAGES, 0)
    state = learner.learn(learner.init_state(2), episode.stream)
    read: list[Tensor] = []
    attention: Any = learner.blocks[0].attention
    attention.read = recording(attention.read, read)
    learner.predict(state, episode.queries.x)
    bare = learner.encode(episode.queries.x)
    assert_close(read[0] - bare, sinusoids(torch.full((2, 12), 24), 16), rtol=0, atol=1e-5)
    assert learner.learn(learner.init_state(2), episode.stream).length.tolist() == [24, 24]
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[0, 5:] = False
    stream = dataclasses.replace(episode.stream, valid=valid)
    assert learner.learn(learner.init_state(2), stream).length.tolist() == [10, 24]


def test_random_symbols_are_the_same_whatever_their_number():
    small, large = SYMBOLS["random"](5, 12, None).codes_VE, SYMBOLS["random"](300, 12, None).codes_VE
    assert torch.equal(small, large[:5])
    assert_close(large.norm(dim=1), torch.full((300,), 12**0.5))
    likeness = F.normalize(large) @ F.normalize(large).T
    assert_close(likeness[12:24, 12:24], torch.eye(12), rtol=0, atol=1e-5)
    assert (likeness - torch.eye(300)).max() < 0.99, "two symbols are the same"


def test_words_are_as_likely_as_their_letters():
    """100 symbols are words of two letters, each another one, and 2 x 32 letters are all that is learnt."""
    torch.manual_seed(0)
    words = SYMBOLS["words"](100, 12, 20)
    assert words.table.weight.shape == (64, 6) and len({tuple(word.tolist()) for word in words.word_VL}) == 100
    h, vectors = torch.randn(2, 3, 20), words.embed(torch.tensor([[5, 70]]))[0]
    assert_close(vectors[0], torch.cat([words.table.weight[5], words.table.weight[32]]))
    assert_close(vectors[1], torch.cat([words.table.weight[70 - 64], words.table.weight[34]]))
    letters = words.answer(h).unflatten(-1, (2, 32)).softmax(-1)
    assert_close(words.logits(h)[..., 70].exp(), letters[..., 0, 6] * letters[..., 1, 2])
    assert torch.equal(SYMBOLS["words"](300, 12, 20).word_VL[:100], words.word_VL)


def test_random_symbols_are_not_in_the_checkpoint():
    assert sequence(symbols="random").state_dict().keys() == sequence(COLOUR, symbols="random").state_dict().keys()
    assert not any("codes" in key for key in sequence().state_dict())


def test_dropout_acts_in_training_only():
    learner, episode = sequence(dropout=0.5), random_episode(IMAGES, 0)
    assert learner.meta_loss(episode).loss == learner.meta_loss(episode).loss
    learner.train()
    learner.encoder.eval()
    assert learner.meta_loss(episode).loss != learner.meta_loss(episode).loss


def test_options_that_do_not_go_together():
    with pytest.raises(UserError, match=r"multiple of learner.heads 3"):
        sequence_config(heads=3)
    with pytest.raises(UserError, match="cannot be combined"):
        sequence_config(distributed="random", auxiliary_steps=1)


# The prototypical network.


def test_prototypes_are_class_means():
    learner, episode = prototypes(), random_episode(IMAGES, 0)
    state = learner.learn(learner.init_state(2), episode.stream)
    z, queries, y = learner.encode(episode.stream.x), learner.encode(episode.queries.x), episode.stream.y
    logits = learner.predict(state, episode.queries.x)
    for b in range(2):
        for symbol in range(8):
            members = z[b][y[b] == symbol]
            if not len(members):
                assert (logits[b, :, symbol] < -1e8).all()
                continue
            distance = (queries[b] - reduce(members, "n d -> d", "mean")).square().sum(-1)
            assert_close(logits[b, :, symbol], -distance, rtol=1e-4, atol=1e-4)


def test_prototypes_do_not_know_the_order_of_the_stream():
    learner, episode = prototypes(), random_episode(IMAGES, 0)
    shuffled = episode.stream[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    states = [learner.learn(learner.init_state(2), stream) for stream in (episode.stream, shuffled)]
    assert_close(states[0].means, states[1].means)


def test_prototypes_are_for_classification():
    with pytest.raises(UserError, match="regression"):
        PrototypesConfig(encoder=ENCODER).build(VECTORS)


# Losses, scores and states.


def test_query_losses_and_scores_by_hand():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    result = query_loss(logits, torch.tensor([[0, 0]]), dataclasses.replace(IMAGES, symbols=2))
    assert result.metrics["accuracy"] == 0.5
    assert_close(result.loss, -(logits.log_softmax(-1)[0, :, 0]).mean())
    target = torch.tensor([[[1.0, 2.0, 3.0]]])
    regression = query_loss(torch.zeros(1, 1, 3), target, VECTORS)
    assert_close(regression.loss, torch.tensor(14 / 3))
    assert_close(regression.metrics["mse"], torch.tensor(14 / 3))
    assert_close(query_score(torch.zeros(1, 1, 3), target, VECTORS), torch.tensor([[14 / 3]]))
    rough = query_loss(logits.bfloat16(), torch.tensor([[0, 1]]), dataclasses.replace(IMAGES, symbols=2))
    assert rough.loss.dtype == torch.float32


def test_task_parts():
    task = torch.tensor([[0, 0, 1, 3, 3, 3]])
    stream = Examples(task, task, task)
    assert list(task_parts(Episode(stream, stream, IMAGES))) == [slice(0, 2), slice(2, 3), slice(3, 6)]


@pytest.mark.parametrize("kind", ALL)
def test_a_state_on_disk_goes_on_bit_for_bit(kind, tmp_path):
    learner, episode = ALL[kind](), random_episode(IMAGES, 0)
    state = learner.learn(learner.init_state(2), episode.stream[:7])
    save_state(tmp_path / "state.safetensors", state)
    loaded = load_state(tmp_path / "state.safetensors", learner)
    assert pytree.tree_structure(loaded) == pytree.tree_structure(state)
    ends = [learner.predict(learner.learn(s, episode.stream[7:]), episode.queries.x) for s in (state, loaded)]
    assert torch.equal(*ends)


def test_a_state_of_another_kind_of_learner_is_refused(tmp_path):
    learner = prototypes()
    save_state(tmp_path / "state.safetensors", learner.init_state(2))
    with pytest.raises(UserError, match="is no state of this learner"):
        load_state(tmp_path / "state.safetensors", sequence())
    save_state(tmp_path / "other.safetensors", sequence().init_state(2))
    with pytest.raises(UserError, match="is no state of this learner"):
        load_state(tmp_path / "other.safetensors", sequence(layers=3))


def test_a_state_may_be_any_tree(tmp_path):
    class Trees(Means):
        def init_state(self, batch_size):
            return {"a": [], "b": (torch.zeros(batch_size, 0), {}), "c": {"d": torch.zeros(batch_size)}}

    state = {"a": [torch.ones(2), {"x": torch.ones(2)}], "b": (torch.ones(2, 3), {}), "c": {"d": torch.ones(2)}}
    save_state(tmp_path / "state", state)
    loaded = load_state(tmp_path / "state", Trees())
    assert pytree.tree_structure(loaded) == pytree.tree_structure(state)
    assert all(torch.equal(*pair) for pair in zip(pytree.tree_leaves(loaded), pytree.tree_leaves(state), strict=True))
    save_state(tmp_path / "state", state | {"c": {"d": torch.ones(2, dtype=torch.int64)}})
    with pytest.raises(UserError, match="a tensor of shape"):
        load_state(tmp_path / "state", Trees())
    save_state(tmp_path / "alone", torch.ones(3))
    with pytest.raises(UserError, match="is no state of this learner"):
        load_state(tmp_path / "alone", Trees())


def test_bytes_of_a_state():
    learner, episode = sequence(), random_episode(IMAGES, 0)
    state = learner.learn(learner.init_state(2), episode.stream)
    assert state_bytes(state) == 2 * (2 * 12 * 16 * 4 + 12) + 8  # layers x (keys and values, and which are valid), length
    assert state_bytes(prototypes().init_state(7)) == 8 * 12 * 4 + 8 * 4
    assert state_bytes(sequence(attention="linear").init_state(3)) == 2 * (2 * 8 * 8 + 2 * 8) * 4 + 8
