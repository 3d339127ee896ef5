"""Packages import only those below them; only commands print; --help loads no heavy library."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from mlpcli.commands import COMMANDS

PACKAGE = Path(__file__).parents[1] / "mlpcli"

# The packages of mlpcli, or modules, that each package may import. mlpcli/__init__.py names everything lazily.
BELOW_TRAINING = {"errors", "rng", "config", "datasets", "model", "parallel", "state"}
BELOW_EXPERIMENT = {*BELOW_TRAINING, "files", "training", "runs"}
PACKAGES = {
    "errors": set[str](),
    "files": {"errors"},
    "rng": set[str](),
    "config": {"errors", "files"},
    "datasets": {"errors", "files", "rng", "config"},
    "model": {"errors"},
    "parallel": {"errors", "model.memory"},
    "state": {"config", "model"},
    "training": BELOW_TRAINING,
    "gradcheck": {*BELOW_TRAINING, "training"},
    "runs": {"errors", "files", "config", "model", "state"},
    "experiment": BELOW_EXPERIMENT,
    "analysis": {*BELOW_EXPERIMENT, "gradcheck"},
    "watch": {*BELOW_EXPERIMENT, "analysis"},
    "sweep": {"errors", "files", "rng", "config", "datasets", "parallel", "training", "runs", "experiment"},
    "commands": {*BELOW_EXPERIMENT, "gradcheck", "experiment", "analysis", "watch", "sweep"},
    "__main__": {"commands"},
}
# The libraries beside Python's own that each package may import; by default numpy.
LIBRARIES = {
    "errors": set[str](),
    "files": set[str](),
    "config": {"yaml"},
    "datasets": {"numpy", "PIL", "pyarrow"},
    "parallel": {"numpy", "mpi4py"},
    "analysis": {"numpy", "onnx", "PIL", "matplotlib", "tensorboard"},
    "experiment": {"numpy", "tqdm"},
    "sweep": {"mpi4py"},
    "commands": {"click", "tqdm", "numpy", "yaml"},
    "__init__": set[str](),
    "__main__": set[str](),
}

Import = tuple[str, str]  # a module, and the name taken from it or ""


@cache
def parsed() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def modules() -> dict[str, ast.Module]:
    """Return every module by its dotted name below the package, as ``training.step`` or ``runs.__init__``."""
    return dict(parsed())


@cache
def imports(tree: ast.Module) -> list[Import]:
    """Return every import of a module, also inside functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def own_imports(tree: ast.Module, known: dict[str, ast.Module]) -> Iterator[Import]:
    """Yield the imports from this package: the module's dotted name below it, and the imported name."""
    for module, name in imports(tree):
        if module.partition(".")[0] != "mlpcli":
            continue
        below = module.removeprefix("mlpcli").removeprefix(".")
        inner = f"{below}.{name}".strip(".")
        if inner in known or f"{inner}.__init__" in known:
            yield (inner if inner in known else f"{inner}.__init__"), ""
        else:
            yield (below if below in known else f"{below}.__init__".strip(".")), name


def package(module: str) -> str:
    return module.partition(".")[0]


def wrong_imports(known: dict[str, ast.Module]) -> list[str]:
    wrong = []
    for module, tree in known.items():
        own = package(module)
        for imported, name in own_imports(tree, known):
            if imported == "__init__":  # mlpcli itself has only its version and lazy names
                wrong += [] if name == "__version__" else [f"{module} imports {name} from mlpcli"]
            elif own not in ("__init__", package(imported)) and not {imported, package(imported)} & PACKAGES[own]:
                wrong.append(f"{module} imports {imported}")
        for imported, _ in imports(tree):
            library = package(imported)
            if library not in {"mlpcli", *sys.stdlib_module_names, *LIBRARIES.get(own, {"numpy"})}:
                wrong.append(f"{module} imports {library}")
    return wrong


