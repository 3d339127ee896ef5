"""The installed program: the files of the wheel, training with it, and a checkout used in place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mlpcli import __version__, commands
from mlpcli.datasets.catalogue import FILE_NAMES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def ended(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run a command that must succeed, with ``path`` first in the import path, and return its output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLPCLI_DATA")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    process = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the build backend, without the network that pip's isolation needs."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    ended(sys.executable, "-c", build, folder, cwd=ROOT)
    [path] = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a folder, without its dependencies, which exist already."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--quiet", "install")
    ended(*pip, "--no-deps", "--no-index", "--no-compile", "--target", folder, wheel, cwd=folder)
    return folder


def test_wheel_contains_package_configs_and_licence(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    assert "mlpcli/py.typed" in found
    metadata = f"mlpcli-{__version__}.dist-info"
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "mlpcli").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    configs = {f"mlpcli/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert found == package | configs | {
        f"{metadata}/METADATA",
        f"{metadata}/RECORD",
        f"{metadata}/WHEEL",
        f"{metadata}/entry_points.txt",
        f"{metadata}/licenses/LICENSE",
    }
    # Listed by name, in case the checkout lacks them.
    assert {"mlpcli/runs/directory.py", "mlpcli/configs/mnist.yaml", "mlpcli/configs/quickstart.yaml"} <= found
    assert {f"mlpcli/datasets/sample/{name}.gz" for name in FILE_NAMES.values()} <= found


def test_installed_program_trains_from_another_folder(installed: Path, tmp_path: Path):
    script = installed / "bin/mlpcli"

    def mlpcli(*arguments: str) -> str:
        return ended(sys.executable, script, *arguments, cwd=tmp_path, path=installed)

    where = ended(sys.executable, "-c", "import mlpcli; print(mlpcli.__file__)", cwd=tmp_path, path=installed)
    assert Path(where.strip()) == installed / "mlpcli/__init__.py"

    assert mlpcli("--version") == f"mlpcli {__version__}\n"
    names = [config["name"] for config in json.loads(mlpcli("config", "list", "--json"))]
    assert {"mnist", "quickstart"} <= set(names)
    assert mlpcli("config", "show", "mnist") == (ROOT / "configs/mnist.yaml").read_text()
    assert "mnist-sample" in mlpcli("data", "list")

    few = ("--set", "data.dataset=mnist-sample", "--set", "training.epochs=1", "--set", "network.hidden=[16]")
    result = json.loads(mlpcli("train", "quickstart", *few, "--out", "run", "--json"))
    assert result["test_error"] < 0.5
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_checkout_works_in_place(tmp_path: Path):
    """From another folder, given only its path: the configs beside the package are found."""
    listed = ended(sys.executable, "-m", "mlpcli", "config", "list", "--json", cwd=tmp_path, path=ROOT)
    assert {config["name"] for config in json.loads(listed)} == {
        str(path.relative_to(ROOT / "configs").with_suffix("")) for path in (ROOT / "configs").rglob("*.yaml")
    }
    overview = ended(sys.executable, "-m", "mlpcli", "--help", cwd=ROOT)
    assert all(f"\n  {name} " in overview for name in commands.COMMANDS)
