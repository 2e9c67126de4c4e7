"""The rules of the house, read from the sources."""

from __future__ import annotations

import ast
import importlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("vgg_normalize", "style")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST = 300
# Functions of more than 40 lines or 5 parameters, and why: keyword-only options that stand by
# themselves, which an object around them would only hide.
LARGE = {
    "style.cli.picture_run.PictureRun.__init__": "a run's parts",
    "style.feedforward.crop_stream.CropStream.__init__": "the options of a stream",
    "style.feedforward.networks.style_encoder": "the options of a network",
    "style.feedforward.training.step_function": "what a step is made of",
    "style.feedforward.stylizer.Stylizer.render": "the options of a styliser",
    "style.objective.memory_budget.estimate": "what memory depends on",
    "style.objective.memory_budget.require_memory": "what memory depends on",
    "style.objective.value_and_gradient.make_value_and_gradient": "what an objective is made of",
    "style.studio.server.launch": "the options of a studio",
    "style.synthesis.descent.make_optimizer": "the options of both optimisers",
    "style.synthesis.inputs.Inputs.__init__": "the pictures of a task",
    "style.synthesis.neighbor_terms.neighbor_terms": "the options of content terms",
    "style.synthesis.picture_terms._summed_terms": "the options of style terms",
    "style.synthesis.picture_terms.style_terms": "the options of style terms",
    "style.synthesis.tasks._run": "what three tasks share",
    "vgg_normalize.data.sources.batches": "the options of batches",
    "vgg_normalize.measurement.measure": "the options of a measurement",
    "vgg_normalize.verification.check": "the contract's",
    "vgg_normalize.vgg.build": "the contract's",
}
# What the command needs before it knows that the flags are right: no seconds of TensorFlow.
LIGHT = ("errors", "cli/settings", "runtime/progress", "__main__", "__init__")

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


@pytest.mark.slow
def test_mypy_finds_nothing():
    run("-m", "mypy")


# What each room may import, besides itself; rooms are folders, and single modules at the top.
# These single modules import only what stands before them.
NORMALIZE = (
    *("errors", "runtime", "networks", "weights", "data", "means", "vgg", "channel_sums"),
    *("distributed", "measurement_state", "measurement", "rescaling", "verification"),
    *("layer_comparison", "comparison", "shipped_means", "onnx_files", "saved_model"),
    *("saved_network", "caffe"),
)
COMMANDS = ("style.__main__", "style.apply", "style.train")
ROOMS: dict[str, set[str]] = {
    "vgg_normalize.errors": set(),
    "vgg_normalize.runtime": {"vgg_normalize.errors"},
    "vgg_normalize.networks": {"vgg_normalize.errors"},
    "vgg_normalize.weights": {
        "vgg_normalize.errors",
        "vgg_normalize.networks",
        "vgg_normalize.vgg",
    },
    "vgg_normalize.data": {"vgg_normalize.errors", "vgg_normalize.networks"},
    **{
        f"vgg_normalize.{room}": {f"vgg_normalize.{other}" for other in NORMALIZE[:i]}
        for i, room in enumerate(NORMALIZE)
        if i >= NORMALIZE.index("means")
    },
    "vgg_normalize.report": {"vgg_normalize", *(f"vgg_normalize.{room}" for room in NORMALIZE)},
    "vgg_normalize.cli": {
        "vgg_normalize.report",
        *(f"vgg_normalize.{room}" for room in NORMALIZE),
    },
    "vgg_normalize.__main__": {f"vgg_normalize.{room}" for room in ("cli", "errors", "runtime")},
    "style.images": {"vgg_normalize"},
    "style.objective": {"vgg_normalize"},
    "style.optimizers": {"vgg_normalize"},
    "style.models": {"vgg_normalize"},
    "style.synthesis": {
        "vgg_normalize",
        *(f"style.{r}" for r in ("images", "objective", "optimizers", "models")),
    },
    "style.feedforward": {"vgg_normalize", "style.images", "style.objective"},
    "style.cli": {
        "vgg_normalize",
        *(f"style.{r}" for r in ("feedforward", "images", "models", "objective", "optimizers")),
        "style.synthesis",
    },
    **{command: {"vgg_normalize", "style.cli", "style.synthesis"} for command in COMMANDS},
    "style.studio": {
        "vgg_normalize",
        *(f"style.{r}" for r in ("cli", "feedforward", "images", "models", "synthesis")),
    },
}
# Below the command line nothing knows of flags, settings or of who is told what.
ABOVE = (".runtime", ".cli", ".studio", ".__main__", *(f".{c.split('.')[1]}" for c in COMMANDS))
BELOW = [room for room in ROOMS if not room.endswith(ABOVE)]


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def in_room(chosen: str) -> list[Path]:
    return [path for path in MODULES if room(module(path)) == chosen]


