"""Optional kernels: what is asked of them, against plain stand-ins with their signatures; and on a GPU the kernels themselves.

Here nothing runs on a GPU: `ground` is replaced, and modules with the names of the packages compute in float64 what the
real ones do, in their layout, with their defaults and only at the widths that they take.
"""

import logging
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from episodes import UserError
from metacl.attention import ATTENTION, backends, fused, make_attention, naive
from metacl.attention.scan import Tokens

B, H, N = 2, 3, 9
KINDS = [(decay, rule) for decay in ("no", "fixed", "scalar", "vector") for rule in ("add", "delta")]
KERNELS = [*KINDS, ("vector", "erase"), ("scalar", "delta twice"), ("vector", "erase twice"), ("scalar", "add thrice")]
each_kernel = pytest.mark.parametrize(("decay", "rule"), KERNELS)
HOPPER, AMPERE = (9, torch.bfloat16), (8, torch.float16)
PACKAGES = ("flash_attn", "flash_attn.cute", "fla")
MODULES = {
    kernel.module: kernel.function for kernel in (*backends.FLA.values(), backends.FLA_PRODUCT, fused.GSA, fused.PRECONDITIONED)
}
OWN_FORM = ("ttt-linear", "mesa", "log-linear")
"""Mechanisms that are not one recurrence: PyTorch does them all."""
OWN_KERNEL = {
    "softmax": (backends.FLASH_4, backends.FLASH_2),
    "gsa": (fused.GSA,),
    "preconditioned-delta": (fused.PRECONDITIONED,),
}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What earlier tests found out and said."""
    load = backends.load
    monkeypatch.setattr(backends, "_said", set())
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.fixture
def install(monkeypatch):
    """Puts stand-ins of some packages in the place of whatever is installed, and tensors on a GPU (None: where they are)."""

    def place(*packages: str, ground: tuple[int, torch.dtype] | None = HOPPER) -> None:
        for name in PACKAGES:
            monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
        if "flash-attn" in packages:
            monkeypatch.setitem(sys.modules, "flash_attn", module("flash_attn", flash_attn_func=flash_2))
        if "flash-attn-4" in packages:
            monkeypatch.setitem(sys.modules, "flash_attn.cute", module("flash_attn.cute", flash_attn_func=flash_4))
        for name, function in MODULES.items():
            stand_in = module(name, **{function: globals()[function]}) if "fla-core" in packages else None
            monkeypatch.setitem(sys.modules, name, stand_in)
        if ground is not None:
            monkeypatch.setattr(backends, "ground", lambda t: ground)

    return place


def module(name: str, **functions) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(functions)
    return made


def chunk_simple_gla(q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False):
    assert g_gamma is None and (g is None or g.shape == q.shape[:3])
    return recurrence(q, k, v, g, None, scale, initial_state, output_final_state)


def chunk_gla(q, k, v, g, scale=None, initial_state=None, output_final_state=False):
    assert q.shape == k.shape == g.shape
    return recurrence(q, k, v, g, None, scale, initial_state, output_final_state)


def chunk_delta_rule(q, k, v, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False):
    assert beta.shape == q.shape[:3] and not use_qk_l2norm_in_kernel
    return recurrence(q, k, v, None, beta, scale, initial_state, output_final_state)


def chunk_gated_delta_rule(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False):
    assert g.shape == beta.shape == q.shape[:3]
    return recurrence(q, k, v, g, beta, scale, initial_state, output_final_state)


def chunk_precond_gated_delta_rule(
    q, k, v, g_atk, g, beta_atk, beta, scale=None, initial_state=None, initial_A_state=None, output_final_state=False,
    use_qk_l2norm_in_kernel=True, x=1.5, eps=1e-6, log_atk_scale=None,
):  # fmt: skip
    assert g.shape == beta.shape == g_atk.shape == beta_atk.shape == q.shape[:3] and log_atk_scale.shape == (H,)
    assert not use_qk_l2norm_in_kernel and output_final_state and q.shape[-1] % 16 == v.shape[-1] % 16 == 0
    assert initial_A_state.shape == (len(q), H, q.shape[-1]) and initial_state.shape == (*initial_A_state.shape, v.shape[-1])

    def steps(moment):
        r = (moment + eps).log() - log_atk_scale[:, None]
        return x ** -(r / (1 + r.abs()))

    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    tokens = (t.transpose(1, 2) for t in (q, k, v, g, beta, g_atk, beta_atk))
    out, *state = naive.preconditioned_delta(*tokens, steps, initial_state, initial_A_state)
    return out.transpose(1, 2), *state


def chunk_gsa(q, k, v, s, g=None, scale=None, initial_state=None, output_final_state=False):
    """All sizes multiples of 16, but scores that are far below the others."""
    assert s.shape == g.shape == (*q.shape[:3], initial_state[0].shape[3]) and s.dtype == q.dtype
    assert all(t.shape[-1] % 16 == 0 for t in (q, k, v, s)) and all(t.is_contiguous() for t in initial_state)
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    out, *state = naive.gated_slots(*(t.transpose(1, 2) for t in (q, k, v, s, g)), *initial_state)
    return out.transpose(1, 2), state if output_final_state else (None, None)


def chunk_kda(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, use_gate_in_kernel=False):
    assert g.shape == q.shape and beta.shape == q.shape[:3] and initial_state.dtype == g.dtype and not use_gate_in_kernel
    return recurrence(q, k, v, g, beta, scale, initial_state, output_final_state)


def chunk_gated_delta_product(q, k, v, g, beta, num_householder, scale=None, initial_state=None, output_final_state=False):
    assert g.shape == q.shape[:3] and beta.shape == k.shape[:3] and k.shape[1] == num_householder * q.shape[1]
    return recurrence(q, k, v, g, beta, scale, initial_state, output_final_state)


def chunk_dplr_delta_rule(q, k, v, a, b, gk, scale=None, initial_state=None, output_final_state=False):
    """S <- exp(gk) S + b (a^T S) + k v^T: a reads the state before it decays."""
    assert a.shape == b.shape == gk.shape == q.shape == k.shape and not torch.is_autocast_enabled("cpu")
    S, outputs = initial_state, []
    for n in range(q.shape[1]):
        told = torch.einsum("bhe,bhef->bhf", a[:, n], S)
        S = gk[:, n, :, :, None].exp() * S + torch.einsum("bhe,bhf->bhef", b[:, n], told)
        S = S + torch.einsum("bhe,bhf->bhef", k[:, n], v[:, n])
        outputs.append(torch.einsum("bhe,bhef->bhf", q[:, n] * (q.shape[-1] ** -0.5 if scale is None else scale), S))
    return torch.stack(outputs, dim=1), S if output_final_state else None


def recurrence(q, k, v, g, beta, scale, initial_state, output_final_state):
    """As fla has it: tokens before heads, the scale 1 / sqrt(E) where none is given, no state where none is asked for."""
    assert q.shape[1] % N == v.shape[1] % N == 0 and q.shape[2] == H and not torch.is_autocast_enabled("cpu")
    assert q.shape[-1] % 16 == v.shape[-1] % 16 == 0
    assert initial_state.shape == (len(q), H, q.shape[-1], v.shape[-1])
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    out, state = naive.recurrence(
        Tokens(*(None if t is None else t.transpose(1, 2) for t in (q, k, v, g, beta))), initial_state
    )
    return out.transpose(1, 2), state if output_final_state else None


def flash_2(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, **others):
    """As flash-attn: tokens before heads; keys as wide as values; not causal where that is not asked for."""
    assert not others and q.shape[1] == k.shape[1] == N and q.shape[-1] == k.shape[-1] == v.shape[-1]
    assert q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, None, dropout_p, causal, scale=softmax_scale, enable_gqa=True)
    return out.transpose(1, 2)


def flash_4(q, k, v, *, softmax_scale=None, causal=False):
    """As flash-attn-4: no dropout, and the logarithm of the sums beside the outputs."""
    assert q.shape[-1] <= 128
    return flash_2(q, k, v, 0.0, softmax_scale, causal), None


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens_of(decay: str, rule: str, E: int = 5, V: int = 3) -> tuple[Tokens, Tensor]:
    """Float64 leaves. `fixed`: a scalar decay that is one number a head, expanded."""
    log_decay = {
        "no": None,
        "fixed": torch.tensor([[-0.03], [-0.5], [-2.0]], dtype=torch.float64).expand(B, H, N),
        "scalar": -noise(B, H, N, seed=3).sigmoid(),
        "vector": -noise(B, H, N, E, seed=4).sigmoid(),
    }[decay]
    many = N * {"twice": 2, "thrice": 3}.get(rule.split(" ")[-1], 1)
    beta = noise(B, H, many, seed=5).sigmoid() if "delta" in rule else None
    k = F.normalize(noise(B, H, many, E, seed=1), dim=-1)
    erase = noise(B, H, many, E, seed=7).sigmoid() * k.detach() if "erase" in rule else None
    tokens = Tokens(noise(B, H, N, E), k, noise(B, H, many, V, seed=2), log_decay, beta, erase)
    for t in tokens:
        if t is not None:
            t.requires_grad_()
    return tokens, noise(B, H, E, V, seed=6).requires_grad_()


def attention_tensors(E: int = 5, V: int = 5, key_heads: int = H) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((B, H, N, E), (B, key_heads, N, E), (B, key_heads, N, V))
    q, k, v = (noise(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes))
    return q, k, v


def gradients(outputs: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Of a random projection of all outputs."""
    real = [t for t in pytree.tree_leaves(outputs) if t.requires_grad]
    loss = torch.stack([(t.double() * noise(*t.shape, seed=10 + i).to(t.device)).sum() for i, t in enumerate(real)]).sum()
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True))


