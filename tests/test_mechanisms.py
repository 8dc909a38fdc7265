"""What each mechanism is by its paper: gates, features and closed forms, apart from how they are computed."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from metacl.attention import make_attention, naive
from metacl.attention.gated import DecayGate
from metacl.attention.linear import Performer, orthogonal_directions
from metacl.attention.log_linear import LogLinear
from metacl.attention.scan import Tokens, scan


def build(name: str, width: int = 6, heads: int = 2, **options):
    torch.manual_seed(0)
    return make_attention(name, width, heads, **options).double().eval()


def stream(N: int, width: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(1, N, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_retention_forgets_at_a_fixed_rate_for_each_head():
    module, x = build("retention"), stream(40)
    q, k, v = module.project(x)
    gamma = torch.tensor([1 - 2**-5, 1 - 2**-6], dtype=torch.float64)
    age = torch.arange(40)[:, None] - torch.arange(40)
    weight = gamma[:, None, None] ** age * (age >= 0)
    out = torch.einsum("bhne,bhie,hni,bhif->bhnf", q, k, weight, v)
    assert_close(module.learn(x, module.init_state(1))[0], module.merge(module.norm(out), x))


def test_gla_keeps_each_feature_by_its_own_gate():
    module, x = build("gla"), stream(5)
    decay = module.tokens(x).log_decay
    logits = module.gate.linear(x).unflatten(-1, (2, 3)).transpose(1, 2)
    assert_close(decay.exp(), logits.sigmoid() ** (1 / 16))
    assert module.tokens(1e6 * x).log_decay.min() < -1e3


def test_hgrn2_writes_what_it_forgets():
    """f is never below its bound, and with a value that stays the state goes to it: a weighted mean of values."""
    module, x = build("hgrn2"), stream(40)
    tokens, bound = module.tokens(x), module.bound_logit.sigmoid()
    q, k, _ = module.project(x)
    assert_close(tokens.log_decay.exp(), bound + (1 - bound) * (-k).sigmoid())
    assert_close(tokens.k, 1 - tokens.log_decay.exp())
    assert_close(tokens.q, F.silu(q))
    state = scan(tokens._replace(v=torch.ones_like(tokens.v)), 1 + module.init_state(1).sums)[1]
    assert_close(state, torch.ones_like(state))
    extreme = module.tokens(1e4 * x)
    assert (extreme.log_decay.exp() >= bound - 1e-12).all() and extreme.log_decay.isfinite().all()


def test_hgrn2_starts_with_memories_of_all_lengths():
    module = build("hgrn2", 64, 1)
    with torch.no_grad():
        module.qkv.weight.zero_()
        module.qkv.bias.zero_()
    half = -math.log(2) / module.tokens(stream(1, 64)).log_decay.flatten()
    assert 2 < half.min() < 3 and 340 < half.max() < 360


def test_a_slot_of_gsa_is_a_decayed_mean_of_keys_and_of_values():
    """Written out for one slot after another: how much each token has of the slot, and what a query reads of them."""
    module, x = build("gsa", slots=4), stream(30)
    q, k, v = (F.silu(t) for t in module.project(x))
    kept = module.forget.linear(x).unflatten(-1, (2, 4)).transpose(1, 2).sigmoid() ** (1 / 8)
    share = (1 - kept) * kept.flip(2).cumprod(2).flip(2) / kept  # of each token in the slots after the last
    K, V = (torch.einsum("bhnm,bhne->bhme", share, t) for t in (k, v))
    read = torch.einsum("bhme,bhe->bhm", K, q[:, :, -1]).softmax(-1)[..., None].mul(V).sum(2)
    out, state = module.learn(x, module.init_state(1))
    assert_close((state.keys.mT, state.values), (K, V))
    assert_close(out[:, -1:], module.merge(module.norm(read[:, :, None]), x))


def test_gsa_takes_gates_of_any_strength():
    """What a slot forgets at once leaves nothing but the token, and no factor overflows in float32."""
    torch.manual_seed(0)
    module, x = make_attention("gsa", 6, 2), torch.randn(1, 150, 6)
    with torch.no_grad():
        module.forget.linear.weight.mul_(1e4)
    x.requires_grad_()
    fast, right = (learn(x, module.init_state(1)) for learn in (module.learn, module.learn_naive))
    assert_close(fast, right, rtol=1e-4, atol=1e-5)
    assert torch.autograd.grad(fast[0].sum(), x)[0].isfinite().all()


def test_mamba2_writes_dt_and_keeps_exp_of_minus_a_dt():
    module, x = build("mamba2"), stream(5)
    tokens = module.tokens(x)
    dt = F.softplus(module.decay.gate.linear(x)).transpose(1, 2)
    assert_close(tokens.v, module.project(x)[2] * dt[..., None])
    assert_close(tokens.log_decay, -dt * module.decay.log_rate_H.exp()[:, None])


def test_mamba2_starts_as_published():
    """A is uniform in 1 to 16 and dt log-uniform in 0.001 to 0.1, each drawn apart: their halves of memory lie far apart."""
    torch.manual_seed(0)
    gate = DecayGate(4, 4000)
    A, dt = gate.log_rate_H.exp().detach(), F.softplus(gate.gate.linear.bias).detach()
    tenths = torch.linspace(0.1, 0.9, 9)
    assert_close(A.quantile(tenths), 1 + 15 * tenths, rtol=0, atol=0.5)
    assert_close(dt.log10().quantile(tenths), 2 * tenths - 3, rtol=0, atol=0.06)
    assert abs(torch.corrcoef(torch.stack([A, dt.log()]))[0, 1]) < 0.05
    half = (math.log(2) / (A * dt)).quantile(torch.tensor([0.05, 0.95]))
    assert half[0] < 1.5 and half[1] > 60


@pytest.mark.parametrize("name", ["delta", "gated-delta"])
def test_a_delta_rule_that_writes_fully_answers_its_key(name):
    module, x = build(name), stream(30)
    tokens = module.tokens(x)
    assert_close(tokens.k.norm(dim=-1), torch.ones_like(tokens.beta))
    assert ((tokens.beta > 0) & (tokens.beta < 1)).all()
    out, _ = scan(tokens._replace(q=tokens.k, beta=torch.ones_like(tokens.beta)), module.init_state(1).sums)
    assert_close(out, tokens.v)


def test_longhorn_is_the_closed_form_where_the_diagonal_is_exact():
    """For a key along one axis, the new state minimises |S' - S|^2 + beta |S'^T k - v|^2."""
    module, x = build("longhorn"), stream(1)
    with torch.no_grad():
        module.qkv.weight[6:12] = 0
        module.qkv.bias[6:12] = torch.tensor([0, 2.0, 0, -3.0, 0, 0])
    tokens, start = module.tokens(x), torch.randn(1, 2, 3, 3, dtype=torch.float64)
    after = naive.recurrence(tokens, start)[1].detach().requires_grad_()
    beta, v = module.beta(x).sigmoid(), module.project(x)[2]
    error = torch.einsum("bhef,bhne->bhnf", after, tokens.k) - v
    loss = (after - start).square().sum() + (beta[..., None] * error.square()).sum()
    assert torch.autograd.grad(loss, after)[0].abs().max() < 1e-12


def test_longhorn_never_forgets_more_than_half():
    tokens = build("longhorn").tokens(1e3 * stream(50))
    assert tokens.log_decay.min() >= math.log(0.5) - 1e-12 and tokens.log_decay.max() <= 0


def test_palimpsa_is_the_posterior_of_a_regression_where_its_diagonal_is_exact():
    """With one key feature and no forgetting: the mean of ridge regression, examples weighted by beta, ridge the prior."""
    module, x = build("palimpsa", 4, 2, key_width=1), stream(20, 4)
    with torch.no_grad():
        module.decay.log_rate_H.fill_(-100.0)
        module.log_prior.copy_(torch.tensor([0.5, -2.0])[:, None, None])
    state = module.learn(x, module.init_state(1))[1]
    (_, k, told, *_), beta = module._tokens(x, None)
    prior, v = module.log_prior.exp(), told / beta[..., None]
    for h in range(2):
        weight = torch.cat([beta[0, h], prior[h, 0]]).sqrt()[:, None]
        keys, values = torch.cat([k[0, h], torch.ones(1, 1).double()]), torch.cat([v[0, h], torch.zeros(1, 2).double()])
        mean = torch.linalg.lstsq(weight * keys, weight * values).solution
        assert_close((state.sums / (state.precision + prior[..., 0])[..., None])[0, h], mean)


def test_palimpsa_learns_less_the_more_it_was_told_and_forgets_to_its_prior():
    """Told one pair again and again, each time the mean moves less; after much else nothing of the precision is left."""
    module, x = build("palimpsa", 4, 1), stream(1, 4)
    with torch.no_grad():
        module.decay.log_rate_H.fill_(-100.0)
    state, means = module.init_state(1), []
    for _ in range(6):
        state = module.learn(x, state)[1]
        means.append(state.sums / (state.precision[..., None] + 1))
    steps = torch.stack(means).diff(dim=0).flatten(1).norm(dim=1)
    assert (steps.diff() < 0).all() and steps[-1] > 0
    with torch.no_grad():
        module.decay.log_rate_H.fill_(100.0)
        forgotten = module.read(x, state), module.read(x, module.init_state(1))
    assert_close(*forgotten)


def test_palimpsa_is_mamba2_where_forgetting_dominates():
    """A prior far above all that was told: the outputs are those of the sums alone, but for their size."""
    module, x = build("palimpsa"), stream(30)
    module.norm = torch.nn.Identity()
    with torch.no_grad():
        module.log_prior.fill_(20.0)
        module.out.bias.zero_()
    sums = naive.recurrence(module._tokens(x, None)[0], module.init_state(1).sums)[0]
    assert_close(module.learn(x, module.init_state(1))[0] * math.exp(20), module.merge(sums, x), rtol=1e-6, atol=0)


def test_the_steps_of_the_preconditioned_delta_rule_are_bounded_and_shrink_with_what_was_told():
    module = build("preconditioned-delta")
    told = torch.tensor([0.0, 1e-3, math.exp(-0.2) - 1e-6, 10.0, 1e30]).double()[:, None].expand(2, 5, 3)[None]
    steps = module._steps(told)[0, 0, :, 0]
    assert (steps.diff() < 0).all() and steps[0] < 1.5 and steps[-1] > 1 / 1.5
    assert_close(steps[2], torch.tensor(1.0).double())
    assert_close(steps[1].log() / math.log(1.5), -(r := math.log(1e-3 + 1e-6) + 0.2) / (1 + abs(torch.tensor(r).double())))


def test_the_preconditioned_delta_rule_without_preconditioning_is_gated_delta():
    """With a usual moment so far off that all steps are the same, x of the delta rule's, beta divided by x."""
    module, plain, x = build("preconditioned-delta"), build("gated-delta"), stream(30)
    plain.load_state_dict(module.state_dict(), strict=False)
    with torch.no_grad():
        module.usual_H.fill_(1e12)
    tokens = plain.tokens(x)
    out, _ = naive.recurrence(tokens._replace(k=1.5**0.5 * tokens.k, v=1.5**0.5 * tokens.v), plain.init_state(1).sums)
    expected = plain.merge(plain.norm(out), x)
    assert_close(module.learn(x, module.init_state(1))[0], expected, rtol=1e-5, atol=1e-6)


