"""A vision transformer that goes on being trained, task after task, and what keeps it plastic."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from making import small_pool
from tiny_vit import SPEC, TINY, after, examples, only, task, tiny  # noqa: F401
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from episodes import Examples, Schedule, UserError
from episodes.tasks.splits import Splits
from metacl.evaluation.check import check_learner
from metacl.evaluation.modules import diagnose_modules
from metacl.evaluation.questions import Questions
from metacl.evaluation.rates import SWEEP, along_stream
from metacl.learners.protocol import DivergedError
from metacl.learners.vision import plastic
from metacl.learners.vision.plastic import PlasticConfig
from metacl.learners.vision.plastic_methods import ArrowConfig, L2InitConfig, NaPConfig
from metacl.learners.vision.plastic_units import ContinualVitConfig
from metacl.recipes.vision_presets import VISION

SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 4, "trunk": TINY}
CONFIG = PlasticConfig(**SHORT)
METHODS = {name: preset.trained["small"] for name, preset in VISION.items() if issubclass(preset.trained_config, PlasticConfig)}
pytestmark = pytest.mark.usefixtures("tiny")


def short(name):
    return replace(METHODS[name](None), **SHORT)


def same(a, b):
    return all(torch.equal(left, right) for left, right in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_learner_owes(name):
    check_learner(short(name).build(SPEC), SPEC)


def test_training_is_plain_adamw():
    """Two tasks: the optimiser's moments go on, the head is a new one."""
    learner = replace(CONFIG, epochs=1, batch_size=100).build(SPEC)
    state = learner.start([3])
    network = learner._network(only(state).weights)
    body = torch.optim.AdamW(network.parameters(), CONFIG.rate, weight_decay=0.0)
    for i, classes in enumerate(([0, 1], [1, 2])):
        own, data = only(state), examples(classes, i)
        head = learner._new_head(own)
        weight, bias = head["weight"].requires_grad_(), head["bias"].requires_grad_()
        rng = learner.draws(own, "train")
        order = rng.permutation(len(data))
        x = learner.trunk.view(data.x[0][order], rng)
        logits = (network(x) @ weight.T + bias)[:, classes]
        loss = torch.nn.functional.cross_entropy(logits, data.y[0][order] - classes[0])
        of_head = torch.optim.AdamW([weight, bias], CONFIG.rate, weight_decay=0.0)
        body.zero_grad()
        loss.backward()
        body.step()
        of_head.step()
        state = learner.learn(state, data)
        assert_close(only(state).weights, dict(network.named_parameters()), rtol=1e-3, atol=1e-4)
        assert_close(only(state).head, {"weight": weight, "bias": bias}, rtol=1e-3, atol=1e-4)


def test_a_head_is_kept_where_that_is_asked():
    """Without training nothing else changes it."""
    still = {"epochs": 1, "head_rate": 0.0}
    for keep, expected in ((True, True), (False, False)):
        learner = replace(CONFIG, **still, keep_head=keep).build(SPEC)
        first, second = (only(after(learner, *[[0, 1]] * n)).head for n in (1, 2))
        assert same(first, second) is expected


def test_answers_are_labels_of_the_last_task():
    state, x = after(CONFIG.build(SPEC), [0, 1], [2, 4]), task([0, 1, 2, 3, 4, 5])[0]
    assert set(CONFIG.build(SPEC).predict(state, x).argmax(-1).flatten().tolist()) <= {2, 4}


def test_anew_each_task_starts_from_weights_of_its_own():
    """What was learnt before does not matter, neither weights nor what the optimiser keeps."""
    learner = replace(CONFIG, anew=True).build(SPEC)
    states = [after(learner, first) for first in ([0, 1], [2, 3])]
    assert not same(*states)
    assert same(*(learner.learn(state, examples([4, 5], 7)) for state in states))
    kept = replace(CONFIG, anew=True, keep_head=True).build(SPEC)
    assert same(*(kept.learn(state, examples([4, 5], 7)).head for state in states))
    plain = [CONFIG.build(SPEC).learn(state, examples([4, 5], 7)) for state in states]
    assert not same(*plain)


def test_seeds_start_from_other_weights():
    state = CONFIG.build(SPEC).start([0, 1])
    assert not torch.equal(*state.weights["blocks.0.mlp.fc1.weight"])
    alike = CONFIG.build(SPEC).start([4, 5], alike=True)
    assert torch.equal(*alike.weights["blocks.0.mlp.fc1.weight"]) and alike.key.tolist() == [4, 5]


def test_what_a_method_was_built_on_is_where_it_started():
    """Not where its last task ended, though its optimiser is built anew for each."""
    learner = L2InitConfig(**SHORT, strength=10.0).build(SPEC)
    start = only(learner.init_state(1))
    state = only(after(learner, [0, 1], [2, 3]))
    names = list(start.weights)
    for i, name in enumerate(names):
        assert torch.equal(state.kept[f"own.start.{i}"], start.weights[name])
    far = only(after(CONFIG.build(SPEC), [0, 1], [2, 3]))
    moved = [sum(float((own.weights[n] - start.weights[n]).square().sum()) for n in names) for own in (state, far)]
    assert moved[0] < moved[1]