def assert_same(got: Any, right: Any, inputs: list[Tensor]) -> None:
    assert_close(got, right)
    assert_close(gradients(got, inputs), gradients(right, inputs))


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "metacl"]


@each_kernel
@pytest.mark.parametrize(("E", "V"), [(5, 3), (16, 17), (20, 32)])
@pytest.mark.parametrize("backend", ["fla", "auto"])
def test_every_recurrence_has_its_kernel(install, caplog, decay, rule, E, V, backend):
    caplog.set_level(logging.INFO, "metacl")
    install("fla-core")
    tokens, state = tokens_of(decay, rule, E, V)
    with torch.autocast("cpu", torch.bfloat16):
        got = backends.scan(tokens, state, backend)
    assert_same(got, naive.recurrence(tokens, state), [t for t in (*tokens, state) if t is not None])
    assert got[1].is_contiguous()
    assert len(said(caplog)) == 1 and "fla.ops." in said(caplog)[0]


@pytest.mark.parametrize("decay", ["scalar", "vector"])
def test_keys_may_be_wide_where_the_rule_is_add(install, decay):
    install("fla-core")
    tokens, state = tokens_of(decay, "add", E=257)
    assert_close(backends.scan(tokens, state, "fla"), naive.recurrence(tokens, state))


@pytest.mark.parametrize("slots", [16, 20])
def test_slots_by_their_kernel(install, slots):
    """A number of slots that the kernel takes, and one that is filled up."""
    install("fla-core")
    torch.manual_seed(0)
    module, x = make_attention("gsa", 20 * H, H, slots=slots, backend="fla").double(), noise(B, N, 20 * H).requires_grad_()
    got, right = module.learn(x, module.init_state(B)), module.learn_naive(x, module.init_state(B))
    assert_same(got, right, [x, *module.parameters()])