def test_preconditioning_comes_nearer_to_least_squares():
    """A stream of keys that lie mostly along few features: what the state says of the keys is nearer to their values."""
    errors = []
    for usual in (-2.0, 1e12):  # the second: no preconditioning, but the same steps for all features
        module = build("preconditioned-delta", 16, 1)
        x = stream(200, 16)
        with torch.no_grad():
            for gate in (module.decay, module.moment_decay):
                gate.log_rate_H.fill_(-100.0)
            module.usual_H.fill_(usual)
            scale = torch.linspace(1, 0.05, 16).double()[:, None]
            module.qkv.weight[16:32] *= scale
        tokens = module._tokens(x, None)
        state = module.learn(x, module.init_state(1))[1]
        errors.append((tokens.k @ state.sums - tokens.v).square().mean().item())
    assert errors[0] < errors[1]


def test_mesa_is_weighted_ridge_regression():
    """Each example counts with beta, times gamma for each token since; ridge as further examples: sqrt(ridge) e_i with 0."""
    module, x = build("mesa", iterations=0), stream(25)
    q, k, v, log_decay, beta = (t[0] for t in module._tokens(x, None))
    ridge = F.softplus(module.above_least) + 0.25
    assert_close(ridge, torch.ones_like(ridge))
    out, none = [], torch.zeros(2, 3, 3, dtype=torch.float64)
    for n in range(25):
        age = log_decay[:, : n + 1].flip(1).cumsum(1).flip(1) - log_decay[:, : n + 1]
        root = (beta[:, : n + 1] * age.exp()).sqrt()[..., None]
        keys = torch.cat([root * k[:, : n + 1], torch.diag_embed(ridge[:, 0].sqrt())], dim=1)
        solution = torch.linalg.lstsq(keys, torch.cat([root * v[:, : n + 1], none], dim=1)).solution
        out.append(torch.einsum("hef,he->hf", solution, q[:, n]))
    expected = module.merge(module.norm(torch.stack(out, dim=1)[None]), x)
    assert_close(module.learn(x, module.init_state(1))[0], expected)


