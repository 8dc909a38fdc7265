"""`check_learner`: what every learner owes, and `follow` with every question. Run it on your own class in a three-line test."""

import dataclasses
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from episodes import Episode, EpisodeSource, EpisodeSpec, Examples, Schedule, UserError
from metacl.evaluation.follow import followed
from metacl.evaluation.questions import EVERYTHING
from metacl.evaluation.step import device_of
from metacl.learners.losses import query_loss
from metacl.learners.protocol import Learner, State, state_bytes
from metacl.learners.state import load_state, save_state

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def check_learner(learner: Learner, spec: EpisodeSpec, seed: int = 0) -> None:
    """Raises AssertionError, with the promise in words, where `learner` breaks one. In eval mode, float32, CPU or GPU."""
    was_training = learner.training
    learner.eval()
    episode = random_episode(spec, seed).to(device_of(learner))
    state = learner.init_state(2)
    with torch.no_grad():
        _check_chunking(learner, state, episode)
        _check_purity(learner, state, episode)
        _check_queries(learner, state, episode)
        _check_padding(learner, state, episode)
        _check_saving(learner, state, episode)
        _check_size(learner, state, episode)
        _check_paces(learner, state, episode)
        _check_start(learner)
        _check_blocks(learner, state, episode)
        _check_support(learner, state, episode)
        _check_features(learner, state, episode)
    _check_meta_loss(learner, episode)
    _check_follow(learner, episode)
    _check_mixed(learner, mixed(episode))
    learner.train(was_training)


def random_episode(spec: EpisodeSpec, seed: int, batch_size: int = 2, tasks: int = 3, shots: int = 4) -> Episode:
    """An episode of noise: `batch_size` streams of `tasks` tasks, and as many queries."""
    rng = torch.Generator().manual_seed(seed)
    N = tasks * shots
    task = torch.arange(tasks).repeat_interleave(shots).expand(batch_size, -1)

    def examples(symbols: Tensor | None) -> Examples:
        if spec.x_kind == "image":
            x = torch.randint(0, 256, (batch_size, N, *spec.x_shape), generator=rng, dtype=torch.uint8)
        else:
            x = torch.randn(batch_size, N, *spec.x_shape, generator=rng)
        y = symbols.gather(1, task) if symbols is not None else torch.randn(batch_size, N, *spec.y_shape, generator=rng)
        return Examples(x, y, task)

    rows = [torch.randperm(spec.symbols, generator=rng)[:tasks] for _ in range(batch_size)]
    symbols = torch.stack(rows) if spec.classification else None
    return Episode(examples(symbols), examples(symbols), spec)


def _check_chunking(learner: Learner, state: State, episode: Episode) -> None:
    if not learner.chunkable:
        return
    whole = learner.learn(state, episode.stream)
    pieces = state
    for start, stop in ((0, 5), (5, 6), (6, len(episode.stream))):
        pieces = learner.learn(pieces, episode.stream[start:stop])
    _same(whole, pieces, "Chunking matters: learn(learn(s, a), b) differs from learn(s, a then b)")


def _check_purity(learner: Learner, state: State, episode: Episode) -> None:
    first = learner.learn(state, episode.stream[:4])
    before = pytree.tree_map(torch.clone, first)
    learner.learn(first, episode.stream[4:])
    learner.predict(first, episode.queries.x)
    _same(before, first, "learn or predict changed the state that it was given", exact=True)


def _check_queries(learner: Learner, state: State, episode: Episode) -> None:
    state = learner.learn(state, episode.stream)
    x = episode.queries.x
    together = learner.predict(state, x)
    _same(together[:, :1], learner.predict(state, x[:, :1]), "A prediction depends on the other queries")
    _same(together.flip(1), learner.predict(state, x.flip(1)), "A prediction depends on the order of the queries")


def _check_features(learner: Learner, state: State, episode: Episode) -> None:
    if not learner.has_features:
        return
    state, x = learner.learn(state, episode.stream), episode.queries.x
    answers, together = learner.predict_and_features(state, x)
    _same(answers, learner.predict(state, x), "An answer depends on whether features are asked beside it")
    assert together.ndim == 3 and together.shape[:2] == x.shape[:2], "Features are not (B, M, D)"
    _same(together[:, :1], learner.features(state, x[:, :1]), "A feature depends on the other queries")