@pytest.mark.parametrize("key_heads", [1, H])
@pytest.mark.parametrize(("E", "V"), [(5, 5), (8, 8), (3, 10), (20, 6)])
@pytest.mark.parametrize(
    ("packages", "ground", "module_name"),
    [
        (("flash-attn",), AMPERE, "flash_attn.flash_attn_func"),
        (("flash-attn",), HOPPER, "flash_attn.flash_attn_func"),
        (("flash-attn", "flash-attn-4"), AMPERE, "flash_attn.flash_attn_func"),
        (("flash-attn", "flash-attn-4"), HOPPER, "flash_attn.cute.flash_attn_func"),
        (("flash-attn-4",), HOPPER, "flash_attn.cute.flash_attn_func"),
    ],
    ids=["2", "2 on Hopper", "2 of both", "4 of both", "4"],
)
def test_softmax_by_flash_attention(install, caplog, packages, ground, module_name, E, V, key_heads):
    caplog.set_level(logging.INFO, "metacl")
    install(*packages, ground=ground)
    q, k, v = attention_tensors(E, V, key_heads)
    assert_same(backends.softmax(q, k, v, None, 0.0, "flash"), naive.softmax_attention(q, k, v), [q, k, v])
    assert_same(backends.softmax(q, k, v, None, 0.0), naive.softmax_attention(q, k, v), [q, k, v])
    assert len(said(caplog)) == 1 and module_name in said(caplog)[0]


@pytest.mark.parametrize(("dropout", "width"), [(0.999999, 5), (0.0, 200)])
def test_what_flash_attention_4_cannot_do_flash_attention_2_does(install, caplog, dropout, width):
    caplog.set_level(logging.INFO, "metacl")
    install("flash-attn", "flash-attn-4")
    out = backends.softmax(*attention_tensors(width, width), None, dropout, "flash")
    assert "flash_attn.flash_attn_func" in said(caplog)[0]
    assert bool(out.any()) == (dropout == 0.0)