def test_the_ridge_of_mesa_has_a_lower_bound_and_its_gates_start_open():
    module = build("mesa")
    with torch.no_grad():
        module.above_least.fill_(-1e3)
    assert module._ridge().min() == 0.25
    tokens = module._tokens(torch.zeros(1, 1, 6).double(), None)
    assert (tokens.log_decay > -0.02).all() and ((tokens.beta - 0.5).abs() < 0.2).all()


@pytest.mark.parametrize("flat", [1.0, 0.8], ids=["keys of all directions", "keys of few directions"])
def test_how_far_mesa_is_from_its_exact_solution(flat):
    """With the default iterations, at the least ridge and without forgetting: below 1e-4 of the outputs' size."""
    near, exact = build("mesa", 32, 1), build("mesa", 32, 1, iterations=0)
    for module in (near, exact):
        with torch.no_grad():
            module.above_least.fill_(-1e3)
            module.forget.linear.bias.fill_(40.0)
            module.beta.linear.bias.fill_(40.0)
    x = stream(400, 32) * flat ** torch.arange(32)
    right = exact.learn_naive(x, exact.init_state(1))[0]
    assert _distance(near, x, right) < 1e-4
    assert_close(exact.learn(x, exact.init_state(1))[0], right)
    one = build("mesa", 32, 1, iterations=1)
    assert _distance(one, x, right) > 0.01