def test_every_module_is_in_a_room():
    assert {room(module(path)) for path in MODULES} - {f"{p}.__init__" for p in PACKAGES} == {
        *ROOMS
    }


@pytest.mark.parametrize("chosen", ROOMS)
def test_arrows_between_rooms_go_one_way(chosen):
    assert in_room(chosen), "an empty room"
    for path in in_room(chosen):
        names = {n for n in imported(ast.walk(tree(path))) if n.split(".")[0] in PACKAGES}
        allowed = ROOMS[chosen] | {chosen}
        wrong = {n for n in names if room(n) not in allowed and n.split(".")[0] not in allowed}
        # `from vgg_normalize import chain` gives the package too.
        assert not wrong - set(PACKAGES), f"{module(path)} imports {sorted(wrong)}"


@pytest.mark.parametrize("path", [p for p in MODULES if p.is_relative_to(ROOT / "vgg_normalize")])
def test_vgg_normalize_never_imports_style(path):
    names = imported(ast.walk(tree(path)))
    assert not {name for name in names if name.split(".")[0] == "style"}


@pytest.mark.parametrize("chosen", BELOW)
def test_nothing_below_the_command_line_knows_flags_or_says_anything(chosen):
    for path in in_room(chosen):
        names = imported(ast.walk(tree(path)))
        parts = {part for name in names for part in name.split(".")}
        assert not parts & {"absl", "cli", "Settings", "progress", "say"}, module(path)
        if chosen in ("vgg_normalize.report", "vgg_normalize.caffe"):
            continue  # a page that the command writes, and a command of its own
        # `size`, not --size: the command calls options flags when it tells of an error.
        texts = [n.value for n in ast.walk(tree(path)) if isinstance(n, ast.Constant)]
        named = [t for t in texts if isinstance(t, str) and re.search(r"(^|\W)--[a-z_]+\b(?!-)", t)]
        assert not [text for text in named if "pip install" not in text], module(path)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_of_the_front_door_is_a_module(package):
    """Importing the module would put it in the name's place."""
    front = importlib.import_module(package)
    assert front.__all__
    for name in front.__all__:
        assert not (ROOT / package / name).exists() and not (ROOT / package / f"{name}.py").exists()
        assert name in dir(front) and getattr(front, name) is not None


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
def test_no_graph_is_rewritten_by_autograph(path):
    """None has Python's branches or loops over tensors, and rewriting delays every run."""
    nodes = list(ast.walk(tree(path)))
    named = [n for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n) == "tf.function"]
    calls = [n for n in nodes if isinstance(n, ast.Call) and n.func in named]
    plain = [n for n in calls if ("autograph", "False") in _keywords(n)]
    assert len(plain) == len(named)


def _keywords(call: ast.Call) -> list[tuple[str | None, str]]:
    return [(keyword.arg, ast.unparse(keyword.value)) for keyword in call.keywords]


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


def size_of(function: ast.FunctionDef) -> tuple[int, int]:
    """Lines without the docstring, and parameters without self."""
    documented = ast.get_docstring(function) is not None and len(function.body) > 1
    first = function.body[documented].lineno
    arguments = function.args
    names = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return function.end_lineno - first + 1, len({a.arg for a in names} - {"self", "cls"})


def functions_in(node: ast.AST, within: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """All functions by full name: module.Class.method, module.function.inner."""
    for child in ast.iter_child_nodes(node):
        name = f"{within}.{getattr(child, 'name', '')}".rstrip(".")
        if isinstance(child, ast.FunctionDef):
            yield name, child
        yield from functions_in(child, name)


@by_name
def test_functions_are_small(path):
    sizes = {name: size_of(f) for name, f in functions_in(tree(path), module(path))}
    large = {name for name, (lines, count) in sizes.items() if lines > 40 or count > 5}
    assert large == {name for name in LARGE if name.startswith(f"{module(path)}.")}


def test_half_of_all_functions_have_ten_lines_at_most():
    functions = [
        n for path in MODULES for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef)
    ]
    assert statistics.median(size_of(function)[0] for function in functions) <= 10


@by_name
def test_no_assertion_outside_the_tests(path):
    assert not [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]