@pytest.mark.parametrize("mechanism", ATTENTION)
def test_every_mechanism_is_the_same_by_kernels(install, caplog, mechanism):
    """With `auto`: from the start, and continued with padding, where softmax needs a mask and PyTorch does it."""
    caplog.set_level(logging.INFO, "metacl")
    install("fla-core", "flash-attn", "flash-attn-4")
    torch.manual_seed(0)
    module = make_attention(mechanism, 4 * H, H).double().eval()
    x, later = noise(B, N, 4 * H).requires_grad_(), noise(B, N, 4 * H, seed=1)
    got, right = module.learn(x, module.init_state(B)), module.learn_naive(x, module.init_state(B))
    inputs = [x, *module.parameters()]
    assert_same(got, right, inputs)
    assert len(said(caplog)) == (mechanism not in OWN_FORM) and not any("PyTorch" in line for line in said(caplog))
    valid = noise(B, N, seed=2) > -1
    got, right = module.learn(later, got[1], valid), module.learn_naive(later, right[1], valid)
    assert_same((got[0][valid], got[1]), (right[0][valid], right[1]), inputs)


def test_the_torch_backend_is_pytorch(install, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "metacl")
    install("fla-core", "flash-attn")
    monkeypatch.setattr(backends, "load", lambda kernel: pytest.fail(f"{kernel} was looked for"))
    tokens, state = tokens_of("scalar", "delta")
    assert_close(backends.scan(tokens, state, "torch"), naive.recurrence(tokens, state))
    q, k, v = attention_tensors()
    assert_close(backends.softmax(q, k, v, None, 0.0, "torch"), naive.softmax_attention(q, k, v))
    assert said(caplog) == ["recurrence with scalar decay and rule delta: PyTorch", "softmax attention: PyTorch"]


@pytest.mark.parametrize("ground", [None, (0, torch.bfloat16), (7, torch.float16), (9, torch.float32), (9, torch.float64)])
def test_auto_looks_for_no_package_where_none_could_be_used(install, monkeypatch, ground):
    install("fla-core", "flash-attn", ground=ground)
    monkeypatch.setattr(backends, "load", lambda kernel: pytest.fail(f"{kernel} was looked for"))
    backends.scan(*tokens_of("no", "add"))
    backends.softmax(*attention_tensors(), None, 0.0)


@pytest.mark.parametrize(("decay", "rule"), KINDS)
def test_auto_without_packages_is_pytorch(install, decay, rule):
    install()
    tokens, state = tokens_of(decay, rule)
    assert_close(backends.scan(tokens, state), naive.recurrence(tokens, state))
    q, k, v = attention_tensors()
    assert_close(backends.softmax(q, k, v, None, 0.0), naive.softmax_attention(q, k, v))


def test_auto_takes_pytorch_where_no_kernel_fits(install, caplog):
    caplog.set_level(logging.INFO, "metacl")
    install("fla-core", "flash-attn", "flash-attn-4")
    for tokens, state in (tokens_of("no", "erase"), tokens_of("no", "delta", E=257)):
        assert_close(backends.scan(tokens, state), naive.recurrence(tokens, state))
    q, k, v = attention_tensors(257, 257)
    assert_close(backends.softmax(q, k, v, None, 0.0), naive.softmax_attention(q, k, v))
    backends.softmax(*attention_tensors(), torch.ones(N, N, dtype=torch.bool), 0.0)
    assert len(said(caplog)) == 3 and all("PyTorch" in line for line in said(caplog))


def test_one_line_of_log_for_each_choice(install, caplog):
    caplog.set_level(logging.INFO, "metacl")
    install("fla-core")
    for _ in range(3):
        backends.scan(*tokens_of("no", "add"))
        backends.scan(*tokens_of("scalar", "add"))
        backends.softmax(*attention_tensors(), None, 0.0)
    assert said(caplog) == [
        "recurrence with no decay and rule add: fla.ops.simple_gla.chunk_simple_gla (fla-core)",
        "recurrence with scalar decay and rule add: fla.ops.simple_gla.chunk_simple_gla (fla-core)",
        "softmax attention: PyTorch",
    ]


def run(backend: str, mask: bool = False, dropout: float = 0.0, width: int = 5) -> Tensor:
    """Softmax attention for `flash`, a delta rule for `fla`."""
    if backend == "fla":
        return backends.scan(*tokens_of("no", "delta", E=width), backend)[0]
    shown = torch.ones(N, N, dtype=torch.bool) if mask else None
    return backends.softmax(*attention_tensors(width, width), shown, dropout, backend)