def _distance(module, x: Tensor, right: Tensor) -> float:
    """Of its outputs from the right ones, relative to their size."""
    return float(((module.learn(x, module.init_state(1))[0] - right).norm() / right.norm()).detach())


def test_performer_estimates_softmax():
    """With many features the outputs approach those of softmax attention with the same projections."""
    softmax, errors = build("softmax", 4, 1), []
    x = 0.7 * stream(30, 4)
    right = softmax.learn(x, softmax.init_state(1))[0]
    for features in (16, 8192):
        module = build("performer", 4, 1, features=features)
        module.load_state_dict(softmax.state_dict(), strict=False)
        out = module.learn(x, module.init_state(1))[0]
        errors.append(float((out - right).detach().norm() / right.detach().norm()))
    assert errors[1] < 0.015 and errors[1] < errors[0] / 3


def test_performer_directions_are_orthogonal_and_saved():
    directions = orthogonal_directions(7, 4)
    assert directions.shape == (7, 4)
    product = directions[:4] @ directions[:4].T
    assert_close(product, torch.diag(product.diag()), rtol=0, atol=1e-5)
    assert "directions_ME" in build("performer").state_dict()
    module = make_attention("performer", 6, 2)
    assert isinstance(module, Performer) and module.directions_ME.shape == (6, 3)
    assert make_attention("performer", 6, 2, features=128).init_state(1).sums.shape == (1, 2, 128, 4)


@pytest.mark.parametrize("scale", [30.0, 1e-3])
def test_performer_takes_keys_of_any_length(scale):
    """Exponents of hundreds, in float32 and in pieces: what the running maximum is for."""
    torch.manual_seed(0)
    module, x = make_attention("performer", 8, 1).eval(), torch.randn(1, 100, 8)
    with torch.no_grad():
        module.qkv.weight.mul_(scale)
    out, _ = module.learn(x, module.init_state(1))
    first, state = module.learn(x[:, :50], module.init_state(1))
    second, _ = module.learn(x[:, 50:], state)
    assert out.isfinite().all()
    assert_close(torch.cat([first, second], dim=1), out, rtol=1e-3, atol=1e-3)  # an exponent of hundreds is rounded to 1e-5


