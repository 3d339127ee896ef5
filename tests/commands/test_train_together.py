"""Several processes move the parameters as one process does: every optimizer, without a penalty."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 120
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam")
BESIDE = Path(sys.executable).with_name("mpiexec")  # where pip puts it
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")


def trained(out: str, launcher: list[str], flags: list[str], tiny: Path, optimizer: str) -> dict[str, np.ndarray]:
    """Return the arrays of the last checkpoint of ``LAUNCHER python -m mlpcli train FLAGS``."""
    keys = (
        f'data.dataset="{tiny}"',
        "network.hidden=[8]",
        "network.dtype=float64",
        "training.epochs=2",
        "training.batch_size=16",
        f"training.optimizer={optimizer}",
        "training.learning_rate=0.05",
        "training.l2=0",
    )
    settings = [part for key in keys for part in ("--set", key)]
    command = [*launcher, sys.executable, "-m", "mlpcli", "train", *flags, "--quiet", "--out", out, *settings]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(Path(out, "checkpoints", "last.npz"), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if arrays[name].dtype.kind == "f"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assert_as_one_process(launcher: list[str], flags: list[str], tiny: Path, optimizer: str) -> None:
    one = trained("one", [], [], tiny, optimizer)
    several = trained("several", launcher, flags, tiny, optimizer)
    assert several.keys() == one.keys()
    for name, array in one.items():
        np.testing.assert_allclose(several[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.xdist_group("mpi")
@pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or MPIEXEC is None,
    reason="needs mpi4py and mpiexec: pip install '.[mpi]'",
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_mpi_processes_train_as_one(tiny_folder: Path, optimizer: str) -> None:
    assert_as_one_process([str(MPIEXEC), "-n", "2"], ["--mpi"], tiny_folder, optimizer)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system whose processes can fork")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_forked_processes_train_as_one(tiny_folder: Path, optimizer: str) -> None:
    assert_as_one_process([], ["--processes", "2"], tiny_folder, optimizer)
