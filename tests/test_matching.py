"""The matching start: at step 0 a sequence learner is a matching network, or one of prototypes."""

import pytest
import torch
from tiny import IMAGES, VECTORS, sequence
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from episodes import Episode, EpisodeSpec, Examples, UserError
from metacl.attention import ATTENTION
from metacl.attention.recurrent import Recurrent
from metacl.evaluation.check import random_episode
from metacl.learners.sequence import SequenceLearner

WEIGHTS = [name for name, mechanism in ATTENTION.items() if mechanism.has_weights]
SUMS = [name for name in ATTENTION if issubclass(ATTENTION[name], Recurrent) and name not in WEIGHTS]
"""Recurrences whose votes are no weighted mean, but sums that decay, before the norm of the head."""


@pytest.fixture(autouse=True)
def doubles(float64):
    """The learner's arithmetic and that of five lines may differ in the last bits."""


def start(mechanism: str, spec: EpisodeSpec, asks: str = "input") -> tuple[SequenceLearner, Episode, Tensor, Tensor, Tensor]:
    """A fresh learner, an episode, its normalised inputs (stream and queries), and the prediction of the queries."""
    learner = sequence(spec, attention=mechanism, heads=1, width=32, query=asks)
    episode = random_episode(spec, 3)
    z_stream, z_query = learner.encode_episode(episode)
    state = learner.learn_features(learner.init_state(2), z_stream, episode.stream)
    stream, query = (F.layer_norm(z, z.shape[-1:]) for z in (z_stream, z_query))
    return learner, episode, stream, query, learner.predict_features(state, z_query)


def values(episode: Episode) -> Tensor:
    y = episode.stream.y
    return F.one_hot(y, episode.spec.symbols).double() if episode.spec.classification else y.flatten(2)


@pytest.mark.parametrize("spec", [IMAGES, VECTORS], ids=["symbols", "targets"])
def test_softmax_starts_as_a_matching_network(spec):
    learner, episode, stream, query, prediction = start("softmax", spec)
    similarity = torch.cat([query @ stream.mT, query.square().sum(-1, keepdim=True)], dim=-1) * 12 / 16
    votes = similarity.softmax(-1)[..., :-1] @ values(episode)  # the last similarity is that of a query with itself
    assert_close(prediction, learner.shaped(votes * (16 if spec.classification else 1)))


@pytest.mark.parametrize("spec", [IMAGES, VECTORS], ids=["symbols", "targets"])
@pytest.mark.parametrize("mechanism", WEIGHTS)
def test_a_mechanism_with_weights_votes_by_them(mechanism, spec):
    """Vinyals 2016, eq. 1: a(query, x_i) is what the mechanism has in the place of softmax."""
    learner, episode, stream, query, prediction = start(mechanism, spec)
    attention = learner.blocks[0].attention
    one, eye = torch.zeros(2, 12, 16), torch.eye(12).expand(2, -1, -1)
    attention.qkv.weight.data[-32:] = 0  # values are the place of a token in the stream: outputs are the weights
    attention.qkv.weight.data[-32:-20, 16:28] = torch.eye(12)
    attention.out.weight.data = torch.eye(32)
    state = attention.learn(torch.cat([stream, F.pad(eye, (0, 4))], dim=-1), attention.init_state(2))[1]
    weight = attention.read(torch.cat([query, one], dim=-1), state)[..., :12]
    assert_close(prediction, learner.shaped(weight @ values(episode) * (16 if spec.classification else 1)))