def test_nap_keeps_norms_and_answers_with_its_layernorms():
    learner = NaPConfig(**SHORT).build(SPEC)
    start, state = only(learner.init_state(1)), only(after(learner, [0, 1]))
    name = "blocks.1.mlp.fc1.weight"
    assert not torch.equal(state.weights[name], start.weights[name])
    assert_close(state.weights[name].norm(), start.weights[name].norm())
    x = task([0, 1])[0]
    plain = CONFIG.build(SPEC)
    assert not torch.allclose(learner.answer_row(state, x[0]), plain.answer_row(state, x[0]))


def test_units_are_replaced_as_training_goes_on():
    """Each step shows the optimiser the hidden units; a high rate replaces them."""
    learner = ContinualVitConfig(**SHORT, replacement_rate=0.5, maturity=1).build(SPEC)
    state = only(after(learner, [0, 1]))
    assert int(state.kept["own.count"]) == 6 and bool((state.kept["own.age.0"] == 0).any())


def test_arrow_keeps_its_window_from_task_to_task_or_clears_it():
    kept, cleared = (ArrowConfig(**SHORT, clear=clear, window=8).build(SPEC) for clear in (False, True))
    counts = [only(after(learner, [0, 1], [2, 3])).kept["own.blocks.2.attn.count"] for learner in (kept, cleared)]
    assert list(map(int, counts)) == [8, 6]


@pytest.mark.parametrize("alike", [False, True])
def test_its_modules_are_measured_from_the_weights_that_it_started_with(alike):
    learner = NaPConfig(**SHORT).build(SPEC)
    state, queries = learner.start([3, 4], alike=alike), examples([0, 1])
    queries = Examples(*(part.expand(2, *part.shape[1:]) for part in (queries.x, queries.y, queries.task)))
    before = diagnose_modules(learner, state, queries)
    after_one = diagnose_modules(learner, learner.learn(state, queries), queries)
    assert before["weight_change"]["q"].tolist() == [[0.0] * 3] * 2
    assert bool((after_one["weight_change"]["mlp out"] > 0).all()) and after_one["gradient_rank"]["k"].shape == (2, 3)


def test_blocks_of_arrow():
    for words, own in (({}, ["1", "2"]), ({"number": 1}, ["2"]), ({"place": "first", "module": "mlp"}, ["0", "1"])):
        kept = only(ArrowConfig(**SHORT, **words).build(SPEC).init_state(1)).kept
        assert sorted({name.split(".")[2] for name in kept if name.startswith("own.blocks.")}) == own


@pytest.mark.parametrize("config", [PlasticConfig(**SHORT), ArrowConfig(**SHORT)])
def test_gradients_that_are_not_finite_are_told(config, monkeypatch):
    """The loss may be finite while its gradient is not; no step is made then."""
    learner = config.build(SPEC)
    state = learner.init_state(1)
    plain = torch.Tensor.backward

    def backward(value):
        plain(value)
        next(part for group in fitted[0].param_groups for part in group["params"]).grad[0] = torch.inf

    fitted: list[Any] = []
    together = plastic.Together
    monkeypatch.setattr(plastic, "Together", lambda parts: fitted.append(together(parts)) or fitted[0])
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with pytest.raises(
        DivergedError, match=r"At the learning rate 0\.001 the gradient of .*cls_token is not finite.*no step was made"
    ):
        learner.learn(state, examples([0, 1]))


def test_more_blocks_than_there_are():
    with pytest.raises(UserError, match=r"learner\.number is 9, but the transformer has 3 blocks"):
        ArrowConfig(**SHORT, number=9).build(SPEC).init_state(1)


@pytest.mark.parametrize("matrix", [False, True])
def test_a_rate_is_judged_after_each_task_by_images_that_are_kept_apart(matrix):
    """Before a task is learnt nothing can be said of it; of what the stream holds out nothing is seen."""
    pools = (small_pool((12,) * 4, (3, 8, 8)), small_pool((2,) * 4, (3, 8, 8)))
    stream, seed = Splits("a", *pools, classes=2), 5 + SWEEP
    asked = Questions(matrix=matrix, forward=True, asked=0, lags=())
    choice = along_stream(CONFIG.build(stream.spec), (1e-3, 0.1), stream, 5, 3, asked, Schedule())
    for rate in (1e-3, 0.1):
        learner = replace(CONFIG, rate=rate).build(stream.spec)
        state, right, so_far = learner.start([seed]), [], []
        for i in range(3):
            train = stream.task(seed, i).train
            state = learner.learn(state, train[:20])
            so_far.append(train[20:24])
            answers = [learner.predict(state, part.x).argmax(-1) == part.y for part in (so_far if matrix else so_far[-1:])]
            right.append(torch.cat(answers, 1).float().mean())
        assert choice.scores[f"{rate:g}"] == pytest.approx(float(torch.stack(right[1:]).mean()))
    assert choice.measure == "accuracy"