@pytest.mark.parametrize("ground", [HOPPER, None], ids=["GPU", "CPU"])
@pytest.mark.parametrize(
    ("backend", "words"),
    [("flash", ("pip install --no-build-isolation 'metacl[flash]'", "nvcc")), ("fla", ("pip install 'metacl[fla]'", "triton"))],
)
def test_a_package_that_is_missing(install, backend, words, ground):
    install(ground=ground)
    with pytest.raises(UserError, match="is not installed") as caught:
        run(backend)
    message = str(caught.value)
    assert all(word in message for word in (*words, "ModuleNotFoundError", "NVIDIA GPU", "auto"))
    assert ("the tensors are on the CPU" in message) == (ground is None)


@pytest.mark.parametrize(
    ("backend", "packages", "ground", "options", "words"),
    [
        ("flash", "flash-attn", None, {}, "flash-attn cannot do this.*on the CPU"),
        ("fla", "fla-core", None, {}, "fla-core cannot do this.*on the CPU"),
        ("flash", "flash-attn", (7, torch.float16), {}, "compute capability 7"),
        ("fla", "fla-core", (7, torch.float16), {}, "compute capability 7"),
        ("flash", "flash-attn", (8, torch.float32), {}, "are float32.*--precision bf16"),
        ("fla", "fla-core", (8, torch.float64), {}, "are float64.*--precision bf16"),
        ("flash", "flash-attn", HOPPER, {"mask": True}, "a mask"),
        ("flash", "flash-attn", HOPPER, {"width": 257}, "257 features.*up to 256"),
        ("flash", "flash-attn flash-attn-4", HOPPER, {"width": 257}, "flash-attn cannot.*257 features.*up to 256"),
        ("fla", "fla-core", HOPPER, {"width": 257}, "257 features.*up to 256"),
        ("flash", "flash-attn-4", HOPPER, {"width": 129}, "flash-attn-4 cannot.*129 features.*up to 128"),
        ("flash", "flash-attn-4", HOPPER, {"dropout": 0.1}, "no dropout.*--learner.attention-dropout 0"),
        ("flash", "flash-attn-4", AMPERE, {}, "needs Hopper"),
    ],
)
def test_tensors_that_a_kernel_cannot_take(install, backend, packages, ground, options, words):
    install(*packages.split(), ground=ground)
    with pytest.raises(UserError, match=words) as caught:
        run(backend, **options)
    assert str(caught.value).endswith("Or take auto.")


@pytest.mark.parametrize(("backend", "other"), [("flash", "fla"), ("fla", "flash")])
def test_a_backend_that_has_no_kernel_for_the_mechanism(install, backend, other):
    install("flash-attn", "fla-core")
    with pytest.raises(UserError, match=f"has no kernels of {backend}. Take {other}, auto or torch"):
        make_attention("linear" if backend == "flash" else "softmax", 4 * H, H, backend=backend)


def test_a_recurrence_that_has_no_kernel(install):
    install("fla-core")
    with pytest.raises(UserError, match="fla has no kernel for a recurrence with no decay and rule erase"):
        backends.scan(*tokens_of("no", "erase"), "fla")