def similarity(attention, z: Tensor, other: Tensor) -> Tensor:
    """(B, H, N): what a query and the key of another input of its own give, over sqrt(E)."""
    q, k = (attention.project(F.pad(x, (0, x.shape[-1])))[i] for i, x in enumerate((z, other)))
    k = k.repeat_interleave(attention.heads // attention.key_heads, dim=1)
    return (q * k).sum(-1) / attention.key_width**0.5


@pytest.mark.parametrize(
    "options",
    [{}, {"heads": 4}, {"heads": 4, "options": {"key_heads": 1}}, {"key_width": 8}, {"head_width": 4}],
    ids=["one head", "four", "four share a key", "narrow keys", "narrow heads"],
)
def test_every_head_is_as_sharp_as_it_says(options):
    """For a whole input where heads have room for it, for inputs on average where they see a part of it."""
    attention = sequence(VECTORS, **{"heads": 1, "width": 32} | options).blocks[0].attention
    z, other = (F.layer_norm(torch.randn(4, 500, 16), (16,)) for _ in range(2))
    assert_close(similarity(attention, z, z).mean((0, 2)), torch.full((attention.heads,), 12.0), rtol=0.25, atol=0)
    assert similarity(attention, z, other).mean((0, 2)).abs().max() < 1


def test_softmax_starts_as_a_prototypical_network_where_labels_are_asked_for():
    """The token of a label has itself as one of its examples, with nothing as its input."""
    _, episode, stream, query, prediction = start("softmax", IMAGES, "label")
    one_hot = F.one_hot(torch.cat([episode.stream.y, torch.arange(8).expand(2, -1)], dim=1), 8).double()
    weight = (12 * one_hot).exp() * torch.cat([torch.ones(2, 12, 8), torch.eye(8).expand(2, -1, -1)], dim=1)
    mean = (weight / weight.sum(1, keepdim=True)).mT @ F.pad(stream, (0, 0, 0, 8))
    assert_close(prediction, -torch.cdist(query, mean).square() / 16)


@pytest.mark.parametrize("mechanism", SUMS)
def test_a_recurrence_that_only_adds_has_sums_of_inputs_for_prototypes(mechanism):
    """In the direction of the sum of a label's inputs, as long as an input; old ones count a little less."""
    if mechanism == "retention" or "delta" in mechanism or mechanism in ("kda", "gdn2", "rwkv7"):
        pytest.skip("it forgets at once, or does not add")
    learner, episode, stream, _, _ = start(mechanism, IMAGES, "label")
    state = learner.learn(learner.init_state(2), episode.stream)
    block, tokens = learner.blocks[0], learner.query_tokens(stream)
    read = block.attention.read(block.norm_attention(tokens), state.layers[0])[..., :16]
    seen = F.one_hot(episode.stream.y, 8).double()
    sums = seen.mT @ stream
    there = seen.sum(1) > 0
    assert (F.cosine_similarity(read, sums, dim=-1)[there] > 0.9).all()
    assert (read[there].norm(dim=-1) < 4.01).all() and (read[there].norm(dim=-1) > 3).all()


def test_labels_are_asked_for_where_there_are_labels():
    assert sequence(IMAGES).likeness is not None and sequence(VECTORS).likeness is None
    by_input = [name for name in ATTENTION if sequence(IMAGES, attention=name).likeness is None]
    assert by_input == ["linear", "performer", "hgrn2", "gsa"]
    for options in ({"query": "input"}, {"start": "alike"}, {"layout": "interleaved"}, {"auxiliary_steps": 5}):
        assert sequence(IMAGES, **options).likeness is None
    with pytest.raises(UserError, match="query label is for classification"):
        sequence(VECTORS, query="label")
    for options in ({"layout": "interleaved"}, {"auxiliary_steps": 5}):
        with pytest.raises(UserError, match="query label needs"):
            sequence(IMAGES, query="label", **options)


@pytest.mark.parametrize("mechanism", ATTENTION)
@pytest.mark.parametrize("targets", [1, 50], ids=["a number", "wider than half a token"])
def test_regression_starts_with_answers_as_long_as_targets(mechanism, targets):
    """A norm that makes what is read of one length must not decide how large an answer is."""
    spec = EpisodeSpec("vector", (5,), "mse", y_shape=(targets,))
    learner, episode = sequence(spec, attention=mechanism, heads=1, width=64), random_episode(spec, 0)
    prediction = learner.predict(learner.learn(learner.init_state(2), episode.stream), episode.queries.x)
    assert prediction.square().mean() < 2


def test_places_leave_the_label_half_alone():
    """The code of a place is no label: with it, a learner still starts as a matching network."""
    learner = sequence(IMAGES, heads=1, width=64, positions="sinusoidal", query="input")
    episode = random_episode(IMAGES, 4)
    z = 10 * torch.randn(2, 12, 32)
    state = learner.learn_features(learner.init_state(2), z, episode.stream)
    assert (learner.predict_features(state, z).argmax(-1) == episode.stream.y).double().mean() > 0.9


@pytest.mark.parametrize("mechanism", SUMS)
def test_a_recurrence_votes_by_products_that_decay(mechanism):
    """In the direction of the votes; how long they are, the norm of the head says."""
    learner, episode, _, _, prediction = start(mechanism, IMAGES)
    block, z = learner.blocks[0], learner.encode_episode(episode)
    tokens, asked = (
        block.attention.tokens(block.norm_attention(t))
        for t in (learner.tokens(z[0], episode.stream.y), learner.query_tokens(z[1]))
    )
    if tokens.beta is not None or tokens.erase is not None:
        pytest.skip("a delta rule does not add")
    decay, own = (t.log_decay if t.log_decay.ndim == 4 else t.log_decay[..., None] for t in (tokens, asked))
    left = decay.flip(2).cumsum(2).flip(2) - decay  # what is forgotten after a token, until the end of the stream
    written = tokens.v @ block.attention.out.weight[16:].mT
    votes = torch.einsum("bhme,bhne->bmn", asked.q * own.exp(), tokens.k * left.exp()) @ written[:, 0]
    expected = learner.symbols.logits(F.pad(votes, (16, 0)))
    assert_close(F.normalize(prediction, dim=-1), F.normalize(expected, dim=-1))


BLOCKS: dict[str, dict[str, int]] = {"gated-delta": {"short_conv": 4, "gate": 1, "negative": 1}, "mesa": {"short_conv": 2}}
BESIDES: list[tuple[str, dict[str, int]]] = [(mechanism, {}) for mechanism in ATTENTION if mechanism != "gsa"] + list(
    BLOCKS.items()
)
"""Slots of `gsa` are means of all that was seen: no start makes votes of them."""


@pytest.mark.parametrize(("mechanism", "options"), BESIDES, ids=[f"{name}{'*' * bool(o)}" for name, o in BESIDES])
@pytest.mark.parametrize("symbols", ["random", "learned", "words"])
@pytest.mark.parametrize("query", ["input", "label"])
def test_every_mechanism_recognises_what_it_has_seen(mechanism, options, symbols, query):
    """At once, before any meta-training: there is no plateau to leave. By input each example is found, by label each class."""
    learner = sequence(IMAGES, attention=mechanism, heads=1, width=64, options=options, symbols=symbols, query=query)
    episode = random_episode(IMAGES, 4)
    z = torch.randn(2, 12, 32)
    if query == "label":
        z = torch.randn(8, 32)[episode.stream.y] + 0.5 * z
    state = learner.learn_features(learner.init_state(2), z, episode.stream)
    right = learner.predict_features(state, z + 0.1 * torch.randn_like(z)).argmax(-1) == episode.stream.y
    assert right.double().mean() > 0.6


@pytest.mark.parametrize("query", ["input", "label"])
def test_all_weights_are_trained_from_there(query):
    learner = sequence(IMAGES, attention="softmax", heads=1, query=query).train()
    for step in range(2):  # what is silent at first stands before what has no slope until then
        learner.zero_grad()
        learner.meta_loss(random_episode(IMAGES, step)).loss.backward()
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter -= 0.1 * parameter.grad
    without = [name for name, parameter in learner.named_parameters() if parameter.grad.abs().max() == 0]
    assert not without


def test_interleaved_tokens_cannot_start_so():
    with pytest.raises(UserError, match=r"learner\.layout paired"):
        sequence(IMAGES, layout="interleaved", start="matching")


@pytest.mark.parametrize("mechanism", ATTENTION)
def test_every_mechanism_is_meta_trained_in_mixed_precision(mechanism):
    """What is added to a token stays in the precision of the weights: an answer is a small difference of votes."""
    torch.set_default_dtype(torch.float32)
    learner, episode = sequence(IMAGES, attention=mechanism).train(), random_episode(IMAGES, 0)
    plain = learner.meta_loss(episode).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = learner.meta_loss(episode).loss
    mixed.backward()
    assert_close(mixed, plain, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("mechanism", [name for name in ATTENTION if ATTENTION[name].recalls])
def test_labels_read_back_other_inputs_for_other_labels(mechanism):
    """However alike all inputs are: what the token of a label reads is as far from that of another as inputs are, or nearly."""
    learner, y = sequence(IMAGES, attention=mechanism, heads=1, width=64, query="label"), torch.arange(8).repeat_interleave(2)
    stream = random_episode(IMAGES, 1).stream
    stream = Examples(stream.x[:1, :1].expand(1, 16, -1, -1, -1), y[None], y[None])
    z = 2 * torch.randn(32) + torch.randn(8, 32)[y][None]
    state = learner.learn_features(learner.init_state(1), z, stream)
    tokens, block = learner.query_tokens(z), learner.blocks[0]
    read = block.attention.read(block.norm_attention(tokens), state.layers[0])[0, :, :32]
    inputs = F.layer_norm(z, (32,))[0, ::2]
    spread = [(part - part.mean(0)).norm(dim=1).mean() for part in (read, inputs)]
    assert spread[0] > 0.25 * spread[1]