def test_log_linear_with_equal_weights_is_one_decayed_sum():
    module, x = build("log-linear"), stream(150)
    assert isinstance(module, LogLinear)
    with torch.no_grad():
        module.weights.linear.weight.zero_()
        module.weights.linear.bias.fill_(math.log(math.e - 1))  # softplus gives 1
    tokens = Tokens(*module._tokens(x)[0])
    out = naive.recurrence(tokens, torch.zeros(1, 2, 3, 3, dtype=torch.float64))[0]
    assert_close(module.learn(x, module.init_state(1))[0], module.merge(module.norm(out), x))


def test_ttt_learns_within_a_stream():
    """The inner loss of a key that comes again and again falls."""
    module, x = build("ttt-linear", 8, 1), stream(1, 8).expand(1, 160, 8)
    _, k, v, _ = module._tokens(x)
    state, losses = module.init_state(1), []
    for _ in range(10):
        hidden = torch.cat([k[:, :, :1], torch.ones(1, 1, 1, 1).double()], dim=-1) @ state.now
        losses.append((k[:, :, :1] + module._normed(hidden) - v[:, :, :1]).square().sum().item())
        state = module.learn(x[:, :16], state)[1]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [("linear", {"key_width": 512, "head_width": 512}, (1, 2, 512, 513)), ("performer", {"features": 128}, (1, 2, 128, 4))],
)
def test_the_widths_of_the_paper_are_there(name, options, shape):
    assert make_attention(name, 6, 2, **options).init_state(1).sums.shape == shape


DELTA_RULES = ("delta", "gated-delta", "kda", "gdn2", "gated-delta-product")