def cycle(known: dict[str, ast.Module]) -> list[str]:
    """Return the modules of an import cycle, or an empty list."""
    edges = {module: {imported for imported, _ in own_imports(tree, known)} for module, tree in known.items()}
    del edges["__init__"]
    while ends := {module for module, targets in edges.items() if not targets & edges.keys()}:
        edges = {module: targets for module, targets in edges.items() if module not in ends}
    return sorted(edges)


def printers(known: dict[str, ast.Module]) -> list[str]:
    """Return the modules that print or use the standard streams."""
    return [
        module
        for module, tree in known.items()
        if package(module) != "commands"
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in ("print", "input"))
        or (
            isinstance(node, ast.Attribute)
            and node.attr in ("stdin", "stdout", "stderr")
            and ast.unparse(node.value) == "sys"
        )
    ]


def test_packages_import_only_those_below() -> None:
    assert wrong_imports(modules()) == []


def test_there_are_no_import_cycles() -> None:
    assert cycle(modules()) == []


def test_only_commands_print() -> None:
    assert printers(modules()) == []


def test_every_module_has_a_package_and_a_docstring() -> None:
    known = modules()
    assert {package(module) for module in known} - {"__init__"} <= PACKAGES.keys()
    assert [module for module, tree in known.items() if not ast.get_docstring(tree)] == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("errors", "import mlpcli.config"),
        ("files", "from mlpcli import config"),
        ("config", "import numpy"),
        ("datasets.load", "from mlpcli.model.network import Network"),
        ("model.network", "from mlpcli.config import Config"),
        ("model.network", "def f():\n    from mlpcli.training import step"),
        ("model.network", "import scipy.special"),
        ("parallel.comm", "from mlpcli.model import blas"),
        ("parallel.comm", "from mlpcli.config import Config"),
        ("state", "from mlpcli.training.trainer import Trainer"),
        ("training.step", "from mlpcli.runs.directory import RunDirectory"),
        ("training.step", "import tqdm"),
        ("runs.directory", "from mlpcli.training.trainer import Trainer"),
        ("runs.directory", "import mlpcli.datasets.load"),
        ("analysis.evaluation", "from mlpcli.experiment import train"),
        ("analysis.evaluation", "from mlpcli import train"),
        ("experiment", "from mlpcli.commands import output"),
        ("experiment", "from mlpcli.sweep import plan"),
        ("watch.server", "from mlpcli.experiment import train"),
        ("analysis.evaluate_runs", "from mlpcli.watch import feed"),
        ("sweep.plan", "from mlpcli.model.network import Network"),
        ("commands.train", "import requests"),
        ("__main__", "from mlpcli.experiment import train"),
    ],
)
def test_forbidden_import_is_found(module: str, code: str) -> None:
    known = modules()
    known[module] = ast.parse(code)
    assert any(line.startswith(f"{module} imports ") for line in wrong_imports(known))


def test_cycle_and_print_are_found() -> None:
    known = modules()
    known["model.a"] = ast.parse("from mlpcli.model.b import f")
    known["model.b"] = ast.parse("def f():\n    import mlpcli.model.a")
    assert cycle(known) == ["model.a", "model.b"]
    for code in ("print(1)", "import sys\nsys.stderr.write('')", "f = print", "input()"):
        known["model.a"] = ast.parse(code)
        assert printers(known) == ["model.a"]


HEAVY = {"numpy", "yaml", "tqdm"}


def loaded_by(code: str) -> set[str]:
    child = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(child.stdout.split())


def test_importing_mlpcli_loads_no_other_module() -> None:
    assert {name for name in loaded_by("import mlpcli") if name.startswith("mlpcli")} == {"mlpcli"}
    assert not loaded_by("import mlpcli; mlpcli.load_config") & {"numpy", "click"}


def test_importing_commands_loads_no_heavy_library() -> None:
    written = [name for name in COMMANDS if f"commands.{name}" in modules()]
    assert len(written) >= 4
    assert loaded_by("\n".join(f"import mlpcli.commands.{name}" for name in written)) & HEAVY == set()
    assert loaded_by("import numpy, yaml, tqdm") >= HEAVY
