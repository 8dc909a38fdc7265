"""The protocol: a continual learner is a state machine. It learns (state in, state out) and predicts (state read only)."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from episodes import Episode, EpisodeSpec, Examples, Part, UserError
from metacl.learners.distributed import Distributed, distributed_loss
from metacl.learners.inputs import check_examples, check_inputs, check_support
from metacl.learners.losses import MetaLoss, query_loss

State = Any
"""A tree (NamedTuple, dict, list, tuple) of tensors whose first axis is B: what learning changes, and no more. Modules that
learning leaves alone stay in the learner and are shared by all rows. The tree may grow from task to task."""

Told = Callable[[Examples, Tensor], None]
"""Is handed examples of a task, and their predictions (B, n, ...) from before they were learnt."""
AT_ONCE = 4_000
"""Examples of a task that are fetched at a time."""


class DivergedError(UserError):
    """Learning left the finite numbers: the learning rate is too high."""


class LearnerConfig(Protocol):
    """A frozen dataclass with the options of a learner."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, spec: EpisodeSpec) -> "Learner":
        """Raises `UserError` where the learner is not made for such examples."""
        ...


class Learner(nn.Module):
    """Base of all learners. A family writes `encode`, `init_state`, `learn_features` and `predict_features`.

    Inputs are encoded apart from the state, so that a whole episode is encoded in one batch, and features that are asked
    about again and again (evaluation after every task) are computed once.

    Arguments:
        spec: of the episodes it is built for.
        distributed: when the meta-loss asks the queries; None: at the end of the stream.
    """

    chunkable = True
    """learn(learn(s, a), b) equals learn(s, a then b)."""
    constant_state = True
    """The state does not grow with the stream."""
    outer_sgd = False
    """Its meta-gradient is a way to go (Reptile): the outer optimiser is plain SGD, without momentum or weight decay."""
    step = 0
    """The meta-training step, set by the outer loop: schedules inside a learner read it."""
    smoothing = 0.0
    """Label smoothing of the meta-loss in training, set by the outer loop."""
    encodes = True
    """`encode` does not depend on the state: the features of an example may be kept. False: the encoder is what learns."""
    has_rate = False
    """`start` takes a learning rate for each row."""
    trains = True
    """Where its state has `weights` by name, learning changes them: their ranks, norms and curvature can be measured."""
    whole_tasks = False
    """A task is learnt at once, not block by block: what is asked of it is answered before any of it is learnt."""
    block: int | None = None
    """Examples that are learnt together, with one update. None: as many as arrive together."""
    counted = 1_000
    """Examples over which multiply-adds are averaged, or the whole blocks in them: some methods do not learn from every block.
    0: they are not counted, where learning a task is a long computation."""
    has_features = False
    """`features` can be asked: learning changes them, so that those of old examples may move."""
    support = 100
    """Labelled examples that are enough for `predict_with`. 0: it has no use for any, and is not asked with them."""

    def __init__(self, spec: EpisodeSpec, distributed: Distributed = None):
        super().__init__()
        self.spec, self.distributed = spec, distributed

    def encode(self, x: Tensor) -> Tensor:
        """(B, N, *x_shape) -> features (B, N, D), every example on its own."""
        raise NotImplementedError

    def init_state(self, batch_size: int) -> State:
        """What it knows before the first example."""
        raise NotImplementedError

    def learn_features(self, state: State, z_BND: Tensor, examples: Examples) -> State:
        """`learn` for inputs that are encoded already; `examples.x` is not looked at."""
        raise NotImplementedError

    def predict_features(self, state: State, z_BMD: Tensor) -> Tensor:
        """`predict` for inputs that are encoded already."""
        raise NotImplementedError

    def learn(self, state: State, examples: Examples) -> State:
        """The state after more of the stream. Pure: the old state stays usable.

        Raises:
            UserError: inputs or targets are of another shape or type than `spec` says, or a label is no symbol.
        """
        check_examples(examples, self.spec)
        return self.learn_features(state, self.encode(examples.x), examples)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """(B, M, *x_shape) -> logits (B, M, V) or targets (B, M, *y_shape); every query on its own.

        Raises:
            UserError: inputs are of another shape or type than `spec` says.
        """
        check_inputs(x, self.spec)
        return self.predict_features(state, self.encode(x))

    def start(self, seeds: Sequence[int], rates: Sequence[float] | None = None, alike: bool = False) -> State:
        """The state of a row for each seed. The default, for learners in which nothing is drawn: `init_state`.

        Arguments:
            rates: the learning rate of each row, for learners that have one; None: the configuration's.
            alike: all rows start from this module's own weights; seeds are for what is drawn later. Else they draw those too.

        Raises:
            UserError: rates are given to a learner that has none.
        """
        if rates is not None:
            raise UserError(f"{type(self).__name__} has no learning rate: leave --rates out.")
        return self.init_state(len(seeds))

    @torch.no_grad()
    def learn_predict(self, state: State, examples: Examples, block: int = 1, asked: int | None = None) -> tuple[State, Tensor]:
        """Each block is first predicted, then learnt. The state is handed over, and may be written into.

        Arguments:
            examples: all of them valid.
            block: examples that arrive together; a learner with a `block` of its own takes that.
            asked: examples at the start of each block that are predicted; None: all.

        Returns:
            The new state, and the predictions (B, asked in all, V or *y_shape).

        Raises:
            UserError: as of `learn`.
        """
        check_examples(examples, self.spec)
        z_BND = self.encode(examples.x)
        if asked == 0 and self.chunkable:  # then nothing tells one block from the next
            none = z_BND.new_zeros(len(z_BND), 0, self.spec.outputs)
            return self.learn_features(state, z_BND, examples), self.shaped(none)
        answers = []
        for start in range(0, len(examples), block):
            part = slice(start, start + block)
            answers.append(self.predict_features(state, z_BND[:, part][:, :asked]))
            state = self.learn_features(state, z_BND[:, part], examples[part])
        return state, torch.cat(answers, 1)

    def learn_task(
        self, state: State, train: Part | Examples, block: int = 1, asked: int | None = 0, told: Told | None = None
    ) -> State:
        """A whole task. The default takes its blocks one after the other, once, or all at once where `whole_tasks` says so; for
        several passes a learner overrides it.

        Arguments:
            train: the task's examples, all of them valid. The state is handed over.
            block, asked: as of `learn_predict`.
            told: is handed what was asked, with the predictions from before it was learnt.
        """
        block = self.block or block
        if self.whole_tasks:
            return self._learn_whole(state, train[0 : len(train)], block, asked, told)
        size = block * max(1, AT_ONCE // block)
        for start in range(0, len(train), size):
            examples = train[start : start + size]
            state, predictions = self.learn_predict(state, examples, block, asked)
            if told is not None and predictions.shape[1]:
                place_N = torch.arange(len(examples), device=examples.x.device) % block
                told(examples if asked is None else examples[place_N < asked], predictions)
        return state

    @torch.no_grad()
    def _learn_whole(self, state: State, task: Examples, block: int, asked: int | None, told: Told | None) -> State:
        if told is not None and asked != 0 and len(task):
            place_N = torch.arange(len(task), device=task.x.device) % block
            first = task if asked is None else task[place_N < asked]
            told(first, self.predict(state, first.x))
        return self.learn(state, task)

    def features(self, state: State, x: Tensor) -> Tensor:
        """(B, M, *x_shape) -> (B, M, D): what answers are read off from, of learners in which learning changes it."""
        raise NotImplementedError

    def predict_and_features(self, state: State, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both `predict` and `features`. A learner overrides it where it can have both for the cost of one."""
        return self.predict(state, x), self.features(state, x)

    def task_ends(self, state: State) -> State:
        """The state after the last example of a task, for learners that are told where tasks end. The default: no change."""
        return state

    def predict_with(self, state: State, support: Examples, x: Tensor) -> Tensor:
        """`predict` with labelled examples at hand, all of them valid. The default learns them in a copy of the state.

        Raises:
            UserError: the support is empty; or as of `learn` and `predict`.
        """
        check_support(support, self.spec)
        return self.predict(self.learn(state, support), x)

    def meta_loss(self, episode: Episode) -> MetaLoss:
        """The loss on the queries, in eval mode always after the whole stream. All inputs are encoded in one batch."""
        z_stream, z_query = self.encode_episode(episode)
        if self.distributed and self.training:
            return distributed_loss(self, episode, z_stream, z_query)
        state = self.learn_features(self.init_state(len(z_stream)), z_stream, episode.stream)
        return self.query_loss(self.predict_features(state, z_query), episode.queries.y, episode.queries.valid)

    def query_loss(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> MetaLoss:
        """The loss of all queries (B, M, ...) that are `valid` (B, M), in training with label smoothing."""
        return query_loss(prediction, target, self.spec, self.smoothing if self.training else 0.0, valid)

    def shaped(self, answers: Tensor) -> Tensor:
        """(..., outputs) -> logits as they are, or targets (..., *y_shape)."""
        return answers if self.spec.classification else answers.unflatten(-1, self.spec.y_shape)

    def forward(self, episode: Episode) -> MetaLoss:
        return self.meta_loss(episode)

    def encode_episode(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The features of the stream (B, N, D) and of the queries (B, M, D), which are encoded in one batch.

        Padding is not encoded, so that it has no part in the statistics of BatchNorm; its features are zeros.

        Raises:
            UserError: as of `learn`.
        """
        parts = (episode.stream, episode.queries)
        for examples in parts:
            check_examples(examples, self.spec)
        x = torch.cat([part.x for part in parts], dim=1)
        if all(part.valid is None for part in parts):
            z = self.encode(x)
        else:
            every = (torch.ones_like(part.task, dtype=torch.bool) if part.valid is None else part.valid for part in parts)
            valid = torch.cat(list(every), dim=1)
            own = self.encode(x[valid][None])[0]
            z = own.new_zeros(*valid.shape, *own.shape[1:]).masked_scatter(_over(valid, own), own)
        return z[:, : len(episode.stream)], z[:, len(episode.stream) :]


def _over(valid_BN: Tensor, own: Tensor) -> Tensor:
    """Which numbers of the features (B, N, ...) belong to valid examples."""
    return valid_BN.reshape(*valid_BN.shape, *[1] * (own.ndim - 1)).expand(*valid_BN.shape, *own.shape[1:])


def state_bytes(state: State) -> int:
    """Bytes of the state of one episode."""
    return sum(t[0].numel() * t.element_size() for t in pytree.tree_leaves(state))