def test_a_package_that_is_broken_says_why(install, monkeypatch):
    install()

    class Broken(ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("undefined symbol: _ZN3c10")

    monkeypatch.setitem(sys.modules, "flash_attn", Broken("flash_attn"))
    with pytest.raises(UserError, match="undefined symbol"):
        run("flash")
    run("auto")


def test_an_unknown_backend_is_named(install):
    install()
    with pytest.raises(UserError, match="Did you mean 'flash'"):
        run("flsh")
    with pytest.raises(UserError, match="Unknown backend 'cuda'"):
        backends.scan(*tokens_of("no", "add"), "cuda")


def test_packages_are_looked_for_once(install):
    install()
    for _ in range(5):
        run("auto")
    assert backends.load.cache_info().misses == 2


def need(*kernels: backends.Kernel) -> Any:
    """The first that is here; skips the test where none is."""
    found = [run for run in map(backends.load, kernels) if callable(run)]
    return found[0] if found else pytest.skip(f"{kernels[0].package}: {backends.load(kernels[0])}")


real = pytest.mark.filterwarnings("default")
"""Other packages may warn."""


def near(got: Any, right: Any, tolerance: float = 0.03) -> None:
    """Each tensor, relative to its size; of gradients that are nearly nothing, to the largest."""
    largest = max(float(t.norm()) for t in right)
    for a, b in zip(got, right, strict=True):
        assert float((a.double() - b.double()).norm()) <= tolerance * max(float(b.norm()), 0.05 * largest)


@pytest.mark.gpu
@real
@pytest.mark.parametrize("N", [5, 64, 150])
@pytest.mark.parametrize("mechanism", ATTENTION)
def test_real_kernels_are_near_every_mechanism(caplog, mechanism, N):
    """Under bf16 autocast, from the start and (but for softmax, which then has a mask) from a state, against float64."""
    need(*OWN_KERNEL.get(mechanism, tuple(backends.FLA.values())))
    caplog.set_level(logging.INFO, "metacl")
    torch.manual_seed(0)
    module = make_attention(mechanism, 132, 4).cuda()  # heads 33 wide
    exact = make_attention(mechanism, 132, 4).double().cuda()
    exact.load_state_dict(module.state_dict())
    x = noise(2, N, 132).cuda()
    narrow, wide = x.float().requires_grad_(), x.requires_grad_()
    state, right_state = module.init_state(2), exact.init_state(2)
    for _ in range(1 if mechanism == "softmax" else 2):
        with torch.autocast("cuda", torch.bfloat16):
            out, state = module.learn(narrow, state)
        right, right_state = exact.learn(wide, right_state, None)
        assert_finite_and_near(out, state, right, right_state, mechanism)
    got = gradients((out, state), [narrow, *module.parameters()])
    near(got, gradients((right, right_state), [wide, *exact.parameters()]), 0.2 if mechanism == "mesa" else 0.05)
    by_kernel = [line for line in said(caplog) if "PyTorch" not in line]
    assert len(by_kernel) == (mechanism not in OWN_FORM)


def assert_finite_and_near(out: Tensor, state: Any, right: Tensor, right_state: Any, mechanism: str) -> None:
    leaves = [[t for t in pytree.tree_leaves(s) if t.is_floating_point()] for s in (state, right_state)]
    assert mechanism == "softmax" or all(t.dtype == torch.float32 for t in leaves[0])
    near([out, *leaves[0]], [right, *leaves[1]], 0.15 if mechanism == "mesa" else 0.04)


@pytest.mark.gpu
@real
@each_kernel
@pytest.mark.parametrize(("E", "V"), [(8, 5), (33, 65), (128, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_real_recurrences(decay, rule, E, V, dtype):
    """Forward, final state and every gradient of fla's kernels, against the loop in float64 on the same rounded numbers."""
    need(backends.FLA[decay.replace("fixed", "scalar"), rule.split(" ")[0]])
    tokens, state = tokens_of(decay, rule, E, V)
    there = [None if t is None else t.detach().cuda() for t in (*tokens, state)]
    narrow = [
        None if t is None else t.to(dtype if i in (0, 1, 2, 5) else torch.float32).requires_grad_() for i, t in enumerate(there)
    ]
    right = [None if t is None else t.detach().double().requires_grad_() for t in narrow]
    got, expected = backends.scan(Tokens(*narrow[:-1]), narrow[-1], "fla"), naive.recurrence(Tokens(*right[:-1]), right[-1])
    assert got[0].dtype == dtype and got[1].dtype == torch.float32
    near(got, expected, 0.02)
    near(*(gradients(of, [t for t in by if t is not None]) for of, by in ((got, narrow), (expected, right))), 0.02)


@pytest.mark.gpu
@real
@pytest.mark.parametrize("key_heads", [1, H])
@pytest.mark.parametrize(("E", "V"), [(33, 33), (64, 64), (24, 40), (128, 128)])
@pytest.mark.parametrize("kernel", [backends.FLASH_2, backends.FLASH_4], ids=lambda kernel: kernel.package)
def test_real_flash_attention(kernel, E, V, key_heads):
    run = need(kernel)
    if kernel == backends.FLASH_4 and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("flash-attn-4 needs Hopper or newer")
    narrow = [t.detach().cuda().bfloat16().requires_grad_() for t in attention_tensors(E, V, key_heads)]
    right = [t.detach().double().cpu().requires_grad_() for t in narrow]
    got, expected = backends.softmax_by_flash(run, *narrow, 0.0), naive.softmax_attention(*right)
    near([got.cpu()], [expected], 0.02)
    near([t.cpu() for t in gradients(got, narrow)], gradients(expected, right), 0.02)
