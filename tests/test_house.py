"""The rules of the house, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("vgg_normalize", "style")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST = 400
# What the command needs before it knows that the flags are right: no seconds of TensorFlow.
LIGHT = ("errors", "settings", "progress", "__main__", "__init__")

by_name = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(nodes) -> set[str]:
    """Full names of what these nodes import; `from a import b` gives a and a.b."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def at_import(path: Path) -> list[ast.AST]:
    """The nodes that run when the module is imported."""
    nodes, due = [], list(tree(path).body)
    while due:
        node = due.pop()
        nodes.append(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            due += node.decorator_list if not isinstance(node, ast.Lambda) else []
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            due += ast.iter_child_nodes(node)
    return nodes


def run(*arguments: str) -> None:
    found = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_ruff_finds_nothing():
    run("-m", "ruff", "check", ".")


def test_ruff_would_change_no_format():
    run("-m", "ruff", "format", "--check", ".")


def test_mypy_finds_nothing():
    run("-m", "mypy")


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name == "vgg_normalize"])
def test_vgg_normalize_never_imports_style(path):
    names = imported(ast.walk(tree(path)))
    assert not {name for name in names if name.split(".")[0] == "style"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_cycles(package):
    paths = {module(path): path for path in MODULES if path.parts[len(ROOT.parts)] == package}
    # What the package gives lazily, or to type checkers only, does not run at import.
    arrows = {
        name: imported(at_import(path)) & paths.keys() - {name, package}
        for name, path in paths.items()
    }
    while arrows:
        free = {name for name, targets in arrows.items() if not targets & arrows.keys()}
        assert free, f"a cycle among {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in free}


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_do_not_import_tensorflow(name):
    names = imported(at_import(ROOT / "vgg_normalize" / f"{name}.py"))
    assert not {n for n in names if n.split(".")[0] in ("tensorflow", "keras", "numpy")}


def test_importing_the_package_and_the_command_does_not_import_tensorflow():
    run(
        "-c",
        "import sys, vgg_normalize, vgg_normalize.__main__\n"
        "sys.exit(bool({'tensorflow', 'keras', 'matplotlib'} & sys.modules.keys()))",
    )


@by_name
def test_no_configuration_and_no_seeding_at_import(path):
    calls = [ast.unparse(n.func) for n in at_import(path) if isinstance(n, ast.Call)]
    forbidden = ("tf.config", "random.seed", "set_seed", "set_random_seed", "set_floatx")
    assert not [call for call in calls if any(part in call for part in forbidden)]


@by_name
def test_everything_public_has_a_docstring(path):
    assert ast.get_docstring(tree(path)) or path.stat().st_size == 0, "module"
    due: list[tuple[ast.AST, bool]] = [(node, True) for node in tree(path).body]
    missing = []
    for node, outside in due:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and not _obvious(node, outside):
            missing.append(node.name)
        if isinstance(node, ast.ClassDef):
            due += [(child, False) for child in node.body]
    assert not missing


def _obvious(node: ast.AST, outside: bool) -> bool:
    """Methods that Keras names, and one-line properties whose name says it all."""
    body = getattr(node, "body", [])
    keras = getattr(node, "name", "") in ("call", "build", "get_config", "compute_output_shape")
    return not outside and (keras or (len(body) == 1 and not isinstance(body[0], ast.If)))


@by_name
def test_modules_are_short(path):
    assert len(path.read_text().splitlines()) < LONGEST


@by_name
def test_no_assertion_outside_the_tests(path):
    assert not [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]