def transition(tokens: Tokens) -> Tensor:
    """(B, H, E, E): what the first token does to a state, its values left out."""
    B, H, _, E = tokens.q.shape
    one = Tokens(*(None if t is None else t[:, :, : t.shape[2] // tokens.q.shape[2]] for t in tokens))  # type: ignore[arg-type]
    start = torch.eye(E, dtype=torch.float64).expand(B, H, E, E)
    return naive.recurrence(one._replace(v=torch.zeros(B, H, one.writes, E, dtype=torch.float64)), start)[1]


@pytest.mark.parametrize("name", DELTA_RULES)
def test_negative_eigenvalues_are_an_option_of_every_delta_rule(name):
    """Tokens for which every gate is open turn the state around along their keys only where `negative` is 1."""
    least = []
    for negative in (0, 1):
        module, x = build(name, negative=negative), stream(1)
        with torch.no_grad():
            (module.erase if name == "gdn2" else module.beta).linear.bias.fill_(30.0)
        least.append(float(torch.linalg.eigvals(transition(module.tokens(x))).real.min().detach()))
    assert least[0] > -1e-9 and -1 - 1e-9 < least[1] < -0.3


def test_kda_is_gated_delta_with_a_decay_for_each_key_feature():
    """Equal ones make it gated-delta; each is -A softplus(...), with one A for a head."""
    module, x = build("kda"), stream(20)
    tokens = module.tokens(x)
    inside = module.decay.gate.linear(x).unflatten(-1, (2, 3)).transpose(1, 2)
    assert_close(tokens.log_decay, -module.decay.log_rate_H.exp()[:, None, None] * F.softplus(inside))
    assert module.decay.gate.linear[0].weight.shape == (3, 6) and tokens.log_decay.std(dim=-1).min() > 0
    even, state = tokens.log_decay[..., :1], module.init_state(1).sums
    vector = scan(tokens._replace(log_decay=even.expand_as(tokens.k)), state)
    assert_close(vector, scan(tokens._replace(log_decay=even[..., 0]), state))


def test_gdn2_with_equal_gates_is_kda():
    module, x = build("gdn2"), stream(20)
    with torch.no_grad():
        for gate in (module.erase, module.write):
            gate.linear.weight.zero_()
            gate.linear.bias.fill_(0.4)
    tokens, k = module.tokens(x), build("kda")
    beta = torch.full_like(tokens.k[..., 0], 0.4).sigmoid()
    kimi = Tokens(tokens.q, tokens.k, module.project(x)[2], tokens.log_decay, beta)
    assert_close(scan(tokens, k.init_state(1).sums), scan(kimi, k.init_state(1).sums))


def test_gdn2_takes_back_and_writes_apart():
    """With nothing taken back it is gated linear attention; with nothing written it only takes back."""
    module, x = build("gdn2"), stream(20)
    state = module.init_state(1).sums
    with torch.no_grad():
        module.erase.linear.bias.fill_(-1e3)
        tokens = module.tokens(x)
        assert_close(scan(tokens, state), scan(tokens._replace(erase=None), state))
        module.write.linear.bias.fill_(-1e3)
        assert not module.tokens(x).v.any()


def test_gated_delta_product_turns_by_any_angle():
    """Two reflections (beta 2) at mirrors half an angle apart are the rotation by it; one step alone has determinant -1."""
    module, angle = build("gated-delta-product", 4, 1, key_width=2), 0.7
    tokens = module.tokens(stream(1, 4))
    keys = torch.tensor([[1.0, 0.0], [math.cos(angle / 2), math.sin(angle / 2)]], dtype=torch.float64)
    turn = transition(tokens._replace(k=keys[None, None], beta=2 * torch.ones_like(tokens.beta), log_decay=None))
    expected = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    assert_close(turn[0, 0], expected)


def test_gated_delta_product_with_one_step_is_gated_delta():
    one, other = build("gated-delta-product", steps=1, negative=0), build("gated-delta")
    other.load_state_dict(one.state_dict())
    x = stream(20)
    assert_close(one.learn(x, one.init_state(1)), other.learn(x, other.init_state(1)))
    three = build("gated-delta-product", steps=3)
    tokens = three.tokens(x)
    assert tokens.writes == 3 and three.more[1].weight.shape == (12, 6)
    assert_close(tokens.v[:, :, 2::3], three.project(x)[2])  # the last step is that of the shared projections


def test_rwkv7_is_its_transition():
    """S <- (Diag(w) - (a r) r^T) S + k' v^T, r read from the state before it decays."""
    module, x = build("rwkv7"), stream(6)
    with torch.no_grad():
        for gate in (module.decay, module.rate):
            gate.linear[0].weight.normal_()
    q, k, v = module.project(x)
    inside = (gate.linear(x).unflatten(-1, (2, 3)).transpose(1, 2) for gate in (module.decay, module.rate))
    d, a = (t.sigmoid() for t in inside)
    w, r = torch.exp(-math.exp(-0.5) * d), F.normalize(k * module.removal, dim=-1)
    new = k * (1 + (a - 1) * module.replacement)
    S, outputs = torch.zeros(1, 2, 3, 3, dtype=torch.float64), []
    for n in range(6):
        moved = torch.diag_embed(w[:, :, n]) - torch.einsum("bhe,bhi->bhei", a[:, :, n] * r[:, :, n], r[:, :, n])
        S = moved @ S + torch.einsum("bhe,bhf->bhef", new[:, :, n], v[:, :, n])
        outputs.append(torch.einsum("bhef,bhe->bhf", S, q[:, :, n]))
    expected = module.merge(module.norm(torch.stack(outputs, dim=2)), x)
    assert_close(module.learn(x, module.init_state(1)), (expected, type(module.init_state(1))(S)))


def test_what_new_mechanisms_remember_at_first():
    """As published: kda and gdn2 as mamba2; rwkv7 from some tokens to some hundred, the same for all tokens."""
    for name in ("kda", "gdn2"):
        half = -math.log(2) / build(name, 64, 8).tokens(torch.zeros(1, 1, 64).double()).log_decay
        assert half.min() > 0.2 and half.median() > 5 and half.max() > 60
    decay = build("rwkv7", 64, 4).tokens(stream(5, 64)).log_decay
    assert_close(decay, decay[:, :, :1].expand_as(decay))
    half = -math.log(2) / decay[0, :, 0]
    assert 1 < half.min() < 3 and half.max() > 300 and half[0].median() > half[-1].median()