def _check_padding(learner: Learner, state: State, episode: Episode) -> None:
    stream = episode.stream
    N = len(stream)
    nothing = torch.zeros_like(stream.task, dtype=torch.bool)
    garbage = dataclasses.replace(stream[torch.arange(N - 1, -1, -1)], y=stream.y, valid=nothing)  # with the labels of others
    valid = dataclasses.replace(stream, valid=torch.ones_like(stream.task, dtype=torch.bool))
    places = torch.cat([torch.arange(2), N + torch.arange(3), torch.arange(2, N), N + torch.arange(3, N)]).to(stream.x.device)
    padded = Examples.concatenate([valid, garbage])[places]
    plain = learner.predict(learner.learn(state, stream), episode.queries.x)
    _same(plain, learner.predict(learner.learn(state, padded), episode.queries.x), "Padding shows in the predictions")


def _check_paces(learner: Learner, state: State, episode: Episode) -> None:
    """A stream that is shown later than the others of its batch: each is learnt as if it were alone."""
    late = episode.stream[:5]
    late = dataclasses.replace(late, valid=(torch.arange(len(late.x)) != 1)[:, None].expand(late.task.shape).to(late.x.device))
    both = learner.predict(learner.learn(learner.learn(state, late), episode.stream[5:]), episode.queries.x)
    for b in range(len(both)):
        own, stream = pytree.tree_map(lambda t, b=b: t[b : b + 1], state), episode.stream.row(b)
        own = own if b == 1 else learner.learn(own, stream[:5])
        alone = learner.predict(learner.learn(own, stream[5:]), episode.queries.x[b : b + 1])
        _same(alone, both[b : b + 1], "Streams that were shown unequally much influence each other")


def _check_saving(learner: Learner, state: State, episode: Episode) -> None:
    state = learner.learn(state, episode.stream[:5])
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "state", state)
        loaded = load_state(Path(folder) / "state", learner)
    ends = [learner.learn(s, episode.stream[5:]) for s in (state, loaded)]
    _same(ends[0], ends[1], "A state that was saved and loaded continues differently", exact=True)


def _check_size(learner: Learner, state: State, episode: Episode) -> None:
    if learner.constant_state:
        before, after = state_bytes(state), state_bytes(learner.learn(state, episode.stream))
        assert before == after, f"The state is declared constant and grew from {before} to {after} bytes"


def _check_start(learner: Learner) -> None:
    """Equal seeds start alike; a learner without a rate says so."""
    state = learner.start([3, 3])
    for row in (pytree.tree_map(lambda t, b=b: t[b], state) for b in range(2)):
        _same(row, pytree.tree_map(lambda t: t[0], state), "Rows that are started with one seed differ", exact=True)
    alike = learner.start([3, 4], alike=True)
    shared = getattr(alike, "weights", {})
    _same([w[0] for w in shared.values()], [w[1] for w in shared.values()], "Rows that start alike have other weights")
    if not learner.has_rate:
        try:
            learner.start([3], [0.1])
        except UserError:
            return
        raise AssertionError("A rate is given to a learner whose has_rate is False, and is not refused")


def _check_blocks(learner: Learner, state: State, episode: Episode) -> None:
    """learn_predict and learn_task are predict and learn, block by block."""
    stream, block = episode.stream[:6], learner.block or 2
    ours, told = learner.learn_predict(_copy(state), stream, block, 1)
    whole: list[Tensor] = []
    learner.learn_task(_copy(state), stream, block, 1, lambda examples, answers: whole.append(answers))
    own, expected = state, []
    for start in range(0, len(stream), block):
        part = stream[start : start + block]
        expected.append(learner.predict(own, part.x[:, :1]))
        own = learner.learn(own, part)
    _same(told, torch.cat(expected, 1), "learn_predict differs from predicting, then learning, each block")
    _same(ours, own, "learn_predict leaves another state than learning each block")
    if type(learner).learn_task is Learner.learn_task and not learner.whole_tasks:
        _same(torch.cat(whole, 1), told, "learn_task hands over other predictions than learn_predict makes")
    quiet, asked = (learner.learn_task(_copy(state), stream, block, number) for number in (0, 1))
    _same(quiet, asked, "What is asked changes what learn_task learns")


def _check_support(learner: Learner, state: State, episode: Episode) -> None:
    """A support that is handed over changes nothing, and each query is answered on its own."""
    state = learner.learn(state, episode.stream[:4])
    before, x = _copy(state), episode.queries.x
    together = learner.predict_with(state, episode.stream[4:8], x)
    _same(before, state, "predict_with changed the state that it was given", exact=True)
    alone = learner.predict_with(state, episode.stream[4:8], x[:, :1])
    _same(together[:, :1], alone, "A prediction with a support depends on the other queries")


def _check_follow(learner: Learner, episode: Episode) -> None:
    """Every question is answered after every task of the episodes, and the last state is that of learning task by task."""
    asked, source = replace(EVERYTHING, asked=1, diagnose_every=0), EpisodeSource(episode)
    state, records = followed(learner, source, asked, schedule=Schedule(2))
    for t, record in enumerate(records):
        shape, found = (source.rows, t + 1), record["matrix"]["loss"]
        assert found.shape == shape, f"follow asks for the matrix after task {t} and gets {tuple(found.shape)}, not {shape}"
        told = record.get("prequential", {}).get("loss")
        assert told is not None and told.isfinite().all(), "What is asked before it is learnt is not answered"
        assert len(record.get("backward", {})) == min(t, len(asked.lags)), "Old tasks are not all asked about"
    own = learner.init_state(source.rows)
    with torch.no_grad():
        for index in range(source.most_tasks):
            train = source.task(index).train
            own = learner.task_ends(learner.learn(own, train[0 : len(train)]))
        left, right = (learner.predict(each, episode.queries.x) for each in (state, own))
    if learner.chunkable:
        _same(left, right, "follow leaves another state than learning task by task")


def mixed(episode: Episode) -> Episode:
    """The same examples in another order in each row, some of them padding, in three phases."""
    N, B = len(episode.stream), len(episode.stream.x)
    rows = [(torch.arange(N) * 5 + 3 * b) % N if N % 5 else torch.arange(N).roll(b + 1) for b in range(B)]
    parts = [episode.stream.row(b)[row.to(episode.stream.x.device)] for b, row in enumerate(rows)]
    x, y, task = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "task"))
    valid = (torch.arange(B)[:, None] + torch.arange(N)) % 4 != 3
    return replace(episode, stream=Examples(x, y, task, valid.to(x.device)), ends=(N // 3, 2 * N // 3, N))


def _check_mixed(learner: Learner, episode: Episode) -> None:
    """Mixed tasks and padding along a stream: every phase is followed, and each row is as if it were alone, without padding."""
    asked, source = replace(EVERYTHING, asked=1, diagnose_every=0), EpisodeSource(episode)
    state, records = followed(learner, source, asked)
    for record in records:
        assert record["matrix"]["loss"].isfinite().all(), "Mixed and padded streams are answered with what is no number"
    if not learner.chunkable:
        return
    with torch.no_grad():
        together = learner.predict(state, episode.queries.x)
        for b in range(source.rows):
            assert episode.stream.valid is not None
            own = replace(episode.stream, valid=None).row(b)[episode.stream.valid[b]]
            row = pytree.tree_map(lambda t, b=b: t[b : b + 1], learner.init_state(source.rows))
            alone = learner.predict(learner.learn(row, own), episode.queries.x[b : b + 1])
            _same(alone, together[b : b + 1], "A row of mixed tasks is learnt otherwise than it would be alone")


def _copy(state: State) -> State:
    return pytree.tree_map(torch.clone, state)


def _check_meta_loss(learner: Learner, episode: Episode) -> None:
    def plain() -> Tensor:
        state = learner.learn(learner.init_state(2), episode.stream)
        return query_loss(learner.predict(state, episode.queries.x), episode.queries.y, episode.spec).loss

    losses, gradients = [], []
    for loss in (learner.meta_loss(episode).loss, plain()):
        learner.zero_grad()
        if loss.requires_grad:  # nothing of a learner need be trained
            loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad for p in learner.parameters()])
    learner.zero_grad()
    _same(losses[0], losses[1], "meta_loss differs from the loss of learn, then predict")
    _same(gradients[0], gradients[1], "The gradients of meta_loss differ from those of learn, then predict")


def _same(a: object, b: object, promise: str, exact: bool = False) -> None:
    tolerance = {"rtol": 0, "atol": 0} if exact else TOLERANCE
    for left, right in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True):
        if left is not None or right is not None:
            assert_close(left, right, **tolerance, msg=lambda text: f"{promise}.\n{text}")
